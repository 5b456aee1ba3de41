"""One trainer to a run folder."""

import fcntl
import os
import weakref
from pathlib import Path

from worklab.files import writing


class RunLock:
    """Locks a run folder for one trainer; the lock ends with the process, however.

    Args:
        run: Folder of the run; made when missing.

    Raises:
        RuntimeError: If it is locked already.
        OSError: If the folder cannot be written.
    """

    def __init__(self, run: Path) -> None:
        with writing(run / ".lock"):
            run.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        self._release = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode()
            self.release()
            raise RuntimeError(
                f"another trainer is at work in `{run}`; stop it, or give another "
                f"`--run`. Received: a lock held by process {holder}"
            ) from error
        with writing(run / ".lock"):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())

    def release(self) -> None:
        """Let the folder go; a second call does nothing."""
        self._release()
