"""Waiting for what another process writes in a run folder."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from worklab.runs import read_result
from worklab.session import Session

_LONGEST_PAUSE = 0.5  # seconds, after which a signal is served


def wait_for_run(run: Path, seconds: float, show: Callable[[str], object]) -> None:
    """Return when the run has begun.

    Args:
        run: Its folder.
        seconds: Pause between looks.
        show: Shows a line, where there is something to wait for.
    """
    if not (run / "run.json").exists():
        show(f"waiting for {run} to begin")
    while not (run / "run.json").exists():
        time.sleep(seconds)


def looks(session: Session, seconds: float, *, follow: bool = False) -> Iterator[None]:
    """Yield every so many seconds, the last time when the run is known to be complete.

    Args:
        session: Whose run is looked at, and whose signals are served.
        seconds: Pause between looks.
        follow: Go on when the run is complete.

    Raises:
        StopRequested: If a signal came.
    """
    complete = False
    while not complete or follow:
        complete = read_result(session.run) is not None  # before the last look
        yield
        session.raise_if_stopped()
        if not complete or follow:
            _pause(session, seconds)


def _pause(session: Session, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _LONGEST_PAUSE))
        session.raise_if_stopped()
