"""Lists of labelled images, JSON or CSV: read them, and pin their classes.

A JSON list is `{"1.png": label, ...}` or `[{"image": "1.png", "label": label, ...},
...]`. A label is a class index (a number) or a class name (a string, also if it is
"3"). A CSV list has a first line that names its columns, among them `image` and
`label`; its labels are class indices where all of them are whole numbers.
"""

import csv
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worklab.files import write_json

CLASSES_FILE = "classes.json"
TABLES = {".csv": ",", ".tsv": "\t"}
"""What stands between the columns of a table, by its suffix."""

_SUFFIXES = (".json", *TABLES)

_HOW_TO_MAKE = "make lists of a folder of classes: `python -m worklab lists FOLDER`"
_FORMS = '`{"1.png": label, ...}` or `[{"image": "1.png", "label": label}, ...]`'

# Where it stands, path, label (an int or a str), further fields.
_Entry = tuple[str, str, Any, dict[str, Any]]


@dataclass(frozen=True)
class Record:
    """One image of a list.

    Args:
        path: Path of the image as the list has it, relative to the list's folder.
        label: Index of the class, in [0, number of classes).
        fields: Further fields of the entry; empty for the short form of a list.
    """

    path: str
    label: int
    fields: Mapping[str, Any] = field(default_factory=dict)


def read_class_names(path: Path) -> list[str]:
    """Read `classes.json`: a JSON list of unique names in the order of the labels."""
    names = _load_json(path)
    return _checked_names(names if isinstance(names, list) else [], f"`{path}`")


def write_class_names(path: Path, names: Sequence[str]) -> None:
    """Write class names; the file appears whole or not at all."""
    write_json(path, _checked_names(names, "`names`"))


def find_class_names(list_path: Path) -> list[str]:
    """Find the class names to pin for all splits, usually from the train list.

    A `classes.json` beside the list decides. Without it, integer labels give the
    names "0", "1", ... up to the largest label, and class names are sorted.

    Args:
        list_path: The list to take the classes from.

    Returns:
        The class names in the order of the labels.

    Raises:
        ValueError: If a label is negative, or integers and names are mixed.
    """
    classes_path = list_path.parent / CLASSES_FILE
    if classes_path.is_file():
        return read_class_names(classes_path)
    labels: set[Any] = set()
    for where, _, label, _ in _read_entries(list_path):
        if labels and type(label) is not type(next(iter(labels))):
            raise ValueError(
                f"{where} mixes integer labels with class names. Use one of the two, "
                f"or put `{CLASSES_FILE}` beside the list. Received: label={label!r}"
            )
        if isinstance(label, int) and label < 0:
            raise ValueError(
                f"{where} has a negative label. Number the classes from 0. "
                f"Received: label={label}"
            )
        labels.add(label)
    if isinstance(next(iter(labels)), int):
        return [str(label) for label in range(max(labels) + 1)]
    return sorted(labels)


def read_list(list_path: Path, class_names: Sequence[str]) -> list[Record]:
    """Read a list in either form, with every label turned into a class index.

    The order of the list is kept, and the images are not opened.

    Args:
        list_path: The list, JSON or CSV.
        class_names: Names of all classes in the order of the labels, the same for
            every split: those of `find_class_names` or `read_class_names`.

    Returns:
        One record per entry, at least one.
    """
    names = _checked_names(class_names, "`class_names`")
    indices = {name: index for index, name in enumerate(names)}
    return [
        Record(path, class_index(label, indices, where), fields)
        for where, path, label, fields in _read_entries(list_path)
    ]


def read_table(path: Path, *needed: str) -> list[dict[str, str]]:
    """Return the rows of a table, by the names of their columns.

    Args:
        path: A file whose suffix is in `TABLES`.
        *needed: Columns that there must be.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is no table in UTF-8, a column is missing or has the name of
            another, or a row has another number of columns.
    """
    _refuse_missing(path)
    delimiter = TABLES[path.suffix.lower()]
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"`{path}` is not a CSV file in UTF-8 ({error}). Save it as one. "
            f"Received: {path}"
        ) from error
    if not {*needed} <= set(columns) or len(set(columns)) < len(columns):
        raise ValueError(
            f"`{path}` must name its columns in the first line, each once, among them "
            f"{' and '.join(f'`{each}`' for each in needed)}. "
            f"Received: {columns!r:.80}"
        )
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(
                f"`{path}`, entry {number}, has another number of columns than the "
                f"first line. Mend it. Received: {row!r:.80}"
            )
    return rows


def _load_table(path: Path) -> list[dict[str, Any]]:
    rows = read_table(path, "image", "label")
    numbers = all(re.fullmatch(r"\d+", row["label"].strip()) for row in rows)
    return [
        {name: _cell(text) for name, text in row.items()}
        | {"image": row["image"]}
        | {"label": int(row["label"]) if numbers else row["label"]}
        for row in rows
    ]


def _cell(text: str) -> Any:
    # A number or a list of numbers, as JSON has them; anything else is text.
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float | list) else text


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        found = sorted(
            entry.name for entry in folder.glob("*") if entry.suffix in _SUFFIXES
        )
        raise FileNotFoundError(
            f"There is no file `{path}`. Lists in `{folder}`: "
            f"{', '.join(found) or 'none'}. Give one of them, or {_HOW_TO_MAKE}. "
            f"Received: {path}"
        )


def _load_json(path: Path) -> Any:
    _refuse_missing(path)

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise ValueError(
                    f"`{path}` has a key twice in one object. Keep one of the two. "
                    f"Received: {key!r} with {result[key]!r} and with {value!r}"
                )
            result[key] = value
        return result

    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`{path}` is not UTF-8 text at byte {error.start}. Save it as UTF-8. "
            f"Received: {error.object[error.start : error.start + 8]!r}"
        ) from error
    except json.JSONDecodeError as error:
        line = error.doc.split("\n")[error.lineno - 1]
        start = max(0, error.colno - 40)
        raise ValueError(
            f"`{path}` is not valid JSON at line {error.lineno}, column {error.colno}: "
            f"{error.msg}. Mend that line. Received: {line[start : start + 80]!r}"
        ) from error


def _checked_names(names: Sequence[Any], source: str) -> list[str]:
    wrong = [name for name in names if not isinstance(name, str) or not name.strip()]
    if not names or wrong or len(set(names)) < len(names):
        repeated = [] if wrong else [name for name in names if names.count(name) > 1]
        raise ValueError(
            f"{source} is not a list of unique class names. Give every label one name, "
            f'like ["cat", "dog"]. Received: {(wrong or repeated or names)!r:.80}'
        )
    return list(names)


def raw_entries(list_path: Path) -> list[Any]:
    """Return the entries of a list in its longer form, as they stand there.

    Raises:
        ValueError: If the file is not a list of anything; entries are not checked.
    """
    is_table = list_path.suffix.lower() in TABLES
    content = _load_table(list_path) if is_table else _load_json(list_path)
    if not isinstance(content, dict | list) or not content:
        raise ValueError(
            f"`{list_path}` is empty or not a list of images. Write {_FORMS}, or "
            f"{_HOW_TO_MAKE}. Received: {content!r:.80}"
        )
    if isinstance(content, dict):
        return [{"image": path, "label": label} for path, label in content.items()]
    return content


def checked_record(
    list_path: Path, number: int, entry: Any, indices: Mapping[str, int]
) -> Record:
    """Return one of `raw_entries` as a record.

    Args:
        list_path: The list it is in, for the message.
        number: Its number there, from 1.
        entry: As it stands there.
        indices: Labels by the names of their classes.

    Raises:
        ValueError: If it has no path, or no label of a known class.
    """
    where, path, label, fields = _checked_entry(list_path, number, entry)
    return Record(path, class_index(label, indices, where), fields)


def _read_entries(list_path: Path) -> Iterator[_Entry]:
    for number, entry in enumerate(raw_entries(list_path), start=1):
        yield _checked_entry(list_path, number, entry)


def _checked_entry(list_path: Path, number: int, entry: Any) -> _Entry:
    fields = dict(entry) if isinstance(entry, dict) else {}
    path, label = fields.pop("image", None), fields.pop("label", None)
    where = f"`{list_path}`, entry {number} ({path!r}),"
    if not isinstance(path, str) or not path.strip():
        raise ValueError(
            f"{where} has no image path. Write {_FORMS}. "
            f"Received: {json.dumps(entry):.80}"
        )
    if type(label) not in (int, str):  # not isinstance: a bool is an int
        raise ValueError(
            f"{where} has a label that is neither an integer nor a class name. "
            f"Write one of the two. Received: label={json.dumps(label):.80}"
        )
    return where, path, label, fields


def class_index(label: int | str, indices: Mapping[str, int], where: str) -> int:
    """Return the index of a class that is given by its index or its name.

    Args:
        label: Either of the two.
        indices: Of all names.
        where: Where the label stands, as the beginning of an error.

    Raises:
        ValueError: If there is no such class; the nearest is suggested.
    """
    if isinstance(label, int) and 0 <= label < len(indices):
        return label
    if isinstance(label, str) and label in indices:
        return indices[label]
    cutoff = 1.0 if isinstance(label, int) else 0.6
    close = difflib.get_close_matches(str(label), indices, n=1, cutoff=cutoff)
    meant = f"Did you mean {json.dumps(close[0])}? If not, add" if close else "Add"
    problem = "a label out of range" if isinstance(label, int) else "an unknown class"
    raise ValueError(
        f"{where} has {problem}: the labels are 0 to {len(indices) - 1}, the class "
        f"names {', '.join(indices):.200}. {meant} the class to `{CLASSES_FILE}`, or "
        f"correct the list. Received: label={label!r}"
    )
