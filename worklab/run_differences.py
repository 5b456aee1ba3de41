"""`python -m worklab runs diff`: how two runs differ."""

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from worklab.option_files import flatten
from worklab.printing import plain, print_plainly, wide_console
from worklab.run_summaries import (
    RunSummary,
    format_number,
    read_record,
    spell,
    summarise,
)

# Lines of source around a difference.
_CONTEXT = 3


def diff(
    first: tyro.conf.Positional[Path], second: tyro.conf.Positional[Path], /
) -> None:
    """Show how two runs differ: options, data, versions, network, results.

    Args:
        first: Folder of a run, shown on the left.
        second: Of the other one.
    """
    console = wide_console()
    before, after = read_record(first), read_record(second)
    parts = {
        "options": [_without_run(each["options"]) for each in (before, after)],
        "data": [flatten(each.get("data", {})) for each in (before, after)],
        "code": [_code(first, before), _code(second, after)],
        "machine": [_as_mapping(each.get("machine")) for each in (before, after)],
        "versions": [
            each.get("versions", {}) | {"python": each.get("python")}
            for each in (before, after)
        ],
        "results": [_results(summarise(run)) for run in (first, second)],
    }
    same = []
    for title, (left, right) in parts.items():
        differing = [
            name
            for name in dict.fromkeys([*left, *right])
            if left.get(name) != right.get(name)
        ]
        if not differing:
            same.append(title)
            continue
        runs = (escape(plain(str(run))) for run in (first, second))
        table = Table(title, *runs)
        for name in differing:
            cells = (
                spell(side[name]) if name in side else "-" for side in (left, right)
            )
            table.add_row(name, *(Text(plain(cell)) for cell in cells))
        console.print(table)
    sources = [_read_lines(run / "network.py") for run in (first, second)]
    if sources[0] == sources[1]:
        same.append("network.py")
    else:
        console.print(_side_by_side(*sources, titles=(str(first), str(second))))
    print_plainly(console, f"the same: {', '.join(same) or 'nothing'}")


def _without_run(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flatten(options).items() if name != "run"}


def _code(run: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    changes = "\n".join(_read_lines(run / "changes.diff")).encode()
    digest = hashlib.sha256(changes).hexdigest()[:12] if changes else "none"
    return {**record.get("revisions", {}), "changes.diff": digest}


def _as_mapping(machine: Any) -> dict[str, Any]:
    return machine if isinstance(machine, dict) else {"machine": machine}


def _results(summary: RunSummary) -> dict[str, str]:
    return {
        "state": summary.state,
        "step": str(summary.step),
        "best step": format_number(summary.best_step, "d"),
        "valid loss": format_number(summary.valid_loss, ".4f"),
        "valid accuracy": format_number(summary.valid_accuracy, ".2%"),
        "test loss": format_number(summary.test_loss, ".4f"),
        "test accuracy": format_number(summary.test_accuracy, ".2%"),
    }


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _side_by_side(
    left: Sequence[str], right: Sequence[str], *, titles: tuple[str, str]
) -> Table:
    """Return two versions of a source as columns, where they differ and around."""
    of_left, of_right = (f"network.py of {escape(plain(each))}" for each in titles)
    table = Table("", of_left, "", "", of_right)
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for number, group in enumerate(matcher.get_grouped_opcodes(_CONTEXT)):
        if number:
            table.add_section()
        for kind, *places in group:
            for row in _paired_rows(kind, left, right, places):
                table.add_row(*row)
    return table


def _paired_rows(
    kind: str, left: Sequence[str], right: Sequence[str], places: Sequence[int]
) -> Iterator[tuple[Text, ...]]:
    start, stop, other_start, other_stop = places
    for offset in range(max(stop - start, other_stop - other_start)):
        here, there = start + offset, other_start + offset
        on_left, on_right = here < stop, there < other_stop
        mark = " " if kind == "equal" else "|"
        if not (on_left and on_right):
            mark = "<" if on_left else ">"
        styles = ("", "") if kind == "equal" else ("red", "green")
        yield (
            Text(str(here + 1) if on_left else ""),
            Text(_line(left[here]) if on_left else "", styles[0]),
            Text(mark),
            Text(str(there + 1) if on_right else ""),
            Text(_line(right[there]) if on_right else "", styles[1]),
        )


def _line(text: str) -> str:
    return plain(text.expandtabs(4))
