"""Requests to stop a run: Ctrl-C, SIGTERM, a time limit."""

import logging
import math
import signal
import threading
import time
from types import FrameType
from typing import Any

_logger = logging.getLogger(__name__)


class RunStopped(Exception):
    """What ends a run that has not failed."""


class StopRequested(RunStopped):
    """The run is asked to stop; `Session` saves and ends the process."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class StopSignals:
    """Notes the first SIGINT or SIGTERM; the second ends the process at once.

    Args:
        time_limit: Seconds after which a SIGTERM is made up; None: never.

    Raises:
        ValueError: If the limit is not above 0.
    """

    def __init__(self, time_limit: float | None = None) -> None:
        if time_limit is not None and time_limit <= 0:
            raise ValueError(
                "`time_limit` must be above 0 seconds, or None. "
                f"Received: time_limit={time_limit}"
            )
        limit = math.inf if time_limit is None else time_limit
        self._deadline = time.monotonic() + limit
        self._number: int | None = None
        self._handlers: dict[int, Any] = {}

    @property
    def number(self) -> int | None:
        """Number of the signal that has come, or None."""
        if self._number is None and time.monotonic() >= self._deadline:
            _logger.warning("the time limit is reached")
            self._number = signal.SIGTERM
        return self._number

    def listen(self) -> None:
        """Take over the two signals; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)

    def give_back(self) -> None:
        """Let the signals do again what they did."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        for each in self._handlers:
            signal.signal(each, signal.SIG_DFL)
