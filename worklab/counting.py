"""Counts a network's parameters, multiply-accumulates and activations, by layer."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

import keras
from rich.console import Console
from rich.table import Table

from worklab.layers import (
    AdaptedNormalization,
    BatchNormalization,
    LocalResponseNormalization,
    PointwiseConv2D,
)
from worklab.network import Network

CONVENTION = """\
All for one image and one forward pass. MACs are the multiply-accumulates of
convolutions, matrices, recurrent layers and attention; biases, normalisation,
activations, pooling, additions and resizing are not counted. A MAC is one
multiplication and one addition: who counts FLOPs counts two. Activations are the
elements of every output; statistics are not parameters (moving means, variances)."""

# What has no MACs by the convention. Whatever is neither here nor in `_FORMULAS` is
# listed as not counted.
_FREE_LAYERS = frozenset(
    {getattr(keras.layers, f"{kind}{n}D") for n in (1, 2, 3) for kind in (
        "AdaptiveAveragePooling", "AdaptiveMaxPooling", "AveragePooling", "Cropping",
        "GlobalAveragePooling", "GlobalMaxPooling", "MaxPooling", "SpatialDropout",
        "UpSampling", "ZeroPadding",
    )}
    | {getattr(keras.layers, kind) for kind in (
        "Activation", "ActivityRegularization", "Add", "AlphaDropout", "Average",
        "BatchNormalization", "CenterCrop", "Concatenate", "Dropout", "ELU",
        "Embedding", "Flatten", "GaussianDropout", "GaussianNoise",
        "GroupNormalization", "Identity", "LayerNormalization", "LeakyReLU", "Masking",
        "Maximum", "Minimum", "Multiply", "Normalization", "PReLU", "Permute",
        "RMSNormalization", "ReLU", "RepeatVector", "Rescaling", "Reshape", "Resizing",
        "Softmax", "Subtract", "UnitNormalization",
    )}
    | {AdaptedNormalization, BatchNormalization, LocalResponseNormalization}
)  # fmt: skip

# Functions of `keras.ops` in a graph, by the names of their classes, which are private.
_FREE_OPERATIONS = frozenset({
    "Absolute", "Add", "Broadcast", "BroadcastTo", "Cast", "Clip", "Concatenate", "Cos",
    "Divide", "Exp", "ExpandDims", "Flip", "Gelu", "GetItem", "HardSigmoid", "HardSilu",
    "Identity", "Log", "Max", "Maximum", "Mean", "Min", "Minimum", "Moveaxis",
    "Multiply", "Negative", "Pad", "Power", "Relu", "Relu6", "Repeat", "Reshape",
    "Rsqrt", "Sigmoid", "Silu", "Sin", "Softmax", "Split", "Sqrt", "Square", "Squeeze",
    "Stack", "Subtract", "Sum", "Swapaxes", "Tanh", "Tile", "Transpose", "TrueDivide",
    "Where",
})  # fmt: skip

# Elementwise multiplications of one step, for each unit: the gates upon the state.
_GATE_PRODUCTS = {
    keras.layers.LSTMCell: 3,
    keras.layers.GRUCell: 3,
    keras.layers.SimpleRNNCell: 0,
}
_RECURRENT_LAYERS = (
    keras.layers.RNN,
    keras.layers.LSTM,
    keras.layers.GRU,
    keras.layers.SimpleRNN,
)

# MACs and products of gates; None: it cannot be counted.
_Cost = tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class LayerWork:
    """What one call of a layer costs, for one image.

    Attributes:
        layer: Name; within a nested model it follows that model's, after a slash.
        kind: Class of the layer.
        output_shape: Without the batch; of several outputs the first.
        trainable: Parameters that training changes.
        frozen: Parameters that it does not (`lr_mult=0`).
        statistics: Numbers that are no parameters, e.g. moving means and variances.
        macs: Multiply-accumulates; None: the layer cannot be counted.
        gate_products: Elementwise multiplications of a recurrent layer's gates, which
            are not among the MACs.
        activations: Elements of all outputs.

    A layer that is called again has its parameters in its first row only.
    """

    layer: str
    kind: str
    output_shape: tuple[int, ...]
    trainable: int
    frozen: int
    statistics: int
    macs: int | None
    gate_products: int
    activations: int

    @property
    def parameters(self) -> int:
        """Parameters, trainable and frozen, without statistics."""
        return self.trainable + self.frozen


@dataclasses.dataclass(frozen=True)
class Work:
    """What a network costs, by layer and in total.

    Attributes:
        rows: One for each call of a layer, in the order of the graph.
    """

    rows: tuple[LayerWork, ...]

    def total(self, name: str) -> int:
        """Return the sum over all rows of one of their numbers, e.g. `macs`.

        With rows that are not counted, that of `macs` is a lower bound.
        """
        return sum(getattr(row, name) or 0 for row in self.rows)

    @property
    def not_counted(self) -> tuple[LayerWork, ...]:
        """The rows whose MACs are unknown; where there are any, the total is less."""
        return tuple(row for row in self.rows if row.macs is None)

    def show(self, console: Console) -> None:
        """Print the table, the totals and what was counted."""
        table = Table("layer", "kind", "output")
        numbers = ("trainable", "frozen", "statistics", "MACs", "activations")
        for title in numbers:
            table.add_column(title, justify="right", no_wrap=True)
        for row in self.rows:
            values = [getattr(row, title.lower()) for title in numbers]
            table.add_row(
                row.layer,
                row.kind,
                "x".join(map(str, row.output_shape)),
                *("not counted" if v is None else f"{v:,}" for v in values),
            )
        console.print(table)
        bound = "at least " if self.not_counted else ""
        trainable, frozen = self.total("trainable"), self.total("frozen")
        statistics = self.total("statistics")
        lines = [
            f"parameters:  {trainable + frozen:,} ({trainable:,} trainable, {frozen:,} "
            f"frozen); with {statistics:,} statistics "
            f"{trainable + frozen + statistics:,}",
            f"MACs:        {bound}{self.total('macs'):,}",
            f"activations: {self.total('activations'):,}",
        ]
        if self.total("gate_products"):
            lines.insert(
                2, f"apart from MACs: {self.total('gate_products'):,} products of gates"
            )
        if self.not_counted:
            names = ", ".join(f"{row.layer} ({row.kind})" for row in self.not_counted)
            lines.append(f"not counted, so that the sums are a lower bound: {names}")
        for line in [*lines, CONVENTION]:
            console.print(line, highlight=False, markup=False)


def count_training(work: Work) -> int:
    """Return the multiply-accumulates of one image's training step, as far as counted.

    Beside the forward pass each layer behind the first that learns passes the gradient
    on, and each that learns computes that of its weights; either costs as much again.
    """
    total, learning = 0, False
    for row in work.rows:
        macs = row.macs or 0
        total += macs
        if learning:
            total += macs
        if row.trainable:
            total, learning = total + macs, True
    return total


def count_work(model: Any) -> Work:
    """Count what a network costs, from its graph alone; nothing is computed.

    Args:
        model: A `Network`, or a functional or sequential Keras model. Its input shape
            must be known, all but the batch.

    Raises:
        ValueError: If the model has no graph, or an open input shape.

    Example:
        >>> inputs = keras.Input((8, 8, 3))
        >>> outputs = keras.layers.Conv2D(16, 3, padding="same")(inputs)
        >>> work = count_work(keras.Model(inputs, outputs))
        >>> work.total("macs") == 8 * 8 * 16 * 3 * 3 * 3
        True
    """
    if isinstance(model, Network):
        model = model.model
    graph = _graph(model)
    if graph is None:
        raise ValueError(
            "only a functional Keras model, a built Sequential, or a Network has a "
            f"graph that can be counted. Received: {type(model).__name__}"
        )
    inputs = []
    for tensor in graph.inputs:
        if None in tensor.shape[1:]:
            raise ValueError(
                "the work depends on the size of the input; make the model with all of "
                "it, e.g. `input_shape=(224, 224, 3)`. "
                f"Received: shape={tuple(tensor.shape)}"
            )
        inputs.append(keras.KerasTensor((1, *tensor.shape[1:]), tensor.dtype))
    rows: list[LayerWork] = []
    _walk(graph, inputs, "", rows, seen=set())
    return Work(tuple(rows))


def _graph(model: Any) -> Any:
    """Return the functional graph that a model consists of, or None."""
    if isinstance(model, keras.Sequential):
        return model._functional  # None until it is built
    made_of_layers = hasattr(model, "_run_through_graph")
    return model if made_of_layers and _is_keras(type(model).call) else None


def _is_keras(function: Any) -> bool:
    return function.__module__.partition(".")[0] == "keras"


def _walk(
    graph: Any, inputs: Any, prefix: str, rows: list[LayerWork], seen: set[int]
) -> Any:
    """Add a row for each call in a graph, and return the graph's outputs."""

    def counting(operation: Any) -> Callable[..., Any]:
        name = prefix + operation.name.replace(".", "/")
        inner = _graph(operation)

        def call(*arguments: Any, **settings: Any) -> Any:
            if inner is not None:
                given = keras.tree.flatten((arguments, settings))
                tensors = [x for x in given if isinstance(x, keras.KerasTensor)]
                return _walk(inner, tensors, f"{name}/", rows, seen)
            outputs = operation.compute_output_spec(*arguments, **settings)
            if not _is_known(outputs):  # `EinsumDense` may leave sizes open
                outputs = keras.Operation.compute_output_spec(
                    operation, *arguments, **settings
                )
            rows.append(_row(name, operation, arguments, settings, outputs, seen))
            return outputs

        return call

    return graph._run_through_graph(inputs, operation_fn=counting)


def _is_known(structure: Any) -> bool:
    """Return whether no tensor's size depends on values, or was left open."""
    return all(
        None not in tensor.shape
        for tensor in keras.tree.flatten(structure)
        if isinstance(tensor, keras.KerasTensor)
    )


def _row(
    name: str,
    operation: Any,
    arguments: tuple[Any, ...],
    settings: dict[str, Any],
    outputs: Any,
    seen: set[int],
) -> LayerWork:
    shapes = [tensor.shape for tensor in keras.tree.flatten(outputs)]
    known = _is_known((arguments, settings, outputs))
    cost = _cost(operation, arguments, settings, shapes[0]) if known else None
    trainable, frozen, statistics = _count_weights(operation, seen)
    return LayerWork(
        layer=name,
        kind=type(operation).__name__,
        output_shape=tuple(shapes[0][1:]),
        trainable=trainable,
        frozen=frozen,
        statistics=statistics,
        macs=None if cost is None else cost[0],
        gate_products=0 if cost is None else cost[1],
        activations=sum(math.prod(n or 1 for n in shape) for shape in shapes),
    )


def _count_weights(operation: Any, seen: set[int]) -> tuple[int, int, int]:
    """Return trained and frozen parameters and statistics that are not seen yet."""
    if not isinstance(operation, keras.Layer):
        return 0, 0, 0
    # Once a layer is frozen, nothing public tells its parameters from its statistics.
    parameters = {
        id(variable)
        for layer in operation._flatten_layers()
        for variable in layer._trainable_variables
    }
    trained = {id(variable) for variable in operation.trainable_weights}
    counts = [0, 0, 0]
    for variable in operation.weights:
        if id(variable) not in seen:
            seen.add(id(variable))
            place = 2 if id(variable) not in parameters else id(variable) not in trained
            counts[place] += math.prod(variable.shape)
    return counts[0], counts[1], counts[2]


def _cost(
    operation: Any, arguments: tuple[Any, ...], settings: dict[str, Any], output: Any
) -> _Cost:
    if not isinstance(operation, keras.Layer):
        return _cost_of_operation(operation, arguments, output)
    first = keras.tree.flatten((arguments, settings))[0]
    shape = getattr(first, "shape", ())
    kind = type(operation)
    if _known_as(kind, _FREE_LAYERS):
        return 0, 0
    known = _known_as(kind, _FORMULAS)
    if known:
        return _FORMULAS[known](operation, shape, output), 0
    if _known_as(kind, _RECURRENT_LAYERS):
        return _cost_of_steps(operation.cell, math.prod(shape[:-1]))
    if _known_as(kind, [keras.layers.Bidirectional]):
        return _sum(
            _cost(layer, arguments, settings, output)
            for layer in (operation.forward_layer, operation.backward_layer)
        )
    if _known_as(kind, [keras.layers.TimeDistributed]):
        return _cost_of_each_step(operation.layer, first)
    if _known_as(kind, [keras.layers.MultiHeadAttention]):
        return _cost_of_attention(operation, arguments, settings)
    return None


def _known_as(kind: type, known: Collection[type]) -> Any:
    """Return the known class whose `call` a class has, or None."""
    for each in kind.__mro__:
        if each in known:
            return each
        if "call" in vars(each):  # does something else than what it derives from
            return None
    return None


def _sum(costs: Iterable[_Cost]) -> _Cost:
    macs = products = 0
    for cost in costs:
        if cost is None:
            return None
        macs, products = macs + cost[0], products + cost[1]
    return macs, products


def _cost_of_operation(
    operation: Any, arguments: tuple[Any, ...], output: Any
) -> _Cost:
    name = type(operation).__name__
    if not _is_keras(type(operation)):
        return None
    if name == "Matmul":
        return math.prod(output) * arguments[0].shape[-1], 0
    return (0, 0) if name in _FREE_OPERATIONS else None


def _cost_of_steps(cell: Any, steps: int) -> _Cost:
    if _known_as(type(cell), [keras.layers.StackedRNNCells]):
        return _sum(_cost_of_steps(each, steps) for each in cell.cells)
    known = _known_as(type(cell), _GATE_PRODUCTS)
    if known is None:
        return None
    matrices = math.prod(cell.kernel.shape) + math.prod(cell.recurrent_kernel.shape)
    return steps * matrices, steps * _GATE_PRODUCTS[known] * cell.units


def _cost_of_each_step(layer: Any, inputs: Any) -> _Cost:
    """Count a layer for which each step of a sequence is one more image."""
    batch, steps, *shape = inputs.shape
    merged = keras.KerasTensor((batch * steps, *shape), inputs.dtype)
    graph, rows = _graph(layer), list[LayerWork]()
    if graph is None:
        return _cost(layer, (merged,), {}, layer.compute_output_spec(merged).shape)
    _walk(graph, [merged], "", rows, set())
    return _sum(
        None if row.macs is None else (row.macs, row.gate_products) for row in rows
    )


def _cost_of_attention(
    layer: Any, arguments: tuple[Any, ...], settings: dict[str, Any]
) -> _Cost:
    given = inspect.signature(layer.call).bind_partial(*arguments, **settings).arguments
    query, value = given["query"].shape, given["value"].shape
    if len(query) != 3:  # attention over some of several axes
        return None
    batch, queries, width = query
    values, heads = value[1], layer.num_heads
    # The projections in and out are matrices upon each position.
    queried = layer.query_dense.kernel.shape, layer.output_dense.kernel.shape
    attended = layer.key_dense.kernel.shape, layer.value_dense.kernel.shape
    macs = queries * sum(map(math.prod, queried))
    macs += values * sum(map(math.prod, attended))
    # Each query with each key, and the sum of values that it makes.
    macs += (
        queries * values * heads * (layer.key_dim + layer.value_dense.kernel.shape[-1])
    )
    return batch * macs, 0


def _convolution(layer: Any, inputs: Any, output: Any) -> int:
    # The kernel is (height, width, channels in / groups, channels out).
    return math.prod(output) * math.prod(layer.kernel.shape[:-1])


def _depthwise(layer: Any, inputs: Any, output: Any) -> int:
    return math.prod(output) * math.prod(layer.kernel_size)


def _separable(layer: Any, inputs: Any, output: Any) -> int:
    depthwise = math.prod(layer.depthwise_kernel.shape)
    pointwise = math.prod(layer.pointwise_kernel.shape)
    return math.prod(output) // layer.filters * (depthwise + pointwise)


def _transposed(layer: Any, inputs: Any, output: Any) -> int:
    # The kernel is (height, width, channels out, channels in), laid on each input.
    return math.prod(inputs) * math.prod(layer.kernel.shape[:-1])


def _dense(layer: Any, inputs: Any, output: Any) -> int:
    return math.prod(inputs) * layer.units


def _einsum_dense(layer: Any, inputs: Any, output: Any) -> int:
    # Each output sums over the axes of the kernel that it does not have.
    left, right = layer.equation.replace(" ", "").split("->")
    axes = zip(left.split(",")[1], layer.kernel.shape, strict=True)
    return math.prod(output) * math.prod(n for axis, n in axes if axis not in right)


_FORMULAS: dict[type, Callable[[Any, Any, Any], int]] = {
    keras.layers.Conv1D: _convolution,
    keras.layers.Conv2D: _convolution,
    keras.layers.Conv3D: _convolution,
    keras.layers.Conv1DTranspose: _transposed,
    keras.layers.Conv2DTranspose: _transposed,
    keras.layers.Conv3DTranspose: _transposed,
    keras.layers.Dense: _dense,
    keras.layers.DepthwiseConv1D: _depthwise,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.EinsumDense: _einsum_dense,
    PointwiseConv2D: _convolution,
    keras.layers.SeparableConv1D: _separable,
    keras.layers.SeparableConv2D: _separable,
}
