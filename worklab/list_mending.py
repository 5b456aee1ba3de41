"""Lists written anew without the entries that a check found to be errors."""

import dataclasses
import json
import shutil
from pathlib import Path

from worklab.checking import CheckResult, Finding
from worklab.files import write_json


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
    contents, mended = {}, []
    for split, path in result.lists.items():
        removed = [f for f in result.errors if f.split == split and f.entry]
        if not removed:
            continue
        numbers = {finding.entry for finding in removed}
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        entries = content.items() if isinstance(content, dict) else content
        kept = [each for n, each in enumerate(entries, start=1) if n not in numbers]
        if not kept:
            raise ValueError(
                f"nothing would be left of `{path}`: each entry has an error. Mend "
                "the files, or what is wrong with the list as a whole; no list was "
                f"changed. Received: {len(content)} entries"
            )
        contents[path] = dict(kept) if isinstance(content, dict) else kept
        mended.append(MendedList(path, _unused(path), removed))
    for each in mended:
        shutil.copy2(each.path, each.backup)
        write_json(each.path, contents[each.path])
    return mended


def _unused(path: Path) -> Path:
    backup, number = path.with_name(f"{path.name}.before-check"), 1
    while backup.exists():
        number += 1
        backup = path.with_name(f"{path.name}.before-check-{number}")
    return backup
