"""Statistics of a test, by scikit-learn."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What a test found, over all its images.

    Attributes:
        num_images: Images tested, each once.
        loss: Mean loss.
        accuracy: Share of images whose most probable class is right, 0..1.
        top_k_accuracy: Share whose label is among the k most probable, by k.
        recall: Share of each class's images that is found, by class name; None where
            the split has no image of the class.
        confusion: Count of images by label (rows) and prediction (columns).
        num_skipped: Images that could not be read, and count in nothing else.
    """

    num_images: int
    loss: float
    accuracy: float
    top_k_accuracy: dict[int, float]
    recall: dict[str, float | None]
    confusion: list[list[int]]
    num_skipped: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        # Not `asdict`, which copies a confusion of 1000 classes number by number.
        top_k = {str(k): share for k, share in self.top_k_accuracy.items()}
        return {**vars(self), "top_k_accuracy": top_k}


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """How well one class is found.

    Attributes:
        support: Images of the class.
        precision: Share of those called it that are; None where none is called it.
        recall: Share of its images that are called it; None where there are none.
        f1: Harmonic mean of both; None where there is neither image nor answer.
    """

    support: int
    precision: float | None
    recall: float | None
    f1: float | None


def class_scores(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> list[ClassScores]:
    """Return how well each class is found, in label order.

    Args:
        labels: Class indices, integers (num_images,).
        predictions: Class indices, integers (num_images,).
        num_classes: Number of classes.

    Example:
        >>> class_scores(np.array([0, 0]), np.array([0, 1]), 3)[0]
        ClassScores(support=2, precision=1.0, recall=0.5, f1=0.6666666666666666)
    """
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predictions, labels=np.arange(num_classes), zero_division=np.nan
    )
    shares = [
        [None if np.isnan(share) else float(share) for share in row]
        for row in zip(precision, recall, f1, strict=True)
    ]
    return [
        ClassScores(int(number), *row)
        for number, row in zip(support, shares, strict=True)
    ]


def classification_statistics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    losses: np.ndarray,
    class_names: Sequence[str],
    *,
    top_k: Sequence[int] = (5,),
) -> Statistics:
    """Return the statistics of a test.

    Args:
        labels: Class indices, integers (num_images,).
        probabilities: Float (num_images, num_classes).
        losses: Float (num_images,).
        class_names: Names in label order.
        top_k: Values of k; those not below the number of classes are left out.

    Example:
        >>> probabilities = np.array([[0.9, 0.1], [0.6, 0.4]])
        >>> labels, losses = np.array([0, 1]), np.array([0.1, 0.9])
        >>> classification_statistics(labels, probabilities, losses, "ab").accuracy
        0.5
    """
    classes = np.arange(len(class_names))
    predictions = probabilities.argmax(axis=1)
    accuracy = float(metrics.accuracy_score(labels, predictions))
    recalls = metrics.recall_score(
        labels, predictions, labels=classes, average=None, zero_division=np.nan
    )
    return Statistics(
        num_images=len(labels),
        loss=float(np.mean(losses, dtype=np.float64)),
        accuracy=accuracy,
        top_k_accuracy={
            # scikit-learn wants probabilities of another shape where classes are two.
            k: accuracy
            if k == 1
            else float(
                metrics.top_k_accuracy_score(labels, probabilities, k=k, labels=classes)
            )
            for k in top_k
            if k < len(class_names)
        },
        recall={
            name: None if np.isnan(recall) else float(recall)
            for name, recall in zip(class_names, recalls, strict=True)
        },
        confusion=metrics.confusion_matrix(
            labels, predictions, labels=classes
        ).tolist(),
    )
