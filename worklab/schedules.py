"""The learning rate as a function of the step: a shape, a warm-up, a cool-down."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from worklab.cool_down import CoolDown
from worklab.options import ScheduleOptions
from worklab.schedule_shapes import (
    cosine,
    exponential,
    one_cycle,
    one_cycle_momentum,
    polynomial,
    restart,
    triangular,
)

Shape = Callable[[int], float]

_CYCLES = ("triangular", "triangular2", "exp-range", "triangular-hold")
_USED_BY: dict[str, tuple[str, ...]] = {
    "num_steps": ("polynomial", "cosine", "one-cycle", *_CYCLES),
    "end_learning_rate": ("polynomial", "cosine"),
    "decay_steps": ("exponential",),
    "decay_rate": ("exponential",),
    "staircase": ("exponential",),
    "power": ("polynomial",),
    "drops": ("steps",),
    "drop_factor": ("steps",),
    "period": ("cosine",),
    "period_mult": ("cosine",),
    "peak_mult": ("cosine",),
    "base_learning_rate": _CYCLES,
    "stepsize": _CYCLES,
    "gamma": ("exp-range",),
    "hold": ("triangular-hold",),
    "cool_down": _CYCLES,
    "cool_down_decades": _CYCLES,
    "cool_down_patience": _CYCLES,
    "snapshots": ("cosine", *_CYCLES),
    "rise": ("one-cycle",),
    "start_factor": ("one-cycle",),
    "final_factor": ("one-cycle",),
    "anneal": ("one-cycle",),
    "three_phase": ("one-cycle",),
    "momentum": ("one-cycle",),
}

# Numbers that only count beside others, and what they need.
_NEEDS: dict[str, tuple[str, Callable[[ScheduleOptions], bool]]] = {
    "period_mult": ("`period`", lambda options: options.period is not None),
    "peak_mult": ("`period`", lambda options: options.period is not None),
    "snapshots": (
        "cycles",
        lambda options: options.name in _CYCLES or options.period is not None,
    ),
    "num_steps": (
        "a shape with a length, or `cool_down` log or step",
        lambda options: (
            options.cool_down in ("log", "step")
            if options.name in _CYCLES
            else options.period is None
        ),
    ),
    "cool_down_decades": ("`cool_down` log", lambda o: o.cool_down == "log"),
    "cool_down_patience": ("`cool_down` plateau", lambda o: o.cool_down == "plateau"),
}


class Schedule:
    """Learning rate, and where wanted momentum, as functions of the step.

    Both are pure functions of the step, counted from 0, but for a cool-down, whose
    state is `get_state`. `make_schedule` makes one from options; any function of the
    step can be made one, too.

    Args:
        learning_rate: Function of the step.
        momentum: Function of the step; None: the optimizer's own number holds.
        ends_cycle: Whether a cycle has ended after so many steps, at least 1.
        snapshots: Whether the checkpoints of these steps are kept.
        cool_down: What follows when the run is asked to settle.
        factor: Multiplies the learning rate at any step, e.g. patience's.

    Example:
        >>> schedule = Schedule(lambda step: 0.1 / (1 + step))
        >>> [schedule(step) for step in range(2)]
        [0.1, 0.05]
    """

    def __init__(
        self,
        learning_rate: Shape,
        *,
        momentum: Shape | None = None,
        ends_cycle: Callable[[int], bool] = lambda step: False,
        snapshots: bool = False,
        cool_down: CoolDown | None = None,
        factor: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.momentum = momentum
        self.ends_cycle = ends_cycle
        self.cool_down = cool_down or CoolDown("off")
        self.factor = factor
        self._learning_rate = learning_rate
        self._snapshots = snapshots

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        begun = self.cool_down.first_step is not None
        shape = self.cool_down.learning_rate if begun else self._learning_rate
        return shape(step) * self.factor()

    def is_snapshot(self, step: int) -> bool:
        """Return whether the checkpoint after so many steps is kept for good."""
        begun = self.cool_down.first_step is not None
        return self._snapshots and not begun and self.ends_cycle(step)

    def may_cool_down(self, step: int) -> bool:
        """Return whether a cool-down may begin after so many steps."""
        cool_down = self.cool_down
        waits = cool_down.mode != "off" and cool_down.first_step is None
        return waits and self.ends_cycle(step)

    def is_over(self, step: int) -> bool:
        """Return whether a cool-down has ended after so many steps."""
        return self.cool_down.is_over(step)

    def get_state(self) -> dict[str, Any]:
        """Return the state of the cool-down, as JSON has it."""
        return self.cool_down.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Become what `get_state` described."""
        self.cool_down.set_state(state)


def make_schedule(
    options: ScheduleOptions,
    num_steps: int | None = None,
    *,
    factor: Callable[[], float] = lambda: 1.0,
) -> Schedule:
    """Return the schedule that the options describe.

    In the warm-up the learning rate rises linearly from zero to where the shape
    begins; the shape's own steps are counted from there.

    Args:
        options: Shape and numbers.
        num_steps: Length of the run; shapes that have a length need it, or the option.
        factor: Multiplies the learning rate at any step, e.g. patience's.

    Raises:
        ValueError: If a number is out of range, belongs to another shape, or
            `num_steps` is missing.

    Example:
        >>> schedule = make_schedule(ScheduleOptions(learning_rate=0.1, warmup_steps=4))
        >>> [round(schedule(step), 3) for step in range(5)]
        [0.025, 0.05, 0.075, 0.1, 0.1]
    """
    _check(options)
    if options.num_steps is not None:
        num_steps = options.num_steps
    if num_steps is not None and num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1. Received: {num_steps}")
    warmup = options.warmup_steps
    length = None if num_steps is None else max(1, num_steps - warmup)
    shape = _shape(options, length)
    period = _period(options)
    restarts = options.name == "cosine" and options.period is not None

    def learning_rate(step: int) -> float:
        if step < warmup:
            return shape(0) * (step + 1) / warmup
        return shape(step - warmup)

    def ends_cycle(step: int) -> bool:
        step -= warmup
        if restarts and step > 0:
            return _restarts(options, step) > _restarts(options, step - 1)
        return period is not None and step > 0 and step % period == 0

    return Schedule(
        learning_rate,
        momentum=_momentum(options, length),
        ends_cycle=ends_cycle,
        snapshots=options.snapshots,
        cool_down=_cool_down(options, num_steps),
        factor=factor,
    )


def _shape(options: ScheduleOptions, length: int | None) -> Shape:
    """Return the learning rate as a function of the steps since the warm-up."""
    peak, end, name = options.learning_rate, options.end_learning_rate, options.name
    if name == "fixed":
        return lambda step: peak
    if name == "exponential":
        return lambda step: (
            peak
            * exponential(
                step,
                decay_steps=options.decay_steps,
                decay_rate=options.decay_rate,
                staircase=options.staircase,
            )
        )
    if name == "steps":
        drops = [drop - options.warmup_steps for drop in options.drops]
        return lambda step: (
            peak * options.drop_factor ** sum(step >= drop for drop in drops)
        )
    if name in _CYCLES:
        return lambda step: triangular(
            step,
            base=_base(options),
            peak=peak,
            stepsize=options.stepsize,
            hold=_hold(options),
            cycle_factor=0.5 if name == "triangular2" else 1.0,
            step_factor=options.gamma if name == "exp-range" else 1.0,
        )
    if name == "cosine" and options.period is not None:
        return lambda step: _restarting(step, options)
    total = _required(length, name)
    if name == "cosine":
        return lambda step: cosine(step, peak=peak, end=end, num_steps=total)
    if name == "polynomial":
        return lambda step: polynomial(
            step, peak=peak, end=end, num_steps=total, power=options.power
        )
    return lambda step: (
        peak
        * one_cycle(
            step,
            total,
            options.rise,
            start=options.start_factor,
            end=options.start_factor * options.final_factor,
            anneal=options.anneal,
            three_phase=options.three_phase,
        )
    )


def _restarting(step: int, options: ScheduleOptions) -> float:
    number, since, length = _restart(options, step)
    peak = options.learning_rate * options.peak_mult**number
    return cosine(since, peak=peak, end=options.end_learning_rate, num_steps=length)


def _restarts(options: ScheduleOptions, step: int) -> int:
    return _restart(options, step)[0]


def _restart(options: ScheduleOptions, step: int) -> tuple[int, float, float]:
    period = options.period or 1
    return restart(step, period=period, period_mult=options.period_mult)


def _momentum(options: ScheduleOptions, length: int | None) -> Shape | None:
    if options.name != "one-cycle" or options.momentum is None:
        return None
    total, warmup = _required(length, options.name), options.warmup_steps
    least, largest = options.momentum
    return lambda step: one_cycle_momentum(
        max(0, step - warmup),
        total,
        options.rise,
        least=least,
        largest=largest,
        anneal=options.anneal,
        three_phase=options.three_phase,
    )


def _cool_down(options: ScheduleOptions, num_steps: int | None) -> CoolDown:
    planned = None
    if options.cool_down in ("log", "step") and num_steps is not None:
        period = 2 * options.stepsize + _hold(options)
        room = num_steps - options.stepsize - options.warmup_steps
        planned = room // period * period + options.warmup_steps
        if planned <= options.warmup_steps:
            raise ValueError(
                "a cool-down comes after at least one whole cycle, which the run has "
                f"no room for: give {period + options.stepsize} steps and those of the "
                "warm-up, or a smaller `--schedule.stepsize`. "
                f"Received: num_steps={num_steps}"
            )
    return CoolDown(
        options.cool_down,
        base=_base(options),
        num_steps=options.stepsize,
        decades=options.cool_down_decades,
        patience=options.cool_down_patience,
        planned=planned,
    )


def _period(options: ScheduleOptions) -> int | None:
    if options.name not in _CYCLES:
        return None
    return 2 * options.stepsize + _hold(options)


def _hold(options: ScheduleOptions) -> int:
    if options.name != "triangular-hold":
        return 0
    return options.stepsize if options.hold is None else options.hold


def _base(options: ScheduleOptions) -> float:
    if options.base_learning_rate is None:
        return options.learning_rate / 4
    return options.base_learning_rate


def _required(length: int | None, name: str) -> int:
    if length is None:
        raise ValueError(
            f"the schedule `{name}` needs a length; give `--schedule.num-steps`, or "
            "use `launchers/train.py`, which has one. "
            f"Received: schedule={name!r} without a number of steps"
        )
    return length


def _check(options: ScheduleOptions) -> None:
    """Check that each number is in its range, and belongs to the shape.

    Raises:
        ValueError: If one does not.
    """
    base = options.base_learning_rate
    momentum = options.momentum or (0.0, 0.0)
    drops = list(options.drops)
    limits = {
        "learning_rate": ("above 0", _is_positive(options.learning_rate)),
        "warmup_steps": ("at least 0", options.warmup_steps >= 0),
        "end_learning_rate": (
            "from 0 to `learning_rate`",
            0 <= options.end_learning_rate <= options.learning_rate,
        ),
        "decay_steps": ("at least 1", options.decay_steps >= 1),
        "decay_rate": ("above 0", _is_positive(options.decay_rate)),
        "power": ("above 0", _is_positive(options.power)),
        "drops": (
            "at least one step for `steps`, all above 0 and rising",
            (drops or options.name != "steps")
            and drops == sorted({*drops})
            and min([1, *drops]) >= 1,
        ),
        "drop_factor": ("above 0", _is_positive(options.drop_factor)),
        "period": (
            "at least 1, or None",
            options.period is None or options.period >= 1,
        ),
        "period_mult": ("at least 1", options.period_mult >= 1),
        "peak_mult": ("in (0, 1]", 0 < options.peak_mult <= 1),
        "base_learning_rate": (
            "above 0 and below `learning_rate`",
            base is None or 0 < base < options.learning_rate,
        ),
        "stepsize": ("at least 1", options.stepsize >= 1),
        "gamma": ("in (0, 1]", 0 < options.gamma <= 1),
        "hold": ("at least 1, or None", options.hold is None or options.hold >= 1),
        "rise": ("in (0, 1)", 0 < options.rise < 1),
        "start_factor": ("in (0, 1]", 0 < options.start_factor <= 1),
        "final_factor": ("in (0, 1]", 0 < options.final_factor <= 1),
        "momentum": (
            "two numbers in [0, 1), the smaller first",
            0 <= momentum[0] <= momentum[1] < 1,
        ),
    }
    for name, (expected, holds) in limits.items():
        if not holds:
            raise ValueError(
                f"`{name}` of the schedule must be {expected}. "
                f"Received: {name}={getattr(options, name)}"
            )
    for field in dataclasses.fields(options):
        names = _USED_BY.get(field.name, (options.name,))
        given = getattr(options, field.name)
        if options.name not in names and given != field.default:
            raise ValueError(
                f"`--schedule.{field.name.replace('_', '-')}` belongs to "
                f"{', '.join(names)}; leave it out, or give `--schedule.name`. "
                f"Received: {field.name}={given!r} with the schedule {options.name!r}"
            )
        needed, has = _NEEDS.get(field.name, ("", lambda options: True))
        if given != field.default and not has(options):
            raise ValueError(
                f"`--schedule.{field.name.replace('_', '-')}` counts only with "
                f"{needed}; leave it out. Received: {field.name}={given!r}"
            )
    if options.three_phase and options.rise >= 0.5:
        raise ValueError(
            "with `three_phase` the rise and the fall must leave steps for the end, so "
            f"`rise` must be below 0.5. Received: rise={options.rise}"
        )


def _is_positive(number: float) -> bool:
    return math.isfinite(number) and number > 0
