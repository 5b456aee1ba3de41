"""Processes that prepare batches, where one interpreter is too slow for it."""

import collections
import concurrent.futures
import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cloudpickle

# Not Grain's `mp_prefetch`: it starts processes anew for each pass, imports the main
# module in them, and so TensorFlow, and leaves them behind when it is killed.

_AHEAD = 2  # batches that each process prepares before they are asked for


class Processes:
    """Processes that hold a copy of an object and call its methods.

    They start at the first call, import no TensorFlow unless the object's module does,
    and end with this process, however it ends.

    Args:
        target: Any object that can be pickled, also of a class of the main module.
        count: Number of processes.
    """

    def __init__(self, target: Any, count: int) -> None:
        self._count = count
        self._pool = concurrent.futures.ProcessPoolExecutor(
            count,
            multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(cloudpickle.dumps(target),),
        )

    def call(
        self, method: str, numbers: Iterable[int], /, **settings: Any
    ) -> Iterator[Any]:
        """Yield what a method returns for each number, in order, computed ahead.

        Args:
            method: Name of a method of the object.
            numbers: Its first argument, one after the other; may be endless.
            **settings: Its further arguments.

        Raises:
            RuntimeError: If a process was killed.
        """
        rest = iter(numbers)
        ahead = self._count * _AHEAD
        futures: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
        try:
            for number in itertools.islice(rest, ahead):
                futures.append(self._submit(method, number, settings))
            while futures:
                result = futures.popleft().result()
                for number in itertools.islice(rest, 1):
                    futures.append(self._submit(method, number, settings))
                yield result
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process that prepares batches has died, mostly for want of memory. "
                "Give fewer `--reader.num-processes`, or a smaller "
                f"`--reader.cache-megabytes`. Received: {error}"
            ) from error
        finally:
            for future in futures:
                future.cancel()

    def _submit(self, *call: Any) -> concurrent.futures.Future[Any]:
        with _main_module_set_aside(), _signals_blocked():  # it may start a process
            return self._pool.submit(_call, *call)


_target: Any = None  # of the process that calls its methods


def _start(pickled: bytes) -> None:
    global _target
    # Ctrl-C and SIGTERM are for the run, which ends its processes when it is ready.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    logging.disable()  # what a process finds, this one says, once
    sys.stdout = sys.stderr  # a program may read the other
    threading.Thread(target=end_with_parent, daemon=True).start()
    _target = cloudpickle.loads(pickled)


def _call(method: str, number: int, settings: dict[str, Any]) -> Any:
    return getattr(_target, method)(number, **settings)


def end_with_parent() -> None:
    """Wait for the end of the process that started this one, and end it as well."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


_one_at_a_time = threading.Lock()
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    # A new process inherits this, until it can ignore them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _main_module_set_aside() -> Iterator[None]:
    # A process that starts imports the main module again, and with a launcher all of
    # TensorFlow. It needs neither: what is defined there is pickled by value.
    with _one_at_a_time:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main
