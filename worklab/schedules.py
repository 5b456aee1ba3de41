"""The learning rate as a pure function of the step."""

import math
from collections.abc import Callable

from worklab.options import ScheduleOptions

Schedule = Callable[[int], float]

# Source: PyTorch's OneCycleLR and Smith and Topin 2017, arXiv:1708.07120.
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1 / 25 / 1e4


def make_schedule(options: ScheduleOptions, num_steps: int | None = None) -> Schedule:
    """Return the function from step (counted from 0) to learning rate.

    Args:
        options: Shape and numbers.
        num_steps: Length of the run; `cosine` and `one-cycle` need it.

    Raises:
        ValueError: If a number is out of range, or `num_steps` is missing.

    Example:
        >>> schedule = make_schedule(ScheduleOptions(learning_rate=0.1, warmup_steps=4))
        >>> [round(schedule(step), 3) for step in range(5)]
        [0.025, 0.05, 0.075, 0.1, 0.1]
    """
    if not (math.isfinite(options.learning_rate) and options.learning_rate > 0):
        raise ValueError(
            "`learning_rate` must be above 0. "
            f"Received: learning_rate={options.learning_rate}"
        )
    if not 0 < options.rise < 1:
        raise ValueError(f"`rise` must be in (0, 1). Received: rise={options.rise}")
    if options.warmup_steps < 0:
        raise ValueError(
            "`warmup_steps` must be at least 0. "
            f"Received: warmup_steps={options.warmup_steps}"
        )
    if options.num_steps is not None:
        num_steps = options.num_steps
    if num_steps is not None and num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1. Received: {num_steps}")
    peak = options.learning_rate
    if options.name == "one-cycle":
        if options.warmup_steps:
            raise ValueError(
                "`one-cycle` has its own rise (`--schedule.rise`), so it takes no "
                f"warm-up. Received: warmup_steps={options.warmup_steps}"
            )
        total = _required(num_steps, options.name)
        return lambda step: peak * one_cycle(step, total, options.rise)
    warmup = options.warmup_steps

    def factor(step: int) -> float:
        if options.name == "fixed":
            return 1.0
        total = _required(num_steps, options.name)
        share = (step - warmup) / max(1, total - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))

    factor(0)  # a missing number of steps is an error now, not at the first step
    return lambda step: peak * ((step + 1) / warmup if step < warmup else factor(step))


def one_cycle(step: int, num_steps: int, rise: float) -> float:
    """Return the share of the peak at a step: a cosine up, then a longer one down.

    Source: PyTorch's OneCycleLR with its defaults (`anneal_strategy="cos"`,
        `div_factor=25`, `final_div_factor=1e4`); the phases end at
        `rise * num_steps - 1` and `num_steps - 1`.
    """
    top, last = rise * num_steps - 1, num_steps - 1
    step = min(step, last)
    if step <= top:
        return _between(_ONE_CYCLE_START, 1.0, step / top if top > 0 else 1.0)
    return _between(1.0, _ONE_CYCLE_END, (step - top) / (last - top))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _required(num_steps: int | None, name: str) -> int:
    if num_steps is None:
        raise ValueError(
            f"the schedule `{name}` needs a length; give `--schedule.num-steps`, or "
            "use `launchers/train.py`, which has one. "
            f"Received: schedule={name!r} without a number of steps"
        )
    return num_steps
