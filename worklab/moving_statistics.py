"""Moving statistics of batch normalisation, estimated at once."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from worklab.layers import BatchNormalization
from worklab.network import Network
from worklab.reader import Reader
from worklab.session import Session


def estimate_statistics(
    network: Network, reader: Reader, session: Session, num_batches: int
) -> None:
    """Set moving statistics to the mean over some training batches.

    Moving statistics start at mean 0 and variance 1, or at those of another data set
    or of other weights, and take about 1 / (1 - momentum) steps to arrive; this takes
    them there at once. Frozen layers (`lr_mult=0`) keep theirs. Weights do not change.

    Args:
        network: Whose statistics are set.
        reader: Of training images.
        session: Whose devices compute, and whose signals are served.
        num_batches: Training batches, from the first, at least 1.

    Raises:
        ValueError: If there is no batch to estimate from.
        StopRequested: If a signal came.
    """
    if num_batches < 1:
        raise ValueError(
            "statistics are estimated over at least 1 batch. "
            f"Received: num_batches={num_batches}"
        )
    layers = [
        layer
        for layer in network.model.layers
        if isinstance(layer, BatchNormalization) and layer.trainable
    ]
    momentums = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0  # a batch's own statistics become the moving ones
    statistics = [v for layer in layers for v in layer.non_trainable_variables]

    def forward(batch: Mapping[str, tf.Tensor]) -> None:
        network(batch, training=True)
        session.devices.average(statistics)

    forward_function = session.devices.function(forward, None)
    sums = [np.zeros(v.shape, np.float64) for v in statistics]
    for number in range(num_batches):
        session.raise_if_stopped()
        batch = reader.train_batch(number, session.devices.share)
        forward_function(session.devices.split(batch))
        for total, variable in zip(sums, statistics, strict=True):
            total += variable.value.numpy()
    for total, variable in zip(sums, statistics, strict=True):
        variable.assign((total / num_batches).astype(np.float32))
    for layer, momentum in zip(layers, momentums, strict=True):
        layer.momentum = momentum
