"""Taking a whole Keras model into a Network, layer by layer, under policies."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from worklab.layers import BatchNormalization
from worklab.policies import Restore

Rules = Sequence[tuple[str, Any]]


def adopt(
    network: Any,
    model: keras.Model,
    inputs: Any,
    *,
    restore: Rules = (),
    lr_mult: Rules = (),
    weight_decay: Rules = (),
) -> Any:
    """Build a Keras model's layers anew in a network; see `Primitives.adopt`.

    Raises:
        ValueError: If the model is not functional, or a pattern fits no layer.
    """
    if not isinstance(model, keras.models.Functional | keras.Sequential):
        raise ValueError(
            "`adopt` takes functional and sequential Keras models, as their layers can "
            "be named and called one by one. "
            f"Received: {type(model).__name__} {model.name!r}"
        )
    rules = {"restore": restore, "lr_mult": lr_mult, "weight_decay": weight_decay}
    outputs = _adopt(network, model, inputs, "", rules)
    names = [layer.name for layer in model._flatten_layers(include_self=False)]
    for what, given in rules.items():
        for pattern, _ in given:
            if not any(re.fullmatch(pattern, name) for name in names):
                raise ValueError(
                    f"`{what}` has a pattern that fits no layer of `{model.name}`; its "
                    f"layers are called {names[:8]}, ... Received: {pattern!r}"
                )
    return outputs


def _adopt(
    network: Any, model: Any, inputs: Any, scope: str, rules: Mapping[str, Rules]
) -> Any:
    adopted: dict[int, Any] = {}  # a layer that is called twice is made once

    def take(operation: Any) -> Any:
        if not isinstance(operation, keras.layers.Layer):
            return operation  # a function, which has no variables
        if id(operation) not in adopted:
            adopted[id(operation)] = _Adopted(network, operation, scope, rules)
        return adopted[id(operation)]

    functional = model._functional if isinstance(model, keras.Sequential) else model
    return functional._run_through_graph(inputs, operation_fn=take)


class _Adopted:
    """A layer of the model that is made in the network at its first call."""

    def __init__(
        self, network: Any, layer: Any, scope: str, rules: Mapping[str, Rules]
    ) -> None:
        self._network = network
        self._layer = layer
        self._name = f"{scope}/{layer.name}".lstrip("/")
        self._rules = rules
        self._made: Any = None

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        if isinstance(self._layer, keras.models.Functional | keras.Sequential):
            return _adopt(
                self._network, self._layer, arguments[0], self._name, self._rules
            )
        if self._made is not None:
            return self._made(*arguments, **settings)
        return self._network.layer(
            self._make,
            *arguments,
            scope=self._name,
            policy=self._policy(),
            call=settings,
        )

    def _make(self, *, name: str, dtype: str) -> Any:
        config = self._layer.get_config() | {"name": name, "dtype": dtype}
        kind = type(self._layer)
        if kind is keras.layers.BatchNormalization and _is_of_images(self._layer):
            kind = BatchNormalization  # the same, fused
        self._made = kind.from_config(config)
        return self._made

    def _policy(self) -> dict[str, Any]:
        policy: dict[str, Any] = {}
        for what, rules in self._rules.items():
            for pattern, value in rules:
                match = re.fullmatch(pattern, self._layer.name)
                if match:
                    policy[what] = _expand(match, value)
                    break
        return policy


def _expand(match: re.Match[str], value: Any) -> Restore | float:
    return match.expand(value) if isinstance(value, str) else value


def _is_of_images(layer: Any) -> bool:
    return layer.axis in (-1, 3) and len(layer.input.shape) == 4
