"""Trackers: what a Writer writes, in Weights & Biases and MLflow as well."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from worklab.mlflow_writer import MlflowWriter
from worklab.wandb_writer import WandbWriter

__all__ = ["MlflowWriter", "Tracker", "WandbWriter", "open_trackers"]

Tracker = Literal["wandb", "mlflow"]


def open_trackers(
    names: Sequence[Tracker], run: Path
) -> list[WandbWriter | MlflowWriter]:
    """Return the writers of the trackers named, for a Writer's `others`.

    Args:
        names: `wandb`, `mlflow` or both.
        run: The run folder.

    Raises:
        ValueError: If a name is none of them, or a tracker cannot be opened.
    """
    kinds: dict[str, type[WandbWriter | MlflowWriter]] = {
        "wandb": WandbWriter,
        "mlflow": MlflowWriter,
    }
    unknown = [name for name in names if name not in kinds]
    if unknown:
        raise ValueError(f"a tracker is one of {[*kinds]}. Received: {unknown}")
    with contextlib.ExitStack() as opened:
        writers = []
        for name in dict.fromkeys(names):
            writers.append(kinds[name](run))
            opened.callback(writers[-1].close, "failed")
        opened.pop_all()  # nothing failed, so they stay open
    return writers
