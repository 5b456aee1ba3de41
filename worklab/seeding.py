"""Initial values that depend on a seed and a layer's name, and on nothing else."""

import contextlib
import random
import zlib
from collections.abc import Iterator
from typing import Any

import keras


@contextlib.contextmanager
def seeds_from(key: str) -> Iterator[int]:
    """Give a seed, and make those that Keras draws inside depend on the key alone."""
    state = random.getstate()
    random.seed(key)  # Keras seeds dropout and default initialisers by `random`
    try:
        yield zlib.crc32(key.encode())
    finally:
        random.setstate(state)


def with_seed(settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the settings with initialisers that were given by name seeded."""
    seeded = {}
    for name, value in settings.items():
        if name.endswith("_initializer") and isinstance(value, str):
            initializer = keras.initializers.get(value)
            config = initializer.get_config()
            if "seed" in config:  # not in that of e.g. "zeros"
                initializer = type(initializer).from_config(config | {"seed": seed})
            seeded[name] = initializer
    return settings | seeded
