"""Whose names a weights file has, and in which form of a canonical network."""

import re
from collections.abc import Iterable, Sequence

from worklab.layouts import Layout
from worklab.network import Network
from worklab.options import RestoreOptions
from worklab.pretrained.dialects import DIALECTS, Dialect, recognise_dialect
from worklab.pretrained.weights_file import WeightsFile


def recognise_layout(layouts: Sequence[Layout], weights: WeightsFile) -> Layout | None:
    """Return the layout that a file is of; None where nothing in it tells.

    This project's files say it; of others, a name is the sign.
    """
    for layout in layouts:
        if weights.layout == layout.name:
            return layout
    for layout in layouts:
        if _has_sign(layout, weights):
            return layout
    return None


def _has_sign(layout: Layout, names: Iterable[str]) -> bool:
    sign = re.compile(layout.sign)
    return any(sign.fullmatch(name) for name in names)


def find_dialect(names: set[str], options: RestoreOptions) -> Dialect:
    """Return the dialect that was named, or that the names are of.

    Raises:
        ValueError: If the name is unknown, or the names are of no dialect.
    """
    if options.dialect is None:
        return recognise_dialect(sorted(names))
    if options.dialect not in DIALECTS:
        raise ValueError(
            f"`dialect` must be one of {list(DIALECTS)}. "
            f"Received: dialect={options.dialect!r}"
        )
    return DIALECTS[options.dialect]


def find_layout(network: Network, weights: WeightsFile) -> Layout | None:
    """Return the layout whose names the file has; None: it has the network's own.

    Raises:
        ValueError: If the network was made for another one.
    """
    found, made_for = recognise_layout(network.layouts, weights), network.layout
    if found is None or made_for is None:
        return None
    is_other = found.sign != made_for.sign
    if weights.layout:  # ours say it, also where two have the same names
        is_other = weights.layout != made_for.name
    if is_other:
        raise ValueError(
            f"the file is of the layout `{found.name}`, but the network was made for "
            f"`{made_for.name}`, which pads, divides or orders differently. Make it "
            f"with `layout='{found.name}'` (`--restore.layout {found.name}`). "
            f"Received: layout={made_for.name!r}"
        )
    return made_for if _has_sign(made_for, weights) else None


def first_numbers(layout: Layout | None, names: set[str]) -> dict[str, int]:
    """Return the smallest number of each name that Keras counted over a process."""
    found: dict[str, int] = {}
    counted = re.compile(layout.counted if layout is not None else "")
    for stem, number in (split_number(name.partition("/")[0]) for name in names):
        if counted.fullmatch(stem):
            found[stem] = min(number, found.get(stem, number))
    return found


def split_number(name: str) -> tuple[str, int]:
    """Return a name that Keras has counted without its number, and the number."""
    stem, _, number = name.rpartition("_")
    return (stem, int(number)) if stem and number.isdecimal() else (name, 0)
