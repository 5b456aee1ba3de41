"""Weights and images that are the same everywhere, made from names alone.

Needs NumPy and nothing else, so that `make.py` and the tests share it.
"""

import math
import zlib
from collections.abc import Iterable, Mapping

import numpy as np


def make_value(name: str, shape: tuple[int, ...], gain: float = 1.0) -> np.ndarray:
    """Return the values of a PyTorch variable; they depend on the arguments only.

    They keep signals in range through a hundred layers: kernels have He's variance,
    scales are around 1, shifts small, and variances differ enough that a wrong
    epsilon shows. `gain` is a factor on the kernels' variance: less than 1 for
    networks in which no ReLU follows some convolutions, as signals grow in these
    until ReLU6 cuts them off, and rounding grows with them.

    Source: He et al. 2015, arXiv:1502.01852, equation 10, as a uniform distribution.
    """
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        low, high = 0.5, 1.5
    elif len(shape) == 1:
        low, high = (0.8, 1.2) if leaf == "weight" else (-0.1, 0.1)
    else:  # (outputs, inputs, height, width)
        high = math.sqrt(6 * gain / math.prod(shape[1:]))
        low = -high
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.random(shape, dtype=np.float32)
    values *= np.float32(high - low)
    values += np.float32(low)
    return values


def make_values(
    shapes: Mapping[str, tuple[int, ...]], gain: float = 1.0
) -> dict[str, np.ndarray]:
    """Return the values of all variables."""
    return {name: make_value(name, shape, gain) for name, shape in shapes.items()}


def make_images(size: int) -> np.ndarray:
    """Return uint8 (2, size, size, 3), RGB: coarse and fine noise.

    The coarse noise makes the images differ after a global average, and the borders
    differ from the middle.
    """
    rng = np.random.default_rng(size)
    coarse = rng.integers(0, 256, (2, 4, 4, 3))
    rows = np.arange(size) * 4 // size
    fine = rng.integers(0, 256, (2, size, size, 3))
    return ((coarse[:, rows][:, :, rows] + fine) // 2).astype(np.uint8)


def checksum(names: Iterable[str], size: int) -> int:
    """Return a number that tells whether NumPy still makes these values and images."""
    arrays = [*(make_value(name, (2, 3)) for name in names), make_images(size)]
    return zlib.crc32(b"".join(array.tobytes() for array in arrays))
