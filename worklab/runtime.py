"""The machine: devices, precision, threads, seeds, determinism."""

import functools
import logging
import re
import time
from pathlib import Path
from typing import Literal

import keras
import tensorflow as tf

from worklab.options import SessionOptions

_logger = logging.getLogger(__name__)

# Ampere; NVIDIA, CUDA C++ Programming Guide, table of features by compute capability.
_FIRST_GPU_WITH_BFLOAT16 = (8, 0)
# As Linux names them in /proc/cpuinfo; oneDNN computes bfloat16 by either.
_CPU_FLAGS = ("amx_bf16", "avx512_bf16")
_MATMUL_SIZE = 1024


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
    if options.device != "auto" or options.gpu_megabytes is not None:
        try:
            limit_device(options.device, options.gpu_megabytes)
        except RuntimeError:
            _logger.warning(
                "`device` and `gpu_megabytes` come too late: TensorFlow has started in "
                "this process with its own choice, which stays."
            )
    if options.precision == "bfloat16" and not bfloat16_hardware():
        _logger.warning(
            "this machine has no bfloat16 in hardware, so it computes in float32 and "
            "converts all the time: expect it to be slower than float32. "
            "`--session.precision auto` takes what the machine has."
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
        gpus = tf.config.list_physical_devices("GPU")
        if not gpus:
            _logger.warning("`gpu_megabytes` limits nothing: TensorFlow sees no GPU.")
        for gpu in gpus:
            tf.config.set_logical_device_configuration(gpu, [limit])


def bfloat16_hardware() -> str:
    """Return what computes bfloat16 in hardware here; "" where nothing does."""
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        capability = details.get("compute_capability", (0, 0))
        if capability >= _FIRST_GPU_WITH_BFLOAT16:
            return f"compute capability {capability[0]}.{capability[1]}"
        return ""
    try:
        flags = re.findall(r"\w+", Path("/proc/cpuinfo").read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError):
        return ""
    return next((flag for flag in _CPU_FLAGS if flag in flags), "")


def gpu_names() -> list[str]:
    """Return what the GPUs are called that TensorFlow computes on."""
    details = tf.config.experimental.get_device_details
    gpus = tf.config.get_visible_devices("GPU")
    return [details(gpu).get("device_name", gpu.name) for gpu in gpus]


def choose_precision(
    precision: Literal["float32", "bfloat16", "auto"],
) -> Literal["float32", "bfloat16"]:
    """Return the precision, `auto` replaced by what the machine has in hardware."""
    if precision == "auto":
        return "bfloat16" if bfloat16_hardware() else "float32"
    return precision


def describe_device(precision: str) -> str:
    """Return one line: what the run computes on, and how."""
    gpus = tf.config.get_visible_devices("GPU")
    where = f"{len(gpus)} GPU" if gpus else "CPU"
    hardware = bfloat16_hardware() if precision == "bfloat16" else ""
    return f"{where}, {precision}{' by ' if hardware else ''}{hardware}"


@functools.cache
def matmul_limit(precision: Literal["float32", "bfloat16"]) -> float:
    """Return the multiply-accumulates a second of the best of some large products.

    It is what the machine can do at most, as libraries for it are made for this; takes
    about a tenth of a second on two cores.
    """
    size = _MATMUL_SIZE
    matrix = tf.ones((size, size), tf.as_dtype(precision))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        tf.matmul(matrix, matrix)[0, 0].numpy()  # waits until it is computed
        seconds.append(time.perf_counter() - start)
    return size**3 / min(seconds)
