"""Lists written anew without the entries that a check found to be errors."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable, Container
from pathlib import Path
from typing import TextIO

from worklab.checking import CheckResult, Finding
from worklab.files import write_atomically, write_json
from worklab.lists import TABLES


@dataclasses.dataclass(frozen=True)
class MendedList:
    """A list that was written anew.

    Attributes:
        path: The list.
        backup: The list as it was.
        removed: Why each entry was taken off.
    """

    path: Path
    backup: Path
    removed: list[Finding]


def mend_lists(result: CheckResult) -> list[MendedList]:
    """Write lists without their bad entries, each in the form that it had.

    Bad is an entry with an error of its own. An image with two labels is taken off
    wherever it is, as nobody knows the right one; one that leaks stays in the last of
    its lists. Warnings change nothing, and no image file is touched.

    Args:
        result: What a check of these lists found.

    Returns:
        The lists that were changed; each is kept beside as `NAME.before-check`.

    Raises:
        ValueError: If nothing would be left of a list; then none is changed.
    """
    writes, mended = {}, []
    for split, path in result.lists.items():
        removed = [f for f in result.errors if f.split == split and f.entry]
        if not removed:
            continue
        numbers = {finding.entry for finding in removed if finding.entry}
        num_kept, writes[path] = _without(path, numbers)
        if not num_kept:
            raise ValueError(
                f"nothing would be left of `{path}`: each entry has an error. Mend "
                "the files, or what is wrong with the list as a whole; no list was "
                f"changed. Received: {len(numbers)} entries"
            )
        mended.append(MendedList(path, _unused(path), removed))
    for each in mended:
        shutil.copy2(each.path, each.backup)
        writes[each.path]()
    return mended


def _without(path: Path, numbers: Container[int]) -> tuple[int, Callable[[], None]]:
    """Return how many entries are left without some, and what writes these."""
    if path.suffix.lower() in TABLES:
        return _table_without(path, numbers)
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    entries = content.items() if isinstance(content, dict) else content
    kept = [each for n, each in enumerate(entries, start=1) if n not in numbers]
    changed = dict(kept) if isinstance(content, dict) else kept
    return len(kept), lambda: write_json(path, changed)


def _table_without(
    path: Path, numbers: Container[int]
) -> tuple[int, Callable[[], None]]:
    delimiter = TABLES[path.suffix.lower()]
    with open(path, encoding="utf-8-sig", newline="") as file:
        names, *rows = (row for row in csv.reader(file, delimiter=delimiter) if row)
    kept = [row for n, row in enumerate(rows, start=1) if n not in numbers]

    def write(file: TextIO) -> None:
        csv.writer(file, delimiter=delimiter).writerows([names, *kept])

    return len(kept), lambda: write_atomically(path, write)


def _unused(path: Path) -> Path:
    backup, number = path.with_name(f"{path.name}.before-check"), 1
    while backup.exists():
        number += 1
        backup = path.with_name(f"{path.name}.before-check-{number}")
    return backup
