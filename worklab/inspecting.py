"""What is in a weights file, and what a network would make of it."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from worklab.network import Network
from worklab.options import RestoreOptions
from worklab.pretrained.files import WeightsFile
from worklab.pretrained.mapping import ImportPlan
from worklab.pretrained.proposals import natural_order, propose_restore
from worklab.pretrained.recognition import recognise_layout


def list_arrays(weights: WeightsFile, pattern: str = "") -> Table:
    """Return a table of a file's arrays: name, shape, type, mean and spread.

    Args:
        weights: The file, open; arrays are read one at a time.
        pattern: Regular expression that a name must have somewhere.

    Raises:
        ValueError: If no name has the pattern.
    """
    table = Table("name", "shape", "type", "mean", "spread", title=weights.format)
    names = _matching(weights, pattern)
    for number, name in enumerate(names):
        array = np.asarray(weights[name])
        mean, spread = "-", "-"
        if array.size and array.dtype.kind in "fiub":
            mean = f"{array.mean(dtype=np.float64):.4g}"
            spread = f"{array.std(dtype=np.float64):.4g}"
        following = names[number + 1 : number + 2]
        table.add_row(
            name,
            str(weights.shape(name)),
            str(weights.dtype(name)),
            mean,
            spread,
            end_section=any(_scope(name) != _scope(each) for each in following),
        )
    return table


def list_scopes(weights: WeightsFile, pattern: str = "") -> Table:
    """Return a table of the outermost scopes: arrays and numbers in each."""
    names = _matching(weights, pattern)
    table = Table("scope", "arrays", "numbers", title="outermost scopes")
    scopes: dict[str, list[str]] = {}
    depth = 1 if len({_scope(name, 1) for name in names}) > 1 else 2
    for name in names:
        scopes.setdefault(_scope(name, depth), []).append(name)
    for scope, inside in [*scopes.items(), ("all", names)]:
        count = sum(int(np.prod(weights.shape(name))) for name in inside)
        table.add_row(scope, str(len(inside)), f"{count:,}")
    return table


def compare(weights: WeightsFile, other: WeightsFile, pattern: str = "") -> Table:
    """Return a table of where two files differ, by name.

    The difference is the largest of any element, and relative to the largest value.
    """
    table = Table("name", "here", "there", "difference", "relative")
    names = sorted({*_matching(weights, pattern), *_matching(other, pattern)})
    equal = 0
    for name in natural_order(names):
        here = str(weights.shape(name)) if name in weights else "-"
        there = str(other.shape(name)) if name in other else "-"
        if here != there:
            table.add_row(name, here, there, "-", "-")
            continue
        ours = np.asarray(weights[name], np.float64)
        theirs = np.asarray(other[name], np.float64)
        difference = float(np.abs(ours - theirs).max(initial=0))
        if difference == 0:
            equal += 1
            continue
        largest = float(max(np.abs(ours).max(), np.abs(theirs).max()))
        relative = f"{difference / largest:.2g}"
        table.add_row(name, here, there, f"{difference:.4g}", relative)
    table.caption = f"{equal} arrays are equal"
    return table


def layout_for(network_class: Any, weights: WeightsFile) -> str | None:
    """Return the name of the layout that a file is of; None where nothing tells."""
    layout = recognise_layout(network_class.layouts, weights)
    return None if layout is None else layout.name


def explain(
    network: Network, weights: WeightsFile, options: RestoreOptions
) -> Iterator[str]:
    """Yield lines: what an import would do, and what it needs to be told."""
    plan = ImportPlan(network, weights, options, weights.class_names)
    report = plan.report()
    yield str(report).splitlines()[0] + f" ({report.dialect} names); nothing is loaded"
    yield report.table()
    proposals = propose_restore(plan)
    if proposals:
        yield "By shape, order and name these may be meant; check, then paste them:"
        for layer, name in proposals.items():
            yield f'  {layer}: restore="{name}"'
    scopes = tuple(f"{scope}/" for scope in proposals)
    left = [
        row.variable
        for row in report.rows
        if row.action == "missing" and not row.variable.startswith(scopes)
    ]
    if left:
        yield "Nothing in the file can be meant by these; `restore=False` begins anew:"
        yield from (f"  {variable}" for variable in left)


def _matching(weights: WeightsFile, pattern: str) -> list[str]:
    try:
        names = [name for name in weights if re.search(pattern, name)]
    except re.error as error:
        raise ValueError(
            f"`pattern` must be a regular expression ({error}). "
            f"Received: pattern={pattern!r}"
        ) from error
    if pattern and not names:
        raise ValueError(
            f"no name in `{weights.path}` has the pattern; it begins with "
            f"{list(weights)[:5]}. Received: pattern={pattern!r}"
        )
    return natural_order(names)


def _scope(name: str, depth: int | None = None) -> str:
    parts: Sequence[str] = re.split(r"[/.]", name)[:-1]
    return "/".join(parts if depth is None else parts[:depth]) or "(none)"
