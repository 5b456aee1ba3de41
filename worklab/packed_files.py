"""Files of packed images: each format written, and read back to be compared."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from array_record.python.array_record_module import (
    ArrayRecordReader,
    ArrayRecordWriter,
)

from worklab.examples import Values, make_example, parse_image
from worklab.tfrecords import scan_records, write_record

Format = Literal["tfrecord", "hdf5", "arrayrecord"]
SUFFIXES: Mapping[Format, str] = {
    "tfrecord": ".tfrecord",
    "hdf5": ".h5",
    "arrayrecord": ".array_record",
}

# What magic bytes call themselves in `image/format`, in tf-slim's spelling.
_IMAGE_FORMATS = {b"\xff\xd8": "JPEG", b"\x89P": "PNG", b"BM": "BMP", b"RI": "WEBP"}


@dataclasses.dataclass(frozen=True)
class Item:
    """One image as it is packed.

    Attributes:
        encoded: Content of an image file.
        size: Height and width in pixels, as it is decoded.
        label: Number of the class as it is written.
        class_name: Of the class.
        filename: What the source calls the image.
        features: Numbers that go with it.
        weight: What it counts; None: the source does not say.
        fields: Of its entry in a list: `boxes`, and `text` for ImageNet's classes.
    """

    encoded: bytes
    size: tuple[int, int]
    label: int
    class_name: str
    filename: str
    features: tuple[float, ...] = ()
    weight: float | None = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _example(item: Item) -> bytes:
    """Return an Example with the keys of tf-slim's ImageNet."""
    boxes = np.array(item.fields.get("boxes", []), np.float32).reshape(-1, 4)
    kind = _IMAGE_FORMATS.get(item.encoded[:2], "")
    values: dict[str, Values] = {
        "image/encoded": [item.encoded],
        "image/format": [kind.encode()],
        "image/filename": [item.filename.encode()],
        "image/height": [item.size[0]],
        "image/width": [item.size[1]],
        "image/channels": [3],  # as it is decoded
        "image/colorspace": [b"RGB"],
        "image/class/label": [item.label],
        "image/class/text": [str(item.fields.get("text", item.class_name)).encode()],
        "image/object/bbox/label": [item.label] * len(boxes),
    }
    for side, column in zip(("xmin", "ymin", "xmax", "ymax"), boxes.T, strict=True):
        values[f"image/object/bbox/{side}"] = column.tolist()
    if "text" in item.fields:  # then the class is named by its WordNet number
        values["image/class/synset"] = [item.class_name.encode()]
    if item.features:
        values["features"] = list(item.features)
    if item.weight is not None:
        values["weight"] = [repr(item.weight).encode()]
    return make_example(values)


def _write_tfrecord(path: Path, items: Iterator[Item], _: Sequence[str]) -> None:
    with open(path, "wb") as file:
        for item in items:
            write_record(file, _example(item))


def _read_tfrecord(path: Path) -> Iterator[tuple[bytes, int]]:
    for _, data in scan_records(path):
        image = parse_image(data)
        yield image.encoded, int(image.label)


def _write_arrayrecord(path: Path, items: Iterator[Item], _: Sequence[str]) -> None:
    # Groups of one record, as the package advises for random access.
    writer = ArrayRecordWriter(str(path), "group_size:1")
    try:
        for item in items:
            writer.write(_example(item))
    finally:
        writer.close()


def _read_arrayrecord(path: Path) -> Iterator[tuple[bytes, int]]:
    file = ArrayRecordReader(str(path))
    for number in range(file.num_records()):
        image = parse_image(file.read([number])[0])
        yield image.encoded, int(image.label)


def _write_hdf5(path: Path, items: Iterator[Item], names: Sequence[str]) -> None:
    labels: list[int] = []
    filenames: list[str] = []
    features: list[tuple[float, ...]] = []
    weights: list[float | None] = []
    with h5py.File(path, "w") as file:
        kind = h5py.vlen_dtype(np.uint8)
        images = file.create_dataset("images", (0,), kind, maxshape=(None,))
        for item in items:
            images.resize(len(labels) + 1, axis=0)
            images[-1] = np.frombuffer(item.encoded, np.uint8)
            labels.append(item.label)
            filenames.append(item.filename)
            features.append(item.features)
            weights.append(item.weight)
        file["labels"] = np.array(labels, np.int64)
        text = h5py.string_dtype()
        file.create_dataset("filenames", data=filenames, dtype=text)
        file.create_dataset("class_names", data=names, dtype=text)
        if any(features):
            file["features"] = np.array(features, np.float32)
        if None not in weights:
            file["weights"] = np.array(weights, np.float64)


def _read_hdf5(path: Path) -> Iterator[tuple[bytes, int]]:
    with h5py.File(path, "r") as file:
        labels = file["labels"][()].tolist()
        for number, label in enumerate(labels):
            yield file["images"][number].tobytes(), label


Write = Callable[[Path, Iterator[Item], Sequence[str]], None]
WRITERS: Mapping[Format, Write] = {
    "tfrecord": _write_tfrecord,
    "hdf5": _write_hdf5,
    "arrayrecord": _write_arrayrecord,
}
"""Write items to a file; the last argument names what each number stands for."""

READERS: Mapping[Format, Callable[[Path], Iterator[tuple[bytes, int]]]] = {
    "tfrecord": _read_tfrecord,
    "hdf5": _read_hdf5,
    "arrayrecord": _read_arrayrecord,
}
"""Yield image file and label of each item in a file."""
