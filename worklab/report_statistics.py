"""All that a report says of a test: by class, curves, calibration, intervals.

These take seconds where images and classes are many, so they are computed when asked
for; validations beside training have `worklab.metrics` alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import metrics

from worklab.bootstrap import Intervals, bootstrap_intervals
from worklab.calibration import (
    Calibration,
    apply_temperature,
    calibration,
    fit_temperature,
)
from worklab.curves import OPERATING_POINTS, ClassCurves, class_curves
from worklab.metrics import ClassScores, Statistics, class_scores
from worklab.tester import TestResult, check_answers

_AVERAGES = ("macro", "micro", "weighted")


@dataclasses.dataclass(frozen=True)
class ClassStatistics(ClassScores):
    """What a test found of one class, and what its probability tells.

    Attributes:
        name: Of the class.
        num_predicted: Images that are called it.
        curves: Of its probability against the rest.
    """

    name: str
    num_predicted: int
    curves: ClassCurves


@dataclasses.dataclass(frozen=True)
class Average:
    """A mean over the classes.

    Attributes:
        precision: Mean, as scikit-learn has it: over all classes that are label or
            answer of an image; what does not exist counts 0.
        recall: The same of recall.
        f1: The same of F1.
    """

    precision: float
    recall: float
    f1: float


@dataclasses.dataclass(frozen=True)
class GroupStatistics:
    """A test by groups of classes.

    Attributes:
        names: Of the groups, in the order they were given.
        accuracy: Share of images that are called some class of their group.
        confusion: Count of images by the label's group (rows) and the answer's.
    """

    names: list[str]
    accuracy: float
    confusion: list[list[int]]


@dataclasses.dataclass(frozen=True)
class Temperature:
    """What temperature scaling would change.

    Attributes:
        temperature: That logits should be divided by; None where none is best.
        split: What it was fitted on.
        step: Training steps of the weights that it was fitted for.
        after: Calibration of the test with it; None without a temperature.
    """

    temperature: float | None
    split: str
    step: int
    after: Calibration | None


@dataclasses.dataclass(frozen=True)
class DetailedStatistics:
    """All that a report says of a test.

    Attributes:
        statistics: What every test has.
        classes: By class, in label order.
        averages: `macro` (each class the same), `micro` (each image the same) and
            `weighted` (classes by their images).
        balanced_accuracy: Mean recall of the classes that have images.
        cohen_kappa: Agreement beyond that of chance, 1 is perfect; None where chance
            alone agrees always.
        roc_auc: Mean area of the classes that have one, each the same; None: none has.
        average_precision: The same of average precision.
        groups: By groups of classes; None without a grouping.
        calibration: As the network is.
        temperature: As it could be; None without a valid test to fit on.
        intervals: By bootstrap; None for fewer than two images.
    """

    statistics: Statistics
    classes: list[ClassStatistics]
    averages: dict[str, Average]
    balanced_accuracy: float
    cohen_kappa: float | None
    roc_auc: float | None
    average_precision: float | None
    groups: GroupStatistics | None
    calibration: Calibration
    temperature: Temperature | None
    intervals: Intervals | None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON has them; those of `Statistics` stand on top."""
        rest = dataclasses.asdict(
            dataclasses.replace(self, statistics=None)  # type: ignore[arg-type]
        )
        del rest["statistics"]
        return {**self.statistics.to_json(), **rest}


def detailed_statistics(
    test: TestResult,
    *,
    valid: TestResult | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    num_points: int = 100,
    operating_points: Sequence[float] = OPERATING_POINTS,
    num_resamples: int = 1000,
    seed: int = 0,
) -> DetailedStatistics:
    """Return all that a report says of a test.

    Numbers that scikit-learn has are equal to its own. The order of images and the size
    of batches change nothing but the last bits.

    Args:
        test: At least one image.
        valid: Test of the same weights on the valid split, to fit the temperature on.
        groups: Names of classes by the name of their group, each class in one.
        num_points: Most points of a curve; areas are those of the whole curves.
        operating_points: Specificities and sensitivities, each in 0..1, of which the
            other is asked.
        num_resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        ValueError: If a probability is not finite (names the image), a group is wrong,
            a number is out of range, or `valid` has other classes.
    """
    _check_numbers(num_points, operating_points, num_resamples)
    check_answers(test.names, test.probabilities, test.losses)
    labels, predictions = test.labels, test.predictions
    curves = [
        *class_curves(
            labels,
            test.probabilities,
            num_points=num_points,
            operating_points=operating_points,
        )
    ]
    classes = _classes(test, curves)
    recalls = [each.recall for each in classes if each.recall is not None]
    return DetailedStatistics(
        statistics=test.statistics,
        classes=classes,
        averages={name: _average(labels, predictions, name) for name in _AVERAGES},
        balanced_accuracy=float(np.mean(recalls)),
        cohen_kappa=cohen_kappa(labels, predictions),
        roc_auc=_mean([each.roc_auc for each in curves]),
        average_precision=_mean([each.average_precision for each in curves]),
        groups=None if groups is None else group_statistics(test, groups),
        calibration=calibration(labels, test.probabilities),
        temperature=None if valid is None else _temperature(test, valid),
        intervals=bootstrap_intervals(
            labels, predictions, test.losses, num_resamples=num_resamples, seed=seed
        ),
    )


def cohen_kappa(labels: np.ndarray, predictions: np.ndarray) -> float | None:
    """Return Cohen's kappa; None where labels and answers are all one class.

    Example:
        >>> cohen_kappa(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]))
        0.5
    """
    if len({*labels.tolist(), *predictions.tolist()}) == 1:
        return None
    return float(metrics.cohen_kappa_score(labels, predictions))


def group_statistics(
    test: TestResult, groups: Mapping[str, Sequence[str]]
) -> GroupStatistics:
    """Return a test as if classes of a group were one.

    Args:
        test: Of single classes.
        groups: Names of classes by the name of their group, each class in one.

    Raises:
        ValueError: If a class is unknown, in no group or in two.
    """
    group_of: dict[str, str] = {}
    for group, names in groups.items():
        for name in names:
            if name in group_of or name not in test.class_names:
                raise ValueError(
                    "each class must be in one group, by the name it has in "
                    f"`classes.json`: {test.class_names}. Received: {name!r} in "
                    f"{group!r}"
                    + (f" and in {group_of[name]!r}" if name in group_of else "")
                )
            group_of[name] = group
    missing = [name for name in test.class_names if name not in group_of]
    if missing:
        raise ValueError(
            "each class must be in one group; put the rest into a group of their own. "
            f"Received: no group for {missing}"
        )
    numbers = {group: number for number, group in enumerate(groups)}
    to_group = np.array([numbers[group_of[name]] for name in test.class_names])
    labels, predictions = to_group[test.labels], to_group[test.predictions]
    size = len(groups) ** 2
    return GroupStatistics(
        names=[*groups],
        accuracy=float(metrics.accuracy_score(labels, predictions)),
        confusion=np.bincount(labels * len(groups) + predictions, minlength=size)
        .reshape(len(groups), -1)
        .tolist(),
    )


def _classes(test: TestResult, curves: Sequence[ClassCurves]) -> list[ClassStatistics]:
    size = len(test.class_names)
    predicted = np.bincount(test.predictions, minlength=size).tolist()
    scores = class_scores(test.labels, test.predictions, size)
    return [
        ClassStatistics(
            **vars(scores[number]),
            name=name,
            num_predicted=predicted[number],
            curves=curves[number],
        )
        for number, name in enumerate(test.class_names)
    ]


def _average(labels: np.ndarray, predictions: np.ndarray, name: str) -> Average:
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predictions, average=name, zero_division=0
    )
    return Average(float(precision), float(recall), float(f1))


def _temperature(test: TestResult, valid: TestResult) -> Temperature:
    if valid.class_names != test.class_names:
        raise ValueError(
            "the temperature must be fitted on a test of the same network, with the "
            f"classes {test.class_names}. Received: {valid.class_names}"
        )
    check_answers(valid.names, valid.probabilities, valid.losses)
    found = fit_temperature(valid.labels, valid.logits)
    after = None
    if found is not None:
        changed = apply_temperature(test.logits, found)
        after = calibration(test.labels, changed)
    return Temperature(found, valid.split, valid.step, after)


def _check_numbers(
    num_points: int, operating_points: Sequence[float], num_resamples: int
) -> None:
    if num_points < 2 or num_resamples < 1:
        raise ValueError(
            "curves need at least 2 points, the bootstrap at least 1 resample. "
            f"Received: num_points={num_points}, num_resamples={num_resamples}"
        )
    if not all(0 <= target <= 1 for target in operating_points):
        raise ValueError(
            "specificities and sensitivities are shares in 0..1. "
            f"Received: operating_points={operating_points}"
        )


def _mean(values: Sequence[float | None]) -> float | None:
    existing = [value for value in values if value is not None]
    return float(np.mean(existing)) if existing else None
