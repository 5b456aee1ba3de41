"""Hdf5Reader: images and labels that are datasets of an HDF5 file."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worklab.labels import Labels
from worklab.npz import check_size
from worklab.readers.arrays import (
    check_images,
    stored_labels,
    with_channels,
)
from worklab.readers.encoded import EncodedReader
from worklab.shards import find_shards


class Hdf5Reader(EncodedReader):
    """Reads the datasets `images` and `labels` of HDF5 files, a record at a time.

    `images` are uint8 (num_records, height, width[, channels]), or the content of
    image files, each a variable number of uint8. `labels` are numbers or names. Beside
    them may stand `class_names` in label order, `filenames`, `features` (num_records,
    num_features), and `weights` (num_records,). Arrays that are read in random order
    should be chunked one image to a chunk. HDF5 reads in one thread at a time.

    Args:
        path: A file, a pattern like `train-*.h5`, or `train@8` for eight numbered ones.
        class_names: Names in label order, pinned for all splits of a run.
        labels_offset: Taken from labels that are numbers.
        **settings: As for `Reader`.

    Raises:
        ValueError: If a file lacks a dataset, has one of another form, or would read
            from other files.
    """

    def __init__(
        self,
        path: Path,
        class_names: Sequence[str],
        *,
        labels_offset: int = 0,
        **settings: Any,
    ) -> None:
        self.shards = find_shards(Path(path))
        self._files: dict[int, Any] = {}
        labels, starts, self._filenames = [], [0], []
        columns: dict[str, list[np.ndarray]] = {"features": [], "weights": []}
        for shard in self.shards:
            with _reading(f"`{shard}`"), h5py.File(shard, "r") as file:
                labels.append(_labels(shard, file).without(labels_offset))
                starts.append(starts[-1] + len(labels[-1].values))
                self._filenames += _texts(shard, file, "filenames")
                for name in columns.keys() & file.keys():
                    columns[name].append(_dataset(shard, file, name)[()])
        self._starts = np.array(starts)
        indices = [
            each.indices(class_names, functools.partial(_where, shard))
            for shard, each in zip(self.shards, labels, strict=True)
        ]
        settings |= {
            name: np.concatenate(parts) for name, parts in columns.items() if parts
        }
        super().__init__(
            np.concatenate(indices),
            class_names,
            **settings,
        )
        self.path = Path(path)
        self.has_pixels = self._value(0).ndim != 1

    @classmethod
    def find_class_names(cls, path: Path, *, labels_offset: int = 0) -> list[str]:
        """Return the class names that the files pin."""
        values: list[np.ndarray] = []
        names: dict[int, str] = {}
        for shard in find_shards(Path(path)):
            with _reading(f"`{shard}`"), h5py.File(shard, "r") as file:
                labels = _labels(shard, file)
                values.append(labels.values)
                names |= labels.names
        joined = Labels(np.concatenate(values), names).without(labels_offset)
        return joined.class_names(functools.partial(_where, path))

    def filename(self, index: int) -> str:
        """Return what the image of record `index` is called by itself; may be empty."""
        return self._filenames[index] if self._filenames else ""

    def name(self, index: int) -> str:
        """Return the file of record `index`, its number there, and its own name."""
        shard, number = self._place(index)
        filename = self.filename(index)
        name = f"{self.shards[shard].name}:{number}"
        return f"{name}:{filename}" if filename else name

    def where(self, index: int) -> str:
        """Return how an error calls record `index`: the file, and where in it."""
        shard, number = self._place(index)
        filename = self.filename(index)
        where = f"`{self.shards[shard]}`, record {number}"
        return f"{where} ({filename})" if filename else where

    def version(self, index: int) -> str:
        """Return the name of record `index`, and size and time of its file."""
        status = self.shards[self._place(index)[0]].stat()
        return f"{self.name(index)} {status.st_size} {status.st_mtime_ns}"

    def encoded(self, index: int) -> bytes:
        """Return the content of record `index` as it is in its image file.

        Raises:
            ValueError: If the file has pixels.
        """
        if self.has_pixels:
            raise ValueError(
                f"{self.where(index)} is an array of pixels, not an image file. "
                f"Received: index={index}"
            )
        return bytes(self._value(index).tobytes())

    def _load(self, index: int) -> np.ndarray:
        if not self.has_pixels:
            return super()._load(index)
        return with_channels(self._value(index), self.options.channels)

    def _value(self, index: int) -> np.ndarray:
        shard, number = self._place(index)
        with _reading(self.where(index)):
            if shard not in self._files:
                file = h5py.File(self.shards[shard], "r")
                self._files[shard] = _dataset(self.shards[shard], file, "images")
            return np.asarray(self._files[shard][number])

    def _place(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._starts, index, "right")) - 1
        return shard, index - int(self._starts[shard])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open files: each process has its own."""
        return super().__getstate__() | {"_files": {}}


def _where(path: Path, index: int) -> str:
    return f"`{path}`, record {index},"


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:  # as h5py likes
        raise ValueError(
            f"{what} cannot be read: it is no whole HDF5 file. Copy or pack it again. "
            f"Received: {error}"
        ) from error


def _dataset(path: Path, file: Any, name: str) -> Any:
    """Return a dataset of a file that reads from that file alone.

    Raises:
        ValueError: If there is none, or it would read from another file.
    """
    link = file.get(name, getlink=True)
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(
            f"`{path}` must have the datasets `images` and `labels`, in the file "
            f"itself. Received: {name} among {sorted(file)}, {type(link).__name__}"
        )
    if dataset.external or dataset.is_virtual:
        raise ValueError(
            f"`{name}` in `{path}` reads from another file, which may be any. Write "
            f"the data into this one. Received: {dataset.external or 'virtual'}"
        )
    stored = dataset.id.get_storage_size()
    check_size(f"`{name}` in `{path}`", dataset.nbytes, stored)
    return dataset


def _labels(path: Path, file: Any) -> Labels:
    images = _dataset(path, file, "images")
    labels = _dataset(path, file, "labels")[()]
    if images.ndim != 1:
        check_images(path, images, len(labels))
    elif h5py.check_vlen_dtype(images.dtype) != np.uint8:
        raise ValueError(
            f"`images` in `{path}` must be uint8 arrays, or image files, each of a "
            f"variable number of uint8. Received: {images.dtype} {images.shape}"
        )
    elif len(images) != len(labels):
        raise ValueError(
            f"`images` and `labels` in `{path}` must be equally many. Received: "
            f"{len(images)} images and {len(labels)} labels"
        )
    return stored_labels(path, labels, _texts(path, file, "class_names") or None)


def _texts(path: Path, file: Any, name: str) -> list[str]:
    return list(_dataset(path, file, name).asstr()[()]) if name in file else []
