"""Writer: TensorBoard, CSV and console, one verb each."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import tensorflow as tf
from rich.console import Console

from worklab import tensorboard_values as values_of
from worklab.csv_log import CsvLog
from worklab.curves import ThresholdCounts
from worklab.files import writing
from worklab.graph import keras_graph
from worklab.metric_writer import Ending, MetricWriter
from worklab.printing import escape_surrogates, print_event
from worklab.progress import Display, open_display
from worklab.stopping import RunStopped
from worklab.tensorboard_events import EventFile, cut_events

_COLUMNS = ("step", "split", "loss", "accuracy", "learning_rate")
_LAYER_COLUMNS = ("step", "group", "learning_rate", "update_to_weight")

# The TensorBoard run in whose sub-runs its HParams plugin looks for results.
_WHOLE = "."


Value = TypeVar("Value")


class Writer:
    """Takes numbers and pictures to TensorBoard, `history.csv` and the console.

    Scalars of each split go to a TensorBoard run of their own under one tag, so that
    training and validation share a chart. `history.csv` has one row for each step
    and split written, `layers.csv` one for each step and group of layers. After a
    restart all go on from the restored step: what a dead run had written beyond it is
    taken away.

    Use it as it is; it is not made for subclassing. It computes nothing.

    Args:
        run: Folder of the run; files appear with the first thing written. None: takes
            everything and writes nothing, as on all workers but the chief.
        console: Where progress is shown; None shows nothing.
        others: Take scalars, images, histograms, texts and hyper-parameters as well;
            not where `run` is None. They are closed with this, and told how it ended.
    """

    def __init__(
        self,
        run: Path | None,
        *,
        console: Console | None = None,
        others: Sequence[MetricWriter] = (),
    ) -> None:
        self.silent = run is None
        self._others = () if run is None else tuple(others)
        self._run = Path() if run is None else Path(run)
        self._history = CsvLog(self._run / "history.csv", _COLUMNS)
        self._layers = CsvLog(self._run / "layers.csv", _LAYER_COLUMNS)
        self.history_path = self._history.path
        self.tensorboard_folder = self._run / "tensorboard"
        self.console = console
        self._last_steps: dict[str, int] = {}
        self._event_files: dict[str, EventFile] = {}
        self._profiling = False
        self._progress: Display | None = None

    def write_scalars(
        self, step: int, scalars: Mapping[str, float], *, split: str = "train"
    ) -> None:
        """Write a row of the history, and a point of each TensorBoard curve."""
        if self.silent:
            return
        row = {"step": step, "split": split} | {
            name: f"{value:.9g}" for name, value in scalars.items()
        }
        self._history.append([[row.get(column, "") for column in _COLUMNS]])
        self.write_points(step, scalars, split=split)

    def write_points(
        self, step: int, points: Mapping[str, float], *, split: str = "train"
    ) -> None:
        """Write a point of each TensorBoard curve, and no row of the history."""
        if self.silent:
            return
        points = _escaped(points)
        values = [values_of.scalar(name, value) for name, value in points.items()]
        self._write_values(step, values, split)
        for other in self._others:
            other.write_scalars(step, points, split=split)

    def write_layers(
        self, step: int, rates: Mapping[str, float], ratios: Mapping[str, float]
    ) -> None:
        """Write how fast each group of layers learns, as rows and as curves.

        Args:
            step: Of training.
            rates: Learning rates by group.
            ratios: How far the step has moved a group's weights, as a share of their
                length; of the groups that learn.
        """
        if self.silent:
            return
        self._layers.append(
            [
                [
                    step,
                    name,
                    f"{rate:.9g}",
                    f"{ratios[name]:.9g}" if name in ratios else "",
                ]
                for name, rate in rates.items()
            ]
        )
        points = {f"learning_rate/{name}": rate for name, rate in rates.items()}
        points |= {f"update_to_weight/{name}": ratio for name, ratio in ratios.items()}
        self.write_points(step, points)

    def write_speed(self, step: int, speeds: Mapping[str, float]) -> None:
        """Write the speed of training, which no two runs share, to TensorBoard."""
        points = {f"speed/{name}": value for name, value in speeds.items()}
        self.write_points(step, points)

    def start_profile(self) -> None:
        """Begin a TensorFlow profile, for TensorBoard's profile plugin, once."""
        if not self._profiling and not self.silent:
            tf.profiler.experimental.start(str(self.tensorboard_folder))
            self._profiling = True

    def stop_profile(self) -> None:
        """End and write the profile, where there is one."""
        if self._profiling:
            self._profiling = False
            with writing(self.tensorboard_folder):
                tf.profiler.experimental.stop()

    def write_images(
        self, step: int, images: Mapping[str, np.ndarray], *, split: str = "train"
    ) -> None:
        """Write batches of uint8 images (batch, height, width, channels).

        Raises:
            ValueError: If some have another type or shape.
        """
        if self.silent:
            return
        images = _escaped(images)
        values = [values_of.images(name, batch) for name, batch in images.items()]
        self._write_values(step, values, split)
        for other in self._others:
            other.write_images(step, images, split=split)

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the distribution of each array's values."""
        if self.silent:
            return
        arrays = _escaped(arrays)
        values = [values_of.histogram(name, array) for name, array in arrays.items()]
        self._write_values(step, values, "train")
        for other in self._others:
            other.write_histograms(step, arrays)

    def write_pr_curves(
        self, step: int, curves: Mapping[str, ThresholdCounts], *, split: str
    ) -> None:
        """Write a precision-recall curve for each class."""
        if self.silent:
            return
        values = [
            values_of.precision_recall(name, counts)
            for name, counts in _escaped(curves).items()
        ]
        self._write_values(step, values, split)

    def write_graph(self, model: Any) -> None:
        """Write a Keras functional model as a graph of nested scopes."""
        if self.silent:
            return
        with writing(self.tensorboard_folder / "train"):
            file = self._event_file("train", 0)
            file.write_graph(0, keras_graph(model).SerializeToString())

    def write_text(
        self, step: int, texts: Mapping[str, str], *, split: str = "train"
    ) -> None:
        """Write texts in Markdown."""
        if self.silent:
            return
        texts = {n: escape_surrogates(text) for n, text in _escaped(texts).items()}
        values = [values_of.text(name, text) for name, text in texts.items()]
        self._write_values(step, values, split)
        for other in self._others:
            other.write_text(step, texts, split=split)

    def write_hparams(self, hparams: Mapping[str, bool | float | str]) -> None:
        """Write the hyper-parameters, by which TensorBoard compares runs."""
        if self.silent:
            return
        hparams = {
            name: escape_surrogates(value) if isinstance(value, str) else value
            for name, value in _escaped(hparams).items()
        }
        run = escape_surrogates(str(self._run))
        values = [values_of.session_start(run, hparams)]
        self._write_values(0, values, _WHOLE)
        for other in self._others:
            other.write_hparams(hparams)

    def write_end(self, step: int) -> None:
        """Write that the run is complete, for the comparison of runs."""
        self._write_values(step, [values_of.session_end()], _WHOLE)

    def show_progress(
        self,
        step: int,
        end: int,
        loss: float,
        learning_rate: float,
        images_per_second: float,
    ) -> None:
        """Show how far training to step `end` is."""
        if self.console is None:
            return
        if self._progress is None:
            self._progress = open_display(self.console)
        self._progress.update(
            step,
            end,
            loss=loss,
            learning_rate=learning_rate,
            images_per_second=images_per_second,
        )

    def show_validation(
        self, step: int, loss: float, accuracy: float, note: str
    ) -> None:
        """Show a validation as a row above the progress bar."""
        if self.console is None:
            return
        line = f"step {step:>7}  valid loss {loss:.4f}  accuracy {accuracy:.2%}  {note}"
        values = {"step": step, "loss": loss, "accuracy": accuracy, "decision": note}
        print_event(self.console, line, "validation", **values)

    def show(self, line: str) -> None:
        """Show a line above the progress bar."""
        if self.console is not None:
            self.console.print(line, highlight=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(_ending(error))

    def close(self, ending: Ending = "finished") -> None:
        """End profile and progress bar, and close the others, whatever fails.

        Args:
            ending: How the run has ended, which the others are told.
        """
        with contextlib.ExitStack() as closing:
            for other in reversed(self._others):
                closing.push(functools.partial(_close, other, ending))
            self._end()

    def get_state(self) -> dict[str, Any]:
        """Say how far goes what is written, all of which has left this process."""
        return {
            "num_rows": self._history.num_rows,
            "num_layer_rows": self._layers.num_rows,
            "last_steps": dict(self._last_steps),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go back to a state: take away what was written after it."""
        self._end()
        self._history.num_rows = state["num_rows"]
        self._layers.num_rows = state.get("num_layer_rows", 0)
        self._last_steps = dict(state["last_steps"])
        if self.silent:
            return
        self._history.cut()
        self._layers.cut()
        if self.tensorboard_folder.is_dir():
            folders = [
                each for each in self.tensorboard_folder.iterdir() if each.is_dir()
            ]
            for folder in [self.tensorboard_folder, *folders]:
                split = str(folder.relative_to(self.tensorboard_folder))
                with writing(folder):
                    cut_events(folder, self._last_steps.get(split, -1))

    def _write_values(self, step: int, values: Sequence[Any], split: str) -> None:
        if self.silent:
            return
        with writing(self.tensorboard_folder / split):
            self._event_file(split, step).write_values(step, values)

    def _event_file(self, split: str, step: int) -> EventFile:
        if split not in self._event_files:
            self._event_files[split] = EventFile(self.tensorboard_folder / split)
        self._last_steps[split] = max(step, self._last_steps.get(split, -1))
        return self._event_files[split]

    def _end(self) -> None:
        self.stop_profile()
        if self._progress is not None:
            self._progress.close()
            self._progress = None
        self._event_files.clear()


def _escaped(values: Mapping[str, Value]) -> dict[str, Value]:
    return {escape_surrogates(name): value for name, value in values.items()}


def _ending(error: BaseException | None) -> Ending:
    if error is None:
        return "finished"
    is_failure = isinstance(error, Exception) and not isinstance(error, RunStopped)
    return "failed" if is_failure else "stopped"


def _close(
    other: MetricWriter,
    ending: Ending,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """Close, as something of which the run's end has failed if there is an error."""
    other.close(ending if error is None else _ending(error))
