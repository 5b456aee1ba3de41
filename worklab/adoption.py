"""Taking a whole Keras model into a Network, layer by layer, under policies."""

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from worklab.layers import AdaptedNormalization, BatchNormalization
from worklab.policies import Restore

Rules = Sequence[tuple[str, Any]]

# What models do with the pixels; in bfloat16, neighbouring values would become one.
_PREPROCESSING = (keras.layers.Rescaling, keras.layers.Normalization)


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
    graph = _graph(model)
    if graph is None:
        raise ValueError(
            "`adopt` takes functional and built sequential Keras models whose `call` "
            "is Keras's own, as their layers can be named and called one by one. "
            f"Received: {type(model).__name__} {model.name!r}"
        )
    names = _stable_names(model._flatten_layers(include_self=False))
    rules = {"restore": restore, "lr_mult": lr_mult, "weight_decay": weight_decay}
    for what, given in rules.items():
        for pattern, _ in given:
            if not any(re.fullmatch(pattern, name) for name in names.values()):
                raise ValueError(
                    f"`{what}` has a pattern that fits no layer of `{model.name}`; its "
                    f"layers are called {list(names.values())[:8]}, ... "
                    f"Received: {pattern!r}"
                )
    return _Adoption(network, names, rules).run(graph, inputs, "")


class _Adoption:
    """Makes each layer of a model in the network, at its first call."""

    def __init__(
        self, network: Any, names: Mapping[int, str], rules: Mapping[str, Rules]
    ) -> None:
        self._network = network
        self._names = names
        self._rules = rules
        self._made: dict[int, Any] = {}  # what is called twice is made once

    def run(self, graph: Any, inputs: Any, scope: str) -> Any:
        """Return what a functional model's layers make of the inputs."""

        def take(operation: Any) -> Any:
            if not isinstance(operation, keras.layers.Layer):
                return operation  # a function, which has no variables

            def call(*arguments: Any, **settings: Any) -> Any:
                return self._call(operation, scope, arguments, settings)

            return call

        return graph._run_through_graph(inputs, operation_fn=take)

    def _call(
        self,
        layer: Any,
        scope: str,
        arguments: tuple[Any, ...],
        settings: Mapping[str, Any],
    ) -> Any:
        name = self._names[id(layer)]
        path = f"{scope}/{name}".lstrip("/")
        graph = _graph(layer)
        if graph is not None:
            return self.run(graph, arguments[0], path)
        # Keras notes the masks that it looked for; our own layers take none.
        settings = {k: v for k, v in settings.items() if v is not None}
        if id(layer) in self._made:
            return self._made[id(layer)](*arguments, **settings)

        def make(*, name: str, dtype: str) -> Any:
            self._made[id(layer)] = _copy(layer, name, dtype)
            return self._made[id(layer)]

        parameters = list(inspect.signature(layer.call).parameters)
        further = dict(zip(parameters[1:], arguments[1:], strict=False))
        return self._network.layer(
            make,
            arguments[0],
            scope=path,
            policy=self._policy(name),
            call=further | settings,
        )

    def _policy(self, name: str) -> dict[str, Restore | float]:
        policy = {}
        for what, rules in self._rules.items():
            for pattern, value in rules:
                match = re.fullmatch(pattern, name)
                if match:
                    is_name = isinstance(value, str)
                    policy[what] = match.expand(value) if is_name else value
                    break
        return policy


def _graph(model: Any) -> Any:
    """Return the functional graph that a model consists of, or None."""
    if isinstance(model, keras.Sequential):
        return model._functional  # None until it is built
    made_of_layers = hasattr(model, "_run_through_graph")
    is_own = type(model).call.__module__.partition(".")[0] == "keras"
    return model if made_of_layers and is_own else None


def _stable_names(layers: Iterable[Any]) -> dict[int, str]:
    """Return the layers' names by their `id`, the same in every process.

    Keras calls a layer without a name by its class and by how many of the class the
    process has made before: `conv2d_94`. Here they are counted in the model alone,
    as they are in a process that made nothing before: `conv2d`, `conv2d_1`, ...
    """
    names = {id(layer): layer.name for layer in layers}
    counted = defaultdict(list)
    for layer in layers:
        match = re.fullmatch(r"(.+?)(?:_(\d+))?", layer.name)
        if match and match[1].replace("_", "") == type(layer).__name__.lower():
            counted[match[1]].append((int(match[2] or 0), id(layer)))
    for stem, found in counted.items():
        for number, (_, key) in enumerate(sorted(found)):
            names[key] = f"{stem}_{number}" if number else stem
    return names


def _copy(layer: Any, name: str, dtype: str) -> Any:
    if isinstance(layer, _PREPROCESSING):
        dtype = "float32"
    kind = type(layer)
    if kind is keras.layers.BatchNormalization and _is_of_images(layer):
        kind = BatchNormalization  # the same, fused
    elif kind is keras.layers.Normalization and layer.variables:
        kind = AdaptedNormalization  # the same, but what is restored has an effect
    return kind.from_config(layer.get_config() | {"name": name, "dtype": dtype})


def _is_of_images(layer: Any) -> bool:
    return layer.axis in (-1, 3) and layer.input_spec.ndim == 4
