"""worklab retrains image networks on TensorFlow 2 / Keras 3.

Six classes share the work: Reader, Network, Trainer, Tester, Session and Writer.
The scripts in `launchers/` compose them.
"""

import importlib
from typing import TYPE_CHECKING

from worklab import _quiet

if TYPE_CHECKING:
    from worklab.network import Network
    from worklab.reader import Reader
    from worklab.session import Session
    from worklab.tester import Tester
    from worklab.trainer import Trainer
    from worklab.writer import Writer

__all__ = ["Network", "Reader", "Session", "Tester", "Trainer", "Writer"]
__version__ = "0.1.0"

_quiet.install()


def __getattr__(name: str) -> object:
    # TensorFlow takes three seconds to import, and a process that reads images for
    # another one has no use for it.
    if name not in __all__:
        raise AttributeError(f"module `worklab` has no attribute `{name}`")
    return getattr(importlib.import_module(f"worklab.{name.lower()}"), name)
