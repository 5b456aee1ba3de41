"""From the names in a weights file to the variables of a Network, and the report."""

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from worklab.network import Network
from worklab.pretrained.files import read_weights


@dataclasses.dataclass(frozen=True)
class ImportRow:
    """What became of one variable.

    Attributes:
        variable: Its name in the network.
        source: Its name in the file; None where it was to be initialised.
        action: `restored`, `initialised`, or what is wrong: `missing`, `shape`.
        detail: Shapes or near names, for what is wrong.
    """

    variable: str
    source: str | None
    action: Literal["restored", "initialised", "missing", "shape"]
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """Accounts for every variable of the network and every array of the file.

    Attributes:
        path: The file.
        rows: One for each variable.
        unused: Names in the file that no variable asked for.
    """

    path: Path
    rows: tuple[ImportRow, ...]
    unused: tuple[str, ...]

    def count(self, action: str) -> int:
        """Return how many variables an action befell."""
        return sum(row.action == action for row in self.rows)

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.count('restored')} variables restored, "
            f"{self.count('initialised')} initialised, "
            f"{len(self.unused)} names in the file unused"
        ]
        lines += [
            f"  initialised: {row.variable}"
            for row in self.rows
            if row.action == "initialised"
        ]
        lines += [f"  unused: {name}" for name in self.unused]
        return "\n".join(lines)


def import_weights(network: Network, path: Path) -> ImportReport:
    """Load a weights file into a network, by name, as its layers say.

    Each layer whose `restore` is not False must find all its variables, with their
    shapes; otherwise nothing at all is loaded.

    Returns:
        The report, one row for each variable.

    Raises:
        ValueError: If a variable that should be restored is missing in the file or
            has another shape there; lists them all, with near names.
    """
    arrays = {
        name: array
        for name, array in read_weights(path).items()
        if not name.startswith("optimizer/")
    }
    rows = [_match(network, name, arrays) for name in network.variables]
    used = {row.source for row in rows}
    report = ImportReport(Path(path), tuple(rows), tuple(sorted(set(arrays) - used)))
    wrong = [row for row in rows if row.action in ("missing", "shape")]
    if wrong:
        table = "\n".join(
            f"  {row.variable} <- {row.source}: {row.detail}" for row in wrong
        )
        raise ValueError(
            f"`{path}` does not have all that the network wants to restore; nothing "
            "was loaded. Give the layers their names in the file by `restore=`, or "
            f"`restore=False` to initialise them. Received: {len(wrong)} variables "
            f"unexplained:\n{table}"
        )
    for row in rows:
        if row.action == "restored":
            network.variables[row.variable].assign(arrays[row.source or ""])
    return report


def _match(
    network: Network, variable: str, arrays: Mapping[str, np.ndarray]
) -> ImportRow:
    source = network.source(variable)
    if source is None:
        return ImportRow(variable, None, "initialised")
    shape = tuple(network.variables[variable].shape)
    if source not in arrays:
        near = difflib.get_close_matches(source, list(arrays), n=3, cutoff=0.5)
        return ImportRow(
            variable, source, "missing", f"not in the file; near names: {near}"
        )
    if arrays[source].shape != shape:
        return ImportRow(
            variable,
            source,
            "shape",
            f"shape {arrays[source].shape} in the file, {shape} in the network",
        )
    return ImportRow(variable, source, "restored")
