"""What the `config.json` of a `.keras` archive says of the layers, without Keras."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """A layer.

    Attributes:
        class_name: Its class in snake case.
        name: Its name; None if it is called by what it is to another layer.
        config: Its arguments.
    """

    class_name: str
    name: str | None
    config: Mapping[str, Any]


def find_layers(model: Any) -> dict[str, LayerConfig]:
    """Return the layers of a model's config by their groups in its weights."""
    return dict(_layers("", _config(model)))


def _layers(path: str, config: Mapping[str, Any]) -> Iterator[tuple[str, LayerConfig]]:
    counts: Counter[str] = Counter()
    layers = config.get("layers")
    for layer in layers if isinstance(layers, list) else []:
        class_name = _snake_case(_class_name(layer))
        number = counts[class_name]
        counts[class_name] += 1
        group = f"{class_name}_{number}" if number else class_name
        yield from _with_parts(f"{path}layers/{group}", layer)


def _with_parts(path: str, layer: Any) -> Iterator[tuple[str, LayerConfig]]:
    """Yield a layer and what it holds: a model's layers, a wrapped layer, a cell."""
    config = _config(layer)
    name = config.get("name")
    class_name = _snake_case(_class_name(layer))
    yield path, LayerConfig(class_name, name if isinstance(name, str) else None, config)
    yield from _layers(f"{path}/", config)
    if "recurrent_initializer" in config:  # LSTM and the like have their cell's options
        yield f"{path}/cell", LayerConfig("cell", None, config)
    for key, part in config.items():
        if not _class_name(part) or key.startswith("build_"):
            continue
        yield from _with_parts(f"{path}/{key}", part)
        if class_name == "bidirectional" and key == "layer":
            for group, part_config in _with_parts("", part):
                unnamed = dataclasses.replace(part_config, name=None)
                yield f"{path}/forward_layer{group}", unnamed
                yield f"{path}/backward_layer{group}", unnamed


def _class_name(layer: Any) -> str:
    name = layer.get("class_name") if isinstance(layer, dict) else None
    return name if isinstance(name, str) else ""


def _config(layer: Any) -> Mapping[str, Any]:
    config = layer.get("config") if isinstance(layer, dict) else None
    return config if isinstance(config, dict) else {}


def _snake_case(name: str) -> str:
    """Return a class's name as Keras calls its groups; its function is not public."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
