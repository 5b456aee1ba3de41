"""Whether one of two tests of the same images is better, and where."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from worklab.bootstrap import Interval, bootstrap_mean
from worklab.metrics import ClassScores, class_scores
from worklab.tester import TestResult, check_answers

_MOST_NAMES = 3  # of images or classes, in an error


@dataclasses.dataclass(frozen=True)
class Change:
    """An image that one test has right and the other wrong.

    Attributes:
        image: Its name.
        label: Its class.
        predictions: What the first and the second test call it.
        probabilities: What they give the label, 0..1.
    """

    image: str
    label: str
    predictions: tuple[str, str]
    probabilities: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class ClassChange:
    """A class in both tests.

    Attributes:
        name: Of the class.
        num_gained: Its images that only the second test has right.
        num_lost: Those that only the first has right.
        first: How well the first test finds it.
        second: How well the second test does.
    """

    name: str
    num_gained: int
    num_lost: int
    first: ClassScores
    second: ClassScores


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two tests of the same images; differences are the second less the first.

    Attributes:
        num_images: In each of them.
        accuracy: Of both.
        accuracy_difference: Above 0 where the second is better.
        accuracy_interval: 95 % of it, by resampling pairs; None for one image.
        loss: Of both.
        loss_difference: Below 0 where the second is better.
        loss_interval: 95 % of it; None for one image.
        num_both_right: Images.
        num_both_wrong: Images.
        p_value: Of McNemar's exact test: how likely gained and lost images are at
            least as uneven, if neither test were better.
        classes: In label order.
        gained: Images that only the second has right; the largest change first.
        lost: Images that only the first has right; the largest change first.
    """

    num_images: int
    accuracy: tuple[float, float]
    accuracy_difference: float
    accuracy_interval: Interval | None
    loss: tuple[float, float]
    loss_difference: float
    loss_interval: Interval | None
    num_both_right: int
    num_both_wrong: int
    p_value: float
    classes: list[ClassChange]
    gained: list[Change]
    lost: list[Change]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return dataclasses.asdict(self)


def compare(
    first: TestResult, second: TestResult, *, num_resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Return whether the second of two tests of the same images is better.

    Images may be in another order, where each has a name of its own.

    Args:
        first: What is compared with.
        second: What may be better.
        num_resamples: Of the bootstrap, which draws images, each with both answers.
        seed: Of the bootstrap.

    Raises:
        ValueError: If images, labels or class names differ, or a number is not finite;
            names them.

    Source: Q. McNemar, Note on the Sampling Error of the Difference between Correlated
        Proportions or Percentages, 1947; exact, by the binomial distribution.
    """
    check_answers(first.names, first.probabilities, first.losses)
    check_answers(second.names, second.probabilities, second.losses)
    second = _aligned(first, second)
    right = [test.predictions == test.labels for test in (first, second)]
    gained = np.flatnonzero(right[1] & ~right[0])
    lost = np.flatnonzero(right[0] & ~right[1])
    accuracies = right[1].astype(np.float64) - right[0]
    losses = second.losses.astype(np.float64) - first.losses
    settings = {"num_resamples": num_resamples, "seed": seed}
    return Comparison(
        num_images=len(first.names),
        accuracy=(first.statistics.accuracy, second.statistics.accuracy),
        accuracy_difference=float(accuracies.mean()),
        accuracy_interval=bootstrap_mean(accuracies, **settings),
        loss=(first.statistics.loss, second.statistics.loss),
        loss_difference=float(losses.mean()),
        loss_interval=bootstrap_mean(losses, **settings),
        num_both_right=int(np.count_nonzero(right[0] & right[1])),
        num_both_wrong=int(np.count_nonzero(~right[0] & ~right[1])),
        p_value=mcnemar(len(gained), len(lost)),
        classes=_classes(first, second, gained, lost),
        gained=_changes(first, second, gained),
        lost=_changes(first, second, lost),
    )


def mcnemar(num_gained: int, num_lost: int) -> float:
    """Return the p-value of McNemar's exact test; 1 where nothing has changed.

    Example:
        >>> mcnemar(num_gained=6, num_lost=0)
        0.03125
    """
    if num_gained + num_lost == 0:
        return 1.0
    return float(stats.binomtest(num_gained, num_gained + num_lost).pvalue)


def _aligned(first: TestResult, second: TestResult) -> TestResult:
    """Return the second test with its images in the order of the first.

    Raises:
        ValueError: If images, labels or class names differ.
    """
    if first.class_names != second.class_names:
        raise ValueError(
            "tests are compared class by class, so both must have the same class names "
            "in the same order. Received: "
            + _difference(first.class_names, second.class_names)
        )
    if first.names != second.names:
        places = {name: place for place, name in enumerate(second.names)}
        unique = len(places) == len(second.names)
        if not unique or sorted(first.names) != sorted(second.names):
            raise ValueError(
                "tests are compared image by image, so both must be of the same images "
                "(and what one could not read, the other must not have). Received: "
                + _difference(first.names, second.names)
            )
        order = np.array([places[name] for name in first.names])
        second = dataclasses.replace(
            second,
            names=first.names,
            labels=second.labels[order],
            logits=second.logits[order],
            probabilities=second.probabilities[order],
            losses=second.losses[order],
        )
    wrong = np.flatnonzero(first.labels != second.labels)
    if len(wrong):
        labels = [test.class_names[test.labels[wrong[0]]] for test in (first, second)]
        raise ValueError(
            "both tests must be of the same labels; one of the lists has changed. "
            f"Received: `{first.names[wrong[0]]}` is {labels[0]!r} in the first and "
            f"{labels[1]!r} in the second, {len(wrong)} images in all"
        )
    return second


def _difference(first: Sequence[str], second: Sequence[str]) -> str:
    """Say how two lists of names differ."""
    only = [[*dict.fromkeys(first)], [*dict.fromkeys(second)]]
    sets = {*first}, {*second}
    only = [[name for name in only[n] if name not in sets[1 - n]] for n in (0, 1)]
    if not any(only):
        return f"the same {len({*first})} names in another order or another number"
    return "; ".join(
        f"only in the {which}: {len(names)} {names[:_MOST_NAMES]}"
        for which, names in zip(("first", "second"), only, strict=True)
    )


def _changes(first: TestResult, second: TestResult, images: np.ndarray) -> list[Change]:
    labels, names = first.labels[images], first.class_names
    shares = [test.probabilities[images, labels] for test in (first, second)]
    answers = [test.predictions[images] for test in (first, second)]
    order = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable").tolist()
    return [
        Change(
            image=first.names[images[place]],
            label=names[labels[place]],
            predictions=(names[answers[0][place]], names[answers[1][place]]),
            probabilities=(float(shares[0][place]), float(shares[1][place])),
        )
        for place in order
    ]


def _classes(
    first: TestResult, second: TestResult, gained: np.ndarray, lost: np.ndarray
) -> list[ClassChange]:
    names = first.class_names
    scores = [
        class_scores(test.labels, test.predictions, len(names))
        for test in (first, second)
    ]
    counts = [
        np.bincount(first.labels[images], minlength=len(names)).tolist()
        for images in (gained, lost)
    ]
    return [ClassChange(*each) for each in zip(names, *counts, *scores, strict=True)]
