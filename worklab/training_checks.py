"""What must hold before a network is trained, said before work is lost."""

from typing import Any

import numpy as np
import tensorflow as tf

from worklab.devices import Devices
from worklab.network import Network
from worklab.options import TrainingOptions


def check_scope(devices: Devices, network: Network) -> None:
    """Check that each device has a copy of the network.

    Raises:
        ValueError: If it has not.
    """
    extended = devices.strategy.extended
    variables = (variable.value for variable in network.variables.values())
    if devices.num_replicas > 1 and not all(
        map(extended.variable_created_in_scope, variables)
    ):
        raise ValueError(
            "the network must be made inside `with session:`, so that each device has "
            f"its copy. Received: {type(network).__name__} made outside, for "
            f"{devices.num_replicas} devices"
        )


def sees_gpu() -> bool:
    """Return whether there is a GPU that this process may use."""
    return bool(tf.config.get_visible_devices("GPU"))


def check_memory(megabytes: int | None, network: Network, optimizer: Any) -> None:
    """Check that a device has room for what every step needs.

    Raises:
        ValueError: If it has not.
    """
    gradients = network.model.trainable_variables
    kept = [*network.variables.values(), *optimizer.variables, *gradients]
    needed = sum(4 * int(np.prod(variable.shape)) for variable in kept) / 2**20
    if megabytes is not None and needed > megabytes:
        raise ValueError(
            f"weights, gradients and optimizer of `{type(network).__name__}` need "
            f"{needed:.0f} MB, and the images of a batch come on top. Give a larger "
            "`--session.gpu-megabytes`, or freeze layers by `lr_mult=0`. "
            f"Received: gpu_megabytes={megabytes}"
        )


def check_options(options: TrainingOptions, rows: int) -> None:
    """Check the options, for a device that has so many rows of a batch.

    Raises:
        ValueError: If one is out of range.
    """
    if rows % max(1, options.micro_batches):
        raise ValueError(
            "`micro_batches` must divide the images that a device has of a batch, so "
            "that its parts are of one size. "
            f"Received: micro_batches={options.micro_batches}, {rows} images"
        )
    if options.cache_features and options.stages:
        raise ValueError(
            "outputs of frozen layers are kept for all of the training, so no stage "
            "can thaw them: go without `--stages`, or without "
            f"`--training.cache-features`. Received: stages={options.stages}"
        )
    if (
        options.profile is not None
        and not 1 <= options.profile[0] <= options.profile[1]
    ):
        raise ValueError(
            "`profile` is a first and a last step, counted from 1. "
            f"Received: profile={options.profile}"
        )
    limits = {
        "log_every": options.log_every >= 1,
        "micro_batches": options.micro_batches >= 1,
        "log_histograms": options.log_histograms >= 0,
        "estimate_statistics": options.estimate_statistics >= 0,
    }
    for name, holds in limits.items():
        if not holds:
            raise ValueError(
                f"`{name}` is out of range: `log_every` and `micro_batches` are at "
                "least 1, the others at least 0. "
                f"Received: {name}={getattr(options, name)}"
            )


def check_range(images: np.ndarray) -> None:
    """Check that images (batch, height, width, channels) are not all but black.

    Raises:
        ValueError: If no pixel is above 1.
    """
    if images.max() <= 1:
        raise ValueError(
            "the first training batch is all but black: images must be of pixels from "
            "0 to 255; were they scaled to 0..1 before they were saved? "
            f"Received: pixels from {images.min()} to {images.max()}"
        )
