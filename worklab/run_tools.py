"""The tools that look at runs: `python -m worklab runs list` and the like."""

import collections
import csv as csv_format
import dataclasses
import difflib
import io
import json as json_format
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro
from rich import filesize
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worklab.checkpoints import (
    CheckpointError,
    checkpoint_path,
    list_steps,
    read_state,
)
from worklab.cool_down import COOL_DOWN_FILE
from worklab.files import write_atomically
from worklab.locks import is_locked
from worklab.option_files import flatten
from worklab.printing import open_console, plain, print_plainly, wide_console
from worklab.run_cleaning import clean
from worklab.run_curves import compare
from worklab.run_differences import diff
from worklab.run_summaries import (
    RunSummary,
    differing_options,
    find_runs,
    format_number,
    read_record,
    read_result,
    spell,
    summarise,
)

# Columns of options beside each other; `--options` chooses among more.
_MOST_OPTIONS = 5
_OPTION_WIDTH = 24
_FILE_WIDTH = 1000


def list_runs(
    folder: tyro.conf.Positional[Path] = Path("runs"),
    /,
    options: tuple[str, ...] = (),
    sort: Literal["started", "name", "valid-loss", "test-accuracy"] = "started",
    json: bool = False,
    csv: bool = False,
) -> None:
    """List the runs in a folder: how far they are, how good, how they differ.

    Args:
        folder: Holds the folders of runs, at any depth.
        options: Names of options to show, as in `schedule.learning-rate`; none given:
            those that differ between the runs.
        sort: What the best, or the latest, comes last by.
        json: Write all of it, with every option, as JSON.
        csv: Write a table for a spreadsheet.

    Raises:
        ValueError: If there is no run, or no option of a name.
    """
    summaries, unreadable = [], []
    for run in find_runs(folder):
        try:
            summaries.append(summarise(run))
        except (ValueError, OSError) as error:
            unreadable.append(f"{run}: {error}")
    summaries.sort(key=lambda each: _sorting_key(each, sort))
    names = [_find_option(name, summaries) for name in options]
    if json:
        rows = [_as_json(each, folder) for each in summaries]
        print(json_format.dumps(rows, ensure_ascii=False, indent=1))
    elif csv:
        _print_csv(summaries, folder, names or differing_options(summaries))
    else:
        _print_table(summaries, folder, names)
    for line in unreadable:
        print(f"left out: {plain(line)}", file=sys.stderr)


def _sorting_key(summary: RunSummary, sort: str) -> tuple[Any, ...]:
    # The best is what stands right above the next command.
    match sort:
        case "valid-loss":
            value = summary.valid_loss
            return (value is not None, -(value or 0), summary.path)
        case "test-accuracy":
            return (summary.test_accuracy or -1.0, summary.path)
        case "name":
            return (summary.path,)
    return (summary.started, summary.path)


def _find_option(name: str, summaries: Sequence[RunSummary]) -> str:
    known = {name for each in summaries for name in each.options}
    found = name.replace("-", "_")
    if found not in known:
        near = difflib.get_close_matches(found, known, n=3, cutoff=0.0)
        raise ValueError(
            f"no run has an option of that name; the nearest are {near}. "
            f"Received: options={name!r}"
        )
    return found


def _as_json(summary: RunSummary, folder: Path) -> dict[str, Any]:
    content = {"name": _name(summary.path, folder)} | dataclasses.asdict(summary)
    return content | {"path": str(summary.path)}


def _name(run: Path, folder: Path) -> str:
    return run.name if run == folder else str(run.relative_to(folder))


def _print_csv(
    summaries: Sequence[RunSummary], folder: Path, names: Sequence[str]
) -> None:
    file = io.StringIO()
    writer = csv_format.writer(file, lineterminator="\n")
    rows = [_as_json(each, folder) for each in summaries]
    left_out = ("options", "changed")
    columns = [name for name in rows[0] if name not in left_out] if rows else []
    writer.writerow([*columns, *names])
    for row in rows:
        chosen = [_spell_if_there(row["options"], name) for name in names]
        writer.writerow([*(row[column] for column in columns), *chosen])
    print(file.getvalue(), end="")


def _print_table(
    summaries: Sequence[RunSummary], folder: Path, names: Sequence[str]
) -> None:
    differing = [] if names else differing_options(summaries)
    shown = names or differing[:_MOST_OPTIONS]
    table = Table("run", "network", "state", "step", "best\nstep", "valid\nloss")
    for title in ("valid\naccuracy", "test\naccuracy", "started\n(UTC)"):
        table.add_column(title)
    for column in table.columns:
        column.no_wrap = True
    for name in shown:
        title = name.replace(".", ".\n")
        table.add_column(title, overflow="fold", max_width=_OPTION_WIDTH)
    for each in summaries:
        cells = (
            _name(each.path, folder),
            each.network.rpartition(":")[2],
            each.state,
            str(each.step),
            format_number(each.best_step, "d"),
            format_number(each.valid_loss, ".4f"),
            format_number(each.valid_accuracy, ".2%"),
            format_number(each.test_accuracy, ".2%"),
            each.started[:16].replace("T", " "),
            *(_spell_if_there(each.options, name) for name in shown),
        )
        table.add_row(*(Text(plain(cell)) for cell in cells))
    console = wide_console()
    if not console.is_terminal:  # a file has room
        console.width = _FILE_WIDTH
    console.print(table)
    if len(differing) > len(shown):
        rest = ", ".join(differing[len(shown) :])
        print_plainly(console, f"more options that differ, for `--options`: {rest}")


def _spell_if_there(options: Mapping[str, Any], name: str) -> str:
    return spell(options[name]) if name in options else "-"


def show(run: tyro.conf.Positional[Path], /) -> None:
    """Show everything about one run: options, code, data, results, checkpoints, notes.

    Args:
        run: Its folder.
    """
    record, summary, console = read_record(run), summarise(run), wide_console()
    machine = record.get("machine")
    if isinstance(machine, dict):  # before 0.1 it was one line
        machine = ", ".join(f"{k} {spell(v)}" for k, v in machine.items() if v)
    versions = record.get("versions", {}) | {"python": record.get("python", "")}
    facts = {
        "state": summary.state,
        "network": summary.network,
        "command": " ".join(map(str, record.get("command", []))),
        "started": summary.started,
        "last start": record.get("time", ""),
        "machine": machine,
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
        "code": _describe_code(run, record),
        "data": _describe_data(record.get("data", {})),
        "pretrained": _describe_import(record.get("imported")),
        "best": _describe_test(summary),
    }
    table = Table(show_header=False, title=Text(plain(str(run))), title_justify="left")
    for name, value in facts.items():
        table.add_row(name, Text(plain(str(value or "-"))))
    console.print(table)
    chosen = record.get("changed", summary.options)
    _print_options("changed options", chosen, console)
    _print_checkpoints(run, console)
    notes = run / "notes.md"
    if notes.exists():
        for line in notes.read_text(encoding="utf-8").rstrip().splitlines():
            print_plainly(console, line.expandtabs(4))


def _describe_code(run: Path, record: Mapping[str, Any]) -> str:
    revisions = record.get("revisions", {"worklab": record.get("revision")})
    text = ", ".join(f"{k} {v or 'not under git'}" for k, v in revisions.items())
    changed = (run / "changes.diff").exists()
    return f"{text}; what was not committed: changes.diff" if changed else text


def _describe_data(digests: Mapping[str, Any]) -> str:
    flat = flatten(digests)
    return ", ".join(f"{k} {str(v)[:12]}" for k, v in flat.items() if v)


def _describe_import(imported: Any) -> str:
    if not imported:
        return ""
    actions = collections.Counter(row["action"] for row in imported["rows"])
    counts = ", ".join(f"{count} {action}" for action, count in actions.items())
    unused = len(imported.get("unused", ()))
    return f"{imported['path']}: variables {counts}; {unused} names in it unused"


def _describe_test(summary: RunSummary) -> str:
    loss = format_number(summary.valid_loss, ".4f")
    accuracy = format_number(summary.valid_accuracy, ".2%")
    valid = f"step {summary.best_step}, valid loss {loss}, accuracy {accuracy}"
    loss = format_number(summary.test_loss, ".4f")
    accuracy = format_number(summary.test_accuracy, ".2%")
    test = f"test loss {loss}, accuracy {accuracy}"
    parts = {valid: summary.best_step, test: summary.test_loss}
    return "; ".join(text for text, number in parts.items() if number is not None)


def _print_options(title: str, options: Mapping[str, Any], console: Console) -> None:
    table = Table(title, "value")
    for name, value in options.items():
        table.add_row(name, Text(plain(spell(value))))
    console.print(table)


def _print_checkpoints(run: Path, console: Console) -> None:
    folder = run / "checkpoints"
    steps = list_steps(folder)
    table = Table("checkpoint", "size", "")
    state: Mapping[str, Any] = {}
    for step in reversed(steps):
        try:
            state = read_state(checkpoint_path(folder, step))
            break
        except CheckpointError:  # as the next start will say
            continue
    for step in steps:
        path = checkpoint_path(folder, step)
        try:
            size = filesize.decimal(path.stat().st_size)
        except FileNotFoundError:  # training has just deleted it
            continue
        marks = ["best"] * (step == state.get("best_step"))
        marks += ["snapshot"] * (step in state.get("snapshots", ()))
        table.add_row(path.name, size, ", ".join(marks))
    console.print(table)


def cool_down(run: tyro.conf.Positional[Path], /) -> None:
    """Ask a run to lower its learning rate for good at the end of its cycle.

    Writes an empty file `cool-down` into the run's folder, which training looks for.

    Args:
        run: Folder of a run whose `schedule.cool-down` is not `off`.

    Raises:
        ValueError: If the run has no such schedule, or is complete.
    """
    found = read_record(run)["options"].get("schedule", {}).get("cool_down")
    if found in (None, "off"):
        raise ValueError(
            f"`{run}` would not look for a signal to cool down; its launcher must be "
            "started with `--schedule.cool-down` and how, e.g. `log`. "
            f"Received: schedule.cool_down={found!r}"
        )
    if read_result(run) is not None and not is_locked(run):
        raise ValueError(
            f"`{run}` is complete, so there is nothing to cool down. "
            "Received: a run with `result.json`"
        )
    if (run / COOL_DOWN_FILE).exists():  # training has noted its step there
        print_plainly(open_console(), f"{run} has been asked to cool down already")
        return
    write_atomically(run / COOL_DOWN_FILE, lambda file: None)
    when = "at the end of this cycle"
    if not is_locked(run):
        when = "when it has been started again, at the end of a cycle"
    print_plainly(open_console(), f"{run} will cool down {when}")


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_runs,
    "show": show,
    "diff": diff,
    "compare": compare,
    "clean": clean,
    "cool-down": cool_down,
}
"""By the word behind `python -m worklab runs`."""
