"""TFRecordReader: images in TFRecord files, as tf-slim and TensorFlow write them."""

from collections.abc import Iterator
from pathlib import Path

from worklab.examples import parse_image
from worklab.readers.indexed import Entry, IndexedReader
from worklab.tfrecords import read_record, scan_records


class TFRecordReader(IndexedReader):
    """Reads `tf.train.Example`s in TFRecord files, in any order.

    An Example has tf-slim's keys: `image/encoded`, `image/class/label` and, where
    there are, `image/class/text` and `image/filename`; or `image` and `label`. The
    checksum of each record is compared whenever it is read.

    Args:
        path: A file, a pattern like `train-*`, or `train@8` for eight numbered files.
        class_names: Names in label order, pinned for all splits of a run.
        **settings: As for `IndexedReader` and `Reader`.

    Example:
        >>> import tempfile
        >>> from worklab.examples import make_example
        >>> from worklab.tfrecords import write_record
        >>> values = {"image/encoded": [b"..."], "image/class/label": [1]}
        >>> path = Path(tempfile.mkdtemp()) / "train.tfrecord"
        >>> with open(path, "wb") as file:
        ...     write_record(file, make_example(values))
        >>> TFRecordReader(path, ["cat", "dog"]).labels
        array([1])
    """

    kind = "tfrecord 1"

    @staticmethod
    def _scan(path: Path) -> Iterator[Entry]:
        for number, (place, data) in enumerate(scan_records(path)):
            yield entry_of_example(f"`{path}`, record {number},", data, place)

    def encoded(self, index: int) -> bytes:
        """Return the content of record `index` as it is in its image file."""
        place, length = self._index["place"][index], self._index["length"][index]
        path, where = self._place(index)[0], self.where(index)
        return parse_example(where, read_record(path, int(place), int(length), where))


def entry_of_example(where: str, data: bytes, place: int = 0) -> Entry:
    """Return what the index has of a serialised Example.

    Raises:
        ValueError: If it is none of an image.
    """
    try:
        image = parse_image(data)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error
    return Entry(
        image.label,
        image.text,
        image.filename,
        place,
        len(data),
        image.features,
        image.weight,
    )


def parse_example(where: str, data: bytes) -> bytes:
    """Return the image file in a serialised Example.

    Raises:
        ValueError: If it is none of an image.
    """
    try:
        return parse_image(data).encoded
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error
