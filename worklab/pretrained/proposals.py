"""Which names in a file the layers without one may mean: by shape, order and name."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from worklab.pretrained.mapping import ImportPlan

_NORMALIZATION = keras.layers.BatchNormalization


def propose_restore(plan: ImportPlan) -> dict[str, str]:
    """Return names in the file for layers of the network that have found none.

    A layer may mean a name if the file has all its variables there, in their shapes.
    Among layers of one kind the order of the file is that of the network; of all
    assignments in order, that with the most layers and the most similar names wins.

    Returns:
        What to write as `restore=`, by the outermost scope, or layer, that it is true
        for.
    """
    network, taken = plan.network, plan.used
    missing = {
        network.split(row.variable)[0] for row in plan.rows if row.action == "missing"
    }
    homes = natural_order({_home(name) for name in plan.names - taken})
    proposals: dict[str, str] = {}
    layers_by_kind: dict[type, list[str]] = {}
    for layer in network.policies:
        if layer in missing:
            kind = type(network.keras_layer(layer))
            layers_by_kind.setdefault(kind, []).append(layer)
    norms = {kind for kind in layers_by_kind if issubclass(kind, _NORMALIZATION)}
    for kind, layers in layers_by_kind.items():
        if kind not in norms:
            proposals |= _align(layers, homes, plan)
    # A normalisation goes with its convolution, also where others have its shape.
    for layer in [layer for kind in norms for layer in layers_by_kind[kind]]:
        before = network.keras_layer(layer).input._keras_history.operation.name
        home = _nearest(layer, proposals.get(before.replace(".", "/")), homes, plan)
        if home and home not in proposals.values():
            proposals[layer] = home
    for kind in norms:
        left = [layer for layer in layers_by_kind[kind] if layer not in proposals]
        free = [home for home in homes if home not in proposals.values()]
        proposals |= _align(left, free, plan)
    for layer in missing - set(proposals):  # e.g. a stem, sorted behind the stages
        free = [home for home in homes if home not in proposals.values()]
        home = max(free, key=lambda home: _score(layer, home, plan), default="")
        if home and _score(layer, home, plan):
            proposals[layer] = home
    order = list(network.policies)
    ordered = sorted(proposals, key=order.index)
    return _by_outermost_scope({layer: proposals[layer] for layer in ordered}, plan)


def _nearest(
    layer: str, home: str | None, homes: Sequence[str], plan: ImportPlan
) -> str | None:
    """Return the place for a layer whose name is most like that of another place."""
    if home is None:
        return None
    fitting = [each for each in homes if _score(layer, each, plan)]

    def likeness(each: str) -> float:
        return difflib.SequenceMatcher(None, each, home).ratio()

    return max(fitting, key=likeness, default=None)


def _align(
    layers: Sequence[str], homes: Sequence[str], plan: ImportPlan
) -> dict[str, str]:
    """Return the best assignment in order, by dynamic programming."""
    scores = [[_score(layer, home, plan) for home in homes] for layer in layers]
    best = [[0.0] * (len(homes) + 1) for _ in range(len(layers) + 1)]
    for i in range(len(layers) - 1, -1, -1):
        for j in range(len(homes) - 1, -1, -1):
            together = best[i + 1][j + 1] + scores[i][j] if scores[i][j] else 0.0
            best[i][j] = max(best[i + 1][j], best[i][j + 1], together)
    pairs, i, j = {}, 0, 0
    while i < len(layers) and j < len(homes):
        if scores[i][j] and best[i][j] == best[i + 1][j + 1] + scores[i][j]:
            pairs[layers[i]] = homes[j]
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _by_outermost_scope(proposals: dict[str, str], plan: ImportPlan) -> dict[str, str]:
    layers = {plan.network.split(name)[0] for name in plan.network.variables}
    result: dict[str, str] = {}
    for layer, home in proposals.items():
        separator = "/" if "/" in home else "."
        ours, theirs = layer.split("/"), home.split(separator)
        best = layer, home
        while len(ours) > 1 and len(theirs) > 1 and ours.pop() == theirs.pop():
            scope, target = "/".join(ours), separator.join(theirs)
            inside = [each for each in layers if each.startswith(f"{scope}/")]
            if all(
                proposals.get(each)
                == target + each.removeprefix(scope).replace("/", separator)
                for each in inside
            ):
                best = scope, target
        result[best[0]] = best[1]
    return result


def _score(layer: str, home: str, plan: ImportPlan) -> float:
    """Return 0 where the file cannot hold a layer at a place, else 1 to 2."""
    variables = [
        variable
        for variable in plan.network.variables
        if plan.network.split(variable)[0] == layer
        and not variable.endswith("/seed_generator_state")
    ]
    if not all(plan.fits(variable, home) for variable in variables):
        return 0.0
    ours, theirs = re.split(r"\W", layer), re.split(r"\W", home)
    return 1 + difflib.SequenceMatcher(None, ours, theirs).ratio()


def _home(name: str) -> str:
    """Return where a variable's layer is, that is its name without the leaf."""
    return re.split(r"[/.](?=[^/.]*$)", name)[0]


def natural_order(names: Iterable[str]) -> list[str]:
    """Return names sorted as people count: `block2` before `block10`."""

    def key(name: str) -> list[Any]:
        return [
            (0, int(part), "") if part.isdecimal() else (1, 0, part)
            for part in re.split(r"(\d+)", name)
        ]

    return sorted(names, key=key)
