"""How often each record comes, and what it counts: pure functions of numbers."""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np


def draw_epoch(
    probabilities: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw as many records as there are, each by its probability, in random order.

    The draw is systematic (one random offset for all): a record that is expected 2.3
    times comes 2 or 3 times, a class or source that is expected 70.5 times 70 or 71
    times. So an epoch strays far less from the rates than independent draws would.

    Args:
        probabilities: float (num_records,), summing to 1.
        labels: Groups whose numbers stay near the expected, integers (num_records,).
        rng: The only source of chance.

    Returns:
        Numbers of records, int64 (num_records,).
    """
    count = len(probabilities)
    order = rng.permutation(count)
    order = order[np.argsort(labels[order], kind="stable")]
    borders = np.cumsum(probabilities[order]) * count
    borders[-1] = count  # whatever the rounding of the sum
    # The k-th draw falls on the record whose stretch of 0..count has k + offset.
    drawn = np.searchsorted(borders, np.arange(count) + rng.uniform(), side="right")
    return rng.permutation(order[drawn])


def class_balanced(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return probabilities of records by which every class comes equally often."""
    counts = np.bincount(labels, minlength=num_classes)
    return 1 / (np.count_nonzero(counts) * counts[labels])


def weights_of_classes(
    given: Mapping[str, float] | str, labels: np.ndarray, class_names: Sequence[str]
) -> np.ndarray:
    """Return what an image of each class counts in the loss, float (num_classes,).

    Args:
        given: Weights by class name; a class that is not named has 1. Or "balanced",
            scikit-learn's num_records / (num_classes x records of the class).
        labels: Of the records, integers (num_records,).
        class_names: Names in label order.

    Raises:
        ValueError: If a name is unknown or a weight not above 0.

    Example:
        >>> weights_of_classes("balanced", np.array([0, 0, 0, 1]), ["a", "b"]).round(2)
        array([0.67, 2.  ])
    """
    weights = np.ones(len(class_names))
    if isinstance(given, str):
        if given != "balanced":
            raise ValueError(
                "`class_weights` are numbers by class name, or 'balanced'. "
                f"Received: class_weights={given!r}"
            )
        # One line, where importing scikit-learn takes a process that reads a second.
        present, counts = np.unique(labels, return_counts=True)
        weights[present] = len(labels) / (len(present) * counts)
        return weights
    for name, weight in given.items():
        if name not in class_names:
            near = difflib.get_close_matches(name, class_names, n=3, cutoff=0.0)
            raise ValueError(
                f"`class_weights` names an unknown class; the nearest are {near}. "
                f"Received: class_weights={dict(given)}"
            )
        if not 0 < weight < float("inf"):
            raise ValueError(
                "weights of classes must be above 0; to leave a class out, take its "
                f"images off the list. Received: {name}={weight}"
            )
        weights[list(class_names).index(name)] = weight
    return weights


def checked_weights(weights: Sequence[float], names: Sequence[str]) -> np.ndarray:
    """Return weights of records as float64 (num_records,).

    Raises:
        ValueError: If one is not a number above 0; names the record.
    """
    for weight, name in zip(weights, names, strict=True):
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not (number and 0 < weight < float("inf")):
            raise ValueError(
                f"the `weight` of `{name}` must be a number above 0; to leave an image "
                f"out, take it off the list. Received: weight={weight!r}"
            )
    return np.array(weights, np.float64)
