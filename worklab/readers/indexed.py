"""IndexedReader: records of shards, whose places and labels are found once."""

import abc
import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from worklab.labels import Labels
from worklab.readers.encoded import EncodedReader
from worklab.shards import Index, cached_index, find_shards


@dataclasses.dataclass(frozen=True)
class Entry:
    """One record of a file, as its index has it.

    Attributes:
        label: Number of its class, or its name.
        text: Name of a class that is given by number; may be empty.
        filename: What the record calls its image; may be empty.
        place: Where the record is.
        length: Its bytes.
        features: Numbers that go with it, equally many in each record.
        weight: What it counts; NaN where the record does not say.
    """

    label: int | str
    text: str = ""
    filename: str = ""
    place: int = 0
    length: int = 0
    features: tuple[float, ...] = ()
    weight: float = math.nan


class IndexedReader(EncodedReader):
    """Reads records of one file or several, in any order.

    An index of all records is made at the first use and kept beside the files (see
    `worklab.shards.cached_index`).

    Implement: `kind`, `_scan(path)` and `encoded(index)`.

    Args:
        path: A file, a pattern like `train-*`, or `train@8` for eight numbered files.
        class_names: Names in label order, pinned for all splits of a run.
        labels_offset: Taken from labels that are numbers; 1 leaves out tf-slim's
            background class.
        **settings: As for `Reader`.

    Raises:
        ValueError: If a file is damaged or cut off, or a label is unknown; names the
            file and the record.
    """

    kind: ClassVar[str]
    """Of the files, with a version that changes with what their index is made from."""

    def __init__(
        self,
        path: Path,
        class_names: Sequence[str],
        *,
        labels_offset: int = 0,
        **settings: Any,
    ) -> None:
        self.shards = find_shards(Path(path))
        self._index = _load_index(type(self), self.shards)
        # Number of the first record of each shard, and of the one after the last.
        self._starts = np.searchsorted(
            self._index["shard"], np.arange(len(self.shards) + 1)
        )
        labels = _labels(self._index).without(labels_offset)
        features = self._index["features"]
        super().__init__(
            labels.indices(class_names, self.where),
            class_names,
            features=features if features.shape[1] else None,
            weights=_weights(self._index),
            **settings,
        )
        self.path = Path(path)

    @staticmethod
    @abc.abstractmethod
    def _scan(path: Path) -> Iterator[Entry]:
        """Yield the records of one file in order; errors name file and record."""

    @classmethod
    def find_class_names(cls, path: Path, *, labels_offset: int = 0) -> list[str]:
        """Return the class names that the records pin."""
        shards = find_shards(Path(path))
        index = _load_index(cls, shards)
        labels = _labels(index).without(labels_offset)
        return labels.class_names(lambda record: f"`{path}`, record {record},")

    def filename(self, index: int) -> str:
        """Return what the image of record `index` is called by itself; may be empty."""
        return str(self._index["filename"][index].decode("utf-8", "replace"))

    def name(self, index: int) -> str:
        """Return the file of record `index`, its number there, and its own name."""
        shard, number = self._place(index)
        filename = self.filename(index)
        return f"{shard.name}:{number}" + (f":{filename}" if filename else "")

    def where(self, index: int) -> str:
        """Return how an error calls record `index`: the file, and where in it."""
        shard, number = self._place(index)
        filename = self.filename(index)
        return f"`{shard}`, record {number}" + (f" ({filename})" if filename else "")

    def version(self, index: int) -> str:
        """Return the name of record `index`, and size and time of its file."""
        status = self._place(index)[0].stat()
        return f"{self.name(index)} {status.st_size} {status.st_mtime_ns}"

    def _place(self, index: int) -> tuple[Path, int]:
        """Return the file of a record, and its number there."""
        shard = int(self._index["shard"][index])
        return self.shards[shard], index - int(self._starts[shard])


def _load_index(reader_class: type[IndexedReader], shards: Sequence[Path]) -> Index:
    kind = " ".join([reader_class.kind, *(f.name for f in dataclasses.fields(Entry))])
    index = cached_index(shards, kind, lambda path: _build(reader_class, path))
    if not len(index["shard"]):
        raise ValueError(
            f"`{shards[0]}` has no record. Give a file that has images. "
            f"Received: {len(shards)} files without records"
        )
    return index


def _build(reader_class: type[IndexedReader], path: Path) -> Index:
    entries = list(reader_class._scan(path))
    named = {type(entry.label) for entry in entries} == {str}
    lengths = {len(entry.features) for entry in entries} or {0}
    if len(lengths) > 1 or len({type(entry.label) for entry in entries}) > 1:
        raise ValueError(
            f"`{path}` has records of two kinds: all labels must be numbers, or all "
            "names, and all must have equally many `features`. Pack them again. "
            f"Received: labels {sorted({str(e.label) for e in entries})[:4]}, "
            f"numbers of features {sorted(lengths)}"
        )
    labels = [entry.label for entry in entries]
    numbers = [0 if named else _number(label, path) for label in labels]
    return {
        "label": np.array(numbers, np.int64),
        "name": _texts([str(label) if named else "" for label in labels]),
        "text": _texts([entry.text for entry in entries]),
        "filename": _texts([entry.filename for entry in entries]),
        "place": np.array([entry.place for entry in entries], np.int64),
        "length": np.array([entry.length for entry in entries], np.int64),
        "weight": np.array([entry.weight for entry in entries], np.float64),
        "features": np.array([entry.features for entry in entries], np.float32).reshape(
            len(entries), lengths.pop()
        ),
    }


def _weights(index: Index) -> np.ndarray | None:
    """Return what each record counts, 1 where it does not say; None: none says."""
    weights = index["weight"]
    missing = np.isnan(weights)
    return None if missing.all() else np.where(missing, 1.0, weights)


def _number(label: Any, path: Path) -> int:
    if not -(2**63) <= label < 2**63:
        raise ValueError(
            f"`{path}` has a label that is no class's number. Pack it again. "
            f"Received: label={label}"
        )
    return int(label)


def _texts(values: Sequence[str]) -> np.ndarray:
    # Bytes, as NumPy's own text takes four for each character.
    return np.array([value.encode() for value in values], np.bytes_)


def _labels(index: Index) -> Labels:
    if index["name"].any():
        return Labels(np.char.decode(index["name"], "utf-8"))
    numbers, first = np.unique(index["label"], return_index=True)
    texts = [index["text"][record].decode("utf-8", "replace") for record in first]
    names = dict(zip(numbers.tolist(), texts, strict=True))
    return Labels(
        index["label"], {number: name for number, name in names.items() if name}
    )
