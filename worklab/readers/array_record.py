"""ArrayRecordReader: images in ArrayRecord files, as Grain's users write them."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader as _File

from worklab.readers.indexed import Entry, IndexedReader
from worklab.readers.tfrecord import entry_of_example, parse_example

# As the package's documentation advises for random access.
_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"
_BUFFER_BYTES = 2**16
_MOST_OPEN = 128


class ArrayRecordReader(IndexedReader):
    """Reads `tf.train.Example`s in ArrayRecord files, in any order.

    An Example has the keys that `TFRecordReader` names. The format compares checksums
    itself.

    Args:
        path: A file, a pattern like `train-*`, or `train@8` for eight numbered files.
        class_names: Names in label order, pinned for all splits of a run.
        **settings: As for `IndexedReader` and `Reader`.
    """

    kind = "array_record 1"

    @staticmethod
    def _scan(path: Path) -> Iterator[Entry]:
        for number in range(_open(path).num_records()):
            where = f"`{path}`, record {number},"
            yield entry_of_example(where, _read(path, number, where))

    def encoded(self, index: int) -> bytes:
        """Return the content of record `index` as it is in its image file."""
        path, number = self._place(index)
        where = self.where(index)
        return parse_example(where, _read(path, number, where))


def _read(path: Path, number: int, where: str) -> bytes:
    file = _open(path)
    try:
        found = file.read([number])
    except RuntimeError as error:
        raise ValueError(
            f"{where} is damaged. Copy or pack the file again. Received: {error}"
        ) from error
    if not file.ok() or len(found) != 1:
        raise ValueError(
            f"{where} cannot be read. Copy or pack the file again. "
            f"Received: {len(found)} records"
        )
    return found[0]


def _open(path: Path) -> Any:
    try:
        status = os.stat(path)
        file = _opened(str(path), status.st_size, status.st_mtime_ns)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"`{path}` cannot be read as an ArrayRecord file. Copy or pack it again. "
            f"Received: {error}"
        ) from error
    if not file.ok():  # else it would read what is not there
        raise ValueError(
            f"`{path}` is no ArrayRecord file, or its end, where the index is, is cut "
            f"off or damaged. Copy or pack it again. Received: {status.st_size} bytes"
        )
    return file


# Threads may share a file: it reads by place. Few are kept open, as data sets have more
# shards than a process may have files.
@functools.lru_cache(maxsize=_MOST_OPEN)
def _opened(path: str, size: int, changed: int) -> Any:
    del size, changed  # a file that was replaced is opened anew
    return _File(path, _RANDOM_ACCESS, file_reader_buffer_size=_BUFFER_BYTES)
