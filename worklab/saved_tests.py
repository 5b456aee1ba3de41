"""Tests that were saved: find them in a run and read them again."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worklab.tester import TestResult

_COLUMNS = ["image", "label", "prediction", "loss"]
_KEYS = ("step", "split", "class_names", "num_images")
_MOST_NAMES = 5  # of tests, in an error


def find_test(place: Path, split: str = "test") -> Path:
    """Return the JSON file of a test: a run's only one of a split, or the given file.

    Args:
        place: A run, or a file in its folder `tests`, JSON or CSV.
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
        f"--run {place} --split {split}`. Received: {others[:_MOST_NAMES]}"
    )


def read_test(path: Path) -> TestResult:
    """Read a test from its files, equal to the one that was saved.

    Args:
        path: `tests/step-<step>.<split>.json` of a run, or the `.csv` beside it.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If they are not those of a test, or a number is not finite; names
            file and line.
    """
    path = _json_beside(Path(path))
    numbers = _read_numbers(_existing(path))
    table = _existing(path.with_suffix(".csv"))
    class_names, num_images = numbers["class_names"], numbers["num_images"]
    names: list[str] = []
    labels, losses = np.zeros(num_images, np.int64), np.zeros(num_images, np.float32)
    probabilities = np.zeros((num_images, len(class_names)), np.float32)
    for row in _read_rows(table, class_names):
        if len(names) < num_images:
            labels[len(names)], losses[len(names)], probabilities[len(names)] = row[1:]
        names.append(row[0])
    if len(names) != num_images:
        raise ValueError(
            f"`{table}` should have the {num_images} images that the JSON file beside "
            f"it counts; test again. Received: {len(names)}"
        )
    return TestResult.of_probabilities(
        labels,
        probabilities,
        class_names,
        names=names,
        losses=losses,
        skipped=numbers.get("skipped", []),
        step=numbers["step"],
        split=numbers["split"],
        views=numbers.get("views", ""),
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            "a test is two files, `tests/step-<step>.<split>.json` of a run and `.csv` "
            f"beside it; `python launchers/test.py` makes them. Received: no `{path}`"
        )
    return path


def _json_beside(path: Path) -> Path:
    return path.with_suffix(".json") if path.suffix == ".csv" else path


def _read_numbers(path: Path) -> dict[str, Any]:
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in _KEYS if key not in numbers]
    except (ValueError, TypeError) as error:
        missing, numbers = [str(error)], {}
    if missing:
        raise ValueError(
            f"`{path}` is not the result of a test, which has {[*_KEYS]}. "
            f"Received: without {missing}"
        )
    return dict(numbers)


def _read_rows(
    path: Path, class_names: Sequence[str]
) -> Iterator[tuple[str, int, float, np.ndarray]]:
    """Yield name, label, loss and probabilities of each image of a CSV file.

    Raises:
        ValueError: If a line is not of such a file; names it.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        try:
            header = next(rows, [])
            if header != [*_COLUMNS, *(f"p({name})" for name in class_names)]:
                raise ValueError(f"other columns: {header[:8]}")
            for name, label, prediction, loss, *shares in rows:
                probabilities = np.array(shares, np.float32)
                if len(shares) != len(class_names):
                    raise ValueError(f"{len(shares)} probabilities of `{name}`")
                if not np.isfinite([float(loss), *probabilities]).all():
                    raise ValueError(f"what is not finite, of `{name}`")
                _settle_tie(probabilities, numbers[prediction])
                yield name, numbers[label], float(loss), probabilities
        except (ValueError, KeyError, csv.Error) as error:
            raise ValueError(
                f"`{path}`, line {rows.line_num}, is not of a test with the classes of "
                f"the JSON file beside it; test again. Received: {error}"
            ) from error


def _settle_tie(probabilities: np.ndarray, prediction: int) -> None:
    # Files of before had six digits, so that the first of two may be no larger.
    largest = probabilities.max()
    if probabilities[prediction] != largest:
        raise ValueError(f"{largest} is more than {probabilities[prediction]}")
    if probabilities.argmax() != prediction:
        probabilities[prediction] = np.nextafter(largest, np.float32(2))
