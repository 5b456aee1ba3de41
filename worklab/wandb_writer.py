"""WandbWriter: what a Writer writes, in Weights & Biases."""

import contextlib
import functools
import html
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worklab.files import write_json
from worklab.metric_writer import Ending
from worklab.printing import escape_surrogates
from worklab.tracked_runs import (
    finite,
    finite_values,
    import_package,
    project_name,
    read_ids,
    run_name,
)

_logger = logging.getLogger(__name__)

_START_SECONDS = 30.0  # for the server to answer before training goes on without it
_CLOSE_SECONDS = 60.0  # for what is left to arrive
_IN_VAIN = ("retrying", "timed out", "deadline exceeded")  # said of an outage
_NUM_BINS = 64  # of a histogram


class WandbWriter:
    """Takes numbers, pictures and texts to a run of Weights & Biases.

    The run is called as the run folder, and its project as the folder above, unless
    `WANDB_NAME`, `WANDB_PROJECT` and whatever else the library reads say otherwise. Its
    id is kept in `wandb.json` of the run folder, so that a second start continues it.

    Curves are called `train/loss`, `valid/loss`, ..., over the metric `step`, which may
    go back. The library sends from a process of its own. While its server cannot be
    reached, it keeps everything in the run folder, for `wandb sync`.

    Use it as it is; it is not made for subclassing.

    Args:
        run: The run folder.

    Raises:
        ValueError: If the package is missing, nobody logged in, or the run refused.
    """

    def __init__(self, run: Path) -> None:
        self._wandb = import_package("wandb")
        self._failed = False
        run = Path(run)
        settings: dict[str, Any] = {
            name: value
            for variable, name, value in (
                ("WANDB_PROJECT", "project", project_name(run)),
                ("WANDB_NAME", "run_name", run_name(run)),
                ("WANDB_DIR", "root_dir", str(run)),
                ("WANDB_RESUME", "resume", "allow"),
                ("WANDB_INIT_TIMEOUT", "init_timeout", _START_SECONDS),
                ("WANDB_FINISH_TIMEOUT", "finish_timeout", _CLOSE_SECONDS),
            )
            if variable not in os.environ
        } | {"finish_timeout_raises": True}
        _check_folder(settings.get("root_dir", ""))
        saved = read_ids(run / "wandb.json")
        if saved:
            settings["run_id"] = saved["id"]
        run.mkdir(parents=True, exist_ok=True)
        self._run = self._start(settings)
        if self._run.id != saved.get("id"):
            url = None if self._run.offline else self._run.url
            write_json(run / "wandb.json", {"id": self._run.id, "url": url})
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def write_scalars(
        self, step: int, scalars: Mapping[str, float], *, split: str = "train"
    ) -> None:
        """Log a point of each curve `<split>/<name>`; what is not finite as NaN."""
        with self._going_on():
            self._log(step, split, {n: finite(value) for n, value in scalars.items()})

    def write_images(
        self, step: int, images: Mapping[str, np.ndarray], *, split: str = "train"
    ) -> None:
        """Log batches of uint8 images (batch, height, width, channels)."""
        with self._going_on():
            self._log(
                step,
                split,
                {n: [*map(self._wandb.Image, batch)] for n, batch in images.items()},
            )

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Log the distribution of each array's finite values."""
        with self._going_on():
            histograms = {}
            for name, array in arrays.items():
                values = finite_values(array)
                if len(values):
                    histograms[name] = self._wandb.Histogram(
                        np_histogram=np.histogram(values, _NUM_BINS)
                    )
            self._log(step, "train", histograms)

    def write_text(
        self, step: int, texts: Mapping[str, str], *, split: str = "train"
    ) -> None:
        """Log texts, shown as they are."""
        with self._going_on():
            pages = {n: f"<pre>{html.escape(text)}</pre>" for n, text in texts.items()}
            self._log(
                step, split, {n: self._wandb.Html(page) for n, page in pages.items()}
            )

    def write_hparams(self, hparams: Mapping[str, str | float | int | bool]) -> None:
        """Set the run's config; a value of an earlier start is replaced."""
        with self._going_on():
            self._run.config.update(dict(hparams), allow_val_change=True)

    def close(self, ending: Ending = "finished") -> None:
        """Finish the run, or fail it, and say where what has not arrived is kept."""
        with self._going_on():
            self._run.finish(exit_code=int(ending == "failed"))
        if self._failed:
            _logger.warning(
                "not everything is on the server of Weights & Biases; what is kept "
                "here is sent by: wandb sync %s",
                self._run.settings.sync_dir,
            )

    def _start(self, settings: Mapping[str, Any]) -> Any:
        """Start the run, offline where the server does not answer.

        Raises:
            ValueError: If nobody is logged in, or the server refuses the run.
        """
        wandb = self._wandb
        init = functools.partial(wandb.init, reinit="create_new")
        try:
            return init(settings=wandb.Settings(**settings))
        except (wandb.errors.Error, TimeoutError) as error:
            if self._refuses(error):
                raise ValueError(
                    "Weights & Biases does not take the run; log in by `wandb login`, "
                    "or set WANDB_API_KEY, see that WANDB_ENTITY and WANDB_PROJECT are "
                    "yours, or set WANDB_MODE=offline to keep everything here. "
                    f"Received: {error}"
                ) from error
            _logger.warning(
                "Weights & Biases does not answer; training goes on, and everything is "
                "kept here. Received: %s",
                " ".join(str(error).split()),
            )
        self._failed = True
        return init(settings=wandb.Settings(**settings, mode="offline"))

    def _refuses(self, error: Exception) -> bool:
        """Return whether an error is an answer, and not the want of one."""
        errors = self._wandb.errors
        if isinstance(error, errors.UsageError | errors.AuthenticationError):
            return True
        # What may pass is tried until the time is up, and is of the same class.
        in_vain = any(words in str(error).lower() for words in _IN_VAIN)
        return isinstance(error, errors.CommError) and not in_vain

    def _log(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        named = {f"{split}/{name}": value for name, value in values.items()}
        self._run.log({"step": step} | named)

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """Warn of the first failure; what is logged must not end what it tells of."""
        try:
            yield
        except Exception as error:  # whatever the library raises
            if not self._failed:
                _logger.warning(
                    "Weights & Biases failed; training goes on without. Received: %s",
                    f"{type(error).__name__}: {error}",
                )
            self._failed = True


def _check_folder(folder: str) -> None:
    """Check that the library can write there.

    Raises:
        ValueError: If its name is not Unicode.
    """
    if folder != escape_surrogates(folder):
        raise ValueError(
            "Weights & Biases cannot write to a folder whose name is not Unicode; give "
            "another `--run`, or a folder by WANDB_DIR. "
            f"Received: WANDB_DIR={folder!r}"
        )
