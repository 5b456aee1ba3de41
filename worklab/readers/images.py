"""ImageReader: images of which nothing is known, from files, folders and lists."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worklab.bad_files import BadFiles
from worklab.list_making import IMAGE_SUFFIXES
from worklab.lists import TABLES, Record, read_table
from worklab.readers.files import FileReader

_FORMS = '`["a.png", ...]`, `{"a.png": label, ...}` or `[{"image": "a.png"}, ...]`'

# Where the image is, and further fields of its entry.
_Found = tuple[Path, dict[str, Any]]


class ImageReader(FileReader):
    """Reads images to be answered, of files, folders and lists; labels play no part.

    A folder stands for the images in it and below it, sorted. A list is JSON, CSV or a
    text file with a path on each line; paths in it are relative to its folder. Files
    given by name may be called as they like; an image that is given twice comes twice.
    With `on_bad_file="skip"` any number may be skipped, but not all.

    Args:
        places: Files, folders and lists, in the order in which they are read.
        class_names: Names in label order, of the network.
        **settings: As for `Reader`.

    Raises:
        FileNotFoundError: If there is nothing at a place.
        ValueError: If there are no images, or a list cannot be read.

    Attributes:
        given_labels: What the lists say of each image's class; None where they do not.
    """

    def __init__(
        self, places: Sequence[Path], class_names: Sequence[str], **settings: Any
    ) -> None:
        found = [each for place in places for each in find_images(Path(place))]
        if not found:
            raise ValueError(
                "there are no images: give files, folders of images "
                f"({', '.join(IMAGE_SUFFIXES)}) or lists. "
                f"Received: {', '.join(map(str, places)) or 'nothing'}"
            )
        self.given_labels = [_label(fields, class_names) for _, fields in found]
        records = [Record(str(path), 0, fields) for path, fields in found]
        features = [fields.get("features") for _, fields in found]
        super().__init__(
            Path(places[0]),
            Path(),
            records,
            class_names,
            features=_as_array(features, records),
            **settings,
        )

    def _start_process(self) -> None:
        super()._start_process()
        self._bad = BadFiles(len(self.labels), self.name, largest_share=1.0)


def find_images(place: Path) -> Iterator[_Found]:
    """Yield the images of a place, and what a list says of each.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is a list that cannot be read.
    """
    if place.is_dir():
        yield from ((path, {}) for path in _images_below(place))
    elif not place.is_file():
        raise FileNotFoundError(
            "give images, folders of images or lists that are there. "
            f"Received: `{place}`"
        )
    elif place.suffix.lower() in (".json", ".txt", *TABLES):
        for entry in _entries(place):
            fields = dict(entry) if isinstance(entry, dict) else {"image": entry}
            path = fields.pop("image", None)
            if not isinstance(path, str) or not path.strip() or "\0" in path:
                raise ValueError(
                    f"`{place}` is no list of images: write {_FORMS}, a CSV file with "
                    "a column `image`, or a text file with a path on each line. "
                    f"Received: {entry!r:.80}"
                )
            yield place.parent / path, fields
    else:
        yield place, {}


def _images_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    real_folder = os.path.realpath(folder)
    if real_folder in above:  # a link to where it is in
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _images_below(path, above | {real_folder})
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        elif path.is_file() or not path.exists():  # a broken link is told when read
            yield path


def _entries(path: Path) -> Sequence[Any]:
    try:
        if path.suffix.lower() in TABLES:
            return _rows(path)
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".txt":
            return [line.strip() for line in text.splitlines() if line.strip()]
        content = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"`{path}` is not a list in UTF-8: mend it. Received: {error}"
        ) from error
    if isinstance(content, dict):
        return [{"image": name, "label": label} for name, label in content.items()]
    return content if isinstance(content, list) else [content]


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [dict(row) for row in read_table(path, "image")]
    for row in rows:
        if "features" in row:
            row["features"] = json.loads(row["features"] or "null")
    return rows


def _label(fields: dict[str, Any], class_names: Sequence[str]) -> int | None:
    label = fields.get("label")
    if isinstance(label, str) and label in class_names:
        return list(class_names).index(label)
    if isinstance(label, str) and label.isdecimal():  # as a table has numbers
        label = int(label)
    known = type(label) is int and 0 <= label < len(class_names)
    return label if known else None


def _as_array(features: list[Any], records: list[Record]) -> np.ndarray | None:
    """Return the numbers that go with each image, where lists have them.

    Raises:
        ValueError: If some have none, another number of them, or no numbers.
    """
    if all(each is None for each in features):
        return None
    rows = list(map(_numbers, features))
    count = len(next((row for row in rows if row is not None), ()))
    for row, each, record in zip(rows, features, records, strict=True):
        if row is None or len(row) != count:
            raise ValueError(
                f"`{record.path}` must have as many `features` as the other images, "
                f"{count} numbers in its list. Received: features={each!r:.80}"
            )
    return np.array(rows)


def _numbers(value: Any) -> np.ndarray | None:
    """Return a list of numbers as an array, or None if it is none."""
    try:
        row = np.array(value, np.float32) if isinstance(value, list) else None
    except (TypeError, ValueError, OverflowError):
        return None
    return None if row is None or row.ndim != 1 else row
