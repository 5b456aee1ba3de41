"""The ways in which Keras 2 and 3 keep weights in HDF5."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from worklab.pretrained.formats import hdf5
from worklab.pretrained.formats.keras_config import LayerConfig
from worklab.pretrained.formats.keras_leaves import leaf_names
from worklab.pretrained.weights_file import Entry, Refusal, WeightsFile, refusing

FORMAT = "Keras HDF5"
_TOP_LEVEL = "top_level_model_weights"
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # the latter: Keras 2.13
# A layer's variable without a name, which Keras counts over the process; as in files
# that number variables. A layer's second one keeps its path.
_NAMELESS = re.compile(r"/[Vv]ariable(_\d+)?$")
_COUNTED = re.compile(r"(.+?)(?:_\d+)?")


def is_hdf5(path: Path) -> bool:
    """Return whether a file is HDF5."""
    return bool(h5py.is_hdf5(path))


def open_hdf5(path: Path) -> WeightsFile:
    """Open weights of Keras 2 (`.h5`) or 3 (`.h5`, `.weights.h5`)."""
    with refusing(path, FORMAT):
        file = h5py.File(path, "r", locking=False)
        with open(path, "rb") as raw:
            entries = read_entries(file, raw, {}, path.stat().st_size)
    return WeightsFile(path, FORMAT, entries, close=file.close)


def read_entries(
    file: Any, raw: BinaryIO, layers: Mapping[str, LayerConfig], file_bytes: int
) -> dict[str, Entry]:
    """Return the arrays of an open HDF5 file by their names, not read yet.

    Args:
        file: The file as `h5py` has it.
        raw: The same file.
        layers: What a `.keras` archive says of its layers, by their groups.
        file_bytes: Its size.

    Raises:
        Refusal: If it does not have Keras's layout, or claims more than it holds.
    """
    group = hdf5.child(file, "model_weights") if "model_weights" in file else file
    is_listed = _has(group, "layer_names")
    datasets = _listed(group) if is_listed else _numbered(file, raw, layers)
    if not datasets:
        raise Refusal(
            "it must have weights as Keras saves them", f"groups {list(file)[:5]}"
        )
    entries = {name: hdf5.entry(dataset) for name, dataset in datasets.items()}
    hdf5.check_total(entries.values(), file_bytes)
    return entries


def _has(group: Any, attribute: str) -> bool:
    return attribute in group.attrs or f"{attribute}0" in group.attrs  # a long one


def _listed(group: Any) -> dict[str, Any]:
    """Return datasets of a Keras 2 file, or a Keras 3 file of that form, by name.

    There the group of a layer has the attribute `weight_names`, and the names of most
    variables in it begin with its own: `conv1/conv1/kernel:0`.
    """
    found: dict[str, Any] = {}
    layers: list[str] = []
    for path, item in hdf5.objects(group):
        if isinstance(item, h5py.Group):
            if path and _has(item, "weight_names"):
                layers.append(path)
            continue
        layer = next((n for n in reversed(layers) if path.startswith(f"{n}/")), "")
        weight = re.sub(r":\d+$", "", path[len(layer) :].lstrip("/"))
        name = _NAMELESS.sub("/vars/0", _without_doubling(layer, weight))
        found[path if name in found else name] = item
    return found


def _without_doubling(layer: str, weight: str) -> str:
    if layer in ("", _TOP_LEVEL):
        return weight
    place = f"/{weight}".find(f"/{layer}/")  # after the name of a subclassed model
    return weight[place:] if place >= 0 else f"{layer}/{weight}"


def _numbered(
    file: Any, raw: BinaryIO, layers: Mapping[str, LayerConfig]
) -> dict[str, Any]:
    """Return datasets of a Keras 3 file by name.

    There each object's group has a group `vars`, with the object's name as attribute
    and its variables numbered. Groups are called by class and count: `layers/conv2d_1`.
    """
    objects = dict(hdf5.objects(file))
    owners = {
        path.removesuffix("vars").rstrip("/"): item
        for path, item in objects.items()
        if isinstance(item, h5py.Group) and f"/{path}".endswith("/vars")
    }
    named = {
        path: hdf5.name(raw, group) or _config_name(path, layers)
        for path, group in owners.items()
    }
    found: list[tuple[str, str, Any]] = []
    for path, group in owners.items():
        numbers = sorted(group, key=lambda number: (len(number), number))
        variables = [hdf5.child(group, number) for number in numbers]
        leaves = _leaves(path, named[path], layers, variables)
        leaves = leaves or [f"vars/{number}" for number in numbers]
        prefix = _readable(path, named)
        for leaf, number, variable in zip(leaves, numbers, variables, strict=True):
            plain = f"{path}/vars/{number}".lstrip("/")
            found.append((f"{prefix}/{leaf}".lstrip("/"), plain, variable))
    counts = Counter(name for name, _, _ in found)
    return {
        name if counts[name] == 1 else plain: variable
        for name, plain, variable in found
        if isinstance(variable, h5py.Dataset)
    }


def _config_name(path: str, layers: Mapping[str, LayerConfig]) -> str | None:
    return layers[path].name if path in layers else None


def _readable(path: str, named: Mapping[str, str | None]) -> str:
    if not path or path.split("/")[0] == "optimizer":  # which is not of the network
        return path
    parts = path.split("/")
    prefixes = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    return "/".join(
        named.get(prefix) or part
        for part, prefix in zip(parts, prefixes, strict=True)
        if prefix in named or part not in _CONTAINERS
    )


def _leaves(
    path: str,
    name: str | None,
    layers: Mapping[str, LayerConfig],
    variables: list[Any],
) -> list[str] | None:
    shapes = [tuple(getattr(v, "shape", None) or ()) for v in variables]
    layer = layers.get(path)
    if layer is not None and layer.name in (name, None):
        return leaf_names(layer.class_name, layer.config, shapes)
    match = _COUNTED.fullmatch(path.rpartition("/")[2])
    return leaf_names(match[1] if match else None, None, shapes)
