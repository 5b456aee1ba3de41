"""Calls to a server from a thread of their own, so that training never waits."""

import logging
import queue
import threading
import time
from collections.abc import Callable

_logger = logging.getLogger(__name__)

_MOST_CALLS = 50_000  # that wait for the server, as a day of logging every two seconds
_MOST_LARGE = 64  # of pictures: a batch and more, and an outage fills no memory
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0
_MOST_SECONDS = 3600.0  # for one call; the next may be one that the server takes


class Sender:
    """Makes calls one after the other, each again and again until the server answers.

    What fails is a warning, one for each outage, and never an error. A call that the
    server refuses is dropped, and so is one that has failed for an hour.

    Use it as it is; it is not made for subclassing.

    Args:
        server: What the server is called in warnings.
        passes: Whether an error may pass by itself, as an outage does; all others are
            refusals.
    """

    def __init__(self, server: str, passes: Callable[[Exception], bool]) -> None:
        self.server = server
        self.refusal: Exception | None = None
        self._passes = passes
        self._calls: queue.Queue[tuple[Callable[[], object], bool] | None]
        self._calls = queue.Queue()
        self._places = threading.BoundedSemaphore(_MOST_LARGE)
        self._num_given, self._num_made, self._num_refused = 0, 0, 0
        self._num_dropped = 0
        self._tried, self._closing = threading.Event(), threading.Event()
        self._outage = False
        self._thread = threading.Thread(target=self._work, name=server, daemon=True)
        self._thread.start()

    def send(self, call: Callable[[], object], *, large: bool = False) -> None:
        """Have a call made, in its turn; without waiting, or an error.

        Args:
            call: Called in another thread, perhaps several times.
            large: It holds much memory, so fewer such calls may wait.
        """
        self._num_given += 1
        has_room = self._calls.qsize() < _MOST_CALLS
        if has_room and (not large or self._places.acquire(blocking=False)):
            self._calls.put((call, large))
        else:
            self._num_dropped += 1

    def wait(self, seconds: float) -> bool:
        """Return whether within some seconds the first call was answered, or failed.

        If the server refused it, that is `refusal`, and no warning.
        """
        tried = self._tried.wait(seconds)
        self._tried.set()
        return tried

    def close(self, seconds: float) -> None:
        """Make what is left of the calls, and warn if some could not be made.

        Args:
            seconds: How long this may take.
        """
        self._closing.set()
        self._calls.put(None)
        self._thread.join(seconds)
        lost = self._num_given - self._num_made
        unanswered = lost - self._num_dropped - self._num_refused
        if lost:
            _logger.warning(
                "%d of %d entries are not in %s: it did not answer to %d, refused %d, "
                "and %d were dropped, as too many waited.",
                lost,
                self._num_given,
                self.server,
                unanswered,
                self._num_refused,
                self._num_dropped,
            )

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, large = item
            self._num_made += self._make(call)
            if large:
                self._places.release()
            self._tried.set()

    def _make(self, call: Callable[[], object]) -> bool:
        """Make a call until it succeeds; return False if it never does."""
        end, pause = time.monotonic() + _MOST_SECONDS, _PAUSE_SECONDS
        while True:
            try:
                call()
            except Exception as error:  # whatever a client raises
                if not self._passes(error):
                    self._refuse(error)
                    return False
                self._warn(error)
                if self._closing.is_set() or time.monotonic() > end:
                    return False
            else:
                if self._outage:
                    _logger.info("%s answers again.", self.server)
                self._outage = False
                return True
            self._tried.set()
            self._closing.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _warn(self, error: Exception) -> None:
        if not self._outage:
            _logger.warning(
                "%s does not answer; training goes on, and what is logged waits for "
                "it. Received: %s",
                self.server,
                " ".join(str(error).split()),
            )
        self._outage = True

    def _refuse(self, error: Exception) -> None:
        if self.refusal is None and self._tried.is_set():
            _logger.warning(
                "%s refused an entry; training goes on. Received: %s",
                self.server,
                " ".join(str(error).split()),
            )
        self.refusal = error
        self._num_refused += 1
