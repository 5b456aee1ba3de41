"""Calibration: whether what a network is sure of, is right as often as it says."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from scipy import optimize

_LARGEST_TEMPERATURE = 1000.0  # and the smallest is its inverse
_ROWS_AT_ONCE = 1024  # so that no array is as large as all probabilities


@dataclasses.dataclass(frozen=True)
class ReliabilityBin:
    """Images whose confidence is above `lower` and not above `upper`.

    Attributes:
        lower: Of the confidence, 0..1.
        upper: Of the confidence, 0..1.
        num_images: In the bin.
        confidence: Their mean; None where there are none.
        accuracy: Share that is right; None where there are none.
    """

    lower: float
    upper: float
    num_images: int
    confidence: float | None
    accuracy: float | None


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How far accuracy is from confidence, and the numbers of the diagram.

    Attributes:
        expected_calibration_error: Mean distance of a bin's accuracy from its
            confidence, each bin counting as many times as it has images.
        maximum_calibration_error: Largest of the distances.
        bins: By rising confidence.
    """

    expected_calibration_error: float
    maximum_calibration_error: float
    bins: list[ReliabilityBin]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Reliability by equally wide bins and by equally full ones.

    Attributes:
        log_loss: Mean of -log of the label's probability.
        equal_width: Bins of the same width, as the calibration error is defined.
        equal_mass: Bins of as many images each; equal confidences stay together.
    """

    log_loss: float
    equal_width: Reliability
    equal_mass: Reliability


def calibration(
    labels: np.ndarray, probabilities: np.ndarray, *, num_bins: int = 15
) -> Calibration:
    """Return how well the largest probability tells how often the answer is right.

    Args:
        labels: Class indices, integers (num_images,).
        probabilities: Float (num_images, num_classes).
        num_bins: Number of bins.

    Source: C. Guo et al., On Calibration of Modern Neural Networks, 2017, equations 2
        to 5. Bins of equal mass: K. Nguyen and B. O'Connor, Posterior Calibration and
        Exploratory Analysis for Natural Language Processing Models, 2015.
    """
    confidences = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    likelihoods = probabilities[np.arange(len(labels)), labels]
    tiny = np.finfo(np.float32).tiny
    widths = np.linspace(0, 1, num_bins + 1)[1:]
    masses = _equal_mass_bounds(confidences, num_bins)
    return Calibration(
        log_loss=float(-np.log(np.maximum(likelihoods, tiny, dtype=float)).mean()),
        equal_width=reliability(confidences, correct, widths),
        equal_mass=reliability(confidences, correct, masses),
    )


def reliability(
    confidences: np.ndarray, correct: np.ndarray, upper_bounds: np.ndarray
) -> Reliability:
    """Return accuracy and confidence by bins of the confidence.

    Args:
        confidences: Float (num_images,), at least one, none above the last bound.
        correct: Whether the answer is right, bool (num_images,).
        upper_bounds: Of the bins, rising, which belong to them.

    Example:
        >>> confidences, correct = np.array([0.6, 0.8]), np.array([True, True])
        >>> found = reliability(confidences, correct, np.array([0.5, 1.0]))
        >>> round(found.expected_calibration_error, 3)
        0.3
    """
    bins = np.searchsorted(upper_bounds, confidences)
    bins = np.minimum(bins, len(upper_bounds) - 1)  # 1 and a rounding error
    size = len(upper_bounds)
    counts = np.bincount(bins, minlength=size)
    some = np.maximum(counts, 1)
    confidence = np.bincount(bins, confidences, size) / some
    accuracy = np.bincount(bins, correct, size) / some
    distances = np.abs(accuracy - confidence)
    return Reliability(
        expected_calibration_error=float(distances @ counts / len(confidences)),
        maximum_calibration_error=float(distances.max()),
        bins=[
            ReliabilityBin(
                lower=float(upper_bounds[number - 1]) if number else 0.0,
                upper=float(upper_bounds[number]),
                num_images=int(count),
                confidence=float(confidence[number]) if count else None,
                accuracy=float(accuracy[number]) if count else None,
            )
            for number, count in enumerate(counts)
        ],
    )


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float | None:
    """Return the temperature that logits should be divided by, the likeliest one.

    Fit it on images that were not trained on and are not tested, as the valid split.

    Args:
        labels: Class indices, integers (num_images,).
        logits: Float (num_images, num_classes).

    Returns:
        Above 1 for a network that is too sure; None where the likelihood has no
        maximum: all images are right, or labels less probable than other classes.

    Source: C. Guo et al., On Calibration of Modern Neural Networks, 2017, section 4.2.
    """
    rows = np.arange(len(labels))
    largest = logits.max(axis=1)
    of_labels = (logits[rows, labels] - largest).astype(np.float64)
    means = logits.mean(axis=1, dtype=np.float64) - largest
    # The loss is convex in 1 / temperature, and falls for ever or from the first on.
    if not of_labels.any() or means.mean() >= of_labels.mean():
        return None

    def log_loss(log_temperature: float) -> float:
        factor = np.exp(-log_temperature)
        sums = [each.sum(axis=1) for each in _exponentials(logits, factor)]
        return float(np.mean(np.log(np.concatenate(sums)) - factor * of_labels))

    bound = math.log(_LARGEST_TEMPERATURE)
    found = optimize.minimize_scalar(
        log_loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6}
    )
    return math.exp(found.x)


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities of logits divided by a temperature.

    The most probable class of an image stays the same.

    Args:
        logits: Float (num_images, num_classes).
        temperature: Above 0; 1 changes nothing.

    Returns:
        float32 (num_images, num_classes).
    """
    probabilities = np.empty(logits.shape, np.float32)
    start = 0
    for part in _exponentials(logits, 1 / temperature):
        part /= part.sum(axis=1, keepdims=True)
        probabilities[start : start + len(part)] = part
        start += len(part)
    return probabilities


def _equal_mass_bounds(confidences: np.ndarray, num_bins: int) -> np.ndarray:
    """Return the confidence with which each part of the images ends, once each."""
    ends = -(-np.arange(1, num_bins + 1) * len(confidences) // num_bins) - 1
    return np.unique(np.sort(confidences)[np.maximum(ends, 0)])


def _exponentials(logits: np.ndarray, factor: float) -> Iterator[np.ndarray]:
    """Yield exponentials of logits times a factor, the largest 1, float64, in parts."""
    for start in range(0, len(logits), _ROWS_AT_ONCE):
        part = logits[start : start + _ROWS_AT_ONCE].astype(np.float64)
        part -= part.max(axis=1, keepdims=True)
        part *= factor
        yield np.exp(part, out=part)
