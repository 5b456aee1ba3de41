"""Stages: which scopes learn from which step on, and how fast."""

import bisect
from collections.abc import Mapping
from typing import Any

from worklab.network import Network

History = tuple[tuple[int, float], ...]
"""Multipliers of a layer, each with the number of steps done before it, from 0 on."""


class Stages:
    """Sets a network's multipliers by the step: staged unfreezing.

    From the first step of a stage on, its scopes have the multipliers it gives; what it
    does not name goes on as before, at first with the network's own. A multiplier of 0
    freezes a scope altogether, as `lr_mult=0` does. The stage follows from the step
    alone, so a restored run is in the stage it was in.

    Args:
        network: Its multipliers are set.
        stages: Multipliers by scope, by the number of steps done before the stage.

    Attributes:
        first_steps: Steps done before each variable first learns, by name; variables
            that learn in no stage are not in it.

    Raises:
        ValueError: If a step is no whole number of at least 0, a scope is unknown, a
            multiplier is negative, or nothing learns in a stage.

    Example:
        >>> from worklab.networks.digits import DigitsNetwork
        >>> network = DigitsNetwork(10, image_shape=(32, 32, 3))
        >>> stages = Stages(network, {"0": {"stem": 0}, "500": {"stem": 0.1}})
        >>> network.policies["stem/conv"].lr_mult, stages.enter(500)
        (0, True)
        >>> network.policies["stem/conv"].lr_mult
        0.1
    """

    def __init__(
        self, network: Network, stages: Mapping[str, Mapping[str, float]]
    ) -> None:
        self.network = network
        own = {path: policy.lr_mult for path, policy in network.policies.items()}
        self._begins = [0]
        self._multipliers = [own]
        begins = {_step(key): stages[key] for key in stages}
        if len(begins) < len(stages):
            raise ValueError(
                "each stage must have a step of its own; give what begins together in "
                f"one. Received: {list(stages)}"
            )
        for begin, given in sorted(begins.items()):
            multipliers = self._multipliers[-1] | network.multipliers(given, "--stages")
            if begin == 0:
                self._multipliers = [multipliers]
                continue
            self._begins.append(begin)
            self._multipliers.append(multipliers)
        self.first_steps: dict[str, int] = {}
        for begin, multipliers in zip(self._begins, self._multipliers, strict=True):
            network.set_multipliers(multipliers)
            trained = _trained_names(network)
            if not trained:
                raise ValueError(
                    f"no layer of `{type(network).__name__}` can learn from step "
                    f"{begin} on: every `lr_mult` is 0. Give the last layer a positive "
                    f"one. Received: lr_mult=0 everywhere in stages={dict(stages)}"
                )
            for name in trained:
                self.first_steps.setdefault(name, begin)
        self._current = len(self._begins) - 1
        self.enter(0)

    @property
    def late(self) -> set[str]:
        """The names of the variables that begin to learn in a later stage."""
        return {name for name, step in self.first_steps.items() if step > 0}

    @property
    def variables(self) -> list[Any]:
        """The variables that learn in any stage, in the network's order."""
        network = self.network
        return [v for name, v in network.variables.items() if name in self.first_steps]

    def history(self, layer: str) -> History:
        """Return the multipliers of a layer, each with the step it is in force from."""
        history: list[tuple[int, float]] = []
        for begin, multipliers in zip(self._begins, self._multipliers, strict=True):
            multiplier = float(multipliers[layer])
            if not history or multiplier != history[-1][1]:
                history.append((begin, multiplier))
        return tuple(history)

    def enter(self, step: int) -> bool:
        """Set the multipliers for the next step.

        Args:
            step: Steps done.

        Returns:
            Whether they are others than before.
        """
        stage = bisect.bisect_right(self._begins, step) - 1
        changed = stage != self._current
        if changed:
            self.network.set_multipliers(self._multipliers[stage])
        self._current = stage
        return changed


def _step(key: str) -> int:
    if not str(key).isdecimal():
        raise ValueError(
            "a stage begins after a whole number of steps: `--stages 0:stem=0 "
            f"500:stem=0.1`. Received: {key!r}"
        )
    return int(key)


def _trained_names(network: Network) -> list[str]:
    trainable = {id(variable) for variable in network.model.trainable_variables}
    return [name for name, v in network.variables.items() if id(v) in trainable]
