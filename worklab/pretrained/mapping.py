"""From the names in a weights file to the variables of a Network, and the report."""

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worklab.network import Network
from worklab.options import RestoreOptions
from worklab.policies import CLASSES, is_inside
from worklab.pretrained.cards import check_answers, check_preprocessing, read_card
from worklab.pretrained.dialects import Translation, following_batch_norm
from worklab.pretrained.files import open_weights
from worklab.pretrained.recognition import (
    find_dialect,
    find_layout,
    first_numbers,
    split_number,
)
from worklab.pretrained.report import FRESH, RANDOM, Action, ImportReport, ImportRow
from worklab.pretrained.weights_file import WeightsFile

_WRONG = ("missing", "shape")
_STRICT = RestoreOptions()


# What files hold beside weights, in any framework.
_NOBODY_NEEDS = re.compile(
    r"^optimizer/|(^|/)(global_step|iterations|learning_rate|save_counter)$"
    r"|/(Momentum|RMSProp(_1)?|Adam(_1)?|ExponentialMovingAverage)$"
    r"|(^|\.)num_batches_tracked$|/seed_generator_state$"
)


def import_weights(
    network: Network,
    path: Path,
    options: RestoreOptions = _STRICT,
    *,
    class_names: Sequence[str] = (),
) -> ImportReport:
    """Load a weights file into a network, by name, as its layers say.

    Each layer whose `restore` is not False must find all its variables, with their
    shapes, and leave none of the same layer unused; otherwise nothing at all is
    loaded.

    Args:
        network: Its variables take the values.
        path: A file of any format that `open_weights` reads.
        options: Whose names the file has, and what may be missing.
        class_names: Of the network's last layer, for `restore="classes"`.

    Returns:
        The report, one row for each variable.

    Raises:
        ValueError: If a variable or a name in the file is left unexplained; lists
            them all, with near names. If a card beside the file says that the network
            feeds or answers images otherwise.
    """
    card = read_card(path)
    if card is not None:
        check_preprocessing(card, network, path)
    if options.rule == "names":
        return _import_same_names(network, path, options.exclude)
    with open_weights(path) as weights:
        plan = ImportPlan(network, weights, options, class_names)
        report = plan.report()
        _refuse_unexplained(report, plan, options)
        for variable, translation in plan.translations.items():
            array = plan.value(variable, translation)
            network.variables[variable].assign(array)
    if card is not None and report.is_whole:
        check_answers(card, network, path)
    return report


def _import_same_names(
    network: Network, path: Path, exclude: Sequence[str]
) -> ImportReport:
    """Load each variable that has its name and shape in the file; the rest is fresh.

    As from a run of the same network with another width or depth.

    Raises:
        ValueError: If there is no such variable.
    """
    network.check_scopes("exclude", exclude)
    rows = []
    with open_weights(path) as weights:
        names = set(weights)
        for name, variable in network.variables.items():
            wanted = tuple(variable.shape)
            found = weights.shape(name) if name in names else None
            if name.endswith("/seed_generator_state"):
                rows.append(ImportRow(name, (), RANDOM, "initialised"))
            elif is_inside(network.split(name)[0], exclude):
                rows.append(ImportRow(name, (), FRESH, "skipped"))
            elif found == wanted:
                variable.assign(weights[name])
                rows.append(ImportRow(name, (name,), "same name", "copied"))
            else:
                detail = f"shape {found} in the file, {wanted} in the network"
                detail = "not in the file" if found is None else detail
                rows.append(ImportRow(name, (), "same name", "initialised", detail))
        unused = names.difference(network.variables)
        report = ImportReport(
            path,
            weights.format,
            "keras",
            None if network.layout is None else network.layout.name,
            tuple(rows),
            tuple(sorted(name for name in unused if not _NOBODY_NEEDS.search(name))),
        )
    if not report.count("copied"):
        raise ValueError(
            f"no variable of the network has its name and shape in `{path}`. Give the "
            "checkpoint of a network like this one, or leave out `--restore.rule "
            f"names`. Received: {len(rows)} variables, {len(names)} names in the file"
        )
    return report


class ImportPlan:
    """What is to be done for each variable, before anything is changed.

    Args:
        network: Its variables are to take the values.
        weights: The file, open.
        options: Whose names the file has, and what may be missing.
        class_names: Of the network's last layer, for `restore="classes"`.
    """

    def __init__(
        self,
        network: Network,
        weights: WeightsFile,
        options: RestoreOptions,
        class_names: Sequence[str],
    ) -> None:
        network.check_scopes("exclude", options.exclude)
        self.network = network
        self.weights = weights
        self.options = options
        self.class_names = list(class_names)
        self.names = set(weights)
        self.dialect = find_dialect(self.names, options)
        self.layout = find_layout(network, weights)
        self._first_numbers = first_numbers(self.layout, self.names)
        # Exported by this network itself, whose layers may name another file's layers.
        self._is_of_this_network = self.layout is None and all(
            name in self.names and weights.shape(name) == tuple(variable.shape)
            for name, variable in network.variables.items()
            if not name.endswith("/seed_generator_state")
        )
        self.translations: dict[str, Translation] = {}
        self.folded: dict[str, str] = {}  # moving means, and the biases they take in
        self.used: set[str] = set()
        self.explained: set[str] = set()  # of layers that are to be initialised
        self.rows = [self._row(name) for name in network.variables]
        self._fold_biases()

    def report(self) -> ImportReport:
        """Return what would be done, and what cannot."""
        unused = self.names - self.used - self.explained
        return ImportReport(
            self.weights.path,
            self.weights.format,
            self.dialect.name,
            None if self.layout is None else self.layout.name,
            tuple(self.rows),
            tuple(sorted(n for n in unused if not self._is_needless(n))),
        )

    def value(self, variable: str, translation: Translation) -> np.ndarray:
        """Return what a variable takes, read from the file."""
        arrays = [self.weights[name] for name in translation.names]
        array = translation.convert(*arrays)
        if variable in self.folded:
            array = array - self.weights[self.folded[variable]]
        epsilons = self._epsilons(variable)
        if epsilons is not None:
            array = array + (epsilons[0] - epsilons[1])
        return array

    def fits(self, variable: str, home: str) -> bool:
        """Return whether the file can hold a variable in a layer of this name."""
        layer, leaf = self.network.split(variable)
        keras_layer = self.network.keras_layer(layer)
        wanted = tuple(self.network.variables[variable].shape)
        return any(
            self.names.issuperset(each.names) and self._shape(each) == wanted
            for each in self.dialect.translate(keras_layer, home, leaf)
        )

    def _shape(self, translation: Translation) -> tuple[int, ...] | str:
        """Return the shape that a translation leads to, or why it cannot be made."""
        shapes = [self.weights.shape(name) for name in translation.names]
        try:
            # Of one byte each, as only the shape of the result matters.
            arrays = [np.broadcast_to(np.int8(0), shape) for shape in shapes]
            return translation.convert(*arrays).shape
        except ValueError as error:
            return str(error)

    def _row(self, variable: str) -> ImportRow:
        policy = self.network.policy(variable)
        layer, leaf = self.network.split(variable)
        if variable.endswith("/seed_generator_state"):
            return ImportRow(variable, (), RANDOM, "initialised")
        found = self._find(variable, layer, leaf)
        if policy.restore is False or is_inside(layer, self.options.exclude):
            names = () if found is None else found.names
            self.explained.update(names)
            return ImportRow(variable, names, FRESH, "skipped")
        rule = self._rule(policy.restore)
        if found is not None and found.names == (variable,):
            rule = self._rule(True)
        if found is None:
            return self._row_of_missing(variable, layer, leaf, rule)
        if policy.restore == CLASSES:
            return self._row_of_classes(variable, found, rule)
        return self._row_of_found(variable, found, rule)

    def _row_of_found(self, variable: str, found: Translation, rule: str) -> ImportRow:
        self.used.update(found.names)
        wanted = tuple(self.network.variables[variable].shape)
        in_file = self.weights.shape(found.names[0])
        if (shape := self._shape(found)) != wanted:
            reason = f"shape {in_file} in the file, {wanted} in the network"
            if isinstance(shape, str):
                reason = f"{reason}; {shape}"
            return ImportRow(variable, found.names, rule, "shape", reason)
        self.translations[variable] = found
        epsilons = self._epsilons(variable)
        detail = "" if epsilons is None else "moved from epsilon {:g} to {:g}"
        action = _action(found, in_file, wanted)
        return ImportRow(
            variable, found.names, rule, action, detail.format(*(epsilons or ()))
        )

    def _row_of_missing(
        self, variable: str, layer: str, leaf: str, rule: str
    ) -> ImportRow:
        if self._has_no_scale(variable, layer, leaf):
            ones = np.ones(self.network.variables[variable].shape, np.float32)
            self.translations[variable] = Translation((), lambda: ones)
            return ImportRow(
                variable, (), rule, "filled", "with 1: the file has no gamma"
            )
        names = self._candidates(variable, layer, leaf)
        if self.options.missing == "initialise":
            return ImportRow(
                variable, (), rule, "initialised", f"`{names[0]}` is not in the file"
            )
        near = difflib.get_close_matches(names[0], sorted(self.names), n=3, cutoff=0.5)
        return ImportRow(
            variable, (names[0],), rule, "missing", f"not there; near names: {near}"
        )

    def _has_no_scale(self, variable: str, layer: str, leaf: str) -> bool:
        """Return whether the file has a batch normalisation that does not multiply.

        Slim and Keras make such; in PyTorch it would have no shift either.
        """
        return (
            leaf == "gamma"
            and self.dialect.name != "torch"
            and self._find(variable, layer, "moving_mean") is not None
        )

    def _row_of_classes(
        self, variable: str, found: Translation, rule: str
    ) -> ImportRow:
        """Keep the rows (here: last axis) of the classes that the file knows."""
        theirs, ours = self.weights.class_names, self.class_names
        known = [name for name in ours if name in theirs]
        self.used.update(found.names)
        wanted = (*self.network.variables[variable].shape[:-1], len(theirs))
        if theirs and self._shape(found) != wanted:
            in_file = self.weights.shape(found.names[0])
            detail = f"shape {in_file} in the file, not {wanted} for its classes"
            return ImportRow(variable, found.names, rule, "shape", detail)
        if not known:
            detail = "the file names no class" if not theirs else "no class in common"
            return ImportRow(variable, found.names, rule, "initialised", detail)
        value = self.network.variables[variable].value.numpy()
        to = [ours.index(name) for name in known]
        taken = [theirs.index(name) for name in known]

        def convert(array: np.ndarray) -> np.ndarray:
            rows = value.astype(array.dtype)
            rows[..., to] = found.convert(array)[..., taken]
            return rows

        self.translations[variable] = dataclasses.replace(found, convert=convert)
        detail = f"{len(known)} of {len(ours)} classes: {', '.join(known[:5])}"
        return ImportRow(variable, found.names, rule, "sliced", detail)

    def _find(self, variable: str, layer: str, leaf: str) -> Translation | None:
        for translation in self._translations(variable, layer, leaf):
            if self.names.issuperset(translation.names):
                return translation
        return None

    def _candidates(self, variable: str, layer: str, leaf: str) -> list[str]:
        found = self._translations(variable, layer, leaf)
        return [name for translation in found for name in translation.names]

    def _translations(self, variable: str, layer: str, leaf: str) -> list[Translation]:
        """Return how the file may hold a variable, the likeliest first."""
        restore = self.network.policy(variable).restore
        # What serves where the file has not the name that a layer gives.
        own = [Translation((f"{layer}/{leaf}",))] if self._is_of_this_network else []
        if isinstance(restore, Mapping):
            if leaf in restore:
                return [self._renamed(layer, leaf, restore[leaf]), *own]
            restore = True
        if isinstance(restore, str) and restore != CLASSES:
            source: str | None = restore
        elif self.layout is not None:
            source = self._as_counted(self.layout.rename(layer))
        else:
            source = layer
        if source is None:
            return []
        keras_layer = self.network.keras_layer(layer)
        return [*self.dialect.translate(keras_layer, source, leaf), *own]

    def _as_counted(self, name: str | None) -> str | None:
        """Return a name with the number that it has in the file; see `Layout`."""
        stem, number = split_number(name or "")
        if not self._first_numbers.get(stem):
            return name
        return f"{stem}_{self._first_numbers[stem] + number}"

    def _renamed(self, layer: str, leaf: str, name: str) -> Translation:
        """Return the usual translation of a leaf, but from a name that was given."""
        keras_layer = self.network.keras_layer(layer)
        usual = next(iter(self.dialect.translate(keras_layer, "", leaf)))
        return dataclasses.replace(usual, names=(name,))

    def _rule(self, restore: Any) -> str:
        if restore is True:
            return "own name" if self.layout is None else f"layout {self.layout.name}"
        return f"restore={restore!r}"

    def _epsilons(self, variable: str) -> tuple[float, float] | None:
        """Return the file's epsilon and the layer's, where they differ."""
        layer, leaf = self.network.split(variable)
        if self.layout is None or leaf != "moving_variance":
            return None
        theirs, ours = self.layout.epsilon, self.network.keras_layer(layer).epsilon
        return None if theirs in (None, ours) else (theirs, ours)

    def _fold_biases(self) -> None:
        """Let a batch norm take in the bias of the convolution before it.

        Where the file's convolution has a bias and ours has none, because a batch
        normalisation follows: (x + b) - mean = x - (mean - b).
        """
        rows = {row.variable: number for number, row in enumerate(self.rows)}
        for variable in self.network.variables:
            layer, leaf = self.network.split(variable)
            bias = f"{layer}/bias"
            if leaf != "kernel" or bias in self.network.variables:
                continue
            found = self._find(variable, layer, "bias")
            follower = following_batch_norm(self.network.keras_layer(layer))
            if found is None or follower is None or variable not in self.translations:
                continue
            mean = f"{follower.name.replace('.', '/')}/moving_mean"
            if mean not in self.translations or found.names[0] in self.used:
                continue
            self.used.update(found.names)
            self.folded[mean] = found.names[0]
            row = self.rows[rows[mean]]
            self.rows[rows[mean]] = dataclasses.replace(
                row, action="folded", detail=f"less the bias `{found.names[0]}`"
            )

    def _is_needless(self, name: str) -> bool:
        if _NOBODY_NEEDS.search(name):
            return True
        ignored = self.layout.ignored if self.layout is not None else ""
        return bool(ignored) and re.search(ignored, name) is not None

    def half_used(self, unused: Sequence[str]) -> list[str]:
        """Return the unused names that stand among used ones, layer by layer.

        Of a canonical layout that is every name: it is known to the last variable.
        """
        if self.layout is not None:
            return list(unused)
        inhabited = {scope for name in self.used for scope in _scopes(name)}
        return [name for name in unused if inhabited.intersection(_scopes(name))]


def _scopes(name: str) -> list[str]:
    """Return the scopes around a variable: its layer, and all but the outermost."""
    parts = re.split(r"[/.]", name)[:-1]
    scopes = ["/".join(parts[:length]) for length in range(2, len(parts) + 1)]
    return scopes or ["/".join(parts)]


def _action(
    translation: Translation, shape: tuple[int, ...], wanted: tuple[int, ...]
) -> Action:
    if translation.action != "copied":
        return translation.action  # type: ignore[return-value]
    if math.prod(shape) != math.prod(wanted):
        return "sliced"
    return "copied" if shape == wanted else "reshaped"


def _refuse_unexplained(
    report: ImportReport, plan: ImportPlan, options: RestoreOptions
) -> None:
    wrong = [row for row in report.rows if row.action in _WRONG]
    half = plan.half_used(report.unused) if options.unused == "error" else []
    restored = len(report.rows) - report.count("skipped", "initialised", *_WRONG)
    if not wrong and not half and restored:
        return
    lines = [
        f"  {row.variable} <- {', '.join(row.sources)}: {row.detail}" for row in wrong
    ]
    lines += [f"  {name} in the file: nothing in the network takes it" for name in half]
    if not restored and not wrong:
        fresh = all(row.rule in (FRESH, RANDOM) for row in report.rows)
        reason = "no layer of the network says that it is to be restored"
        lines.append(f"  {reason if fresh else 'no name in the file was asked for'}")
    raise ValueError(
        f"`{report.path}` ({report.format}, {report.dialect} names) and the network do "
        "not explain each other; nothing was loaded. Give layers their names in the "
        "file by `restore=`, or `restore=False` to initialise them; `python -m worklab "
        "inspect FILE --network NETWORK` proposes names. To go on as it is: "
        "`--restore.missing initialise`, `--restore.unused ignore`. "
        f"Received: {len(wrong)} variables and {len(half)} names unexplained, "
        f"{restored} variables explained:\n" + "\n".join(lines)
    )
