"""Checkpoints of TensorFlow 1 (formats V1 and V2) and 2, and of SavedModels."""

import math
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf.tensor_bundle_pb2 import (
    BundleEntryProto,
    BundleHeaderProto,
)
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph
from tensorflow.core.util.saved_tensor_slice_pb2 import SavedTensorSlices
from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

from worklab.pretrained.formats.leveldb_table import is_table, read_table
from worklab.pretrained.weights_file import Entry, Refusal, WeightsFile, refusing

FORMAT = "TensorFlow checkpoint"
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SAVE_COUNTER = f"save_counter{_VALUE}"
_PART = re.compile(r"(.+)\.(?:index|data-\d{5}-of-\d{5})", re.DOTALL)
_Shapes: TypeAlias = dict[str, tuple[tuple[int, ...], np.dtype]]


def find_checkpoint(path: Path) -> Path | None:
    """Return what TensorFlow would call the checkpoint, or None if it is none.

    Args:
        path: A checkpoint of format V1; the common name of the files of one of format
            V2, or any of these; a folder with a `checkpoint` file or a SavedModel.

    Raises:
        ValueError: If the folder's `checkpoint` file is broken.
    """
    if _index(path).is_file():
        return path
    if path.is_dir():
        return _newest(path)
    match = _PART.fullmatch(path.name)
    if match and _index(path.with_name(match[1])).is_file():
        return path.with_name(match[1])
    return path if path.is_file() and is_table(path) else None


def open_checkpoint(path: Path) -> WeightsFile:
    """Open a checkpoint that `find_checkpoint` has returned.

    Strings are left out, and so are the entries in which TensorFlow 2 counts saves and
    describes objects. Variables of its object checkpoints have their own names, such as
    `conv1/kernel`, where these are unique, or else their paths in the object graph,
    such as `model/layer-1/kernel`.
    """
    with refusing(path, FORMAT):
        _check_path(path)
        # What has been checked here is what TensorFlow is asked for.
        if _index(path).is_file():
            shapes, graph_bytes = _read_bundle(path)
        else:
            shapes, graph_bytes = _read_slices(path), 0
        reader = tf.compat.v1.train.NewCheckpointReader(str(path))
        shapes.pop(_SAVE_COUNTER, None)
        graph = reader.get_tensor(_OBJECT_GRAPH) if graph_bytes else b""
        entries = {
            name: _entry(reader, key, *shapes[key])
            for name, key in _names(shapes, graph).items()
        }
    return WeightsFile(path, FORMAT, entries)


def _check_path(path: Path) -> None:
    if set(str(path)) & set("*?[\\"):
        raise Refusal(
            "TensorFlow takes *, ?, [ and \\ in a path as a pattern; rename it",
            f"`{path}`",
        )


def _index(path: Path) -> Path:
    return path.with_name(f"{path.name}.index") if path.name else path / ".index"


def _newest(folder: Path) -> Path | None:
    """Return the checkpoint that a folder's `checkpoint` file names, or a SavedModel's.

    Of what is named only the last part counts: the folder may have been moved, and a
    name in a file never leads outside.

    Raises:
        Refusal: If what is named is not there.
    """
    if (folder / "saved_model.pb").is_file():
        return folder / "variables" / "variables"
    if not (folder / "checkpoint").is_file():
        return None
    with refusing(folder / "checkpoint", "TensorFlow `checkpoint`"):
        text = (folder / "checkpoint").read_text(encoding="utf-8")
        state = text_format.Parse(text, CheckpointState())
        path = folder / Path(state.model_checkpoint_path).name
        if path == folder or not (_index(path).is_file() or path.is_file()):
            raise Refusal(
                "the checkpoint it names must be in its folder",
                repr(state.model_checkpoint_path),
            )
    return path


def _read_bundle(path: Path) -> tuple[_Shapes, int]:
    """Return shapes and types by key, and the size of the object graph; format V2.

    Raises:
        Refusal: If an entry is not within a data file.
    """
    table = read_table(_index(path))
    _, value = next(table)
    count = BundleHeaderProto.FromString(bytes(value)).num_shards
    sizes: list[int] = []
    for number in range(count):
        part = path.with_name(f"{path.name}.data-{number:05d}-of-{count:05d}")
        if not part.is_file():
            raise Refusal("all its files must be in one folder", f"no `{part.name}`")
        sizes.append(part.stat().st_size)
    shapes: _Shapes = {}
    total = graph_bytes = 0
    for key, value in table:
        entry = BundleEntryProto.FromString(bytes(value))
        if not entry.slices:  # these say where a partitioned variable's values are
            _check_place(key, entry, sizes)
            total += entry.size
        if key.startswith(b"\0"):  # a part of a partitioned variable
            continue
        if key.decode() == _OBJECT_GRAPH:
            graph_bytes = entry.size
        shape_and_dtype = _shape_and_dtype(entry.shape, entry.dtype)
        if shape_and_dtype is not None:
            shapes[key.decode()] = shape_and_dtype
            _check_size(key.decode(), shape_and_dtype, entry, sum(sizes))
    if total > sum(sizes):
        raise Refusal(f"its variables must fit into its {sum(sizes)} bytes", total)
    return shapes, graph_bytes


def _check_place(key: bytes, entry: Any, sizes: list[int]) -> None:
    known = 0 <= entry.shard_id < len(sizes)
    if not known or not 0 <= entry.offset <= sizes[entry.shard_id] - entry.size:
        raise Refusal(
            f"{key!r} must be within a data file; their sizes are {sizes}",
            f"file={entry.shard_id}, offset={entry.offset}, size={entry.size}",
        )


def _check_size(
    key: str,
    shape_and_dtype: tuple[tuple[int, ...], np.dtype],
    entry: Any,
    most: int,
) -> None:
    shape, dtype = shape_and_dtype
    size = math.prod(shape) * dtype.itemsize
    if size > most or not entry.slices and size != entry.size:
        expected = f"at most {most}" if entry.slices else entry.size
        raise Refusal(
            f"`{key}` must have {expected} bytes", f"shape={shape}, dtype={dtype}"
        )


def _read_slices(path: Path) -> _Shapes:
    """Return shapes and types by name; format V1.

    Raises:
        Refusal: If the variables are more than the file.
    """
    _, value = next(read_table(path))
    meta = SavedTensorSlices.FromString(bytes(value)).meta
    shapes: _Shapes = {}
    total = 0
    for tensor in meta.tensor:
        shape_and_dtype = _shape_and_dtype(tensor.shape, tensor.type)
        if shape_and_dtype is not None:
            shape, dtype = shapes[tensor.name] = shape_and_dtype
            # All but these are numbers of varying length.
            is_fixed = dtype.name in ("float32", "float64", "complex64", "complex128")
            total += math.prod(shape) * (dtype.itemsize if is_fixed else 1)
    if total > path.stat().st_size:
        raise Refusal(
            f"its variables must fit into its {path.stat().st_size} bytes",
            f"at least {total} bytes",
        )
    return shapes


def _shape_and_dtype(shape: Any, dtype: int) -> tuple[tuple[int, ...], np.dtype] | None:
    """Return shape and type as NumPy has them, or None for what is not a number.

    Raises:
        Refusal: If the shape is none.
    """
    sizes = tuple(dimension.size for dimension in shape.dim)
    if shape.unknown_rank or any(size < 0 for size in sizes) or len(sizes) > 32:
        raise Refusal("a shape must have at most 32 sizes, none negative", sizes)
    kind = tf.dtypes.as_dtype(dtype).base_dtype
    if not (kind.is_floating or kind.is_integer or kind.is_complex or kind.is_bool):
        return None
    return sizes, np.dtype(kind.as_numpy_dtype)


def _names(keys: Collection[str], graph: bytes) -> dict[str, str]:
    """Return the keys by the names people know."""
    own = {
        attribute.checkpoint_key: attribute.full_name
        for node in TrackableObjectGraph.FromString(graph).nodes
        for attribute in node.attributes
        if attribute.full_name and attribute.checkpoint_key in keys
    }
    counts = Counter(own.values())
    paths = {key: key.removesuffix(_VALUE) for key in keys}
    taken = set(paths.values())
    names: dict[str, str] = {}
    for key, path in paths.items():
        name = own.get(key, path)
        names[name if counts[name] == 1 and name not in taken else path] = key
    return names


def _entry(reader: Any, key: str, shape: tuple[int, ...], dtype: np.dtype) -> Entry:
    return Entry(shape, dtype, lambda: np.asarray(reader.get_tensor(key)))
