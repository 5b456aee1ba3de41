"""MlflowWriter: what a Writer writes, in MLflow."""

import functools
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from worklab.files import write_json
from worklab.metric_writer import Ending
from worklab.sending import Sender
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
_MOST_CHARACTERS = 6000  # of a parameter's value, MLflow's own bound
_MOST_PARAMETERS = 100  # in one call, MLflow's own bound

_STATUS: dict[Ending, str] = {
    "finished": "FINISHED",
    "stopped": "KILLED",
    "failed": "FAILED",
}


class MlflowWriter:
    """Takes numbers, pictures and texts to a run of MLflow.

    The run is called as the run folder, and its experiment as the folder above, unless
    `MLFLOW_EXPERIMENT_NAME` or `MLFLOW_EXPERIMENT_ID` say otherwise; the server is that
    of `MLFLOW_TRACKING_URI`, or the file `mlflow.db` of the working folder. The run's
    id is kept in `mlflow.json` of the run folder; a second start continues it.

    Metrics are called `train/loss`, `valid/loss`, ... A thread sends them, in their
    order. While the server cannot be reached they wait in memory.

    Use it as it is; it is not made for subclassing.

    Args:
        run: The run folder.

    Raises:
        ValueError: If the package is missing, or the server refuses the run.
    """

    def __init__(self, run: Path) -> None:
        self._mlflow = import_package("mlflow")
        self._folder = Path(run)
        self._run_id = ""
        uri = self._mlflow.get_tracking_uri()
        self._sender = Sender(f"MLflow at {uri}", _may_pass)
        try:
            self._client = self._mlflow.MlflowClient()
            self._sender.send(self._open)
            if not self._sender.wait(_START_SECONDS):
                _logger.warning(
                    "MLflow at %s has not answered for %.0f s; training goes on, and "
                    "what is logged waits for it.",
                    uri,
                    _START_SECONDS,
                )
            if self._sender.refusal is not None:
                raise self._sender.refusal
        except Exception as error:
            self._sender.close(0)
            raise ValueError(
                f"MLflow at {uri} does not take the run; set MLFLOW_TRACKING_URI, or "
                f"if the run was deleted there, delete `{self._ids}`. Received: {error}"
            ) from error

    def write_scalars(
        self, step: int, scalars: Mapping[str, float], *, split: str = "train"
    ) -> None:
        """Log a point of each metric `<split>/<name>`; what is not finite as NaN."""
        now = int(time.time() * 1000)
        metrics = [
            self._mlflow.entities.Metric(
                _mlflow_name(f"{split}/{name}"), finite(value), now, step
            )
            for name, value in scalars.items()
        ]
        self._send(lambda run_id: self._client.log_batch(run_id, metrics=metrics))

    def write_images(
        self, step: int, images: Mapping[str, np.ndarray], *, split: str = "train"
    ) -> None:
        """Log batches of uint8 images (batch, height, width, channels), one by one."""
        for name, batch in images.items():
            for number, image in enumerate(batch):
                self._send(
                    functools.partial(
                        self._client.log_image,
                        image=image.copy(),
                        key=_mlflow_name(f"{split}/{name}/{number}"),
                        step=step,
                        synchronous=True,
                    ),
                    large=True,
                )

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Log mean and deviation of each array, as MLflow has no histograms."""
        moments: dict[str, float] = {}
        for name, array in arrays.items():
            values = finite_values(array)
            if len(values):
                moments |= {f"{name}/mean": values.mean(), f"{name}/std": values.std()}
        self.write_scalars(step, moments)

    def write_text(
        self, step: int, texts: Mapping[str, str], *, split: str = "train"
    ) -> None:
        """Log texts as files `<split>/<name>/<step>.md`."""
        for name, text in texts.items():
            place = f"{_mlflow_name(f'{split}/{name}')}/{step:08d}.md"
            self._send(
                functools.partial(self._client.log_text, text=text, artifact_file=place)
            )

    def write_hparams(self, hparams: Mapping[str, str | float | int | bool]) -> None:
        """Set the run's parameters.

        A parameter of an earlier start stays, as MLflow changes none; where the value
        is another now, it is the tag of that name.
        """
        values = {
            _mlflow_name(name): str(value)[:_MOST_CHARACTERS]
            for name, value in hparams.items()
        }
        self._send(lambda run_id: self._set_parameters(run_id, values))

    def close(self, ending: Ending = "finished") -> None:
        """End the run, and say if not everything has arrived."""
        status = _STATUS[ending]
        self._send(lambda run_id: self._client.set_terminated(run_id, status))
        self._sender.close(_CLOSE_SECONDS)

    @property
    def _ids(self) -> Path:
        return self._folder / "mlflow.json"

    def _send(self, call: Callable[[str], object], *, large: bool = False) -> None:
        self._sender.send(lambda: call(self._open()), large=large)

    def _open(self) -> str:
        """Return the run's id; continue or create it the first time."""
        if self._run_id:
            return self._run_id
        saved = read_ids(self._ids)
        if saved:
            self._client.update_run(saved["run_id"], status="RUNNING")
            self._run_id = saved["run_id"]
        else:
            experiment = self._experiment()
            name = run_name(self._folder)
            created = self._client.create_run(experiment, run_name=name)
            self._run_id = created.info.run_id
            write_json(self._ids, {"run_id": self._run_id, "experiment_id": experiment})
        return self._run_id

    def _experiment(self) -> str:
        given = os.environ.get("MLFLOW_EXPERIMENT_ID")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if given and not name:
            return given
        name = name or project_name(self._folder)
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def _set_parameters(self, run_id: str, values: Mapping[str, str]) -> None:
        entities = self._mlflow.entities
        old = self._client.get_run(run_id).data.params
        new = [entities.Param(n, v) for n, v in values.items() if n not in old]
        for start in range(0, len(new), _MOST_PARAMETERS):
            params = new[start : start + _MOST_PARAMETERS]
            self._client.log_batch(run_id, params=params)
        for name, value in values.items():
            if old.get(name, value) != value:
                self._client.set_tag(run_id, name, value)


def _mlflow_name(name: str) -> str:
    """Return a name that MLflow takes, for a metric, a parameter and a file."""
    return re.sub(r"[^\w\-. /]", "_", name)


def _may_pass(error: Exception) -> bool:
    """Return whether an error may pass by itself, as an outage does."""
    if not hasattr(error, "get_http_status_code"):  # not one of MLflow's own
        return isinstance(error, OSError)
    status = error.get_http_status_code()
    return status >= 500 or status in (409, 429)
