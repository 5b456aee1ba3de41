"""Names of the variables that Keras 3 files only number."""

from collections.abc import Mapping, Sequence
from typing import Any

_Shapes = Sequence[tuple[int, ...]]
_CONVOLUTION = ("kernel", "bias")
_SEPARABLE = ("depthwise_kernel", "pointwise_kernel", "bias")
_RECURRENT = ("kernel", "recurrent_kernel", "bias")
_NORMALISATION = ("gamma", "beta")
_DIMENSIONS = ("1d", "2d", "3d")
# Variables by class, in the order in which Keras saves them.
_LEAVES: dict[str, tuple[str, ...]] = {
    "dense": _CONVOLUTION,
    "einsum_dense": _CONVOLUTION,
    **{f"conv{n}": _CONVOLUTION for n in _DIMENSIONS},
    **{f"conv{n}_transpose": _CONVOLUTION for n in _DIMENSIONS},
    **{f"depthwise_conv{n}": _CONVOLUTION for n in _DIMENSIONS},
    **{f"separable_conv{n}": _SEPARABLE for n in _DIMENSIONS},
    "batch_normalization": (*_NORMALISATION, "moving_mean", "moving_variance"),
    "layer_normalization": _NORMALISATION,
    "group_normalization": _NORMALISATION,
    "normalization": ("mean", "variance", "count"),
    "embedding": ("embeddings",),
    "p_re_lu": ("alpha",),
    "cell": _RECURRENT,
    "simple_rnn_cell": _RECURRENT,
    "gru_cell": _RECURRENT,
    "lstm_cell": _RECURRENT,
    **{f"conv_lstm{n}_cell": _RECURRENT for n in _DIMENSIONS},
    "seed_generator": ("seed_generator_state",),
}
# A variable is there unless the layer's config says no.
_SWITCHES = {"bias": "use_bias", "gamma": "scale", "beta": "center"}


def leaf_names(
    class_name: str | None, config: Mapping[str, Any] | None, shapes: _Shapes
) -> list[str] | None:
    """Return the names of a layer's variables, or None where they could be others.

    Args:
        class_name: The layer's class in snake case, where it is known.
        config: The layer's config, where the file has it.
        shapes: Of its variables, in their order.
    """
    leaves = _LEAVES.get(class_name or "")
    if leaves is None:
        return _from_shapes(shapes)
    names = _from_config(leaves, config) if config is not None else None
    if names is None or len(names) != len(shapes):
        names = _from_count(leaves, len(shapes))
    return names if names is not None and _fits(names, shapes) else None


def _from_config(leaves: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    return [leaf for leaf in leaves if config.get(_SWITCHES.get(leaf, ""), True)]


def _from_count(leaves: Sequence[str], count: int) -> list[str] | None:
    if count == len(leaves):
        return list(leaves)
    certain = [leaf for leaf in leaves if leaf not in _SWITCHES]
    if count == len(certain):
        return certain
    if count == len(certain) + 1:  # and one of two: only the layer knows which
        return ["vars/0", *certain]
    return None


def _fits(names: Sequence[str], shapes: _Shapes) -> bool:
    """Return whether the shapes are what variables of such names can have."""
    if "gamma" in names or "beta" in names or "moving_mean" in names:
        return len(set(shapes)) == 1
    by_name = dict(zip(names, shapes, strict=True))
    kernels = [by_name[name] for name in names if name.endswith("kernel")]
    return all(len(shape) >= 2 for shape in kernels)


def _from_shapes(shapes: _Shapes) -> list[str] | None:
    """Return the names that only one common kind of layer could mean."""
    if len(shapes) == 1 and len(shapes[0]) >= 2:
        return ["kernel"]
    if len(shapes) == 2 and len(shapes[0]) >= 2 and shapes[1] == shapes[0][-1:]:
        return ["kernel", "bias"]
    if len(shapes) == 4 and len(shapes[0]) == 1 and len(set(shapes)) == 1:
        return [*_NORMALISATION, "moving_mean", "moving_variance"]
    return None
