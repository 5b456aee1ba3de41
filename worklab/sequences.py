"""Predefined sequences of steps and learning rates, and BiT's rule that chooses one."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from worklab.patience import check_loss

Segments = Sequence[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class HyperRule:
    """What BiT's HyperRule says about a data set.

    Attributes:
        segments: Steps and learning rate of each part, the warm-up in the first.
        warmup_steps: Steps in which the learning rate rises from zero.
        mixup: Alpha of MixUp; 0: none.

    Source: Kolesnikov et al. 2020, arXiv:1912.11370, section 3.3; the warm-up is that
        of the authors' code. They train with batches of 512.
    """

    segments: tuple[tuple[int, float], ...]
    warmup_steps: int
    mixup: float


def hyper_rule(num_images: int, learning_rate: float = 0.003) -> HyperRule:
    """Return what BiT's HyperRule says for a number of training images.

    Example:
        >>> hyper_rule(5000).segments
        ((200, 0.003), (100, 0.0003), (100, 3e-05), (100, 3e-06))
    """
    if num_images < 20_000:
        warmup, ends = 100, (200, 300, 400, 500)
    elif num_images < 500_000:
        warmup, ends = 500, (3000, 6000, 9000, 10_000)
    else:
        warmup, ends = 500, (6000, 12_000, 18_000, 20_000)
    begins = (0, *ends[:-1])
    segments = tuple(
        (end - begin, float(f"{learning_rate / 10**number:.6g}"))
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True))
    )
    return HyperRule(segments, warmup, 0.0 if num_images < 20_000 else 0.1)


class TrainingSequence:
    """Where a run is in a sequence of segments, each with its learning rate.

    Args:
        segments: Steps and learning rate of each, at least one.
        warmup_steps: Steps in which the first learning rate is reached from zero.

    Attributes:
        ends: Steps done at the end of each segment.
        tests: What `add` was given, one for each segment that was tested.

    Raises:
        ValueError: If there is no segment, or a number is out of range.

    Example:
        >>> sequence = TrainingSequence([(2, 0.1), (3, 0.01)])
        >>> [sequence.learning_rate(step) for step in range(5)], sequence.ends
        ([0.1, 0.1, 0.01, 0.01, 0.01], [2, 5])
    """

    def __init__(self, segments: Segments, *, warmup_steps: int = 0) -> None:
        fits = [steps >= 1 and math.isfinite(r) and r > 0 for steps, r in segments]
        if not fits or not all(fits) or warmup_steps < 0:
            raise ValueError(
                "a sequence has at least one pair of steps and learning rate, both "
                "above 0: `--sequence 200 0.05 100 0.005`; `warmup_steps` is at least "
                f"0. Received: {list(segments)}, warmup_steps={warmup_steps}"
            )
        self.segments = list(segments)
        self.warmup_steps = warmup_steps
        self.ends = [
            sum(steps for steps, _ in self.segments[: number + 1])
            for number in range(len(self.segments))
        ]
        self.tests: list[dict[str, Any]] = []

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0; the last one stays."""
        number = sum(step >= end for end in self.ends[:-1])
        rate = self.segments[number][1]
        return rate * min(1.0, (step + 1) / max(1, self.warmup_steps))

    def add(self, step: int, *, loss: float, accuracy: float) -> bool:
        """Take in the validation at the end of a segment.

        Returns:
            Whether its loss is the lowest so far.

        Raises:
            ValueError: If the loss is not finite.
        """
        check_loss(step, loss)
        number = len(self.tests)
        best = all(loss < test["loss"] for test in self.tests)
        self.tests.append(
            {
                "step": step,
                "learning_rate": self.segments[number][1],
                "loss": loss,
                "accuracy": accuracy,
            }
        )
        return best

    def get_state(self) -> dict[str, Any]:
        """Return what was tested, as JSON has it."""
        return {"tests": list(self.tests)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Become what `get_state` described."""
        self.tests = list(state["tests"])
