"""A Keras model as a TensorFlow graph that TensorBoard draws."""

from typing import Any

import tensorflow as tf


def keras_graph(model: Any) -> Any:
    """Return a GraphDef with one node for each layer of a functional model.

    Dots in layer names become slashes, which TensorBoard draws as nested boxes. Each
    node has its layer's class as operation, and its output shape.

    Args:
        model: A `keras.Model` made of layers that are called once.

    Returns:
        A `GraphDef`.
    """
    graph = tf.compat.v1.GraphDef()
    for operation in model.operations:
        node = graph.node.add(name=_node_name(operation), op=type(operation).__name__)
        shapes = tf.compat.v1.AttrValue()
        for inbound in operation._inbound_nodes:
            for tensor in inbound.input_tensors:
                node.input.append(_node_name(tensor._keras_history.operation))
        for output in operation._inbound_nodes[0].output_tensors:
            shape = shapes.list.shape.add()
            for size in output.shape:
                shape.dim.add(size=-1 if size is None else size)
        node.attr["_output_shapes"].CopyFrom(shapes)
    return graph


def _node_name(operation: Any) -> str:
    return operation.name.replace(".", "/")
