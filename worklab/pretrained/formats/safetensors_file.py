"""`.safetensors`, which the checkpoints of this project are too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import tensorflow as tf

from worklab.pretrained.weights_file import Entry, Refusal, WeightsFile, refusing

FORMAT = "safetensors"
_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(tf.bfloat16.as_numpy_dtype),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}


def is_safetensors(path: Path) -> bool:
    """Return whether a file starts as `.safetensors` does: a length, then JSON."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def open_safetensors(path: Path) -> WeightsFile:
    """Open a `.safetensors` file; the library checks every size against the file."""
    with refusing(path, FORMAT):
        file: Any = safetensors.safe_open(path, framework="numpy")
        names = file.keys()
        entries = {name: _entry(file, name) for name in names}
        about = _about(file.metadata() or {})
    return WeightsFile(path, FORMAT, entries, **about)


def _entry(file: Any, name: str) -> Entry:
    header = file.get_slice(name)
    if header.get_dtype() not in _DTYPES:
        raise Refusal(
            f"the type of `{name}` must be one of {', '.join(_DTYPES)}",
            header.get_dtype(),
        )
    shape = tuple(header.get_shape())
    return Entry(shape, _DTYPES[header.get_dtype()], lambda: file.get_tensor(name))


def _about(metadata: dict[str, str]) -> dict[str, Any]:
    """Return what `write_weights` or `Checkpoints.save` has written of the network.

    Raises:
        Refusal: If the class names are no list of names, or the layout is no name.
    """
    _, _, state = metadata.get("worklab", "").partition("\n")
    about = json.loads(state or metadata.get("worklab.state", "{}"))
    about = about if isinstance(about, dict) else {}
    if "class_names" in metadata:
        about = {"layout": metadata.get("layout")}
        about["class_names"] = json.loads(metadata["class_names"])
    names, layout = about.get("class_names", []), about.get("layout") or ""
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise Refusal("`class_names` must be a list of names", repr(names)[:100])
    if not isinstance(layout, str):
        raise Refusal("`layout` must be a name", repr(layout)[:100])
    return {"class_names": names, "layout": layout}
