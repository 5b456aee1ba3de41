"""One trainer to a run folder, one process to a file."""

import fcntl
import os
import time
import weakref
from pathlib import Path
from typing import Self

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
            _lock(descriptor)
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


class FileLock:
    """Locks a file for one process; the lock ends with the process, however.

    Also a context manager.

    Args:
        path: The file; made when missing, and never deleted.
        wait: Wait until nobody else has it.

    Raises:
        BlockingIOError: If another has it, and `wait` is not given.
        OSError: If the folder cannot be written.
    """

    def __init__(self, path: Path, *, wait: bool = False) -> None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._release = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            self.release()
            raise

    def release(self) -> None:
        """Let the file go; a second call does nothing."""
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def is_locked(run: Path) -> bool:
    """Whether a trainer is at work in a run folder."""
    try:
        descriptor = os.open(run / ".lock", os.O_RDONLY)
    except OSError:  # never locked, or not ours to look at
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.1)  # `is_locked` holds it for a moment
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
