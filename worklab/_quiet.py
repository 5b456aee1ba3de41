"""Imports TensorFlow and Grain without the lines they print about the machine.

TensorFlow 2.21 prints some twenty lines to standard error before any setting of its
log level takes hold, so the descriptor itself is set aside during the import. What
matters of the machine, Session says. An import that fails shows everything.
"""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
logging.getLogger("absl").setLevel(logging.ERROR)


@contextlib.contextmanager
def standard_error_set_aside() -> Iterator[int]:
    """Keep what is written to standard error off the screen, unless it fails.

    Yields:
        The descriptor that still goes to the screen.
    """
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield original
        except BaseException:
            aside.seek(0)
            os.write(original, aside.read())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)


if "tensorflow" not in sys.modules:
    with standard_error_set_aside():
        import grain  # noqa: F401
        import tensorflow  # noqa: F401
