"""Weight files of every format as lazy mappings from names to arrays."""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from safetensors.numpy import save_file

from worklab.pretrained.formats.keras_archive import CONFIG, WEIGHTS, open_keras
from worklab.pretrained.formats.keras_hdf5 import is_hdf5, open_hdf5
from worklab.pretrained.formats.numpy_archive import open_numpy
from worklab.pretrained.formats.onnx_file import is_onnx, open_onnx
from worklab.pretrained.formats.safetensors_file import is_safetensors, open_safetensors
from worklab.pretrained.formats.tensorflow_checkpoint import (
    find_checkpoint,
    open_checkpoint,
)
from worklab.pretrained.formats.torch_file import (
    is_torch_stream,
    is_torch_zip,
    open_torch_stream,
    open_torch_zip,
)
from worklab.pretrained.formats.zip_members import check_members
from worklab.pretrained.weights_file import Refusal, WeightsFile, refusing

__all__ = ["WeightsFile", "open_weights", "read_weights", "write_weights"]

_KNOWN = "safetensors, TensorFlow checkpoint, Keras HDF5, .keras, .npz, PyTorch or ONNX"
_ZipOpener: TypeAlias = Callable[
    [Path, zipfile.ZipFile, Mapping[str, zipfile.ZipInfo]], WeightsFile
]


def open_weights(path: Path) -> WeightsFile:
    """Open a weights file; what it holds, not its suffix, says of which format it is.

    Reads `.safetensors`, which this project's checkpoints are too; TensorFlow
    checkpoints, also by their common name or folder; Keras `.h5`, `.weights.h5` and
    `.keras`; `.npz`; PyTorch; ONNX. Nothing in a file is run, becomes a path, or makes
    the process take much more memory than the file has bytes.

    Example:
        with open_weights(Path("resnet50.h5")) as weights:
            kernel = weights["conv1_conv/kernel"]

    Raises:
        ValueError: If the file is missing, broken, hostile, or of no known format.
    """
    path = Path(path)
    checkpoint = find_checkpoint(path)
    if checkpoint is not None:
        return open_checkpoint(checkpoint)
    if path.is_dir():
        raise ValueError(
            "a folder must have the file `checkpoint` that TensorFlow writes there, or "
            f"a SavedModel; otherwise give a file. Received: `{path}`"
        )
    if not path.is_file():
        raise ValueError(
            "the pretrained file does not exist; give the path of a weights file, or "
            f"`--pretrained None` to train from scratch. Received: `{path}`"
        )
    if is_hdf5(path):
        return open_hdf5(path)
    if is_safetensors(path):
        return open_safetensors(path)
    if is_torch_stream(path):
        return open_torch_stream(path)
    with open(path, "rb") as file:
        start = file.read(16)
    if start.startswith((b"PK\3\4", b"PK\5\6")):  # the latter: without members
        return _open_zip(path)
    if is_onnx(path):
        return open_onnx(path)
    raise ValueError(
        f"`{path}` is not a whole weights file: it must be of {_KNOWN}. Received: "
        + (f"a file that begins with {start!r}" if start else "an empty file")
    )


def _open_zip(path: Path) -> WeightsFile:
    with refusing(path, "zip"):
        archive = zipfile.ZipFile(path)
        members = check_members(archive, path)
        kind = _zip_kind(members)
    return kind(path, archive, members)


def _zip_kind(members: Mapping[str, zipfile.ZipInfo]) -> _ZipOpener:
    if CONFIG in members and WEIGHTS in members:
        return open_keras
    if is_torch_zip(members):
        return open_torch_zip
    if members and all(name.endswith(".npy") for name in members):
        return open_numpy
    raise Refusal(
        f"it must have the members of a .keras, .npz or PyTorch file ({WEIGHTS}, "
        "*.npy, data.pkl)",
        f"{list(members)[:5]}",
    )


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a weights file by their names, all read.

    Raises:
        ValueError: If the file is missing, broken, hostile, or of no known format.
    """
    with open_weights(path) as weights:
        return dict(weights)


def write_weights(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    *,
    class_names: Sequence[str] = (),
    layout: str | None = None,
) -> None:
    """Write arrays by name as `.safetensors`.

    Args:
        path: The file to write.
        arrays: What it holds.
        class_names: Names in label order, for its header.
        layout: Form of a canonical network, for its header.
    """
    ordered = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    metadata = {"class_names": json.dumps(list(class_names)), "layout": layout or ""}
    save_file(ordered, path, metadata=metadata)
