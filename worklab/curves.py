"""ROC and precision-recall curves of each class against the rest, by scikit-learn."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from sklearn import metrics

OPERATING_POINTS = (0.9, 0.95, 0.99)
"""Specificities and sensitivities of which the other is given, if nothing is said."""


@dataclasses.dataclass(frozen=True)
class RocCurve:
    """Shares of the images that are called the class, by the least probability.

    Attributes:
        false_positive_rate: Of the images of other classes, rising from 0 to 1.
        true_positive_rate: Of the images of the class, rising from 0 to 1.
        thresholds: Least probability; None for the first, where none is called it.
    """

    false_positive_rate: list[float]
    true_positive_rate: list[float]
    thresholds: list[float | None]


@dataclasses.dataclass(frozen=True)
class PrecisionRecallCurve:
    """What is right of the images that are called the class, and what is found.

    Attributes:
        recall: Share of the class's images that are called it, rising to 1.
        precision: Share of those called it that are; at the highest threshold with
            this recall, so the best.
        thresholds: Least probability.
    """

    recall: list[float]
    precision: list[float]
    thresholds: list[float]


@dataclasses.dataclass(frozen=True)
class ThresholdCounts:
    """What is right and wrong where a class is called from a probability on.

    Arrays (num_thresholds,) are of thresholds in equal steps from 0 to 1.

    Attributes:
        true_positives: Images of the class that are called it.
        false_positives: Images of others that are called it.
        true_negatives: Images of others that are not.
        false_negatives: Images of the class that are not.
    """

    true_positives: np.ndarray
    false_positives: np.ndarray
    true_negatives: np.ndarray
    false_negatives: np.ndarray


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """What a threshold brings that was chosen for a specificity or a sensitivity.

    Attributes:
        target: The specificity or sensitivity that had to be reached.
        sensitivity: Share of the class's images that are called it.
        specificity: Share of the others that are not.
        threshold: Least probability; None: none may be called the class.
    """

    target: float
    sensitivity: float
    specificity: float
    threshold: float | None


@dataclasses.dataclass(frozen=True)
class ClassCurves:
    """How well a class's probability tells its images from all others.

    Attributes:
        roc_auc: Area under the whole ROC curve; None without images of the class, or
            of others.
        average_precision: Of the whole precision-recall curve; None without images of
            the class.
        roc: Curve, thinned; None like its area.
        precision_recall: Curve, thinned; None like `roc`.
        at_specificity: Highest sensitivity for each asked specificity.
        at_sensitivity: Highest specificity for each asked sensitivity.
    """

    roc_auc: float | None = None
    average_precision: float | None = None
    roc: RocCurve | None = None
    precision_recall: PrecisionRecallCurve | None = None
    at_specificity: list[OperatingPoint] = dataclasses.field(default_factory=list)
    at_sensitivity: list[OperatingPoint] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Counts:
    """Images called the class, of it and of others, at each threshold, falling.

    The first threshold calls none.
    """

    true: np.ndarray
    false: np.ndarray
    thresholds: np.ndarray

    @property
    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """False and true positive rates."""
        return self.false / self.false[-1], self.true / self.true[-1]


def class_curves(
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    num_points: int = 100,
    operating_points: Sequence[float] = OPERATING_POINTS,
) -> Iterator[ClassCurves]:
    """Yield the curves of each class against the rest, in label order.

    Areas are of the whole curves. Thinned curves have real points of the whole ones: of
    the ROC those nearest to equal steps along it, so that it is nowhere further off
    than 2 / (`num_points` - 1); of precision and recall, of equal steps of recall.

    Args:
        labels: Class indices, integers (num_images,).
        probabilities: Float (num_images, num_classes), finite.
        num_points: Most points of a thinned curve, at least 2.
        operating_points: Specificities and sensitivities in 0..1.

    Example:
        >>> labels = np.array([0, 0, 1])
        >>> probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
        >>> [curves.roc_auc for curves in class_curves(labels, probabilities)]
        [1.0, 1.0]
    """
    for label, scores in enumerate(probabilities.T):
        of_class = labels == label
        number = int(np.count_nonzero(of_class))
        if number == 0:
            yield ClassCurves()
        elif number == len(labels):  # whoever is called the class, is
            yield ClassCurves(average_precision=1.0)
        else:
            counts = _count(of_class, scores)
            yield ClassCurves(
                roc_auc=float(metrics.auc(*counts.rates)),
                average_precision=_average_precision(counts),
                roc=_roc(counts, num_points),
                precision_recall=_precision_recall(counts, num_points),
                at_specificity=[
                    _at_specificity(counts, target) for target in operating_points
                ],
                at_sensitivity=[
                    _at_sensitivity(counts, target) for target in operating_points
                ],
            )


def threshold_counts(
    is_class: np.ndarray, scores: np.ndarray, *, num_thresholds: int = 201
) -> ThresholdCounts:
    """Return what each threshold from 0 to 1 makes of a class's probabilities.

    Args:
        is_class: Whether an image is of the class, bool (num_images,).
        scores: Its probability, float (num_images,), in 0..1.
        num_thresholds: At least 2.

    Example:
        >>> is_class, scores = np.array([True, False]), np.array([0.9, 0.4])
        >>> threshold_counts(is_class, scores, num_thresholds=3).true_positives
        array([1, 1, 0])
    """
    thresholds = np.linspace(0, 1, num_thresholds)
    # What is left of a threshold among the sorted is below it.
    called = [
        len(group) - np.searchsorted(np.sort(group), thresholds)
        for group in (scores[is_class], scores[~is_class])
    ]
    return ThresholdCounts(
        true_positives=called[0],
        false_positives=called[1],
        true_negatives=np.sum(~is_class) - called[1],
        false_negatives=np.sum(is_class) - called[0],
    )


def _count(of_class: np.ndarray, scores: np.ndarray) -> _Counts:
    # Its shares become counts again: one sorting is enough for all that follows.
    false, true, thresholds = metrics.roc_curve(
        of_class, scores, drop_intermediate=False
    )
    number = np.count_nonzero(of_class)
    return _Counts(
        np.rint(true * number), np.rint(false * (len(scores) - number)), thresholds
    )


def _average_precision(counts: _Counts) -> float:
    """Return the sum of precisions, each times the recall that its threshold adds.

    As scikit-learn's `average_precision_score`, which would sort once more.
    """
    true, false = counts.true[1:], counts.false[1:]
    gained = np.diff(counts.true) / counts.true[-1]
    return float(np.sum(gained * true / (true + false)))


def _roc(counts: _Counts, num_points: int) -> RocCurve:
    false, true = counts.rates
    # Leave out what is on the line between its neighbours, as scikit-learn does.
    bends = [np.diff(count[1:], 2) != 0 for count in (counts.false, counts.true)]
    corner = np.ones(len(false), bool)
    corner[2:-1] = bends[0] | bends[1]
    places = np.flatnonzero(corner)
    chosen = places[_spread((false + true)[places], num_points)]
    thresholds = counts.thresholds[chosen].tolist()
    return RocCurve(
        false[chosen].tolist(), true[chosen].tolist(), [None, *thresholds[1:]]
    )


def _precision_recall(counts: _Counts, num_points: int) -> PrecisionRecallCurve:
    # At a threshold that finds no further image of the class, precision only falls.
    places = np.flatnonzero(np.diff(counts.true)) + 1
    recall = counts.true[places] / counts.true[-1]
    chosen = places[_spread(recall, num_points)]
    true, false = counts.true[chosen], counts.false[chosen]
    return PrecisionRecallCurve(
        recall=(true / counts.true[-1]).tolist(),
        precision=(true / (true + false)).tolist(),
        thresholds=counts.thresholds[chosen].tolist(),
    )


def _spread(values: np.ndarray, num_points: int) -> np.ndarray:
    """Return indices of rising values, first and last among them, at equal steps."""
    if len(values) <= num_points:
        return np.arange(len(values))
    steps = np.linspace(values[0], values[-1], num_points)
    return np.unique([0, *np.searchsorted(values, steps[1:-1]), len(values) - 1])


def _at_specificity(counts: _Counts, target: float) -> OperatingPoint:
    # Counts, and a little more than nothing, as 1 - 0.9 is not 0.1.
    allowed = (1 - target) * counts.false[-1] + 1e-6
    last = np.searchsorted(counts.false, allowed, side="right") - 1
    return _point(counts, target, int(np.searchsorted(counts.true, counts.true[last])))


def _at_sensitivity(counts: _Counts, target: float) -> OperatingPoint:
    needed = target * counts.true[-1] - 1e-6
    return _point(counts, target, int(np.searchsorted(counts.true, needed)))


def _point(counts: _Counts, target: float, place: int) -> OperatingPoint:
    return OperatingPoint(
        target=target,
        sensitivity=float(counts.true[place] / counts.true[-1]),
        specificity=float(1 - counts.false[place] / counts.false[-1]),
        threshold=float(counts.thresholds[place]) if place else None,
    )
