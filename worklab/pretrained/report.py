"""The import report: what became of every variable, and every name in the file."""

import dataclasses
from pathlib import Path
from typing import Literal

Action = Literal[
    "copied",
    "transposed",
    "reshaped",
    "sliced",
    "combined",
    "folded",
    "filled",
    "skipped",
    "initialised",
    "missing",
    "shape",
]
RANDOM = "random generator"
"""Rule of a variable that is nobody's weight."""

FRESH = "restore=False"
"""Rule of a variable whose layer, or the option `exclude`, says that it begins anew."""


@dataclasses.dataclass(frozen=True)
class ImportRow:
    """What became of one variable.

    Attributes:
        variable: Its name in the network.
        sources: Its names in the file; none where it is initialised.
        rule: What led there, e.g. `own name`, `restore='conv1'`, `layout slim`.
        action: What was done, or what is wrong: `missing`, `shape`.
        detail: More, for a person.
    """

    variable: str
    sources: tuple[str, ...]
    rule: str
    action: Action
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """Accounts for every variable of the network and every array of the file.

    Attributes:
        path: The file.
        format: Kind of the file.
        dialect: Whose names and array layouts it has.
        layout: Which form of the canonical network it has; None: no such network.
        rows: One for each variable.
        unused: Names in the file that no variable asked for.
    """

    path: Path
    format: str
    dialect: str
    layout: str | None
    rows: tuple[ImportRow, ...]
    unused: tuple[str, ...]

    def count(self, *actions: str) -> int:
        """Return how many variables these actions befell."""
        return sum(row.action in actions for row in self.rows)

    @property
    def is_whole(self) -> bool:
        """Whether all layers but the last one have what the file holds."""
        fresh = [row for row in self.rows if row.action in ("skipped", "initialised")]
        layers = {
            row.variable.rpartition("/")[0] for row in fresh if row.rule != RANDOM
        }
        last = [row.variable for row in self.rows if row.rule != RANDOM][-1]
        return layers <= {last.rpartition("/")[0]}

    def table(self) -> str:
        """Return a line for each variable, and for each unused name."""
        lines = [
            f"  {row.variable} <- {', '.join(row.sources) or '-'}: {row.action}"
            f" ({row.rule}{', ' if row.detail else ''}{row.detail})"
            for row in self.rows
        ]
        return "\n".join([*lines, *(f"  unused: {name}" for name in self.unused)])

    def __str__(self) -> str:
        fresh = self.count("skipped", "initialised")
        wrong = self.count("missing", "shape")
        kind = self.format if self.layout is None else f"{self.format}, {self.layout}"
        unexplained = f"{wrong} unexplained, " if wrong else ""
        lines = [
            f"{self.path} ({kind}): {len(self.rows) - fresh - wrong} variables "
            f"restored, {fresh} initialised, {unexplained}{len(self.unused)} names in "
            "the file unused"
        ]
        lines += [
            f"  {'filled' if row.action == 'filled' else 'initialised'}: "
            f"{row.variable}{f' ({row.detail})' if row.detail else ''}"
            for row in self.rows
            if row.action in ("skipped", "initialised", "filled")
        ]
        return "\n".join([*lines, *(f"  unused: {name}" for name in self.unused)])
