"""A search: trains one trial after the other, and tests the best of them once."""

import datetime
import itertools
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklab.files import write_json
from worklab.locks import FileLock, RunLock
from worklab.option_files import flatten, options_to_json
from worklab.options import RestoreOptions, SearchOptions
from worklab.run_records import differences
from worklab.search_space import Space, space_to_json, with_values
from worklab.stopping import StopRequested, StopSignals
from worklab.trial_process import Outcome, run_trial
from worklab.trials import Trial, best_trial, trials_to_json, write_trials

if TYPE_CHECKING:
    from worklab.study import Study

_logger = logging.getLogger(__name__)

_WAIT_SECONDS = 1.0  # between looks at what other processes do

# What may differ when a search goes on: where it runs, and when it ends.
_FREE = {
    "run",
    "data.folder",
    "data.on_bad_file",
    *(f"reader.num_{each}" for each in ("threads", "processes")),
    *(f"search.{each}" for each in ("num_trials", "hyper_patience", "engine")),
    *(f"search.{each}" for each in ("workers", "cpus_per_trial", "gpus_per_trial")),
    *("search.address", "search.space"),
    *(f"session.{each}" for each in ("num_threads", "device", "gpu_megabytes")),
    *("session.num_devices", "session.keep", "session.time_limit"),
    "training.log_every",
}

Train = Callable[..., dict[str, Any]]
"""A launcher's `main` with the keywords `on_validation` and `testing`."""


class Search:
    """The trials of a search, and what they share.

    Used as a context, it serves Ctrl-C, SIGTERM and the time limit: the trial saves a
    checkpoint, and the process exits with 130 or 143. The same command goes on.

    Args:
        run: Folder of the search; trials have theirs in `trials/` there.
        train: What trains a trial.
        options: Options of a trial, without what is searched.
        time_limit: Seconds after which the search ends as after SIGTERM.
    """

    def __init__(
        self, run: Path, train: Train, options: Any, time_limit: float | None = None
    ) -> None:
        self.run = run
        self.train = train
        self.options = options
        self.signals = StopSignals(time_limit)

    def __enter__(self) -> "Search":
        self.signals.listen()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.signals.give_back()
        if isinstance(error, StopRequested):
            _logger.warning("stopped by %s; the same command goes on", error)
            raise SystemExit(128 + error.signal_number) from None

    def train_trial(
        self,
        trial: Trial,
        options: Any,
        on_validation: Callable[[int, float], bool] = lambda step, loss: False,
    ) -> Outcome:
        """Train one trial, and say how it ended.

        Raises:
            StopRequested: If the search is asked to end.
            OSError: If the disk is full, or a file is missing: then others fail, too.
        """
        self._raise_if_stopped()
        values = ", ".join(f"{k}={v}" for k, v in trial.values.items())
        _logger.info("trial %d: %s, in %s", trial.number, values, options.run)
        outcome = run_trial(
            self.train, options, signals=self.signals, on_validation=on_validation
        )
        self._refuse_to_go_on(outcome)
        _logger.info("trial %d: %s %s", trial.number, outcome.state, outcome.message)
        return outcome

    def options_of(self, trial: Trial) -> Any:
        """Return the options of a trial, in its own run folder.

        Raises:
            ValueError: If the values do not suit the options.
        """
        values = {**trial.values, "run": str(self.run / trial.run)}
        return with_values(self.options, {**values, "session.time_limit": None})

    def search_hyper(self, options: SearchOptions) -> list[Trial]:
        """Train with one value of `hyper` after the other, until none is better.

        Returns:
            The trials.

        Raises:
            RuntimeError: If another process is at work here.
        """
        lock = RunLock(self.run)
        try:
            trials: list[Trial] = []
            wait = 0
            for trial in _values(options):
                before = best_trial(trials)
                trials.append(self._hyper_trial(trial, options, before))
                write_trials(self.run / "trials.csv", trials)
                wait = 0 if best_trial(trials) == trials[-1] else wait + 1
                if wait >= options.hyper_patience:
                    break
        finally:
            lock.release()
        return trials

    def search_space(self, study: "Study") -> list[Trial]:
        """Work on a study's trials until all are finished, beside other processes.

        Returns:
            The trials.
        """
        while True:
            self._raise_if_stopped()
            taken = study.take()
            if taken is not None:
                trial, lock = taken
                with lock:
                    outcome = self.train_trial(
                        trial,
                        self.options_of(trial),
                        lambda step, loss, n=trial.number: study.report(n, step, loss),  # type: ignore[misc]
                    )
                    study.finish(trial.number, outcome)
            trials = study.trials()
            with FileLock(self.run / ".trials.lock", wait=True):
                write_trials(self.run / "trials.csv", trials)
            if taken is None:
                if all(trial.state != "running" for trial in trials):
                    return trials
                time.sleep(_WAIT_SECONDS)  # others are at work on the rest

    def conclude(self, trials: list[Trial], num_wanted: int = 0) -> dict[str, Any]:
        """Test the best trial and write `result.json`, once.

        Args:
            trials: All of them.
            num_wanted: How many were asked for; a grid may have fewer.

        Returns:
            The content of `result.json`.

        Raises:
            RuntimeError: If all trials have failed.
            StopRequested: If the search is asked to end.
        """
        best = best_trial(trials)
        if best is None:
            messages = [trial.message for trial in trials if trial.message]
            raise RuntimeError(
                f"no trial of `{self.run}` is complete; `trials.csv` says why. Mend "
                "the cause, and give another `--run`. "
                f"Received: {messages[0] if messages else 'all were pruned'}"
            )
        with FileLock(self.run / ".result.lock", wait=True):
            path = self.run / "result.json"
            if path.exists():  # another process was first
                there = json.loads(path.read_text(encoding="utf-8"))
                if there["trials"] == json.loads(json.dumps(trials_to_json(trials))):
                    return there
            outcome = run_trial(
                self.train, self.options_of(best), signals=self.signals, testing=True
            )
            self._refuse_to_go_on(outcome)
            if outcome.result is None:
                raise RuntimeError(
                    f"the test of `{best.run}` has failed. Received: {outcome.message}"
                )
            result = {
                "best": trials_to_json([best])[0],
                "test": outcome.result["test"],
                "class_names": outcome.result["class_names"],
                "num_wanted": max(num_wanted, len(trials)),
                "trials": trials_to_json(trials),
            }
            write_json(path, result)
        return result

    def _hyper_trial(
        self, trial: Trial, options: SearchOptions, before: Trial | None
    ) -> Trial:
        own = self.options_of(trial)
        if options.warm_start and before is not None:
            own = _warm_start(own, self.run / before.run, before)
        path = own.run / "failed.json"
        if path.exists():
            message = json.loads(path.read_text(encoding="utf-8"))["message"]
            outcome = Outcome("failed", message=message)
        else:
            outcome = self.train_trial(trial, own)
        if outcome.result is None:
            write_json(path, {"message": outcome.message})
            values = (trial.number, trial.run, trial.values, outcome.state)
            return Trial(*values, message=outcome.message)
        return Trial(
            trial.number,
            trial.run,
            trial.values,
            "complete",
            outcome.result["best_valid_loss"],
            outcome.result["best_step"],
        )

    def _refuse_to_go_on(self, outcome: Outcome) -> None:
        if outcome.state == "stopped":
            raise StopRequested(self.signals.number or 15)
        if outcome.state == "broken":
            hint = "" if "Received: " in outcome.message else ". Received: OSError"
            raise OSError(f"{outcome.message}{hint}")

    def _raise_if_stopped(self) -> None:
        if self.signals.number is not None:
            raise StopRequested(self.signals.number)


def begin(options: Any, space: Space) -> None:
    """Write `run.json` of a search, or compare it with what is there.

    Args:
        options: The launcher's.
        space: What is searched; empty where it is `hyper` alone.

    Raises:
        ValueError: If the search has begun with other options, whose losses could not
            be compared; or the folder is one of another launcher.
    """
    path = options.run / "run.json"
    plain = options_to_json(options)
    content = {
        "options": plain,
        "space": space_to_json(space),
        "command": sys.argv,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    with FileLock(options.run / ".run.lock", wait=True):
        if not path.exists():
            write_json(path, content)
            return
        before = json.loads(path.read_text(encoding="utf-8"))
    if "space" not in before:
        raise ValueError(
            f"`{options.run}` is a run of another launcher. Give another `--run`. "
            f"Received: run={str(options.run)!r}"
        )
    old, new = (
        {name: value for name, value in flatten(each).items() if name not in _FREE}
        for each in (before["options"], plain)
    )
    lines = differences(old, new)
    if before["space"] != json.loads(json.dumps(content["space"])):
        lines.append("the space is another one")
    if lines:
        raise ValueError(
            f"`{options.run}` has begun with other options, so its trials could not be "
            "compared. Give those (`--config RUN/run.json`), or another `--run`. "
            f"Received: {'; '.join(lines)}"
        )


def _values(options: SearchOptions) -> Iterator[Trial]:
    value = options.start
    for number in itertools.count():
        yield Trial(number, f"trials/hyper-{value:.15g}", {"hyper": value}, "running")
        if options.factor is not None:
            value = options.start * options.factor ** (number + 1)
        else:
            value = options.start + options.step * (number + 1)


def check_hyper(options: SearchOptions, hyper: float | None = None) -> None:
    """Check the numbers of a search for `hyper`, which has no value besides.

    Raises:
        ValueError: If one is out of range.
    """
    numbers = (options.start, options.step, options.factor or 2.0)
    good = {
        "`start`, `step` and `factor` are finite": all(map(math.isfinite, numbers)),
        f"`hyper` is what is searched, not {hyper}": hyper is None,
        "`step` is not 0": options.step != 0,
        "`factor` is above 0 and not 1, from a `start` that is not 0": (
            options.factor is None
            or (options.factor > 0 and options.factor != 1 and options.start != 0)
        ),
        "`hyper_patience` is at least 1": options.hyper_patience >= 1,
        "`engine` ray is for a space": options.engine == "local",
    }
    for rule, holds in good.items():
        if not holds:
            raise ValueError(
                f"in a search for `hyper`, {rule}. Received: start={options.start}, "
                f"step={options.step}, factor={options.factor}, "
                f"hyper_patience={options.hyper_patience}, engine={options.engine}"
            )


def _warm_start(options: Any, run: Path, best: Trial) -> Any:
    """Return options that begin with a run's best weights."""
    layout = json.loads((run / "run.json").read_text(encoding="utf-8"))
    plain = RestoreOptions(rule="names", layout=layout["options"]["restore"]["layout"])
    path = run / f"checkpoints/step-{best.best_step:08d}.safetensors"
    values = options_to_json(plain)
    return with_values(options, {"pretrained": str(path), "restore": values})
