"""Where on the curve of a learning-rate range test a good learning rate is."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from worklab.options import FindOptions

# What the rules do not look at: the first tenth, where the average has just begun,
# and the last points, where the loss explodes.
_SKIPPED_SHARE, _SKIPPED_END = 10, 5

# A curve that falls by less than this share of its height says nothing.
_LEAST_FALL = 0.01

# Of rule `slide`: points between the two slopes, and when these are alike.
_SLIDE_WIDTH, _SLIDE_THRESHOLD = 15, 0.005


def find_rates(options: FindOptions) -> np.ndarray:
    """Return the learning rates of a range test, rising, `num_steps + 1` of them.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> find_rates(FindOptions(start=0.01, end=1, num_steps=2)).tolist()
        [0.01, 0.1, 1.0]
    """
    limits = {
        "start": options.start > 0,
        "end": options.start < options.end < math.inf,
        "num_steps": options.num_steps >= 1,
        "beta": 0 <= options.beta < 1,
        "stop_at": options.stop_at > 1,
        "repeats": options.repeats >= 1,
    }
    for name, holds in limits.items():
        if not holds:
            raise ValueError(
                f"`{name}` is out of range: `start` is above 0, `end` above `start`, "
                "`stop_at` above 1, `beta` in [0, 1), and the others are at least 1. "
                f"Received: {name}={getattr(options, name)}"
            )
    ways = np.arange(options.num_steps + 1) / options.num_steps
    if options.spacing == "linear":
        return options.start + (options.end - options.start) * ways
    return options.start * (options.end / options.start) ** ways


def smooth(losses: np.ndarray, beta: float) -> np.ndarray:
    """Return the moving average of losses, without the pull towards its start at 0.

    Args:
        losses: One of each step (num_losses,).
        beta: Momentum of the average, in [0, 1).

    Example:
        >>> smooth(np.array([4.0, 1.0]), 0.5).tolist()
        [4.0, 2.0]
    """
    average, averages = 0.0, []
    for number, loss in enumerate(np.asarray(losses, float).tolist(), start=1):
        average = beta * average + (1 - beta) * loss
        averages.append(average / (1 - beta**number))
    return np.array(averages)


def has_diverged(smooth_losses: np.ndarray, stop_at: float) -> bool:
    """Return whether a test ends here: the loss is not finite, or far from its best."""
    last = smooth_losses[-1]
    return not np.isfinite(last) or bool(last > stop_at * np.min(smooth_losses))


def valley(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """Return a rate half-way down the longest valley, or None where there is none.

    The valley is the longest strictly falling subsequence of the curve.
    """
    lengths = np.ones(len(losses), int)
    for index in range(1, len(losses)):
        higher = lengths[:index][losses[:index] > losses[index]]
        lengths[index] = 1 + higher.max(initial=0)
    if lengths.max(initial=0) < 3:  # a third of it is no whole point
        return None
    end = int(lengths.argmax())
    third = lengths[end] / 3
    return float(rates[end - lengths[end] + int(third) + int(third / 2)])


def slide(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """Return the rate up to which the slope is steady, seen from the end, or None.

    Two points slide from the end to the left until their slopes are alike.
    """
    if len(losses) <= _SLIDE_WIDTH + 1:
        return None
    slopes = np.gradient(losses)
    right, left = len(losses) - 1, len(losses) - 1 - _SLIDE_WIDTH
    rate = rates[left]
    while abs(slopes[right] - slopes[left]) > _SLIDE_THRESHOLD:
        rate = rates[left]
        right, left = right - 1, left - 1
        if left < 0:  # it is steady nowhere
            return None
    return float(rate)


def steep(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """Return the rate at which the loss falls fastest, over the rate's logarithm."""
    if len(losses) < 2:
        return None
    slopes = np.diff(losses) / np.diff(np.log(rates))
    return float(rates[slopes.argmin()]) if slopes.min() < 0 else None


def minimum(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """Return a tenth of the rate with the lowest loss, or None if that is the first."""
    if not len(losses) or losses.argmin() == 0:
        return None
    return float(rates[losses.argmin()] / 10)


RULES: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "valley": valley,
    "slide": slide,
    "steep": steep,
    "minimum": minimum,
}
"""What picks a rate from the rates and smoothed losses that `window` leaves."""


def window(
    rates: np.ndarray, smooth_losses: np.ndarray, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of a curve that the rules look at.

    Args:
        rates: Those that were tried.
        smooth_losses: As many.
        num_steps: Steps that the whole test would have had.
    """
    part = slice(num_steps // _SKIPPED_SHARE, -_SKIPPED_END)
    rates, losses = rates[: len(smooth_losses)][part], smooth_losses[part]
    bad = np.flatnonzero(~np.isfinite(losses))
    end = bad[0] if len(bad) else len(losses)
    return rates[:end], losses[:end]


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """What a learning-rate range test has found.

    Attributes:
        options: How it was made.
        step: Training steps that the weights had behind them.
        rates: Learning rates that were tried, rising (num_rates,).
        losses: Training loss of the batch at each, the mean over the repeats.
        smooth_losses: Their moving average, without bias.
        suggestions: Learning rate by each rule; None where the curve gives none.
    """

    options: FindOptions
    step: int
    rates: np.ndarray
    losses: np.ndarray
    smooth_losses: np.ndarray
    suggestions: dict[str, float | None]

    @property
    def suggestion(self) -> float | None:
        """The rate to use, by the rule that was asked for, or None."""
        return self.suggestions[self.options.suggestion]

    @property
    def stopped(self) -> bool:
        """Whether the loss ended the test before the last rate."""
        return len(self.rates) <= self.options.num_steps

    def why_none(self) -> str:
        """Return why there is no suggestion, and what to do; empty if there is one."""
        if self.suggestion is not None:
            return ""
        rates, losses = window(self.rates, self.smooth_losses, self.options.num_steps)
        start, num_steps = self.options.start, self.options.num_steps
        more = f"smaller steps (`--find.num-steps {max(100, 2 * num_steps)}`)"
        if len(rates) < 3:
            lower = f"start lower (`--find.start {start / 100:g}`), or "
            return (
                f"the curve is too short, {len(self.rates)} of {num_steps + 1} rates "
                f"were tried: {lower if self.stopped else ''}take {more}"
            )
        if not _falls(losses):
            return (
                f"the loss hardly falls at any rate from {rates[0]:.2g} to "
                f"{rates[-1]:.2g}: look at the curve, try another range "
                "(`--find.start`, `--find.end`), and check that the labels are right"
            )
        return (
            f"the rule `{self.options.suggestion}` finds no place on this curve: look "
            f"at it, and take another rule, or {more}"
        )


def evaluate(options: FindOptions, step: int, losses: np.ndarray) -> RangeTest:
    """Return what the losses of a range test say.

    Args:
        options: How it was made.
        step: Training steps that the weights had behind them.
        losses: Training loss at the first rates; the last may not be finite.
    """
    rates = find_rates(options)[: len(losses)]
    smooth_losses = smooth(losses, options.beta)
    seen = window(rates, smooth_losses, options.num_steps)
    suggestions = {
        name: rule(*seen) if _falls(seen[1]) else None for name, rule in RULES.items()
    }
    return RangeTest(options, step, rates, losses, smooth_losses, suggestions)


def _falls(losses: np.ndarray) -> bool:
    if not len(losses):
        return False
    highest = np.maximum.accumulate(losses)
    return bool((highest - losses > _LEAST_FALL * np.abs(highest)).any())
