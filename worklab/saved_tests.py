"""Tests that were saved: find them in a run and read them again."""

import json
import shlex
from pathlib import Path
from typing import Any

from worklab.answer_tables import TABLES, read_table
from worklab.tester import TestResult

_KEYS = {"step": int, "split": str, "class_names": list, "num_images": int}
_MOST_NAMES = 5  # of tests, in an error


def find_test(place: Path, split: str = "test") -> Path:
    """Return the JSON file of a test: a run's only one of a split, or the given file.

    Args:
        place: A run, or a file in its folder `tests`, JSON, CSV or Parquet.
        split: Which test of a run.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the run has several of the split.
    """
    if not place.is_dir():
        return _existing(_json_beside(_existing(place)))
    found = sorted(place.glob(f"tests/step-*.{split}.json"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[:_MOST_NAMES])
        raise ValueError(
            f"`{place}` has {len(found)} tests of `{split}`; name one of the files in "
            f"`{place / 'tests'}`. Received: {names}"
            + (", ..." if len(found) > _MOST_NAMES else "")
        )
    others = [path.name for path in sorted(place.glob("tests/step-*.json"))]
    raise FileNotFoundError(
        f"`{place}` has no test of `{split}`; make one by `python launchers/test.py "
        f"--run {shlex.quote(str(place))} --split {split}`, with `--checkpoint latest` "
        f"where training has not validated. Received: {others[:_MOST_NAMES]}"
    )


def read_test(path: Path) -> TestResult:
    """Read a test from its files, equal to the one that was saved.

    Args:
        path: `tests/step-<step>.<split>.json` of a run, or the `.csv` or
            `.parquet` beside it.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If they are not those of a test, or a number is not finite; names
            file and line.
    """
    path = _json_beside(Path(path))
    numbers = _read_numbers(_existing(path))
    class_names = numbers["class_names"]
    answers = read_table(_table_beside(path), class_names, numbers["num_images"])
    return TestResult.of_probabilities(
        answers.labels,
        answers.probabilities,
        class_names,
        names=answers.names,
        losses=answers.losses,
        skipped=numbers.get("skipped", []),
        step=numbers["step"],
        split=numbers["split"],
        views=numbers.get("views", ""),
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            "a test is two files, `tests/step-<step>.<split>.json` of a run and `.csv` "
            "or `.parquet` beside it; `python launchers/test.py` makes them. "
            f"Received: no `{path}`"
        )
    return path


def _json_beside(path: Path) -> Path:
    return path.with_suffix(".json") if path.suffix[1:] in TABLES else path


def _table_beside(path: Path) -> Path:
    """Return the table of a test's JSON file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are two.
    """
    tables = [path.with_suffix(f".{table}") for table in TABLES]
    found = [table for table in tables if table.is_file()]
    if len(found) > 1:
        raise ValueError(
            f"which table belongs to `{path}` cannot be told; delete the other, or "
            f"test again. Received: {[table.name for table in found]}"
        )
    return _existing((found or tables)[0])


def _read_numbers(path: Path) -> dict[str, Any]:
    try:
        numbers = dict(json.loads(path.read_text(encoding="utf-8")))
        missing = [
            k for k, kind in _KEYS.items() if not isinstance(numbers.get(k), kind)
        ]
    except (ValueError, TypeError) as error:
        missing, numbers = [str(error)], {}
    if missing or not all(isinstance(name, str) for name in numbers["class_names"]):
        raise ValueError(
            f"`{path}` is not the result of a test, which has {[*_KEYS]}. "
            f"Received: without {missing or 'names of classes'}"
        )
    return numbers
