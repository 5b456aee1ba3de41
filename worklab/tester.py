"""Tester: the testing loop and its statistics."""

import contextlib
import dataclasses
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console

from worklab.answer_tables import Answers, Table, check_table, write_table
from worklab.files import write_json
from worklab.metrics import Statistics, classification_statistics
from worklab.network import Network
from worklab.progress import track
from worklab.reader import Batch, Reader
from worklab.session import Session
from worklab.views import PLAIN, View, ViewOptions


@dataclasses.dataclass(frozen=True)
class TestResult:
    """A test's statistics and what they were counted from.

    Attributes:
        step: Training steps of the tested weights.
        split: Name of the tested split.
        statistics: Over all images.
        names: What each tested image is called, usually its path.
        labels: Class indices, int64 (num_images,).
        logits: float32 (num_images, num_classes).
        probabilities: Their softmax, float32 (num_images, num_classes).
        losses: float32 (num_images,).
        class_names: Names in label order.
        skipped: Names of the images that could not be read; they are in nothing above.
        views: Name of the views of each image whose answers were averaged; "": one.
    """

    __test__ = False  # not a test case of pytest

    step: int
    split: str
    statistics: Statistics
    names: list[str]
    labels: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray
    class_names: list[str]
    skipped: list[str] = dataclasses.field(default_factory=list)
    views: str = ""

    @classmethod
    def of_probabilities(
        cls,
        labels: np.ndarray,
        probabilities: np.ndarray,
        class_names: Sequence[str],
        *,
        names: Sequence[str],
        logits: np.ndarray | None = None,
        losses: np.ndarray | None = None,
        skipped: Sequence[str] = (),
        step: int = 0,
        split: str = "test",
        views: str = "",
    ) -> "TestResult":
        """Return the result of a test that is known image by image, of any model.

        Args:
            labels: Class indices, integers (num_images,).
            probabilities: Float (num_images, num_classes).
            class_names: Names in label order.
            names: What each image is called.
            logits: Float (num_images, num_classes); None: logs of probabilities.
            losses: Float (num_images,); None: -log of the label's probability.
            skipped: Names of further images that could not be read.
            step: Training steps of the tested weights.
            split: Name of the tested split.
            views: Name of the views whose answers were averaged.

        Raises:
            ValueError: If there is no image, a number is not finite (names the image),
                or shapes or labels do not fit.

        Example:
            >>> labels, probabilities = np.array([1]), np.array([[0.2, 0.8]])
            >>> TestResult.of_probabilities(
            ...     labels, probabilities, ["no", "yes"], names=["1.png"]
            ... ).statistics.accuracy
            1.0
        """
        labels = np.asarray(labels, np.int64)
        probabilities = np.asarray(probabilities, np.float32)
        _check_shapes(labels, probabilities, names, class_names)
        if logits is None:
            logits = _logits_of(probabilities)
        if losses is None:
            losses = -_logits_of(probabilities[np.arange(len(labels)), labels])
        check_answers(names, probabilities, losses)
        statistics = classification_statistics(
            labels, probabilities, losses, class_names
        )
        return cls(
            step=step,
            split=split,
            statistics=dataclasses.replace(statistics, num_skipped=len(skipped)),
            names=[*names],
            labels=labels,
            logits=logits,
            probabilities=probabilities,
            losses=losses,
            class_names=[*class_names],
            skipped=[*skipped],
            views=views,
        )

    @property
    def predictions(self) -> np.ndarray:
        """The most probable class of each image, int64 (num_images,)."""
        return self.probabilities.argmax(axis=1)

    def to_json(self) -> dict[str, Any]:
        """Return step, split and statistics as JSON has them."""
        numbers = self.statistics.to_json()
        return {"step": self.step, "split": self.split, **numbers}

    def save(
        self,
        folder: Path,
        *,
        stem: str | None = None,
        notes: Mapping[str, Any] = MappingProxyType({}),
        table: Table = "csv",
    ) -> Path:
        """Write the numbers as `<stem>.json`, and beside it a table of each image.

        Args:
            folder: Where to; made if need be.
            stem: How the files are called; None: `step-<step>.<split>`, and after it
                `.<views>` where there are several.
            notes: Further entries of the JSON file.
            table: Format of the table, `<stem>.csv` or `<stem>.parquet`. One of the
                other format and the same stem is deleted.

        Returns:
            Path of the JSON file, which is written last.
        """
        check_table(table)
        if stem is None:
            place = (f"step-{self.step:08d}", self.split, self.views)
            stem = ".".join(part for part in place if part)
        answers = Answers(self.names, self.labels, self.losses, self.probabilities)
        write_table(Path(folder) / f"{stem}.{table}", answers, self.class_names)
        path = Path(folder) / f"{stem}.json"
        numbers = {
            **self.to_json(),
            "class_names": self.class_names,
            "skipped": self.skipped,
            **notes,
        }
        if self.views:
            numbers["views"] = self.views
        write_json(path, numbers)
        return path


class Tester:
    """Runs a network over every image of a Reader, each once, and counts.

    An image that the Reader skips counts in no number but that of skipped images.

    It touches no weight: batch normalisation uses its moving statistics, dropout is
    off, labels are not smoothed. Results do not depend on the batch size but for the
    last bits of float arithmetic.

    With several views of each image, its answer is the mean of the probabilities, and
    its loss that of the mean.

    Use it as it is; it is not made for subclassing.

    Args:
        network: What is tested.
        reader: What it is tested on.
        session: Whose step is noted, and whose signals are served.
        split: Name of the split, for the result.
        views: Ways to see each image.
        console: Where a test of many seconds shows how far it is; None: nowhere.

    Raises:
        ValueError: If the test batch cannot be divided among the session's devices.
    """

    __test__ = False  # not a test case of pytest

    def __init__(
        self,
        network: Network,
        reader: Reader,
        session: Session,
        *,
        split: str,
        views: ViewOptions = PLAIN,
        console: Console | None = None,
    ) -> None:
        session.devices.check_divides(reader.options.test_batch_size, "test_batch_size")
        self.network = network
        self.reader = reader
        self.session = session
        self.split = split
        self.views = views
        self.console = console
        self._predict_function: Any = None

    def test(self, *, step: int | None = None) -> TestResult:
        """Return the result of one pass.

        Args:
            step: Step of the tested weights; None: the session's.

        Raises:
            ValueError: If a logit is not finite; names the image.
            StopRequested: If a signal came.
        """
        reader = self.reader
        logits, losses, weights = (
            self._test_once() if self.views == PLAIN else self._test_views()
        )
        tested = np.flatnonzero(weights)
        return TestResult.of_probabilities(
            reader.labels[tested],
            softmax(logits[tested]),
            reader.class_names,
            names=[reader.name(int(number)) for number in tested],
            logits=logits[tested],
            losses=losses[tested],
            skipped=[reader.name(int(n)) for n in np.flatnonzero(weights == 0)],
            step=self.session.step if step is None else step,
            split=self.split,
            views=self.views.name(),
        )

    def _test_once(self) -> tuple[np.ndarray, ...]:
        """Return logits, losses and weights of all records."""
        # Batches have the records in their order, then padding; what was skipped has
        # weight 0, too, and counts no more than padding does.
        batches = [*self._answers(self.views.views())]
        logits, losses, weights = (
            np.concatenate(parts)[: len(self.reader)]
            for parts in zip(*batches, strict=True)
        )
        self._check_finite(logits, np.where(weights > 0, np.arange(len(logits)), -1))
        return logits, losses, weights

    def _test_views(self) -> tuple[np.ndarray, ...]:
        """Return the same of the mean of all views, without keeping each of them."""
        reader, views = self.reader, self.views.views()
        probabilities = np.zeros((len(reader), len(reader.class_names)), np.float32)
        all_weights, start = np.zeros(len(reader), np.float32), 0
        with contextlib.closing(self._answers(views)) as answers:
            for logits, _, weights in answers:
                records = np.arange(start, start + len(logits)) // len(views)
                start += len(logits)
                real = weights > 0
                self._check_finite(logits, np.where(real, records, -1))
                # View by view, so that no sum depends on the size of the batch.
                np.add.at(probabilities, records[real], softmax(logits[real]))
                all_weights[records[real]] = 1
        logits = _logits_of(probabilities / len(views))
        return logits, self._losses(logits), all_weights

    def _losses(self, logits: np.ndarray) -> np.ndarray:
        """Return the network's loss of answers that no batch has given, by record."""
        reader, size, losses = self.reader, self.reader.options.test_batch_size, []
        for start in range(0, len(reader), size):
            index = np.arange(start, min(start + size, len(reader)))
            batch = {
                "labels": reader.labels[index],
                "weights": np.ones(len(index), np.float32),
                "index": index,
            }
            if reader.features is not None:
                batch["features"] = reader.features[index]
            answers = tf.constant(logits[index])
            losses.append(self.network.losses(batch, answers, training=False).numpy())
        return np.concatenate(losses)

    def _answers(self, views: Sequence[View]) -> Generator[list[np.ndarray]]:
        """Yield logits, losses and weights of each batch, padding among them."""
        reader = self.reader
        total = -(-len(reader) * len(views) // reader.options.test_batch_size)
        batches = reader.test_batches(self.session.devices.share, views)
        task = f"testing {self.split}, batch"
        # Closed at once, as an error would be shown into a bar that is still there.
        with contextlib.closing(track(batches, total, task, self.console)) as tracked:
            for batch in tracked:
                self.session.raise_if_stopped()
                yield [each.numpy() for each in self._predict(batch)]

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

    def _check_finite(self, logits: np.ndarray, records: np.ndarray) -> None:
        """Refuse answers that are no numbers.

        Args:
            logits: Float (rows, num_classes).
            records: Which record's, integers (rows,); -1: nobody's.

        Raises:
            ValueError: If a logit is not finite; names the image.
        """
        wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1) & (records >= 0))
        if len(wrong):
            name = self.reader.name(int(records[wrong[0]]))
            raise ValueError(
                f"the network's answer for {len({*records[wrong]})} images is not "
                f"finite, at step {self.session.step}; its weights are of no use. "
                f"Received: `{name}` -> {logits[wrong[0]]}"
            )


def check_answers(
    names: Sequence[str], probabilities: np.ndarray, losses: np.ndarray
) -> None:
    """Refuse what no statistics can be made of.

    Raises:
        ValueError: If there is no image, or a number is not finite; names the image.
    """
    if not names:
        raise ValueError(
            "a test without images tells nothing; look at the list, and at what was "
            "skipped. Received: 0 images"
        )
    finite = np.isfinite(probabilities).all(axis=1) & np.isfinite(losses)
    wrong = np.flatnonzero(~finite)
    if len(wrong):
        first = wrong[0]
        raise ValueError(
            f"the answers for {len(wrong)} images are not finite, so the test tells "
            f"nothing. Received: `{names[first]}` -> {probabilities[first]}, loss "
            f"{losses[first]}"
        )


def _check_shapes(
    labels: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    class_names: Sequence[str],
) -> None:
    shape, size = (len(names), len(class_names)), len(class_names)
    fit = probabilities.shape == shape and labels.shape == shape[:1]
    if not fit or not ((labels >= 0) & (labels < size)).all():
        raise ValueError(
            f"a test of {shape[0]} images and {size} classes has as many labels in "
            f"0..{size - 1}, and probabilities of shape {shape}. Received: labels "
            f"{labels.min(initial=0)}..{labels.max(initial=0)} of shape "
            f"{labels.shape}, probabilities of shape {probabilities.shape}"
        )


def batch_signature(batch: Batch) -> Any:
    """Return the tensor specs of a batch, its size left open."""
    return tf.nest.map_structure(
        lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), dict(batch)
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits (num_images, num_classes), of their type."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _logits_of(probabilities: np.ndarray) -> np.ndarray:
    """Return what softmax makes the probabilities of; 0 counts as hardly more."""
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
