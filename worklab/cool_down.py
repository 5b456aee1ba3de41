"""Cool-down: the fall of the learning rate over decades, when a run is to settle."""

import math
from typing import Any, Literal

COOL_DOWN_FILE = "cool-down"
"""A file of this name in a run folder asks the run to settle at the cycle's end."""

Mode = Literal["off", "log", "step", "plateau"]

# As in dawnet's `SuperConvergence`, where training ends after the tenth.
_NUM_DROPS = 10
_DROP = 0.1

_STATE = ("first_step", "num_drops", "wait", "best_loss")


class CoolDown:
    """Lets the learning rate fall from the base of its cycles, from a step on.

    `log` falls by `decades` in `num_steps`, evenly in the logarithm; `step` falls to a
    tenth ten times in `num_steps`; `plateau` falls to a tenth whenever `patience`
    training losses in a row were no lower than the best, ten times; `off` never begins.

    Args:
        mode: Shape of the fall.
        base: Learning rate that it begins with.
        num_steps: Its length, where the mode has one.
        decades: What `log` falls by.
        patience: Steps without a lower training loss before `plateau` falls.
        planned: Step at which it begins in any case; None: when asked for.

    Attributes:
        first_step: Step at which it began; None: it has not.
        num_drops: How often `plateau` has fallen.
        wait: Steps since the lowest training loss, or since the last fall.
        best_loss: Lowest training loss since it began.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> cool_down = CoolDown("log", base=0.1, num_steps=30)
        >>> cool_down.begin(100)
        >>> [round(cool_down.learning_rate(step), 6) for step in (100, 110, 130, 200)]
        [0.1, 0.01, 0.0001, 0.0001]
        >>> cool_down.is_over(130)
        True
    """

    def __init__(
        self,
        mode: Mode = "off",
        *,
        base: float = 0.0,
        num_steps: int = 1,
        decades: float = 3.0,
        patience: int = 100,
        planned: int | None = None,
    ) -> None:
        if decades <= 0 or patience < 1:
            raise ValueError(
                "`cool_down_decades` must be above 0, and `cool_down_patience` at "
                f"least 1. Received: cool_down_decades={decades}, "
                f"cool_down_patience={patience}"
            )
        self.mode = mode
        self.base = base
        self.num_steps = num_steps
        self.decades = decades
        self.patience = patience
        self.planned = planned
        self.first_step: int | None = None
        self.num_drops = 0
        self.wait = 0
        self.best_loss = math.inf

    def begin(self, step: int) -> None:
        """Begin at a step; nothing happens if it has begun, or never does."""
        if self.mode != "off" and self.first_step is None:
            self.first_step = step

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step since it began, before any factor."""
        done = min(step - (self.first_step or 0), self.num_steps)
        if self.mode == "log":
            return float(self.base * 10 ** (-self.decades * done / self.num_steps))
        drops = self.num_drops
        if self.mode == "step":
            drops = done * _NUM_DROPS // self.num_steps
        return float(self.base * _DROP**drops)

    def observe(self, step: int, loss: float) -> None:
        """Take in a training loss, of the step counted from 1; earlier ones are not."""
        if self.mode != "plateau" or self.first_step is None or step <= self.first_step:
            return
        if loss < self.best_loss:
            self.best_loss, self.wait = loss, 0
            return
        self.wait += 1
        if self.wait >= self.patience and self.num_drops < _NUM_DROPS:
            self.num_drops += 1
            self.wait = 0

    @property
    def watches_loss(self) -> bool:
        """Whether the next learning rate depends on the training loss."""
        return self.mode == "plateau" and self.first_step is not None

    def is_over(self, step: int) -> bool:
        """Return whether nothing falls any more after so many steps."""
        if self.first_step is None:
            return False
        if self.mode == "plateau":
            return self.num_drops == _NUM_DROPS
        return step >= self.first_step + self.num_steps

    def get_state(self) -> dict[str, Any]:
        """Return what has happened, as JSON has it."""
        state = {name: getattr(self, name) for name in _STATE}
        if math.isinf(self.best_loss):
            state["best_loss"] = None
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Become what `get_state` described; nothing, if there is to be none now."""
        if self.mode == "off":
            return
        vars(self).update(state)
        if self.best_loss is None:
            self.best_loss = math.inf
