"""Groups of layers that learn at one rate, and how far a step moves their weights."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from worklab.network import Network
from worklab.stages import History, Stages

_MOST_GROUPS = 16


class LayerGroups:
    """Tells how fast each group of a network's layers learns.

    Layers of a group have the same multiplier at every step of a training. To measure
    a step, take `weights` before it and `norms` after it: nothing of the step changes,
    and what is read is only copied where the step updates it.

    Args:
        network: Its layers with weights are grouped.
        stages: Their multipliers.

    Attributes:
        layers: Names of a group's layers, by the group's name, see `group_layers`;
            nothing is told of layers that are in none.
    """

    def __init__(self, network: Network, stages: Stages) -> None:
        self.network = network
        self.layers = group_layers(
            {
                path: stages.history(path)
                for path in network.policies
                if network.keras_layer(path).weights
            }
        )
        self._learning: list[str] = []
        self._variables: list[list[Any]] = []
        self._read: Any = None
        self._compare: Any = None

    def follow(self) -> None:
        """Take notice of which variables learn from now on."""
        learning = {id(v) for v in self.network.model.trainable_variables}
        group_of = {path: name for name, each in self.layers.items() for path in each}
        variables: dict[str, list[Any]] = {name: [] for name in self.layers}
        for name, variable in self.network.variables.items():
            path, _ = self.network.split(name)
            if id(variable) in learning and path in group_of:
                variables[group_of[path]].append(variable.value)
        self._learning = [name for name, each in variables.items() if each]
        self._variables = [variables[name] for name in self._learning]
        self._read = self._compare = None

    def rates(self, learning_rate: float) -> dict[str, float]:
        """Return the learning rate of each group in force now, 0 where it is frozen."""
        policies = self.network.policies
        return {
            name: learning_rate * policies[paths[0]].lr_mult
            for name, paths in self.layers.items()
        }

    def weights(self) -> list[list[tf.Tensor]]:
        """Return the weights that learn now, by group."""
        if self._read is None:
            # One call of a graph, as in `Session.save`.
            self._read = tf.function(
                self._read_values, autograph=False
            ).get_concrete_function()
        return self._read()

    def norms(self, before: list[list[tf.Tensor]]) -> tf.Tensor:
        """Return what `ratios` takes, of the weights before a step and those of now."""
        if self._compare is None:
            self._compare = tf.function(
                lambda before: _norms(before, self._read_values()), autograph=False
            ).get_concrete_function(tf.nest.map_structure(_spec, before))
        return self._compare(before)

    def ratios(self, norms: tf.Tensor) -> dict[str, float]:
        """Return the length of each group's change as a share of its weights' length.

        Args:
            norms: float32 (num_learning_groups, 2), as `norms` returns them.

        Returns:
            Ratios by group, without groups of which all weights were 0.
        """
        return {
            name: float(change / length)
            for name, (change, length) in zip(
                self._learning, norms.numpy(), strict=True
            )
            if length > 0
        }

    def _read_values(self) -> list[list[tf.Tensor]]:
        return [[v.read_value() for v in each] for each in self._variables]


def group_layers(histories: Mapping[str, History]) -> dict[str, list[str]]:
    """Group layers whose multipliers are equal at every step, by their outermost scope.

    A scope that has several multipliers is divided, and its parts are called after
    them. Where that makes more than 16 groups, as in a network without scopes, the
    multipliers alone make them. Where these are more than 16, too, as with a multiplier
    for each layer, 16 at equal steps from the first to the last stand for all.

    Args:
        histories: Multipliers of each layer, as `Stages.history` gives them.

    Example:
        >>> thawed = ((0, 0.0), (200, 1.0))
        >>> group_layers({"stem": ((0, 0.1),), "a/b": thawed, "a/c": ((0, 1.0),)})
        {'stem': ['stem'], 'a x0 then x1 from 200': ['a/b'], 'a x1': ['a/c']}
    """
    parts: dict[str, dict[History, list[str]]] = {}
    wholes: dict[History, list[str]] = {}
    for path, history in histories.items():
        scope = path.partition("/")[0]
        parts.setdefault(scope, {}).setdefault(history, []).append(path)
        wholes.setdefault(history, []).append(path)
    if sum(map(len, parts.values())) <= _MOST_GROUPS:
        return {
            scope if len(each) == 1 else f"{scope} {_spell(history)}": paths
            for scope, each in parts.items()
            for history, paths in each.items()
        }
    groups = [(_spell(history), paths) for history, paths in wholes.items()]
    num_shown = min(len(groups), _MOST_GROUPS)
    last = len(groups) - 1
    return dict(groups[last * n // max(num_shown - 1, 1)] for n in range(num_shown))


def _spell(history: History) -> str:
    """Return the name of a history, which no other has."""
    (_, first), *later = history
    words = [f"x{_exact(first)}"]
    words += [f"x{_exact(multiplier)} from {step}" for step, multiplier in later]
    return " then ".join(words)


def _exact(number: float) -> str:
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _norms(before: list[list[tf.Tensor]], after: list[list[tf.Tensor]]) -> tf.Tensor:
    return tf.stack(
        [
            [
                tf.linalg.global_norm([b - a for a, b in zip(old, new, strict=True)]),
                tf.linalg.global_norm(old),
            ]
            for old, new in zip(before, after, strict=True)
        ]
    )


def _spec(tensor: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tensor.dtype)
