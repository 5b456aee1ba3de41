"""Dialects: what each framework calls a variable, and how it lays out its numbers."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import cv2
import keras
import numpy as np

# ImageNet's classes, and the same with the background as class 0, as tf-slim has it.
_IMAGENET, _WITH_BACKGROUND = 1000, 1001


@dataclasses.dataclass(frozen=True)
class Translation:
    """One way in which a file may hold a variable.

    Attributes:
        names: Names in the file; several where the variable is made from them.
        convert: From their arrays to the variable's.
        action: What that is called in the report.
    """

    names: tuple[str, ...]
    convert: Callable[..., np.ndarray] = lambda array: array
    action: str = "copied"


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The names and array layouts of one framework.

    Attributes:
        name: What `--restore.dialect` calls it.
        pattern: Of names that files in this dialect have.
        translate: From a layer, its name in the file and the leaf of a variable (as
            Keras calls it) to the ways in which the file may hold it, the likeliest
            first.
    """

    name: str
    pattern: str
    translate: Callable[[Any, str, str], Iterable[Translation]]


def recognise_dialect(names: Iterable[str]) -> Dialect:
    """Return the dialect whose pattern fits the most names.

    Raises:
        ValueError: If no name fits any.
    """
    names = list(names)
    counts = {
        dialect.name: sum(bool(re.search(dialect.pattern, name)) for name in names)
        for dialect in DIALECTS.values()
    }
    best = max(counts, key=lambda name: counts[name])
    if counts[best] == 0:
        raise ValueError(
            "the names in the file are of no dialect that is known; name the "
            f"framework with `--restore.dialect`, one of {list(DIALECTS)}. "
            f"Received: {names[:5]}"
        )
    return DIALECTS[best]


# === Keras, and this project's own files ===


def _translate_keras(layer: Any, source: str, leaf: str) -> Iterable[Translation]:
    leaves = [leaf]
    if isinstance(layer, keras.layers.DepthwiseConv2D) and leaf == "kernel":
        leaves.append("depthwise_kernel")  # as Keras 2 calls it
    elif "/" in leaf:
        leaves.append(leaf.rpartition("/")[2])  # an RNN's, without the cell
    elif leaf == "beta" and getattr(layer, "scale", None) is False:
        leaves.append("vars/0")  # Keras 3 does not say that this is not the gamma
    fit = functools.partial(_reshape_kernel, layer)
    return [Translation((_join(source, each),), fit) for each in leaves]


# === TensorFlow 1: tf-slim, ry/tensorflow-resnet ===

_TENSORFLOW_LEAVES = {
    "kernel": ("weights", "kernel"),
    "bias": ("biases", "bias"),
}
# Where a block keeps the variables of its layers `conv` and `bn`.
_TENSORFLOW_HOMES = {"conv": ("",), "bn": ("BatchNorm", "")}


def _translate_tensorflow(layer: Any, source: str, leaf: str) -> Iterable[Translation]:
    block, _, last = source.rpartition("/")
    homes = [source, *(_join(block, home) for home in _TENSORFLOW_HOMES.get(last, ()))]
    leaves = _TENSORFLOW_LEAVES.get(leaf, (leaf,))
    if isinstance(layer, keras.layers.DepthwiseConv2D) and leaf == "kernel":
        leaves = ("depthwise_weights", "depthwise_kernel")

    def convert(array: np.ndarray) -> np.ndarray:
        array = _without_background(layer, array)
        return _reshape_kernel(layer, array)

    return [
        Translation((_join(home, each),), convert) for home in homes for each in leaves
    ]


def _without_background(layer: Any, array: np.ndarray) -> np.ndarray:
    wanted = getattr(layer, "units", None) or getattr(layer, "filters", None)
    if wanted == _IMAGENET and array.shape[-1:] == (_WITH_BACKGROUND,):
        return array[..., 1:]
    return array


# === PyTorch ===

_TORCH_LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "alpha": "weight",  # PReLU
}


def _translate_torch(layer: Any, source: str, leaf: str) -> Iterable[Translation]:
    source = source.replace("/", ".")
    if isinstance(layer, keras.layers.LSTM | keras.layers.GRU):
        return [_translate_torch_rnn(layer, source, leaf, "")]
    if isinstance(layer, keras.layers.Bidirectional):
        backward = leaf.startswith("backward_")
        inner = layer.backward_layer if backward else layer.forward_layer
        suffix = "_reverse" if backward else ""
        return [_translate_torch_rnn(inner, source, leaf, suffix)]
    name = _join(source, _TORCH_LEAVES.get(leaf, leaf), ".")
    if leaf != "kernel":
        return [Translation((name,))]
    return [Translation((name,), functools.partial(_torch_kernel, layer), "transposed")]


def _torch_kernel(layer: Any, array: np.ndarray) -> np.ndarray:
    """Turn (outputs, inputs, height, width) to Keras's order.

    Source: docs/pretrained.md, table of layouts.
    """
    if isinstance(layer, keras.layers.Dense):
        if array.ndim == 2:
            flattened = _flattened_shape(layer.input)
            if flattened is None:
                return _transposed(array)
            *size, channels = flattened
            array = array.reshape(-1, channels, *size)
        # From (outputs, channels, height, width), or without the height.
        order = (*range(2, array.ndim), 1, 0)
        return array.transpose(order).reshape(-1, array.shape[0])
    if isinstance(layer, keras.layers.DepthwiseConv2D) and array.ndim == 4:
        multiplier = layer.depth_multiplier
        outputs, _, height, width = array.shape
        array = array.reshape(outputs // multiplier, multiplier, height, width)
        return array.transpose(2, 3, 0, 1)
    if array.ndim == 2:  # a linear layer as a 1x1 convolution
        return array.T.reshape(1, 1, *array.T.shape)
    outputs, inputs, *size = array.shape
    array = _transposed(array.reshape(outputs, -1)).reshape(inputs, *size, outputs)
    return np.moveaxis(array, 0, -2)


def _transposed(matrix: np.ndarray) -> np.ndarray:
    # OpenCV goes by blocks, which is five times as fast as NumPy's way.
    return cv2.transpose(matrix) if matrix.dtype == np.float32 else matrix.T


def _translate_torch_rnn(
    layer: Any, source: str, leaf: str, suffix: str
) -> Translation:
    """Translate an LSTM (i, f, g, o as in Keras) or a GRU (r, z, n to z, r, h)."""
    kind = leaf.rpartition("/")[2]
    is_gru = isinstance(layer, keras.layers.GRU)

    def gates(array: np.ndarray) -> np.ndarray:
        if not is_gru:
            return array
        reset, update, new = np.split(array, 3)
        return np.concatenate([update, reset, new])

    def kernel(array: np.ndarray) -> np.ndarray:
        return gates(array).T

    def bias(from_input: np.ndarray, from_state: np.ndarray) -> np.ndarray:
        if is_gru:
            return np.stack([gates(from_input), gates(from_state)])
        return from_input + from_state

    names = {
        "kernel": ("weight_ih_l0",),
        "recurrent_kernel": ("weight_hh_l0",),
        "bias": ("bias_ih_l0", "bias_hh_l0"),
    }.get(kind, (kind,))
    full = tuple(_join(source, name + suffix, ".") for name in names)
    if kind == "bias":
        return Translation(full, bias, "combined")
    return Translation(full, kernel, "transposed")


DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "keras",
            r"(^|/)(kernel|depthwise_kernel|moving_variance)$",
            _translate_keras,
        ),
        Dialect(
            "tensorflow",
            r"(^|/)(weights|biases|depthwise_weights)$|/BatchNorm/",
            _translate_tensorflow,
        ),
        Dialect("torch", r"(^|\.)(weight|running_var|weight_ih_l0)$", _translate_torch),
    )
}
"""The dialects by name; `keras` is also this project's own."""


# === The graph around a layer ===


def following_batch_norm(layer: Any) -> Any | None:
    """Return the batch normalisation that a layer's output goes to, and to it alone."""
    nodes = layer._outbound_nodes
    if len(nodes) != 1:
        return None
    follower = nodes[0].operation
    return follower if isinstance(follower, keras.layers.BatchNormalization) else None


def _flattened_shape(tensor: Any) -> tuple[int, ...] | None:
    """Return the shape that was flattened to a tensor (batch, n), if one was.

    Raises:
        ValueError: If something between has an order of its own.
    """
    is_plain = True  # each number goes its own way from the flattened ones
    waiting = [tensor]
    while waiting:
        operation = waiting.pop()._keras_history.operation
        if isinstance(operation, keras.layers.InputLayer):
            continue
        inputs = keras.tree.flatten(operation.input)
        shape = tuple(inputs[0].shape[1:])
        if len(shape) > 1:
            flattens = math.prod(n or 1 for n in shape) == tensor.shape[-1]
            if math.prod(n or 1 for n in shape[:-1]) == 1 or not (
                flattens or isinstance(operation, keras.layers.Flatten)
            ):
                continue  # a pooling, or nothing but channels
            if is_plain and flattens:
                return shape
            raise ValueError(
                "the order of the numbers between the flattened image and this layer "
                "is not known; restore=False begins anew"
            )
        numbers = [  # the state of a dropout is none
            variable
            for variable in getattr(operation, "variables", [])
            if not variable.path.endswith("seed_generator_state")
        ]
        if isinstance(operation, keras.layers.Dense):
            continue  # its outputs have no place in an image
        is_plain = is_plain and not numbers and len(inputs) == 1
        waiting += inputs
    return None


def _reshape_kernel(layer: Any, array: np.ndarray) -> np.ndarray:
    """Turn a dense kernel to a convolution's, or back; the order is the same."""
    if isinstance(layer, keras.layers.Dense) and array.ndim == 4:
        return array.reshape(-1, array.shape[-1])
    if isinstance(layer, keras.layers.Conv2D) and array.ndim == 2:
        shape = (*layer.kernel_size, -1, array.shape[-1])
        return array.reshape(shape)
    return array


def _join(outer: str, inner: str, separator: str = "/") -> str:
    return f"{outer}{separator}{inner}" if outer and inner else outer or inner
