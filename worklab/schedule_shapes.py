"""Learning-rate policies as published: pure functions of the step, counted from 0."""

import math
from typing import Literal

Anneal = Literal["cos", "linear"]

# Source of the three beginnings and ends below: PyTorch's OneCycleLR.
_ONE_CYCLE_LEAST_PHASE = 1e-9


def exponential(
    step: int, *, decay_steps: int, decay_rate: float, staircase: bool
) -> float:
    """Return `decay_rate` to the power of `step / decay_steps`, whole if `staircase`.

    Source: `tf.keras.optimizers.schedules.ExponentialDecay`.
    """
    power = step / decay_steps
    return float(decay_rate ** (math.floor(power) if staircase else power))


def polynomial(
    step: int, *, peak: float, end: float, num_steps: int, power: float
) -> float:
    """Return the fall from `peak` to `end` in `num_steps`, where it stays.

    Source: `tf.keras.optimizers.schedules.PolynomialDecay` with `cycle=False`.
    """
    left = 1 - min(step, num_steps) / num_steps
    return float((peak - end) * left**power + end)


def cosine(step: float, *, peak: float, end: float, num_steps: float) -> float:
    """Return the half cosine from `peak` to `end` in `num_steps`, where it stays.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5.
    """
    return _between(peak, end, min(step / max(1, num_steps), 1.0), "cos")


def restart(step: int, *, period: int, period_mult: float) -> tuple[int, float, float]:
    """Return the number of restarts before a step, the steps since, and the period.

    The period after each restart is `period_mult` times the one before.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, T_cur and T_i.
    """
    if period_mult == 1:
        return step // period, step % period, period
    number, begin, length = 0, 0.0, float(period)
    while step >= begin + length:
        begin += length
        length *= period_mult
        number += 1
    return number, step - begin, length


def triangular(
    step: int,
    *,
    base: float,
    peak: float,
    stepsize: int,
    hold: int = 0,
    cycle_factor: float = 1.0,
    step_factor: float = 1.0,
) -> float:
    """Return a rise from `base` to `peak` and the fall back, then `hold` steps there.

    Args:
        step: Counted from 0.
        base: Least learning rate.
        peak: Largest learning rate of the first cycle.
        stepsize: Steps of the rise, and of the fall.
        hold: Steps at the base after each fall.
        cycle_factor: Height of a cycle as a multiple of the one before: 1/2 is the
            policy `triangular2`.
        step_factor: Factor on the height at each step, the policy `exp_range`.

    Source: Smith 2017, arXiv:1506.01186; the formula is that of the author's code.
    """
    cycle, place = divmod(step, 2 * stepsize + hold)
    distance = abs(min(place, 2 * stepsize) / stepsize - 1)  # from the peak, in 0..1
    height = cycle_factor**cycle * step_factor**step
    return base + (peak - base) * max(0.0, 1 - distance) * height


def one_cycle(
    step: int,
    num_steps: int,
    rise: float,
    *,
    start: float = 1 / 25,
    end: float = 1 / 25 / 1e4,
    anneal: Anneal = "cos",
    three_phase: bool = False,
) -> float:
    """Return the share of the peak at a step: up, and a longer way down below `start`.

    Source: PyTorch's OneCycleLR with its defaults; the phases end at
        `rise * num_steps - 1`, with three also at `2 * rise * num_steps - 2`, and at
        `num_steps - 1`. Smith and Topin 2017, arXiv:1708.07120, use three, linear.
    """
    top, bottom, last = _one_cycle_phases(num_steps, rise, three_phase)
    if step <= top:
        return _phase(step, 0.0, top, start, 1.0, anneal)
    if three_phase and step <= bottom:
        return _phase(step, top, bottom, 1.0, start, anneal)
    return _phase(step, bottom, last, start if three_phase else 1.0, end, anneal)


def one_cycle_momentum(
    step: int,
    num_steps: int,
    rise: float,
    *,
    least: float,
    largest: float,
    anneal: Anneal = "cos",
    three_phase: bool = False,
) -> float:
    """Return the momentum at a step: `least` where the learning rate is at its peak.

    Source: PyTorch's OneCycleLR with `cycle_momentum=True`.
    """
    top, bottom, last = _one_cycle_phases(num_steps, rise, three_phase)
    if step <= top:
        return _phase(step, 0.0, top, largest, least, anneal)
    if three_phase and step > bottom:
        return largest
    end = bottom if three_phase else last
    return _phase(step, top, end, least, largest, anneal)


def _one_cycle_phases(
    num_steps: int, rise: float, three_phase: bool
) -> tuple[float, float, float]:
    """Return the steps at which the rise, the fall and the end of it are complete."""
    top = rise * num_steps - 1
    return top, 2 * top if three_phase else top, num_steps - 1.0


def _phase(
    step: int, begin: float, end: float, start: float, goal: float, anneal: Anneal
) -> float:
    length = end - begin
    # A run of few steps may have no room for a phase: it is over then.
    share = (step - begin) / length if length > _ONE_CYCLE_LEAST_PHASE else 1.0
    return _between(start, goal, min(1.0, share), anneal)


def _between(start: float, end: float, share: float, anneal: Anneal) -> float:
    if anneal == "linear":
        return start + (end - start) * share
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
