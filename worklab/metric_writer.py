"""What takes the numbers of a run elsewhere, beside TensorBoard."""

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np

Ending = Literal["finished", "stopped", "failed"]
"""How a run has ended; one that was stopped, e.g. by Ctrl-C, has not failed."""


class MetricWriter(Protocol):
    """Takes what a `Writer` is given, to a place of its own.

    Give it as one of `Writer(..., others=[...])`. Only the worker that writes has any.
    After a restart, steps come again that it was given before.
    """

    def write_scalars(
        self, step: int, scalars: Mapping[str, float], *, split: str = "train"
    ) -> None:
        """Take numbers by name; more of the same step may follow."""

    def write_images(
        self, step: int, images: Mapping[str, np.ndarray], *, split: str = "train"
    ) -> None:
        """Take batches of images, uint8 (batch, height, width, channels)."""

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Take arrays of which the distribution is of interest."""

    def write_text(
        self, step: int, texts: Mapping[str, str], *, split: str = "train"
    ) -> None:
        """Take texts in Markdown."""

    def write_hparams(self, hparams: Mapping[str, bool | float | str]) -> None:
        """Take the hyper-parameters, once, when the run begins."""

    def close(self, ending: Ending = "finished") -> None:
        """Bring everything to its place, and note how the run has ended."""
