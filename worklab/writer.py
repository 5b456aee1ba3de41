"""Writer: TensorBoard, CSV and console, one verb each."""

import contextlib
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorflow as tf
from rich.console import Console

from worklab.files import writing
from worklab.graph import keras_graph
from worklab.printing import print_event
from worklab.progress import Display, open_display

_COLUMNS = ("step", "split", "loss", "accuracy", "learning_rate")


class Writer:
    """Takes numbers and pictures to TensorBoard, `history.csv` and the console.

    Scalars of each split go to a TensorBoard run of their own under one tag, so that
    training and validation share a chart. `history.csv` has one row for each step
    and split written. After a restart both go on from the restored step: what a dead
    run had written beyond it is taken away.

    Use it as it is; it is not made for subclassing. It computes nothing.

    Args:
        run: Folder of the run; files appear with the first thing written. None: takes
            everything and writes nothing, as on all workers but the chief.
        console: Where progress is shown; None shows nothing.
    """

    def __init__(self, run: Path | None, *, console: Console | None = None) -> None:
        self.silent = run is None
        run = Path() if run is None else Path(run)
        self.history_path = run / "history.csv"
        self.tensorboard_folder = run / "tensorboard"
        self.console = console
        self._num_rows = 0
        self._last_steps: dict[str, int] = {}
        self._event_writers: dict[str, Any] = {}
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
        with writing(self.history_path):
            self.history_path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.history_path.exists()
            with open(self.history_path, "a", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if new:
                    writer.writerow(_COLUMNS)
                writer.writerow([row.get(column, "") for column in _COLUMNS])
        self._num_rows += 1
        with self._events(split, step):
            for name, value in scalars.items():
                tf.summary.scalar(name, np.float32(value))

    def write_speed(self, step: int, speeds: Mapping[str, float]) -> None:
        """Write the speed of training, which no two runs share, to TensorBoard."""
        with self._events("train", step):
            for name, value in speeds.items():
                tf.summary.scalar(f"speed/{name}", np.float32(value))

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

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Write batches of uint8 images (batch, height, width, channels)."""
        with self._events("train", step):
            for name, batch in images.items():
                tf.summary.image(name, batch, max_outputs=len(batch))

    def write_histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the distribution of each array's values."""
        with self._events("train", step):
            for name, array in arrays.items():
                tf.summary.histogram(name, array)

    def write_graph(self, model: Any) -> None:
        """Write a Keras functional model as a graph of nested scopes."""
        with self._events("train", 0):
            tf.summary.graph(keras_graph(model))

    def write_text(self, step: int, texts: Mapping[str, str]) -> None:
        """Write texts in Markdown."""
        with self._events("train", step):
            for name, text in texts.items():
                tf.summary.text(name, text)

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

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Bring everything to disk, and end profile and progress bar."""
        self.stop_profile()
        if self._progress is not None:
            self._progress.close()
            self._progress = None
        writers = list(self._event_writers.items())
        self._event_writers.clear()
        for split, writer in writers:
            with writing(self.tensorboard_folder / split):
                writer.close()

    def get_state(self) -> dict[str, Any]:
        """Bring what is written to disk, and say how far it goes."""
        for split, writer in self._event_writers.items():
            with writing(self.tensorboard_folder / split):
                writer.flush()
        return {"num_rows": self._num_rows, "last_steps": dict(self._last_steps)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go back to a state: take away what was written after it."""
        self.close()
        self._num_rows = state["num_rows"]
        self._last_steps = dict(state["last_steps"])
        if self.silent:
            return
        with writing(self.history_path):
            _cut_history(self.history_path, self._num_rows)
        if self.tensorboard_folder.is_dir():
            for folder in self.tensorboard_folder.iterdir():
                with writing(folder):
                    _cut_events(folder, self._last_steps.get(folder.name, -1))

    @contextlib.contextmanager
    def _events(self, split: str, step: int) -> Iterator[None]:
        if self.silent:
            yield  # without a default writer TensorFlow's summaries do nothing
            return
        folder = self.tensorboard_folder / split
        with writing(folder):
            if split not in self._event_writers:
                self._event_writers[split] = tf.summary.create_file_writer(str(folder))
            self._last_steps[split] = max(step, self._last_steps.get(split, -1))
            # As NumPy's: TensorFlow keeps every Python number it has met, for ever.
            with self._event_writers[split].as_default(np.int64(step)):
                yield


def _cut_history(path: Path, num_rows: int) -> None:
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if num_rows == 0:
        path.unlink()
    elif len(lines) > num_rows + 1:
        kept = path.with_name(f".{path.name}")
        kept.write_text("".join(lines[: num_rows + 1]), encoding="utf-8")
        kept.replace(path)


def _cut_events(folder: Path, last_step: int) -> None:
    """Rewrite the event files of a folder up to a step, as one file."""
    paths = sorted(folder.glob("events.out.tfevents.*"))
    kept: dict[bytes, None] = {}  # once each, also when this was killed half-way
    for path in paths:
        # A dead run's last record may be torn; what stands before it is whole.
        dataset = tf.data.TFRecordDataset(str(path)).ignore_errors()
        for record in dataset.as_numpy_iterator():
            if tf.compat.v1.Event.FromString(record).step <= last_step:
                kept[record] = None
    if kept:
        part = folder / ".kept"
        with tf.io.TFRecordWriter(str(part)) as writer:
            for record in kept:
                writer.write(record)
        part.replace(paths.pop(0))
    for path in paths:
        path.unlink()
