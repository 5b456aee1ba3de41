"""Session: start, save, restore, stop: everything that outlives the process."""

import contextlib
import copy
import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import tensorflow as tf

from worklab import runtime
from worklab.checkpoints import (
    CheckpointError,
    Checkpoints,
    bring_to_disk,
    load_checkpoint,
    with_averages,
)
from worklab.cool_down import COOL_DOWN_FILE
from worklab.devices import LOST_WORKER, Devices
from worklab.files import write_atomically
from worklab.locks import RunLock
from worklab.network import Network
from worklab.options import RestoreOptions, SessionOptions
from worklab.pretrained import ImportReport, import_weights
from worklab.stopping import StopRequested, StopSignals

_logger = logging.getLogger(__name__)
_STRICT = RestoreOptions()

# What `trial` gives back beside variables and states.
_OF_A_TRIAL = (
    *("step", "best_step", "_started", "_on_trial"),
    *("_saved_step", "_saved_best_step", "snapshots"),
)


class Stateful(Protocol):
    """Something with a state that JSON can hold."""

    def get_state(self) -> dict[str, Any]:
        """Return the state."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Become what `get_state` described."""


class Session:
    """Keeps a run: its folder, its checkpoints, what is in them, and its end.

    Everything that must survive the process is tracked: variables by name, and small
    states as text. `save` writes all of it as one checkpoint. Used as a context, a
    Session serves Ctrl-C and SIGTERM: the step ends, a checkpoint is saved, and the
    process exits with 130 or 143. A second signal ends it at once.

    Use it as it is; it is not made for subclassing.

    Args:
        run: Folder of the run; made when something is written.
        options: Seed, precision, threads, devices, retention.
        alone: Be no worker, whatever `TF_CONFIG` says; as for a test beside training.

    Attributes:
        devices: The `Devices` that share each batch.
        step: Training steps done.
        best_step: Step whose checkpoint is kept as the best; None: none yet.
        snapshots: Steps whose checkpoints are kept for good, rising.
        checkpoints: The `Checkpoints` of the run.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        run: Path,
        options: SessionOptions = SessionOptions(),
        *,
        alone: bool = False,
    ) -> None:
        runtime.configure(options)
        self._signals = StopSignals(options.time_limit)  # waiting for workers counts
        self.devices = Devices(options, alone=alone)
        self.run = Path(run)
        self.options = options
        self.step = 0
        self.best_step: int | None = None
        self.snapshots: list[int] = []
        self.checkpoints = Checkpoints(
            self.run / "checkpoints",
            keep=options.keep,
            keep_every=options.keep_every,
            queues=self.run / "tests" / "queues",
        )
        self._class_names: list[str] = []
        self._layout: str | None = None
        self._averages: dict[str, str] = {}
        self._variables: dict[str, Any] = {}
        self._states: dict[str, Stateful] = {}
        self._read_variables: Any = None
        self._started = False
        self._on_trial = False
        self._saved_step: int | None = None
        self._saved_best_step: int | None = None
        self._lock: RunLock | None = None
        self._background = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[Path] | None = None
        self._scope = contextlib.ExitStack()

    def track_variables(self, variables: Mapping[str, Any], prefix: str = "") -> None:
        """Save and restore these Keras variables, by `prefix` and name.

        Raises:
            ValueError: If another tracked variable has the name.
        """
        for name, variable in variables.items():
            full_name = prefix + name
            if self._variables.setdefault(full_name, variable) is not variable:
                raise ValueError(
                    "two tracked variables have one name; give a layer another "
                    f"`scope=`. Received: {full_name!r} twice"
                )

    def track_averages(self, averages: Mapping[str, str]) -> None:
        """Note which tracked variables are averages of weights, by weight.

        A session that has no optimizer, as for a test, restores these as the weights.
        """
        self._averages = dict(averages)

    def track_state(self, name: str, stateful: Stateful) -> None:
        """Save and restore the state of an object, as JSON has it."""
        self._states[name] = stateful

    def start(
        self,
        network: Network,
        class_names: Sequence[str],
        *,
        pretrained: Path | None = None,
        restore: RestoreOptions = _STRICT,
    ) -> ImportReport | None:
        """Give every variable its first value, in the order of the numbered cases.

        Args:
            network: Whose variables are tracked and, in case 2, loaded.
            class_names: Names in label order; a checkpoint must have the same.
            pretrained: Weights file of case 2.
            restore: How that file is taken in.

        Returns:
            The import report, where the pretrained file was loaded.

        Raises:
            CheckpointError: If there are checkpoints, but none can be read.
            RuntimeError: If another process trains in the run folder.
            ValueError: If the checkpoint is of other classes or another network, or
                the pretrained file leaves a variable unexplained.
        """
        if self.is_chief:
            self._lock = self._lock or RunLock(self.run)
            self.checkpoints.clean()
        self._class_names = list(class_names)
        self._layout = None if network.layout is None else network.layout.name
        self.track_variables(network.variables)
        report = None
        # 1. The run has an intact checkpoint: everything is restored from it.
        resumed = self._restore_newest()
        if not resumed and self.devices.is_chief and self.checkpoints.steps():
            raise CheckpointError(
                f"none of the checkpoints of `{self.run}` can be read, so nothing is "
                "changed there. Mend the disk, or move the folder away to start anew. "
                f"Received: steps {self.checkpoints.steps()}"
            )
        # 2. A pretrained file is given: the layers that say so are loaded from it.
        #    `restore_anyway` does this after case 1 too, to the weights alone.
        if pretrained is not None and (not resumed or self.options.restore_anyway):
            report = import_weights(
                network, pretrained, restore, class_names=class_names
            )
        if report is not None or not resumed:
            self._begin_averages()
        # 3. All else has been initialised from the seed, layer by layer.
        device = runtime.describe_device(self.options.precision)
        if resumed:
            if self.is_chief:
                self.checkpoints.delete_old(self.step, self._kept_steps())
            _logger.info("resumed from step %d of %s (%s)", self.step, self.run, device)
        else:
            for stateful in self._states.values():
                stateful.set_state(stateful.get_state())  # drops a dead run's log
            source = "from scratch" if report is None else "from pretrained weights"
            _logger.info("started %s (%s)", source, device)
        if report is not None:
            _logger.info("%s", report)
        self._started = True
        return report

    def save(self, *, snapshot: bool = False) -> Path:
        """Write one checkpoint of everything tracked, at this step, on the chief.

        The values are those of now, but the file is written beside training; `finish`
        waits for it, and so does the next `save`. Where writing failed, that is where
        the error is raised.

        Args:
            snapshot: Keep it for good.

        Returns:
            Path of the file to be.

        Raises:
            RuntimeError: If `start` has not been called.
            OSError: If the checkpoint before could not be written.
            ValueError: If a variable of the checkpoint before is not finite.
        """
        if not self._started:
            raise RuntimeError(
                "`Session.save` needs a started session, or it would save random "
                "numbers as progress. Call `start` first. Received: save before start"
            )
        if snapshot and self.step not in self.snapshots:
            self.snapshots.append(self.step)
        state = {
            "step": self.step,
            "best_step": self.best_step,
            "snapshots": list(self.snapshots),
            "class_names": self._class_names,
            "layout": self._layout,
            "averages": self._averages,
            "states": {name: s.get_state() for name, s in self._states.items()},
        }
        self.finish()
        kept_steps = self._kept_steps()
        self._saved_step, self._saved_best_step = self.step, self.best_step
        if not self.is_chief:
            return self.checkpoints.path(self.step)
        # TensorFlow never changes a tensor that was read: the next step's update makes
        # a copy of the variable instead. So reading is all that training waits for.
        if self._read_variables is None:
            # One call of a graph, as a call for each variable takes five times as long.
            variables = [v.value for v in self._variables.values()]
            self._read_variables = tf.function(
                lambda: [variable.read_value() for variable in variables],
                autograph=False,
            ).get_concrete_function()
        tensors = dict(zip(self._variables, self._read_variables(), strict=True))
        self._saving = self._background.submit(
            self._write, self.step, tensors, state, kept_steps
        )
        return self.checkpoints.path(self.step)

    def finish(self) -> None:
        """Wait until what was saved is on disk.

        Raises:
            OSError: If it could not be written; the checkpoints before are intact.
            ValueError: If a variable is not finite; nothing was written.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def restore_latest(self) -> None:
        """Restore everything from the newest intact checkpoint.

        Raises:
            CheckpointError: If there is none.
        """
        if not self._restore_newest():
            raise CheckpointError(
                f"`{self.run}` has no checkpoint that can be read; has training "
                "started there? Received: no checkpoint"
            )

    def restore_step(self, step: int) -> None:
        """Restore everything from the checkpoint of a step.

        Raises:
            CheckpointError: If there is none; names the steps that have one.
        """
        self.finish()
        loaded = self.devices.from_chief(lambda: self._load_step(step))
        self._restore(self.checkpoints.path(step), *loaded)

    def restore_file(self, path: Path) -> None:
        """Restore everything from a checkpoint file, wherever it is.

        Raises:
            CheckpointError: If it cannot be read, or is damaged.
        """
        loaded = self.devices.from_chief(lambda: load_checkpoint(path))
        self._restore(path, *loaded)

    def restore_best(self) -> int:
        """Set the variables back to the best checkpoint's; step and states go on.

        Returns:
            The step of the best checkpoint.

        Raises:
            RuntimeError: If no checkpoint has been the best yet.
        """
        if self.best_step is None:
            raise RuntimeError(
                f"no checkpoint of `{self.run}` is the best, as nothing was validated "
                "in training; ask for `latest` or for a step. "
                "Received: best_step=None"
            )
        self.finish()
        best_step = self.best_step
        arrays, state = self.devices.from_chief(
            lambda: self.checkpoints.load(best_step)
        )
        if not any(map(_is_optimizer, self._variables)):
            arrays = with_averages(arrays, state)
        self._assign(self.checkpoints.path(self.best_step), arrays)
        return self.best_step

    @contextlib.contextmanager
    def trial(self) -> Iterator[None]:
        """Write nothing in the run inside, and take back afterwards what has changed.

        Steps, states and every variable that was tracked before become again what they
        were, bit for bit, however the inside ends. What starts inside restores the
        run's checkpoints, but locks, cleans and saves nothing, so a run may be tried on
        while another process trains it.
        """
        self.finish()
        before = {name: copy.copy(getattr(self, name)) for name in _OF_A_TRIAL}
        states = {name: each.get_state() for name, each in self._states.items()}
        arrays = {n: v.value.numpy() for n, v in self._variables.items()}
        self._on_trial = True
        try:
            yield
        finally:
            vars(self).update(before)
            for name, array in arrays.items():
                self._variables[name].assign(array)
            for name, state in states.items():
                self._states[name].set_state(state)

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one of its workers that writes; not on trial."""
        return self.devices.is_chief and not self._on_trial

    @property
    def is_new(self) -> bool:
        """Whether nothing has been saved or restored yet."""
        return self._saved_step is None

    @property
    def stop_requested(self) -> bool:
        """Whether a signal, or the time limit, has asked the run to stop."""
        return self._signals.number is not None

    def asked_to_cool_down(self) -> bool:
        """Return whether somebody has asked for a cool-down by this step.

        The request is a file in the run folder. The first step at which it is seen is
        noted there, so that a run that goes on from before begins at the same step.
        """
        asked = False
        path = self.run / COOL_DOWN_FILE
        if self.is_chief and path.exists():
            noted = path.read_text(encoding="utf-8").strip()
            if not noted.isdecimal():
                noted = str(self.step)
                write_atomically(path, lambda file: file.write(f"{self.step}\n"))
            asked = int(noted) <= self.step
        return self.devices.any(asked)

    def raise_if_stopped(self) -> None:
        """Raise where it is safe to stop; all workers stop at the same place.

        Raises:
            StopRequested: If a signal has come, or the time limit is reached, here or
                on another worker.
        """
        if self.devices.any(self.stop_requested):
            raise StopRequested(self._signals.number or signal.SIGTERM)

    def close(self) -> None:
        """Wait for the last checkpoint and let the run folder go.

        Raises:
            OSError: If the checkpoint could not be written.
            ValueError: If it had a number that is not finite.
        """
        try:
            self.finish()
        finally:
            self._background.shutdown()
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def __enter__(self) -> Self:
        self._scope.enter_context(self.devices.strategy.scope())
        self._signals.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scope.close()
        try:
            if isinstance(error, StopRequested):
                self._save_before_stop(error)
        finally:
            try:
                self.close()
            except (OSError, ValueError):
                if error is None:  # else the error that is on its way says more
                    raise
            finally:
                self._signals.give_back()
        if isinstance(error, StopRequested):
            raise SystemExit(128 + error.signal_number) from None
        if self.devices.num_workers > 1 and isinstance(error, LOST_WORKER):
            raise RuntimeError(self.devices.describe_lost(error)) from error

    def _save_before_stop(self, stop: StopRequested) -> None:
        if not self._started:  # a test, or a trial: there is nothing to go on with
            _logger.warning("stopped by %s", stop)
            return
        try:
            if self._saved_step != self.step:
                self.save()
            self.finish()
        except (FloatingPointError, ValueError) as error:  # the one before is intact
            _logger.warning("this step was not saved: %s", error)
        _logger.warning(
            "stopped by %s at step %d; the same command goes on from there",
            stop,
            self.step,
        )

    def _begin_averages(self) -> None:
        """Set averages to their weights, as there is nothing yet to be averaged."""
        for weight, average in self._averages.items():
            self._variables[average].assign(self._variables[weight].value)

    def _restore_newest(self) -> bool:
        self.finish()
        arrays, state = self.devices.from_chief(self._load_newest)
        if state is None:
            return False
        self._restore(self.checkpoints.path(state["step"]), arrays, state)
        return True

    def _load_newest(self) -> tuple[Mapping[str, np.ndarray], Any]:
        _, arrays, state = self.checkpoints.load_newest() or (0, {}, None)
        return arrays, state

    def _load_step(self, step: int) -> tuple[Mapping[str, np.ndarray], Any]:
        if step not in self.checkpoints.steps():
            raise CheckpointError(
                f"`{self.run}` has no checkpoint of that step; it has "
                f"{self.checkpoints.steps()}. Received: step={step}"
            )
        return self.checkpoints.load(step)

    def _restore(
        self, path: Path, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]
    ) -> None:
        if self._class_names and state["class_names"] != self._class_names:
            raise ValueError(
                f"`{path}` was trained on other classes than the list has: "
                f"{_excerpt(state['class_names'])}. Give the list it was trained on, "
                f"or another `--run`. Received: {_excerpt(self._class_names)}"
            )
        layout = state.get("layout", self._layout)
        if self._class_names and layout != self._layout:
            raise ValueError(
                f"`{path}` was trained in the layout {layout!r}, which pads, divides "
                f"or orders otherwise. Give `--restore.layout {layout}`, or another "
                f"`--run`. Received: layout={self._layout!r}"
            )
        if not any(map(_is_optimizer, self._variables)):  # a test
            arrays = with_averages(arrays, state)
        elif not state.get("averages"):  # the option was given since
            arrays = dict(arrays)
            for weight, average in self._averages.items():
                arrays[average] = arrays[weight]
        self._assign(path, arrays)
        self.step = self._saved_step = state["step"]
        self.best_step = self._saved_best_step = state["best_step"]
        self.snapshots = list(state.get("snapshots", []))
        for name, stateful in self._states.items():
            if name in state["states"]:
                stateful.set_state(state["states"][name])

    def _assign(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        # The network's variables first: they say best what does not fit.
        names = sorted(dict.fromkeys([*self._variables, *arrays]), key=_is_optimizer)
        for name in names:
            variable, array = self._variables.get(name), arrays.get(name)
            if variable is None and _is_optimizer(name):
                continue  # a test restores no optimizer
            expected = None if variable is None else tuple(variable.shape)
            found = None if array is None else array.shape
            if expected != found:
                raise ValueError(
                    f"`{path}` does not fit the network: `{name}` should have shape "
                    f"{expected}. Give the network and optimizer it "
                    f"was trained with, or another `--run`. Received: shape {found}"
                )
        for name, variable in self._variables.items():
            variable.assign(arrays[name])

    def _write(
        self,
        step: int,
        tensors: dict[str, Any],
        state: Mapping[str, Any],
        kept_steps: set[int],
    ) -> Path:
        arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
        # What the state counts must be on disk before the checkpoint that counts it.
        for log in (self.run / "history.csv", self.run / "layers.csv"):
            if log.exists():
                bring_to_disk(log)
        return self.checkpoints.save(step, arrays, state, kept_steps=kept_steps)

    def _kept_steps(self) -> set[int]:
        """Return the snapshots, the best step now, and that of the checkpoint before.

        The newest file may turn out damaged; then the one before needs its best.
        """
        best_steps = (self.best_step, self._saved_best_step)
        return {*self.snapshots, *(step for step in best_steps if step is not None)}


def _is_optimizer(name: str) -> bool:
    return name.startswith("optimizer/")


def _excerpt(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{len(names)} classes ({shown}{', ...' if len(names) > 5 else ''})"
