"""Tester: the testing loop and its statistics."""

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from worklab.files import write_atomically, write_json
from worklab.metrics import Statistics, classification_statistics
from worklab.network import Network
from worklab.reader import Batch, Reader
from worklab.session import Session


@dataclasses.dataclass(frozen=True)
class TestResult:
    """A test's statistics and what they were counted from.

    Attributes:
        step: Training steps of the tested weights.
        split: Name of the tested split.
        statistics: Over all images.
        names: What each tested image is called, usually its path.
        labels: Class indices, int64 (num_images,).
        probabilities: float32 (num_images, num_classes).
        losses: float32 (num_images,).
        class_names: Names in label order.
        skipped: Names of the images that could not be read; they are in nothing above.
    """

    __test__ = False  # not a test case of pytest

    step: int
    split: str
    statistics: Statistics
    names: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray
    class_names: list[str]
    skipped: list[str] = dataclasses.field(default_factory=list)

    def save(self, folder: Path) -> Path:
        """Write `step-<step>.<split>.json`, and beside it `.csv` with each image.

        Returns:
            Path of the JSON file, which is written last.
        """
        stem = f"step-{self.step:08d}.{self.split}"
        write_atomically(Path(folder) / f"{stem}.csv", self._write_predictions)
        path = Path(folder) / f"{stem}.json"
        numbers = {
            "step": self.step,
            "split": self.split,
            **self.statistics.to_json(),
            "class_names": self.class_names,
            "skipped": self.skipped,
        }
        write_json(path, numbers)
        return path

    def _write_predictions(self, file: Any) -> None:
        writer = csv.writer(file)
        header = ["image", "label", "prediction", "loss"]
        writer.writerow(header + [f"p({name})" for name in self.class_names])
        for name, label, probabilities, loss in zip(
            self.names, self.labels, self.probabilities, self.losses, strict=True
        ):
            prediction = self.class_names[int(probabilities.argmax())]
            row = [name, self.class_names[label], prediction, f"{loss:.6g}"]
            writer.writerow(row + [f"{p:.6g}" for p in probabilities])


class Tester:
    """Runs a network over every image of a Reader, each once, and counts.

    An image that the Reader skips counts in no number but that of skipped images.

    It touches no weight: batch normalisation uses its moving statistics, dropout is
    off, labels are not smoothed. Results do not depend on the batch size but for the
    last bits of float arithmetic.

    Use it as it is; it is not made for subclassing.

    Args:
        network: What is tested.
        reader: What it is tested on.
        session: Whose step is noted, and whose signals are served.
        split: Name of the split, for the result.

    Raises:
        ValueError: If the test batch cannot be divided among the session's devices.
    """

    __test__ = False  # not a test case of pytest

    def __init__(
        self, network: Network, reader: Reader, session: Session, *, split: str
    ) -> None:
        session.devices.check_divides(reader.options.test_batch_size, "test_batch_size")
        self.network = network
        self.reader = reader
        self.session = session
        self.split = split
        self._predict_function: Any = None

    def test(self, *, step: int | None = None) -> TestResult:
        """Return the result of one pass.

        Args:
            step: Step of the tested weights; None: the session's.

        Raises:
            ValueError: If a logit is not finite; names the image.
            StopRequested: If a signal came.
        """
        reader, devices = self.reader, self.session.devices
        batches = []
        for batch in reader.test_batches(devices.share):
            self.session.raise_if_stopped()
            batches.append([each.numpy() for each in self._predict(batch)])
        # Batches have the records in their order, then padding; what was skipped has
        # weight 0, too, and counts no more than padding does.
        logits, losses, weights = (
            np.concatenate(parts)[: len(reader)] for parts in zip(*batches, strict=True)
        )
        tested = np.flatnonzero(weights)
        logits, losses, labels = logits[tested], losses[tested], reader.labels[tested]
        names = [reader.name(int(number)) for number in tested]
        self._check_finite(logits, names)
        probabilities = softmax(logits)
        skipped = [reader.name(int(number)) for number in np.flatnonzero(weights == 0)]
        statistics = classification_statistics(
            labels, probabilities, losses, reader.class_names
        )
        return TestResult(
            step=self.session.step if step is None else step,
            split=self.split,
            statistics=dataclasses.replace(statistics, num_skipped=len(skipped)),
            names=names,
            labels=labels,
            probabilities=probabilities,
            losses=losses,
            class_names=reader.class_names,
            skipped=skipped,
        )

    def _predict(self, batch: Batch) -> tuple[tf.Tensor, ...]:
        devices = self.session.devices
        if self._predict_function is None:
            self._predict_function = devices.function(
                self._predict_step, [batch_signature(batch)]
            )
        return devices.gather(self._predict_function(devices.split(batch)))

    def _predict_step(self, batch: Mapping[str, Any]) -> tuple[tf.Tensor, ...]:
        logits = self.network(batch, training=False)
        losses = self.network.losses(batch, logits, training=False)
        return logits, losses, batch["weights"]

    def _check_finite(self, logits: np.ndarray, names: list[str]) -> None:
        wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        if len(wrong):
            raise ValueError(
                f"the network's answer for {len(wrong)} images is not finite, at step "
                f"{self.session.step}; its weights are of no use. "
                f"Received: `{names[wrong[0]]}` -> {logits[wrong[0]]}"
            )


def batch_signature(batch: Batch) -> Any:
    """Return the tensor specs of a batch, its size left open."""
    return tf.nest.map_structure(
        lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), dict(batch)
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (num_images, num_classes) of logits."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
