"""What a search has tried, as a table for a person, a CSV file and JSON."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from worklab.files import write_atomically

_LONGEST_MESSAGE = 80  # characters on the console; the rest is in the CSV file


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of a search.

    Attributes:
        number: Counted from 0.
        run: Its run folder, from the folder of the search.
        values: What it tries, by the name of the option.
        state: `running`, `complete`, `pruned` or `failed`.
        loss: Lowest validation loss, where it is complete.
        best_step: Step of that loss.
        message: Why it failed.
    """

    number: int
    run: str
    values: dict[str, Any]
    state: str
    loss: float | None = None
    best_step: int | None = None
    message: str = ""


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """Return the first with the lowest validation loss; None: none is complete."""
    complete = [trial for trial in trials if trial.loss is not None]
    return min(complete, key=lambda trial: trial.loss or 0.0, default=None)


def write_trials(path: Path, trials: Sequence[Trial]) -> None:
    """Write a CSV file with a row for each trial."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.values))

    def write(file: Any) -> None:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["trial", "run", "state", "valid_loss", "best_step", *names, "message"]
        )
        for trial in trials:
            loss = "" if trial.loss is None else f"{trial.loss:.9g}"
            step = "" if trial.best_step is None else trial.best_step
            values = [_text(trial.values.get(name, "")) for name in names]
            row = [trial.number, trial.run, trial.state, loss, step]
            writer.writerow([*row, *values, trial.message])

    write_atomically(path, write)


def show_trials(console: Console, trials: Sequence[Trial]) -> None:
    """Show a table of all trials, the best of them marked."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.values))
    best = best_trial(trials)
    titles = ("trial", *names, "state", "valid loss", "at step", "")
    table = Table(*(Column(title, overflow="fold") for title in titles))
    for trial in trials:
        note = "best" if trial == best else trial.message[:_LONGEST_MESSAGE]
        table.add_row(
            str(trial.number),
            *(_text(trial.values.get(name, "")) for name in names),
            trial.state,
            "" if trial.loss is None else f"{trial.loss:.4f}",
            "" if trial.best_step is None else str(trial.best_step),
            note,
        )
    console.print(table, markup=False)


def trials_to_json(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return trials as JSON has them."""
    return [dataclasses.asdict(trial) for trial in trials]


def trials_from_json(content: Sequence[dict[str, Any]]) -> list[Trial]:
    """Return what `trials_to_json` made into JSON."""
    return [Trial(**values) for values in content]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)
