"""worklab retrains image networks on TensorFlow 2 / Keras 3.

Six classes share the work: Reader, Network, Trainer, Tester, Session and Writer.
The scripts in `launchers/` compose them.
"""

from worklab import _quiet  # noqa: F401  (first: it imports TensorFlow without noise)
from worklab.network import Network
from worklab.reader import Reader
from worklab.session import Session
from worklab.tester import Tester
from worklab.trainer import Trainer
from worklab.writer import Writer

__all__ = ["Network", "Reader", "Session", "Tester", "Trainer", "Writer"]
__version__ = "0.1.0"
