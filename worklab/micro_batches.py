"""A batch that goes through the network in parts, as each needs less memory."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

Gradients = tuple[list[tf.Tensor], dict[str, tf.Tensor], tf.Tensor]
"""Gradients, weighted sums of loss and scores, and the loss of each image."""


def sum_over_parts(
    gradients_of: Callable[[Mapping[str, tf.Tensor]], Gradients],
    batch: Mapping[str, tf.Tensor],
    count: int,
) -> Gradients:
    """Return what the whole batch would give, computed part by part.

    Gradients and sums over parts are those of the batch, up to the order of addition.
    Only batch normalisation sees the parts, as it takes the statistics of each.

    Args:
        gradients_of: From a part of the batch to its share of the batch's.
        batch: Tensors (batch, ...).
        count: Parts; must divide the batch. 1 computes it as it is.
    """
    if count == 1:
        return gradients_of(batch)
    parts = {
        name: tf.reshape(values, (count, -1, *values.shape[1:]))
        for name, values in batch.items()
    }

    def of_part(number: Any) -> Gradients:
        part = {name: values[number] for name, values in parts.items()}
        gradients, sums, losses = gradients_of(part)
        return [tf.convert_to_tensor(g) for g in gradients], sums, losses

    def add(number: Any, gradients: Any, sums: Any, losses: Any) -> Any:
        more_gradients, more_sums, part_losses = of_part(number)
        return (
            number + 1,
            [a + b for a, b in zip(gradients, more_gradients, strict=True)],
            {name: value + more_sums[name] for name, value in sums.items()},
            losses.write(number, part_losses),
        )

    gradients, sums, first_losses = of_part(0)
    losses = tf.TensorArray(tf.float32, count).write(0, first_losses)
    _, gradients, sums, losses = tf.while_loop(
        lambda number, *_: number < count,
        add,
        (tf.constant(1), gradients, sums, losses),
        parallel_iterations=1,  # or the parts would need the memory of all
    )
    return gradients, sums, tf.reshape(losses.stack(), (-1,))
