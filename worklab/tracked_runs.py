"""What the trackers share: the run's names, its ids, and numbers that can be drawn."""

import importlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from worklab.printing import escape_surrogates


def import_package(name: str) -> Any:
    """Import a tracker's library.

    Raises:
        ValueError: If it is not installed; says how to.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"the tracker `{name}` needs a package that is not installed; in the "
            f"project's folder: `pip install -e '.[{name}]'`. Received: {error}"
        ) from error


def read_ids(path: Path) -> dict[str, Any]:
    """Return the ids of a run that was started before; none: nothing.

    Raises:
        ValueError: If the file is not one of ids.
    """
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`{path}` should have the id of the tracker's run, as JSON; delete it to "
            f"begin a new one. Received: {error}"
        ) from error


def run_name(run: Path) -> str:
    """Return the name of the folder of a run, as Unicode."""
    return escape_surrogates(run.resolve().name)


def project_name(run: Path) -> str:
    """Return the name of the folder above, without what no project may be called."""
    return re.sub(r"[^\w\-. ]", "_", run.resolve().parent.name) or "worklab"


def finite(value: float) -> float:
    """Return a number, and NaN for an infinity, which no axis could show."""
    return float(value) if math.isfinite(value) else math.nan


def finite_values(array: np.ndarray) -> np.ndarray:
    """Return those values of an array that are finite, float64 (num_values,)."""
    values = np.asarray(array, np.float64).ravel()
    return values[np.isfinite(values)]
