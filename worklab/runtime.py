"""The machine: seeds, threads, determinism."""

import logging
from typing import Literal

import keras
import tensorflow as tf

from worklab.options import SessionOptions

_logger = logging.getLogger(__name__)


def configure(options: SessionOptions) -> None:
    """Seed everything and set the threads of TensorFlow.

    On a CPU TensorFlow repeats its results bit for bit as it is; on a GPU it is told
    to, which costs some speed.

    Args:
        options: Seed and threads.

    Raises:
        ValueError: If an option is out of range.
    """
    if options.seed < 0:
        raise ValueError(f"`seed` must be at least 0. Received: seed={options.seed}")
    if options.num_threads < 0:
        raise ValueError(
            "`num_threads` must be at least 0, where 0 takes every core. "
            f"Received: num_threads={options.num_threads}"
        )
    keras.utils.set_random_seed(options.seed)
    if tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    if options.num_threads:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(options.num_threads)
        except RuntimeError:
            _logger.warning(
                "`num_threads=%d` comes too late: TensorFlow has started in this "
                "process with its own choice, which stays.",
                options.num_threads,
            )


def limit_device(
    device: Literal["auto", "cpu"], gpu_megabytes: int | None = None
) -> None:
    """Leave the GPU, or some of its memory, to another process.

    Must come before TensorFlow computes anything.

    Args:
        device: `cpu` hides every GPU.
        gpu_megabytes: Most memory to take of each GPU; None: no limit.

    Raises:
        ValueError: If the limit is below 1, or is given together with `cpu`.
    """
    if gpu_megabytes is not None and (gpu_megabytes < 1 or device == "cpu"):
        raise ValueError(
            "`gpu_megabytes` must be at least 1, and does not go with `device=cpu`. "
            f"Received: gpu_megabytes={gpu_megabytes}, device={device}"
        )
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    elif gpu_megabytes is not None:
        limit = tf.config.LogicalDeviceConfiguration(memory_limit=gpu_megabytes)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.set_logical_device_configuration(gpu, [limit])


def describe_device(precision: str) -> str:
    """Return one line: what the run computes on, and how."""
    gpus = tf.config.list_physical_devices("GPU")
    where = f"{len(gpus)} GPU" if gpus else "CPU"
    return f"{where}, {precision}"
