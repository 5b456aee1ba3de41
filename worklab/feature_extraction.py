"""Features: what any layers of a trained network make of images, written as it goes."""

import contextlib
import dataclasses
import difflib
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from worklab.files import replacing, write_json, writing
from worklab.network import Network
from worklab.reader import Reader
from worklab.session import Session
from worklab.trained import outputs_of

SUFFIXES = (".npy", ".h5", ".hdf5")
"""Of the files that features can be written to."""

Shape = tuple[int, ...]
_Append = Callable[[Mapping[str, np.ndarray]], None]


@dataclasses.dataclass(frozen=True)
class Features:
    """Where features are, and of which images.

    Attributes:
        paths: The files.
        run: Folder of the run.
        step: Training steps of the network's weights.
        shapes: Shape of an image's features, by the layer's name with slashes.
        names: What each image is called, usually its path; row by row.
        labels: Class index of each image; -1 where it is not known.
        class_names: Names in label order.
        skipped: Names of images that could not be read; their rows are NaN.
    """

    paths: list[Path]
    run: Path
    step: int
    shapes: dict[str, Shape]
    names: list[str]
    labels: list[int]
    class_names: list[str]
    skipped: list[str]


def find_layers(network: Network, names: Sequence[str]) -> dict[str, Any]:
    """Return the output of layers, a Keras tensor by each name with slashes.

    Args:
        network: Whose layers.
        names: Of layers, or of scopes, which stand for the last layer in them; with
            slashes, or with dots as Keras has them. Of a layer that is used more than
            once it is the first use.

    Raises:
        ValueError: If there is no such layer or scope; names the nearest.
    """
    layers = {layer.name.replace(".", "/"): layer for layer in network.model.layers}
    last: dict[str, Any] = {}  # of each scope; the model's layers are in their order
    for path, layer in layers.items():
        for place, sign in enumerate(path):
            if sign == "/":
                last[path[:place]] = layer
    found = {}
    for given in names:
        name = given.strip("/").replace(".", "/")
        layer = layers.get(name) or last.get(name)
        if layer is None:
            known = sorted({*layers, *last})
            near = difflib.get_close_matches(name, known, n=5, cutoff=0.0)
            raise ValueError(
                f"`{type(network).__name__}` has no layer or scope of that name; the "
                f"nearest are {near}, and `python -m worklab flops RUN` lists all. "
                f"Received: {given!r}"
            )
        found[name] = _output(layer, given)
    if not found:
        raise ValueError("name at least one layer. Received: no `layers`")
    return found


def _output(layer: Any, given: str) -> Any:
    if not isinstance(layer.output, keras.KerasTensor):
        raise ValueError(
            "the layer has more than one output. Name the layer after it. "
            f"Received: {given!r}"
        )
    return layer.output


def extract_features(
    network: Network,
    reader: Reader,
    session: Session,
    path: Path,
    *,
    layers: Sequence[str],
    step: int,
    labels: Sequence[int],
    pool: bool = False,
) -> Features:
    """Write what layers make of each image, as tests show it, in the reader's order.

    Memory holds one batch. The file appears whole at the end, in the place of one that
    is there. An image that is skipped has a row of NaN.

    Args:
        network: With its trained weights.
        reader: The images.
        session: Whose run it is, whose devices compute, and whose signals are served.
        path: File to write. `.npy`: float32 (num_images, ...), one file for each of
            several layers, and beside it `<path>.json`, which says what is in it.
            `.h5`: a dataset for each layer, and `names`, `labels` and `class_names`.
        layers: As `find_layers` takes them.
        step: Step of the weights.
        labels: Of each image, -1 where it is not known.
        pool: Average over height and width where there are any.

    Raises:
        ValueError: If a layer is unknown, the file has another suffix, or the disk has
            no room.
        OSError: If it cannot be written.
        StopRequested: If a signal came.
    """
    check_suffix(path)
    outputs = find_layers(network, layers)
    model = keras.Model(network.model.input, outputs)

    def compute(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        values = model({k: batch[k] for k in network.model.input}, training=False)
        return {name: _as_features(values[name], pool) for name in outputs}

    spatial = {name for name, output in outputs.items() if output.ndim == 4 and pool}
    shapes = {
        name: tuple(output.shape[3:] if name in spatial else output.shape[1:])
        for name, output in outputs.items()
    }
    write = _npy if path.suffix.lower() == ".npy" else _hdf5
    found = Features(
        paths=_paths(path, shapes),
        run=session.run,
        step=step,
        shapes=shapes,
        names=[reader.name(index) for index in range(len(reader))],
        labels=list(labels),
        class_names=reader.class_names,
        skipped=[],
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    _check_room(found)
    with write(found) as append:
        for rows in _all_rows(outputs_of(compute, reader, session), found):
            append(rows)
        about = path.with_name(f"{path.name}.json")
        if write is _npy:  # what it says is not of the new files
            about.unlink(missing_ok=True)
    found = dataclasses.replace(found, skipped=list(reader.skipped))
    if write is _npy:
        content = {k: v for k, v in vars(found).items() if k != "paths"}
        files = [each.name for each in found.paths]
        content |= {"run": str(found.run), "files": files, "pool": pool}
        write_json(about, content)
    return found


def check_suffix(path: Path) -> None:
    """Check what features are to be written to, before they are made.

    Raises:
        ValueError: If the file has another suffix.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"features are written to {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}. "
            f"Received: `{path}`"
        )


def _check_room(found: Features) -> None:
    """Check that the disk has room, before hours of work.

    Raises:
        ValueError: If it has not.
    """
    folder = found.paths[0].parent
    numbers = sum(math.prod(shape) for shape in found.shapes.values())
    needed, free = 4 * len(found.names) * numbers, shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"the features of {len(found.names)} images need {needed / 1e6:.0f} MB in "
            f"`{folder}`, which has {free / 1e6:.0f} MB free. Make room, name fewer "
            "layers, or average over space (`--pool`). "
            f"Received: layers={list(found.shapes)}"
        )


def _as_features(values: tf.Tensor, pool: bool) -> tf.Tensor:
    values = tf.cast(values, tf.float32)
    return tf.reduce_mean(values, (1, 2)) if pool and values.shape.rank == 4 else values


def _all_rows(
    outputs: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]], found: Features
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the rows of all images in their order, NaN for those that are skipped."""
    start, end = 0, len(found.names)
    for records, arrays in outputs:
        if len(records):
            stop = int(records[-1]) + 1
            rows = _no_rows(found, stop - start)
            for name, values in arrays.items():
                rows[name][records - start] = values
            yield rows
            start = stop
    if start < end:
        yield _no_rows(found, end - start)


def _no_rows(found: Features, count: int) -> dict[str, np.ndarray]:
    return {
        name: np.full((count, *shape), np.nan, np.float32)
        for name, shape in found.shapes.items()
    }


def _paths(path: Path, shapes: Mapping[str, Shape]) -> list[Path]:
    if path.suffix.lower() != ".npy" or len(shapes) == 1:
        return [path]
    dotted = (name.replace("/", ".") for name in shapes)
    return [path.with_name(f"{path.stem}.{name}{path.suffix}") for name in dotted]


@contextlib.contextmanager
def _npy(found: Features) -> Iterator[_Append]:
    with contextlib.ExitStack() as stack:
        files = {}
        for path, (name, shape) in zip(found.paths, found.shapes.items(), strict=True):
            temporary = stack.enter_context(replacing(path))
            with writing(path):
                files[name] = stack.enter_context(open(temporary, "wb", buffering=0))
                header = {
                    "descr": "<f4",
                    "fortran_order": False,
                    "shape": (len(found.names), *shape),
                }
                np.lib.format.write_array_header_1_0(files[name], header)

        def append(rows: Mapping[str, np.ndarray]) -> None:
            # Not by a memory map, which a full disk would end without a message.
            for name, values in rows.items():
                data = memoryview(values.astype("<f4", copy=False).tobytes())
                while data:
                    data = data[files[name].write(data) :]

        yield _explained(append, found)


@contextlib.contextmanager
def _hdf5(found: Features) -> Iterator[_Append]:
    path = found.paths[0]
    with replacing(path) as temporary, contextlib.ExitStack() as stack:
        with writing(path):
            file = stack.enter_context(h5py.File(temporary, "w"))
            text = h5py.string_dtype()
            names = list(map(_as_unicode, found.names))
            file.create_dataset("names", data=names, dtype=text)
            file.create_dataset("labels", data=np.array(found.labels, np.int64))
            file.create_dataset("class_names", data=found.class_names, dtype=text)
            datasets = {}
            for name, shape in found.shapes.items():
                datasets[name] = file.create_dataset(
                    name.replace("/", "."), (len(found.names), *shape), np.float32
                )
                run = _as_unicode(str(found.run))
                about = {"run": run, "step": found.step, "layer": name}
                datasets[name].attrs.update(about)
        start = 0

        def append(rows: Mapping[str, np.ndarray]) -> None:
            nonlocal start
            for name, values in rows.items():
                datasets[name][start : start + len(values)] = values
            start += max(map(len, rows.values()))

        yield _explained(append, found)
        with writing(path):
            file.flush()


def _as_unicode(name: str) -> str:
    # A file name that is not Unicode has lone surrogates: escaped, as JSON does.
    return name.encode("utf-8", "backslashreplace").decode()


def _explained(append: _Append, found: Features) -> _Append:
    # Around each call alone: what fails between them is reading, not writing.
    def explained(rows: Mapping[str, np.ndarray]) -> None:
        with writing(found.paths[0]):
            append(rows)

    return explained
