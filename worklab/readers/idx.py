"""IdxReader: the files in which MNIST and its family come."""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from worklab.labels import Labels
from worklab.npz import check_size
from worklab.readers.arrays import StoredArrayReader, stored_labels

_MAGIC = b"\0\0\x08"  # then the number of dimensions; 8 is uint8


class IdxReader(StoredArrayReader):
    """Reads a pair of idx files into memory, as they are or compressed (`.gz`).

    Source: http://yann.lecun.com/exdb/mnist/, "the IDX file format".

    Args:
        path: That of the images, e.g. `train-images-idx3-ubyte.gz`; the labels are in
            `train-labels-idx1-ubyte.gz` beside it.
        class_names: Names in label order, pinned for all splits of a run.
        **settings: As for `StoredArrayReader` and `Reader`.

    Raises:
        ValueError: If a file is damaged or of another kind.
    """

    def __init__(self, path: Path, class_names: Sequence[str], **settings: Any) -> None:
        super().__init__(
            Path(path),
            read_idx(Path(path)),
            _labels(Path(path)),
            class_names,
            **settings,
        )

    @classmethod
    def find_class_names(cls, path: Path, *, labels_offset: int = 0) -> list[str]:
        """Return the class names that the labels pin: "0", "1", ..."""
        return (
            _labels(Path(path))
            .without(labels_offset)
            .class_names(lambda index: f"`{path}`, record {index},")
        )


def read_idx(path: Path) -> np.ndarray:
    """Return the array in an idx file of bytes; its size is compared with the file's.

    Raises:
        ValueError: If the file is of another kind, cut off, or longer than it says.
    """
    size = os.path.getsize(path)
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            shape = _read_shape(file, path)
            count = math.prod(shape)
            check_size(f"`{path}`", count, size)
            data = file.read(count + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"`{path}` is not a whole compressed file ({error}). Get it again. "
            f"Received: {size} bytes"
        ) from error
    if len(data) != count:
        raise ValueError(
            f"`{path}` has another size than it says. Get it again. Received: "
            f"{len(data)} bytes and more, in place of {count} for {shape}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_shape(file: IO[bytes], path: Path) -> tuple[int, ...]:
    head = file.read(4)
    dimensions = file.read(4 * head[3]) if len(head) == 4 else b""
    if head[:3] != _MAGIC or not dimensions or len(dimensions) != 4 * head[3]:
        raise ValueError(
            f"`{path}` is no idx file of bytes. Give one that begins with 0, 0, 8 and "
            f"the number of dimensions. Received: {head!r}"
        )
    return struct.unpack(f">{head[3]}I", dimensions)


def _labels(path: Path) -> Labels:
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    beside = path.with_name(name)
    if beside == path or not beside.is_file():
        raise FileNotFoundError(
            f"There are no labels for `{path}`. Put `{name}` beside it, and give the "
            f"file whose name has `images` in it. Received: {path}"
        )
    return stored_labels(beside, read_idx(beside))
