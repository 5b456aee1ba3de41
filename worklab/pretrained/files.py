"""Weight files as {name: array}."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save_file


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a weights file by their names.

    Reads `.safetensors`, which this project's checkpoints are too.

    Raises:
        ValueError: If the file is missing, or not a whole weights file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            "the pretrained file does not exist; give the path of a weights file, or "
            f"`--pretrained None` to train from scratch. Received: `{path}`"
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"`{path}` is not a whole .safetensors file. Received: {error}"
        ) from error


def write_weights(
    path: Path, arrays: Mapping[str, np.ndarray], *, class_names: Sequence[str] = ()
) -> None:
    """Write arrays by name as `.safetensors`, with class names in its header."""
    ordered = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    metadata = {"class_names": json.dumps(list(class_names))}
    save_file(ordered, path, metadata=metadata)
