"""Imports TensorFlow without the lines it prints about the machine.

TensorFlow 2.21 prints some twenty lines to standard error before any setting of its
log level takes hold, so the descriptor itself is set aside during the import. What
matters of the machine, Session says. An import that fails shows everything.
"""

import contextlib
import importlib.abc
import importlib.machinery
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any


def install() -> None:
    """Make the first import of TensorFlow, whoever asks for it, a quiet one."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    logging.getLogger("absl").setLevel(logging.ERROR)
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _QuietFinder())


class _QuietFinder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow as others do, once, and gives it a loader that is quiet."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _QuietLoader(spec.loader)
        return spec


class _QuietLoader(importlib.abc.Loader):
    """Loads as another loader does, with standard error set aside."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # What looks into the module finds it as if it had been loaded plainly.
        module.__loader__ = module.__spec__.loader = self._loader  # type: ignore[union-attr]
        with standard_error_set_aside():
            self._loader.exec_module(module)


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
