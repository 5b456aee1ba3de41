"""A trial of a search in a process of its own.

The process comes from one that has imported TensorFlow and done nothing else, so it
starts in a fraction of a second. Memory, also of a GPU, is given back whole, and what
kills the process, such as want of memory, leaves the search alone.
"""

import dataclasses
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from worklab.cli import log_to_standard_error
from worklab.locks import RunLock
from worklab.output import Mode, output_mode, speaking
from worklab.processes import end_with_parent
from worklab.stopping import RunStopped, StopSignals

_logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_ORPHAN_SECONDS = 30.0  # in which a trial ends whose search was killed
_END_SECONDS = 60.0  # in which a process ends that has handed its result over

# What each trial imports anyway.
_PRELOADED = ["worklab.runs", "worklab.trainer", "worklab.writer"]

OnValidation = Callable[[int, float], bool]
"""Takes the step and the loss of a validation; returns whether to give up."""


class TrialPruned(RunStopped):
    """Ends a trial that promises nothing."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: `stopped` is a trial that can be taken up again, as the search was asked
            to end; `broken` is no fault of the trial, but of the disk or the files.
        result: Content of its `result.json`, where it is complete.
        message: Why it failed.
    """

    state: Literal["complete", "pruned", "failed", "stopped", "broken"]
    result: dict[str, Any] | None = None
    message: str = ""


def run_trial(
    train: Callable[..., dict[str, Any]],
    options: Any,
    *,
    signals: StopSignals,
    on_validation: OnValidation = lambda step, loss: False,
    testing: bool = False,
) -> Outcome:
    """Call a launcher's `main` in a process of its own, and wait for its end.

    Args:
        train: The `main`, with the keywords `on_validation` and `testing`.
        options: Its options.
        signals: What comes there is handed on, once.
        on_validation: Called here with each validation.
        testing: Whether the best checkpoint is tested.

    Returns:
        How it ended.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    ours, theirs = context.Pipe()
    settings = (train, options, testing, theirs, output_mode())
    process = context.Process(target=_work, args=settings)
    process.start()
    theirs.close()
    try:
        outcome = _listen(ours, process, signals, on_validation)
        process.join(_END_SECONDS)
    finally:
        if process.is_alive():
            process.kill()
            process.join()
        ours.close()
    if outcome is None and signals.number is not None:
        outcome = Outcome("stopped")
    if outcome is None:
        outcome = Outcome("failed", message=_describe_death(process.exitcode))
    process.close()
    return outcome


def _listen(
    connection: Connection,
    process: Any,
    signals: StopSignals,
    on_validation: OnValidation,
) -> Outcome | None:
    handed_on = False
    while True:
        if signals.number is not None and not handed_on and process.is_alive():
            os.kill(process.pid, signals.number)
            handed_on = True
        if not connection.poll(_POLL_SECONDS):
            continue
        try:
            message = connection.recv()
            if isinstance(message, Outcome):
                return message
            connection.send(on_validation(*message))
        except (EOFError, ConnectionError):
            return None


def _describe_death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        reason = ", as the system does for want of memory" if code == -9 else ""
        return f"the process was ended by {name}{reason}"
    return f"the process ended with exit code {code}"


def _work(
    train: Callable[..., dict[str, Any]],
    options: Any,
    testing: bool,
    connection: Connection,
    mode: Mode,
) -> None:
    """Run a trial here, and send how it ended."""
    os.setpgrp()  # Ctrl-C is for the search, which hands it on
    # At any instant, as the checkpoints are whole at any.
    threading.Thread(target=end_with_parent, daemon=True).start()
    log_to_standard_error()

    def on_validation(step: int, statistics: Any) -> None:
        connection.send((step, statistics.loss))
        if connection.recv():
            raise TrialPruned

    try:
        _wait_for_orphan(options.run)
        with speaking(mode, run=options.run):
            result = train(options, on_validation=on_validation, testing=testing)
        outcome = Outcome("complete", result)
    except TrialPruned:
        outcome = Outcome("pruned")
    except SystemExit:
        outcome = Outcome("stopped")
    except OSError as error:
        outcome = Outcome("broken", message=str(error))
    except Exception as error:
        if "Received: " not in str(error):  # a defect, or TensorFlow's
            _logger.exception("%s has failed", options.run)
        outcome = Outcome("failed", message=f"{type(error).__name__}: {error}")
    connection.send(outcome)


def _wait_for_orphan(run: Path) -> None:
    """Wait for the process of a search that was killed; it ends by itself.

    Raises:
        TimeoutError: If it does not.
    """
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while True:
        try:
            RunLock(run).release()
            return
        except RuntimeError as error:
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"`{run}` is still in use after {_ORPHAN_SECONDS:.0f} seconds. End "
                    "the process that trains there, and start the search again. "
                    f"Received: {error}"
                ) from error
        time.sleep(_POLL_SECONDS)
