"""What run folders say of their runs, without TensorFlow."""

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from worklab.checkpoints import list_steps
from worklab.locks import is_locked
from worklab.option_files import flatten

Points = dict[int, float]
"""Values of one curve, by step."""

_NUMBERS = ("loss", "accuracy", "learning_rate")

# No run has another one in these.
_PARTS = ("cache", "checkpoints", "export", "tensorboard", "tests")


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """How far a run is, and how good.

    Attributes:
        path: Its folder.
        network: Name of its Network class.
        state: `complete`, `running`, or where it stopped.
        started: When it was first started, in ISO 8601.
        step: Training steps done.
        best_step: Step with the lowest validation loss; None: nothing was validated.
        valid_loss: Loss of that validation.
        valid_accuracy: Its accuracy.
        test_loss: Of the test split; None: it was not tested.
        test_accuracy: The same.
        options: All options of the launcher, by full name.
        changed: Names of those that are not the launcher's defaults.
    """

    path: Path
    network: str
    state: str
    started: str
    step: int
    best_step: int | None
    valid_loss: float | None
    valid_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    options: dict[str, Any]
    changed: list[str]


def find_runs(folder: Path) -> list[Path]:
    """Return the run folders in a folder, at any depth; or itself, if it is one.

    Raises:
        ValueError: If there is none.
    """
    runs, seen = [], set()
    for place, inner, files in os.walk(folder, followlinks=True):
        real_place = os.path.realpath(place)
        if real_place in seen:  # a link to where it is in
            inner.clear()
        elif "run.json" in files:
            runs.append(Path(place))
            inner[:] = set(inner) - {*_PARTS}
        seen.add(real_place)
    if not runs:
        raise ValueError(
            "there is no run: a launcher that trains makes a folder with a `run.json`; "
            f"give the folder that such folders are in. Received: `{folder}`"
        )
    return sorted(runs)


def read_record(run: Path) -> dict[str, Any]:
    """Return the content of `run.json`.

    Raises:
        ValueError: If the folder is not one of a run.
    """
    try:
        content = json.loads((run / "run.json").read_text(encoding="utf-8"))
        flatten(content["options"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        near = run.parent.glob("*/run.json") if run.parent.is_dir() else ()
        names = ", ".join(sorted(path.parent.name for path in near)[:10])
        hint = f" in `{run.parent}` there are: {names}." if names else ""
        raise ValueError(
            f"`{run}` is not the folder of a run, in which a launcher that trains "
            f"writes `run.json`;{hint or ' is the name right?'} Received: {error!r}"
        ) from error
    return content


def read_curves(run: Path) -> dict[str, dict[str, Points]]:
    """Return what was logged of a run: points by split, and by `loss` and so on.

    They come from `history.csv`, and where nothing was validated in training, from
    what a tester beside it wrote.

    Raises:
        ValueError: If one of them cannot be understood.
    """
    curves: dict[str, dict[str, Points]] = {}
    path = run / "history.csv"
    with _naming(path):
        for row in _read_whole_rows(path):
            if row.get("step") and row.get("split"):
                _add(curves, row["split"], int(row["step"]), row)
    if "valid" not in curves:
        for test in read_tests(run, "valid").values():
            _add(curves, "valid", test["step"], test)
    return curves


def read_layers(run: Path) -> dict[str, dict[str, Points]]:
    """Return what `layers.csv` says of a run: points by column, and by layer group.

    Raises:
        ValueError: If it cannot be understood.
    """
    curves: dict[str, dict[str, Points]] = {}
    path = run / "layers.csv"
    with _naming(path):
        for row in _read_whole_rows(path):
            for name in ("learning_rate", "update_to_weight"):
                if row.get(name):
                    points = curves.setdefault(name, {}).setdefault(row["group"], {})
                    points[int(row["step"])] = float(row[name])
    return curves


def read_tests(run: Path, split: str) -> dict[int, dict[str, Any]]:
    """Return the results that tests of a split have written, by step, rising.

    Raises:
        ValueError: If one of them cannot be understood.
    """
    found = {}
    for path in sorted((run / "tests").glob(f"step-*.{split}.json")):
        if re.fullmatch(rf"step-\d+\.{re.escape(split)}\.json", path.name):
            with _naming(path):
                content = _mapping(json.loads(path.read_text(encoding="utf-8")))
                found[int(content["step"])] = content
    return dict(sorted(found.items()))


def summarise(run: Path) -> RunSummary:
    """Return how far a run is, and how good.

    Raises:
        ValueError: If the folder is not one of a run, or a file in it cannot be
            understood.
    """
    content = read_record(run)
    result = read_result(run)
    valid = read_curves(run).get("valid", {})
    losses = {s: loss for s, loss in valid.get("loss", {}).items() if loss == loss}
    best = min(losses, key=lambda step: losses[step]) if losses else None
    steps = list_steps(run / "checkpoints")
    step = steps[-1] if steps else 0
    state = f"stopped at step {step}" if steps else "stopped before a checkpoint"
    if is_locked(run):
        state = "running"
    elif result is not None:
        state, step = "complete", result.get("step", step)
    test = read_test(run, result, best)
    return RunSummary(
        path=run,
        network=str(content["options"].get("network", "")),
        state=state,
        started=str(content.get("started", content.get("time", ""))),
        step=step,
        best_step=best,
        valid_loss=None if best is None else losses[best],
        valid_accuracy=None if best is None else valid.get("accuracy", {}).get(best),
        test_loss=test.get("loss"),
        test_accuracy=test.get("accuracy"),
        options=flatten(content["options"]),
        changed=list(content.get("changed", ())),
    )


def read_result(run: Path, *, entry: str | None = None) -> dict[str, Any] | None:
    """Return the content of `result.json`, or None while a run is not complete.

    Args:
        run: Folder of the run.
        entry: What the results of the launcher that asks have, and no others.

    Raises:
        ValueError: If it cannot be understood, or is another launcher's.
    """
    path = Path(run) / "result.json"
    if not path.exists():
        return None
    with _naming(path):
        result = _mapping(json.loads(path.read_text(encoding="utf-8")))
    if entry is not None and entry not in result:
        raise ValueError(
            "the run was made and completed by another launcher. Give another `--run`. "
            f"Received: run={str(run)!r}"
        )
    return result


def read_test(
    run: Path, result: Mapping[str, Any] | None, best_step: int | None
) -> Mapping[str, Any]:
    """Return the numbers of the final test, or else of one of the best checkpoint."""
    if result is not None and isinstance(result.get("test"), dict):
        return result["test"]
    tests = read_tests(run, "test")
    return tests.get(-1 if best_step is None else best_step) or (
        list(tests.values())[-1] if tests else {}
    )


def differing_options(summaries: Sequence[RunSummary]) -> list[str]:
    """Return the names of the options that some of the runs have otherwise.

    Those that somebody changed come first: the others differ by launcher or version.
    An option that only one of two launchers has is no difference.
    """
    names = dict.fromkeys(name for each in summaries for name in each.options)
    differing = []
    for name in names:
        found = {repr(each.options[name]) for each in summaries if name in each.options}
        if len(found) > 1 and name not in ("run", "network"):  # columns of their own
            differing.append(name)
    changed = {name for each in summaries for name in each.changed}
    return sorted(differing, key=lambda name: name not in changed)


def format_number(value: float | None, form: str) -> str:
    """Return a number in a form, or nothing for None."""
    return "" if value is None else format(value, form)


def spell(value: Any) -> str:
    """Return an option's value as the command line has it.

    Example:
        >>> spell([32, 32]), spell({"stem": 0.1}), spell(None)
        ('32 32', 'stem 0.1', 'None')
    """
    if isinstance(value, Mapping):
        return " ".join(f"{name} {spell(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(spell, value))
    return str(value)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say of what cannot be understood inside which file it is.

    Raises:
        ValueError: If there is something.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(
            f"`{path}` is not what a launcher wrote there; mend or delete it. "
            f"Received: {error!r}"
        ) from error


def _read_whole_rows(path: Path) -> Iterator[dict[str, str]]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    # A row that is just being written has no end yet.
    yield from csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))


def _mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise TypeError(f"{type(content).__name__} in place of names and values")
    return content


def _add(
    curves: dict[str, dict[str, Points]], split: str, step: int, row: Mapping[str, Any]
) -> None:
    for name in _NUMBERS:
        value = row.get(name)
        if value not in (None, ""):
            number = float(value)
            points = curves.setdefault(split, {}).setdefault(name, {})
            points[step] = number if math.isfinite(number) else math.nan
