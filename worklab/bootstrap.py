"""Bootstrap intervals: how far a number may be off, as the images are a sample."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
    """Where a number lies in 95 % of the resampled tests, if nothing else is said.

    Attributes:
        lower: Share (1 - level) / 2 of them is below.
        upper: The same share is above.
    """

    lower: float
    upper: float


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Percentile intervals of a test.

    Attributes:
        accuracy: Of the share of images that is right.
        loss: Of the mean loss.
        macro_f1: Of the mean F1 of the classes that occur.
        num_resamples: How often as many images were drawn, with replacement.
        level: Share of the resamples that an interval holds.
    """

    accuracy: Interval
    loss: Interval
    macro_f1: Interval
    num_resamples: int
    level: float


def bootstrap_intervals(
    labels: np.ndarray,
    predictions: np.ndarray,
    losses: np.ndarray,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals | None:
    """Return percentile intervals by resampling the images of a test.

    That of macro F1 is moved by the bias of its resamples, Efron and Tibshirani's
    chapter 10, or it would miss the test's own number where classes are small.

    They say how much the numbers owe to the choice of test images, but not what another
    training would have brought. The same images in another order give the same.

    Args:
        labels: Class indices, integers (num_images,).
        predictions: Class indices, integers (num_images,).
        losses: Float (num_images,).
        num_resamples: Number of resamples; 1000 make bounds that are steady to some
            hundredths of the interval.
        level: Share of the resamples that an interval holds, in (0, 1).
        seed: Of the resampling.

    Returns:
        None for fewer than two images, which tell nothing of their spread.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993,
        chapter 13.
    """
    if len(labels) < 2:
        return None
    order = np.lexsort((losses, predictions, labels))
    labels, predictions = labels[order], predictions[order]
    losses = losses[order].astype(np.float64)
    size = int(max(labels.max(), predictions.max())) + 1
    rng = np.random.default_rng(seed)
    found = np.empty((num_resamples, 3))
    for row in found:
        drawn = rng.integers(len(labels), size=len(labels))
        right = labels[drawn] == predictions[drawn]
        macro_f1 = _macro_f1(labels[drawn], predictions[drawn], right, size)
        row[:] = right.mean(), losses[drawn].mean(), macro_f1
    # Drawn with replacement, a class of few images has fewer different ones, which
    # lowers the mean F1 of many such classes: that bias is taken off.
    macro_f1 = _macro_f1(labels, predictions, labels == predictions, size)
    found[:, 2] = np.clip(found[:, 2] - found[:, 2].mean() + macro_f1, 0, 1)
    accuracy, loss, f1_interval = (percentile_interval(each, level) for each in found.T)
    return Intervals(accuracy, loss, f1_interval, num_resamples, level)


def _macro_f1(
    labels: np.ndarray, predictions: np.ndarray, right: np.ndarray, num_classes: int
) -> float:
    true = np.bincount(labels[right], minlength=num_classes)
    both = np.bincount(labels, minlength=num_classes)
    both += np.bincount(predictions, minlength=num_classes)
    return float((2 * true[both > 0] / both[both > 0]).mean())


def bootstrap_mean(
    values: np.ndarray,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Return the percentile interval of a mean over images, as that of a difference.

    Args:
        values: One for each image, float (num_images,); their order says nothing.
        num_resamples: Number of resamples.
        level: Share of the resamples that the interval holds, in (0, 1).
        seed: Of the resampling.

    Returns:
        None for fewer than two images.
    """
    if len(values) < 2:
        return None
    values, rng = np.sort(values), np.random.default_rng(seed)
    means = [
        values[rng.integers(len(values), size=len(values))].mean()
        for _ in range(num_resamples)
    ]
    return percentile_interval(np.array(means), level)


def percentile_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Return the interval that holds the middle share of values.

    Example:
        >>> round(percentile_interval(np.arange(1001), 0.95).upper)
        975
    """
    tail = (1 - level) / 2
    lower, upper = np.quantile(values, [tail, 1 - tail]).tolist()
    return Interval(lower, upper)
