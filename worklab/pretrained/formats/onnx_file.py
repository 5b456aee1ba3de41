"""ONNX files: the initializers of the graph by their names.

The file is a protocol buffer. Parsing it whole would take twice its size of memory, so
only the places of the initializers are looked up, which are read from the mapped file.

Source: https://protobuf.dev/programming-guides/encoding/ and onnx.proto of ONNX 1.23.
"""

import dataclasses
import importlib
import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from worklab.pretrained.weights_file import Entry, Refusal, WeightsFile, refusing

FORMAT = "ONNX"
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_MODEL_VERSION, _MODEL_GRAPH = 1, 7
_GRAPH_INITIALIZER = 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA, _LOCATION = 1, 2, 8, 9, 13, 14
_STRING = 8  # a data type
_MOST_VERSION = 100  # of ONNX's format; 13 in 2026


@dataclasses.dataclass(frozen=True)
class _Field:
    """A field of a protocol buffer: a number, or where its bytes are."""

    tag: int
    number: int
    start: int
    end: int


def is_onnx(path: Path) -> bool:
    """Return whether a file is a protocol buffer with a version and a graph."""
    try:
        fields = list(_fields(_map(path), 0, path.stat().st_size))
    except (Refusal, OSError, ValueError):
        return False
    versions = [field.number for field in fields if field.tag == _MODEL_VERSION]
    graphs = [field for field in fields if field.tag == _MODEL_GRAPH]
    return bool(graphs) and bool(versions) and 0 < versions[-1] < _MOST_VERSION


def open_onnx(path: Path) -> WeightsFile:
    """Open a file that `is_onnx` has recognised.

    Raises:
        ValueError: If `onnx` is not installed, or the values lie in other files.
    """
    try:
        onnx = importlib.import_module("onnx")
        importlib.import_module("onnx.numpy_helper")
    except ImportError as error:
        raise ValueError(
            f"`{path}` is an ONNX file, and `onnx` is not installed; install it by "
            f"`pip install 'worklab[onnx]'`. Received: {error}"
        ) from error
    with refusing(path, FORMAT):
        entries = _read_entries(onnx, _map(path))
    return WeightsFile(path, FORMAT, entries)


def _read_entries(onnx: Any, data: memoryview) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for graph in _fields(data, 0, len(data)):
        if graph.tag != _MODEL_GRAPH:
            continue
        for field in _fields(data, graph.start, graph.end):
            if field.tag == _GRAPH_INITIALIZER:
                _add_initializer(onnx, data, field, entries)
    if not entries:
        raise Refusal("it must have initializers", "a graph without")
    return entries


def _map(path: Path) -> memoryview:
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _add_initializer(
    onnx: Any, data: memoryview, place: _Field, entries: dict[str, Entry]
) -> None:
    fields: dict[int, list[_Field]] = {}
    for field in _fields(data, place.start, place.end):
        fields.setdefault(field.tag, []).append(field)
    name = "".join(str(data[f.start : f.end], "utf-8") for f in fields.get(_NAME, []))
    is_outside = any(field.number for field in fields.get(_LOCATION, []))
    if is_outside or _EXTERNAL_DATA in fields:
        raise Refusal(
            "its values must be in the file itself; save it anew by `onnx.save`",
            f"external data of `{name}`",
        )
    if not name or name in entries:
        raise Refusal("each initializer must have a name of its own", repr(name))
    kind = fields[_DATA_TYPE][-1].number if _DATA_TYPE in fields else 0
    if kind == _STRING:
        return
    shape = tuple(_numbers(data, fields.get(_DIMS, [])))
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    size = math.prod(shape) * dtype.itemsize
    raw = fields.get(_RAW_DATA, [])

    def read() -> np.ndarray:
        if raw and raw[-1].end - raw[-1].start == size and dtype.isbuiltin:
            flat = np.frombuffer(data[raw[-1].start : raw[-1].end], dtype)
            return np.require(flat, requirements="A").reshape(shape)
        tensor = onnx.TensorProto.FromString(bytes(data[place.start : place.end]))
        return np.asarray(onnx.numpy_helper.to_array(tensor))

    # The smallest type has two numbers a byte.
    if math.prod(shape) > 2 * (place.end - place.start):
        raise Refusal(
            f"`{name}` must fit into its {place.end - place.start} bytes",
            f"shape={shape}",
        )
    entries[name] = Entry(shape, dtype, read)


def _numbers(data: memoryview, fields: list[_Field]) -> Iterator[int]:
    """Yield repeated numbers, which may be packed into one field."""
    for field in fields:
        if field.start == field.end:
            yield field.number
        place = field.start
        while place < field.end:
            number, place = _varint(data, place, field.end)
            yield number


def _fields(data: memoryview, place: int, end: int) -> Iterator[_Field]:
    """Yield the fields of the message at a place.

    Raises:
        Refusal: If one is of no kind that ONNX has, or does not end within the message.
    """
    while place < end:
        key, place = _varint(data, place, end)
        tag, kind = key >> 3, key & 7
        number, start = 0, place
        if kind == _VARINT:
            number, place = _varint(data, place, end)
            start = place
        elif kind == _BYTES:
            size, start = _varint(data, place, end)
            place = start + size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if kind == _EIGHT_BYTES else 4
        if place > end or not tag or place == start and kind not in (_VARINT, _BYTES):
            raise Refusal(
                f"a field must end within {end} bytes", f"tag={tag}, end={place}"
            )
        yield _Field(tag, number, start, place)


def _varint(data: memoryview, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 70:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise Refusal("a number must end within its message", f"place={place}")
