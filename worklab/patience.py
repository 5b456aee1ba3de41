"""Patience: when to lower the learning rate and when to stop."""

import math
from typing import Any, Literal

from worklab.options import PatienceOptions

Decision = Literal["best", "wait", "decay", "stop"]

_STATE = (
    *("best_loss", "best_step", "last_step", "wait", "num_decays", "complete"),
    "decay_steps",
)


class Patience:
    """Counts validations without a lower loss; a small state machine, no training.

    `patience` validations without a new best lower the learning rate by `factor`;
    after `max_decays` of these the next one completes the run. After a decay the
    count begins anew, and the best loss stays what it was.

    Args:
        options: Numbers of the machine.
        warmup_steps: Validations of earlier steps may be the best, but are not waited
            for: a loss that does not fall while the learning rate rises says nothing.

    Attributes:
        best_loss: Lowest validation loss so far.
        best_step: Step of that loss; None before the first validation.
        last_step: Step of the newest validation; 0 before the first.
        wait: Validations since the best, or since the last decay.
        num_decays: How often the learning rate has fallen.
        decay_steps: Steps at which it did.
        complete: Whether the run is over.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> patience = Patience(PatienceOptions(patience=1, max_decays=1))
        >>> [patience.update(step, loss) for step, loss in enumerate([3, 2, 2, 2])]
        ['best', 'best', 'decay', 'stop']
    """

    def __init__(self, options: PatienceOptions, warmup_steps: int = 0) -> None:
        _check(options)
        self.options = options
        self.warmup_steps = warmup_steps
        self.best_loss = math.inf
        self.best_step: int | None = None
        self.last_step = 0
        self.wait = 0
        self.num_decays = 0
        self.decay_steps: list[int] = []
        self.complete = False

    @property
    def factor(self) -> float:
        """What the learning rate is multiplied with now."""
        return self.options.factor**self.num_decays

    def update(self, step: int, loss: float) -> Decision:
        """Take in a validation and say what follows.

        Args:
            step: Step that was validated.
            loss: Its validation loss, finite.

        Returns:
            `best` for a new best, `wait` to go on, `decay` when the learning rate has
            just fallen (go back to `best_step`), `stop` when the run is complete.

        Raises:
            ValueError: If the loss is not finite.
        """
        check_loss(step, loss)
        self.last_step = step
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.wait = loss, step, 0
            return "best"
        if step < self.warmup_steps:
            return "wait"
        self.wait += 1
        if self.wait < self.options.patience:
            return "wait"
        if self.num_decays >= self.options.max_decays:
            self.complete = True
            return "stop"
        self.num_decays += 1
        self.decay_steps = [*self.decay_steps, step]
        self.wait = 0
        return "decay"

    def get_state(self) -> dict[str, Any]:
        """Return everything but the options, as JSON has it."""
        state = {name: getattr(self, name) for name in _STATE}
        if self.best_step is None:
            state["best_loss"] = None  # infinity is not JSON
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Become what `get_state` described."""
        vars(self).update(state)
        if self.best_loss is None:
            self.best_loss = math.inf


def check_loss(step: int, loss: float) -> None:
    """Check that a validation loss can be compared with others.

    Raises:
        ValueError: If it is not finite; names the step.
    """
    if not math.isfinite(loss):
        raise ValueError(
            f"the validation loss at step {step} is not finite; lower the learning "
            f"rate or clip the gradient. Received: loss={loss}"
        )


def _check(options: PatienceOptions) -> None:
    limits = {
        "valid_every": options.valid_every >= 1,
        "patience": options.patience >= 1,
        "factor": 0 < options.factor < 1,
        "max_decays": options.max_decays >= 0,
    }
    for name, holds in limits.items():
        if not holds:
            raise ValueError(
                f"`{name}` is out of range: `valid_every` and `patience` are at least "
                "1, `factor` is in (0, 1), `max_decays` at least 0. "
                f"Received: {name}={getattr(options, name)!r}"
            )
