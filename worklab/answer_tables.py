"""Tables of a test's answers, a row for each image: CSV and Parquet."""

import csv
import functools
import importlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from worklab.files import replacing, write_atomically, writing

Table = Literal["csv", "parquet"]
TABLES: tuple[Table, ...] = ("csv", "parquet")

_TEXTS = ("image", "label", "prediction")
_BATCH_BYTES = 16_000_000  # of a Parquet file's rows that are in memory at a time
_NAME_BYTES = 100  # of an image's name, about


class Answers(NamedTuple):
    """What a test knows of each image.

    Attributes:
        names: What each image is called.
        labels: Class indices, int64 (num_images,).
        losses: float32 (num_images,).
        probabilities: float32 (num_images, num_classes).
    """

    names: list[str]
    labels: np.ndarray
    losses: np.ndarray
    probabilities: np.ndarray


def check_table(table: Table) -> None:
    """Refuse a table that cannot be written, before the work for it is done.

    Raises:
        ValueError: If there is no such format, or its package is not installed.
    """
    if table not in TABLES:
        raise ValueError(
            f"`table` must be {' or '.join(map(repr, TABLES))}. Received: {table!r}"
        )
    if table == "parquet":
        _import_pyarrow()


def write_table(path: Path, answers: Answers, class_names: Sequence[str]) -> None:
    """Write a table, whole or not at all, and delete that of the other format.

    Args:
        path: `.csv` or `.parquet`; the folder is made when missing.
        answers: Of each image.
        class_names: Names in label order.
    """
    if path.suffix == ".csv":
        write_atomically(path, functools.partial(_write_csv, answers, class_names))
    else:
        _write_parquet(path, answers, class_names)
    for table in TABLES:
        if path.suffix != f".{table}":
            path.with_suffix(f".{table}").unlink(missing_ok=True)


def read_table(path: Path, class_names: Sequence[str], num_images: int) -> Answers:
    """Read a table, equal to what was written.

    Args:
        path: `.csv` or `.parquet`.
        class_names: Names in label order.
        num_images: How many rows it has.

    Raises:
        ValueError: If it is not such a table, or its package is not installed; names
            file and line.
    """
    read = _read_csv if path.suffix == ".csv" else _read_parquet
    return read(path, [*map(_unicode, class_names)], num_images)


def _header(class_names: Sequence[str]) -> list[str]:
    return [*_TEXTS, "loss", *(f"p({name})" for name in class_names)]


def _unicode(text: str) -> str:
    # As in the files: a file name that is not Unicode has lone surrogates.
    return text.encode(errors="backslashreplace").decode()


def _refusal(path: Path, place: str, error: Exception | str) -> str:
    return (
        f"`{path}`{place} is not of a test with the classes of the JSON file beside "
        f"it; test again. Received: {error}"
    )


def _write_csv(answers: Answers, class_names: Sequence[str], file: Any) -> None:
    writer = csv.writer(file)
    writer.writerow(_header(class_names))
    for name, label, loss, probabilities in zip(
        answers.names,
        answers.labels.tolist(),
        answers.losses.tolist(),
        answers.probabilities,
        strict=True,
    ):
        # Nine digits are those of a float32: what is read again is equal.
        row = [name, class_names[label], class_names[probabilities.argmax()]]
        numbers = [loss, *probabilities.tolist()]
        writer.writerow(row + [f"{number:.9g}" for number in numbers])


def _read_csv(path: Path, class_names: Sequence[str], num_images: int) -> Answers:
    answers = _empty(path, num_images, len(class_names))
    for row in _csv_rows(path, class_names):
        if (number := len(answers.names)) < num_images:
            answers.labels[number], answers.losses[number] = row[1:3]
            answers.probabilities[number] = row[3]
        answers.names.append(row[0])
    if len(answers.names) != num_images:
        raise ValueError(
            f"`{path}` should have the {num_images} images that the JSON file beside "
            f"it counts; test again. Received: {len(answers.names)}"
        )
    return answers


def _csv_rows(
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
            if header != _header(class_names):
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
                _refusal(path, f", line {rows.line_num},", error)
            ) from error


def _settle_tie(probabilities: np.ndarray, prediction: int) -> None:
    # Files of before had six digits, so that the first of two may be no larger.
    largest = probabilities.max()
    if probabilities[prediction] != largest:
        raise ValueError(f"{largest} is more than {probabilities[prediction]}")
    if probabilities.argmax() != prediction:
        probabilities[prediction] = np.nextafter(largest, np.float32(2))


def _write_parquet(path: Path, answers: Answers, class_names: Sequence[str]) -> None:
    pyarrow = _import_pyarrow()
    classes = pyarrow.array([*map(_unicode, class_names)], pyarrow.string())
    labels, predictions = answers.labels, answers.probabilities.argmax(axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        writing(path),
        replacing(path) as temporary,
        pyarrow.parquet.ParquetWriter(
            temporary,
            _schema(pyarrow, class_names),
            use_dictionary=[*_TEXTS],
            write_page_checksum=True,
        ) as writer,
    ):
        size = _num_rows(class_names)
        for rows in (slice(s, s + size) for s in range(0, len(labels), size)):
            columns = [
                pyarrow.array([*map(_unicode, answers.names[rows])], pyarrow.string()),
                classes.take(pyarrow.array(labels[rows])),
                classes.take(pyarrow.array(predictions[rows])),
                answers.losses[rows],
                *np.ascontiguousarray(answers.probabilities[rows].T),
            ]
            arrays = [*map(pyarrow.array, columns)]
            writer.write(pyarrow.record_batch(arrays, schema=writer.schema))


def _read_parquet(path: Path, class_names: Sequence[str], num_images: int) -> Answers:
    pyarrow = _import_pyarrow()
    answers = _empty(path, num_images, len(class_names))
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            _check_columns(file.schema_arrow, _schema(pyarrow, class_names))
            if file.metadata.num_rows != num_images:
                raise ValueError(f"{file.metadata.num_rows} rows, not {num_images}")
            for batch in file.iter_batches(_num_rows(class_names)):
                _take_batch(pyarrow, batch, answers, class_names)
            if len(answers.names) != num_images:
                raise ValueError(f"{len(answers.names)} rows, not {num_images}")
    except (pyarrow.ArrowException, OSError, MemoryError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(_refusal(path, "", reason)) from error
    return answers


def _take_batch(
    pyarrow: Any, batch: Any, answers: Answers, class_names: Sequence[str]
) -> None:
    """Take the next rows of a Parquet file.

    Raises:
        ValueError: If a row is not of a test with these classes; names it.
    """
    start = len(answers.names)
    rows = slice(start, start + batch.num_rows)
    names, labels, predictions, *numbers = batch.columns
    classes = pyarrow.array(class_names, pyarrow.string())
    indices = [
        pyarrow.compute.index_in(texts, value_set=classes).fill_null(-1).to_numpy()
        for texts in (labels, predictions)
    ]
    # Of a missing number NumPy's array has NaN.
    losses, *shares = [each.to_numpy(zero_copy_only=False) for each in numbers]
    probabilities = np.column_stack(shares)
    finite = np.isfinite(losses) & np.isfinite(probabilities).all(axis=1)
    for wrong, what in (
        (~np.asarray(names.is_valid()), "no name"),
        (np.minimum(*indices) < 0, "a label or prediction that is no class"),
        (~finite, "what is not finite"),
        (probabilities.argmax(axis=1) != indices[1], "a prediction below another"),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"row {start + row + 1} has {what}, of `{names[row]}`")
    answers.labels[rows], answers.losses[rows] = indices[0], losses
    answers.probabilities[rows] = probabilities
    answers.names.extend(names.to_pylist())


def _import_pyarrow() -> Any:
    try:
        for name in ("pyarrow.compute", "pyarrow.parquet"):
            importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            "Parquet files need a package that is not installed; in the project's "
            f"folder: `pip install -e '.[parquet]'`. Received: {error}"
        ) from error
    return importlib.import_module("pyarrow")


def _schema(pyarrow: Any, class_names: Sequence[str]) -> Any:
    names = [*map(_unicode, _header(class_names))]
    types = [pyarrow.string()] * len(_TEXTS)
    types += [pyarrow.float32()] * (len(names) - len(_TEXTS))
    return pyarrow.schema([*zip(names, types, strict=True)])


def _check_columns(found: Any, expected: Any) -> None:
    """Refuse a Parquet file of other columns.

    Raises:
        ValueError: If there is one; names the first.
    """
    columns = [
        [f"{field.name}: {field.type}" for field in s] for s in (found, expected)
    ]
    for one, other in itertools.zip_longest(*columns, fillvalue="nothing"):
        if one != other:
            raise ValueError(f"other columns: `{one}`, not `{other}`")


def _num_rows(class_names: Sequence[str]) -> int:
    """Return how many rows of a Parquet file are in memory at a time."""
    return max(1, _BATCH_BYTES // (4 * len(class_names) + _NAME_BYTES))


def _empty(path: Path, num_images: int, num_classes: int) -> Answers:
    try:
        return Answers(
            [],
            np.zeros(num_images, np.int64),
            np.zeros(num_images, np.float32),
            np.zeros((num_images, num_classes), np.float32),
        )
    except (MemoryError, ValueError) as error:
        raise ValueError(_refusal(path, "", f"{num_images} images")) from error
