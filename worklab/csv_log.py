"""A log of rows in a CSV file that can be cut back to what it was."""

import csv
from collections.abc import Sequence
from pathlib import Path

from worklab.files import replacing, writing


class CsvLog:
    """Appends rows to a CSV file, which begins with a header.

    Args:
        path: Of the file, which appears with the first row.
        columns: The header.

    Attributes:
        path: The same.
        num_rows: How many rows it should have.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.num_rows = 0
        self._columns = columns

    def append(self, rows: Sequence[Sequence[object]]) -> None:
        """Append rows.

        Raises:
            OSError: If the file cannot be written.
        """
        with writing(self.path):
            if self.num_rows == 0:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if file.tell() == 0:
                    writer.writerow(self._columns)
                writer.writerows(rows)
        self.num_rows += len(rows)

    def cut(self) -> None:
        """Take away what a dead process has written after the last row.

        Raises:
            OSError: If the file cannot be written.
        """
        if not self.path.exists():
            return
        with writing(self.path):
            with open(self.path, "rb") as file:
                lines = list(file)
            if self.num_rows == 0:
                self.path.unlink()
            elif len(lines) > self.num_rows + 1:
                with replacing(self.path) as kept:
                    kept.write_bytes(b"".join(lines[: self.num_rows + 1]))
