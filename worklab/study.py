"""The trials of a search in a space, which its processes share as a file.

Everything that is written is written by one process at a time, so a journal has whole
lines, and trial *n* depends on what was there before it alone: not on who asks, nor on
how often the search was killed.
"""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worklab.locks import FileLock
from worklab.options import SearchOptions
from worklab.search_space import Choices, Range, Space, grid
from worklab.trial_process import Outcome
from worklab.trials import Trial

try:
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.trial import FrozenTrial, TrialState, create_trial
except ImportError as error:
    raise RuntimeError(
        "a search in a space wants Optuna: `pip install 'worklab[search]'`. "
        f"Received: {error}"
    ) from error

_NAME = "search"
_NUM_TRIALS = 20
_STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Study:
    """The trials of a search in a space, on disk.

    Args:
        run: Folder of the search.
        space: What is searched.
        options: Sampler, pruner, number of trials.
        seed: With the study's trials it decides about the next one.
        valid_every: Steps between validations, which `hyperband` counts in.

    Raises:
        ValueError: If a grid has no steps.
    """

    def __init__(
        self,
        run: Path,
        space: Space,
        options: SearchOptions,
        *,
        seed: int = 0,
        valid_every: int = 1,
    ) -> None:
        self.run = run
        self.space = space
        self.options = options
        self.seed = seed
        self._valid_every = valid_every
        self._grid = grid(space) if options.sampler == "grid" else []
        self.num_trials = len(self._grid) or _NUM_TRIALS
        if options.num_trials is not None:
            self.num_trials = options.num_trials
        if self._grid:
            self.num_trials = min(self.num_trials, len(self._grid))
        self._distributions = {k: _distribution(v) for k, v in space.items()}
        self._path = run / "journal.log"
        with self._alone():
            # No lock of Optuna's is needed; this one is there to be of a known name.
            lock = JournalFileOpenLock(str(self._path))
            backend = JournalFileBackend(str(self._path), lock_obj=lock)
            self._storage = optuna.storages.JournalStorage(backend)
            optuna.create_study(
                storage=self._storage, study_name=_NAME, load_if_exists=True
            )

    def take(self) -> tuple[Trial, FileLock] | None:
        """Return a trial to work on: one that nobody works on any more, or a new one.

        Returns:
            The trial, and the lock that shows that somebody works on it; None where
            all are finished, or in the hands of other processes.
        """
        with self._alone():
            study = self._load()
            trials = study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state == TrialState.RUNNING:
                    with contextlib.suppress(BlockingIOError):
                        return self._describe(trial), self._lock(trial.number)
            if len(trials) >= self.num_trials:
                return None
            lock = self._lock(len(trials))
            study.add_trial(
                create_trial(
                    state=TrialState.RUNNING,
                    params=self._sample(study, len(trials)),
                    distributions=self._distributions,
                )
            )
            return self._describe(study.get_trials(deepcopy=False)[-1]), lock

    def report(self, number: int, step: int, loss: float) -> bool:
        """Take in a validation of a trial; return whether it is pruned now.

        One that was reported before its process was killed may come again.
        """
        with self._alone():
            study = self._load()
            trial = study.get_trials(deepcopy=False)[number]
            if step not in trial.intermediate_values:
                self._storage.set_trial_intermediate_value(self._id(number), step, loss)
                trial = study.get_trials(deepcopy=False)[number]
            pruned = study.pruner.prune(study, trial)
            if pruned:  # at once, as to ask again may have another answer
                study.tell(number, state=TrialState.PRUNED)
        return pruned

    def finish(self, number: int, outcome: Outcome) -> None:
        """Take in how a trial ended."""
        with self._alone():
            study = self._load()
            if outcome.state == "complete" and outcome.result is not None:
                self._note(number, "best_step", outcome.result["best_step"])
                study.tell(
                    number, outcome.result["best_valid_loss"], skip_if_finished=True
                )
            elif outcome.state == "failed":
                self._note(number, "message", outcome.message)
                study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def trials(self) -> list[Trial]:
        """Return all trials, in the order of their numbers."""
        return [self._describe(t) for t in self.load().get_trials(deepcopy=False)]

    def load(self) -> optuna.Study:
        """Return Optuna's study, to be read."""
        with self._alone():
            return self._load()

    def _load(self) -> optuna.Study:
        # Anew, as a study remembers trials and a pruner remembers how it began.
        return optuna.load_study(
            study_name=_NAME, storage=self._storage, pruner=self._pruner()
        )

    def _pruner(self) -> optuna.pruners.BasePruner:
        if self.options.pruner == "median":
            return optuna.pruners.MedianPruner()
        if self.options.pruner == "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=self._valid_every)
        return optuna.pruners.NopPruner()

    def _sample(self, study: optuna.Study, number: int) -> dict[str, Any]:
        if self._grid:
            point = self._grid[number]
            return {name: _encode(self.space[name], v) for name, v in point.items()}
        text = f"{self.seed}/{number}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
        with warnings.catch_warnings():  # what it calls experimental is old by now
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler: optuna.samplers.BaseSampler = (
                optuna.samplers.RandomSampler(seed)
                if self.options.sampler == "random"
                else optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            )
        trial = create_trial(state=TrialState.RUNNING)
        return {
            name: sampler.sample_independent(study, trial, name, distribution)
            for name, distribution in self._distributions.items()
        }

    def _describe(self, trial: FrozenTrial) -> Trial:
        values = {
            name: _decode(self.space[name], value)
            for name, value in trial.params.items()
        }
        complete = trial.state == TrialState.COMPLETE
        return Trial(
            trial.number,
            f"trials/{trial.number:04d}",
            values,
            _STATES[trial.state],
            trial.value if complete else None,
            trial.user_attrs.get("best_step"),
            trial.user_attrs.get("message", ""),
        )

    def _lock(self, number: int) -> FileLock:
        return FileLock(self.run / f"trials/.{number:04d}.lock")

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(_NAME)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def _note(self, number: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._id(number), key, value)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other process read or write, and mend what a killed one has left."""
        with FileLock(self.run / ".study.lock", wait=True):
            Path(f"{self._path}.lock").unlink(missing_ok=True)
            _cut_half_line(self._path)
            yield


def _cut_half_line(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            file.seek(end - 1)
            if file.read(1) == b"\n":
                break
            end -= 1
        if end < size:
            file.truncate(end)


def _distribution(parameter: Choices | Range) -> BaseDistribution:
    if isinstance(parameter, Choices):
        return CategoricalDistribution(
            [_encode(parameter, value) for value in parameter.values]
        )
    low, high, step = parameter.low, parameter.high, parameter.step
    if parameter.whole:
        return IntDistribution(
            int(low), int(high), log=parameter.log, step=int(step or 1)
        )
    return FloatDistribution(low, high, log=parameter.log, step=step)


def _encode(parameter: Choices | Range, value: Any) -> Any:
    """Return a value as Optuna takes it: lists and objects as text."""
    if isinstance(parameter, Choices) and isinstance(value, list | dict):
        return json.dumps(value)
    return value


def _decode(parameter: Choices | Range, value: Any) -> Any:
    if isinstance(parameter, Choices) and value not in parameter.values:
        return json.loads(value)
    return value
