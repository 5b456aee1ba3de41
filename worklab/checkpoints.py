"""Checkpoint files: each holds one instant of a run, whole or not at all."""

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from worklab.files import writing

_logger = logging.getLogger(__name__)
_PATTERN = re.compile(r"step-(\d{8,})\.safetensors")
# One entry of the header: safetensors writes several in an order left to chance.
_METADATA = "worklab"
# So that a tester which comes late can tell what it has missed.
_DELETED = "deleted.txt"


class CheckpointError(ValueError):
    """A checkpoint that is not there, or not whole."""


class Checkpoints:
    """The checkpoint files of a run, `step-00001000.safetensors` and so on.

    A checkpoint is one file: arrays by name, and as text in its header a JSON state
    and a checksum over both. It is written beside, brought to disk and renamed, so a
    reader sees all of it or nothing; a reader that has it open keeps it when it is
    deleted. Folders under `queues` get a hard link of each new file before any old
    one is deleted, which is how a tester beside training misses none.

    Args:
        folder: Where the files are; made at the first save.
        keep: Newest files that stay, besides the best.
        keep_every: Files of steps divisible by this stay as well; 0: none.
        queues: Parent of the folders that want a link to each file.

    Raises:
        ValueError: If `keep` is below 1 or `keep_every` below 0.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 3,
        keep_every: int = 0,
        queues: Path | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1. Received: keep={keep}")
        if keep_every < 0:
            raise ValueError(
                f"`keep_every` must be at least 0. Received: keep_every={keep_every}"
            )
        self.folder = Path(folder)
        self.keep = keep
        self.keep_every = keep_every
        self.queues = queues

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step is, or would be."""
        return checkpoint_path(self.folder, step)

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, rising."""
        return list_steps(self.folder)

    def save(
        self,
        step: int,
        arrays: Mapping[str, np.ndarray],
        state: Mapping[str, Any],
        *,
        kept_steps: Collection[int] = (),
    ) -> Path:
        """Write a checkpoint, then delete what need not be kept.

        Args:
            step: Its step; a checkpoint of the same step is replaced.
            arrays: What it holds, by name.
            state: What it holds beside, as JSON has it.
            kept_steps: Steps whose checkpoints are not deleted.

        Returns:
            Path of the file.

        Raises:
            ValueError: If an array has a number that is not finite; nothing is written.
            OSError: If the disk is full or cannot be written; the files before stay.
        """
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(
                    f"no checkpoint was written at step {step}, because `{name}` is "
                    "not finite; the one before is intact. Lower the learning rate or "
                    "clip the gradient. Received: NaN or infinity"
                )
        path = self.path(step)
        write_checkpoint(path, arrays, state)
        with writing(path):
            self._link_into_queues(path)
        self.delete_old(step, kept_steps)
        return path

    def load(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return arrays and state of a checkpoint.

        Raises:
            CheckpointError: If it is missing or broken.
        """
        return load_checkpoint(self.path(step))

    def load_newest(
        self,
    ) -> tuple[int, dict[str, np.ndarray], dict[str, Any]] | None:
        """Return step, arrays and state of the newest whole checkpoint, or None.

        A broken one is reported and passed over.
        """
        for step in reversed(self.steps()):
            try:
                return step, *self.load(step)
            except CheckpointError as error:
                _logger.warning("%s The checkpoint before it is tried.", error)
        return None

    def clean(self) -> None:
        """Finish what a writer that was killed has left: half-written, or not linked.

        Only for the one process that writes here.
        """
        if self.folder.is_dir():
            # Ours, and what safetensors writes before it gives a file our name.
            for path in (*self.folder.glob(".step-*"), *self.folder.glob(".tmp*")):
                _logger.info("deleted the half-written %s", path)
                path.unlink()
        if not self.steps():  # what was deleted belonged to another run
            (self.folder / _DELETED).unlink(missing_ok=True)
        for step in self.steps():
            self._link_into_queues(self.path(step))

    def delete_old(self, step: int, kept_steps: Collection[int]) -> None:
        """Delete what need not be kept, now that the checkpoint of `step` is there.

        What is newer stays: it was passed over as broken, so it must not count.
        """
        steps = [each for each in self.steps() if each <= step]
        for each in steps[: -self.keep]:
            kept = self.keep_every and each % self.keep_every == 0
            if each not in kept_steps and not kept:
                with open(self.folder / _DELETED, "a", encoding="utf-8") as file:
                    file.write(f"{each}\n")
                self.path(each).unlink(missing_ok=True)

    def _link_into_queues(self, path: Path) -> None:
        if self.queues is None:
            return
        for queue in self.queues.glob("*/"):
            link = queue / path.name
            with contextlib.suppress(FileNotFoundError):  # the queue has been deleted
                if link.exists() and link.samefile(path):
                    continue
                temporary = queue / f".{path.name}"
                temporary.unlink(missing_ok=True)  # of a process that was killed
                os.link(path, temporary)
                os.replace(temporary, link)  # also one of this step that was replaced


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where in a folder the checkpoint of a step is."""
    return folder / f"step-{step:08d}.safetensors"


def list_steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoint files in a folder, rising."""
    if not folder.is_dir():
        return []
    matches = (_PATTERN.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def deleted_steps(folder: Path) -> list[int]:
    """Return the steps whose checkpoints need not be kept any more, rising."""
    try:
        words = (folder / _DELETED).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return []
    return sorted({int(word) for word in words if word.isdecimal()})


def newest_checkpoint(run: Path) -> Path:
    """Return the file of a run's newest checkpoint.

    Raises:
        CheckpointError: If there is none.
    """
    steps = list_steps(run / "checkpoints")
    if not steps:
        raise CheckpointError(
            "the folder is no run, or has no checkpoint yet; give a run or a "
            f"checkpoint file. Received: `{run}`"
        )
    return checkpoint_path(run / "checkpoints", steps[-1])


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays by name and the state of a checkpoint file.

    Raises:
        CheckpointError: If it is missing, broken, or its checksum does not fit.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"`{path}` cannot be read as a checkpoint. Received: {error}"
        ) from error
    # Before 0.1 the checksum and the state were two entries.
    before = "\n".join(metadata.get(f"worklab.{n}", "") for n in ("checksum", "state"))
    checksum, _, text = metadata.get(_METADATA, before).partition("\n")
    if checksum != _checksum(arrays, text):
        raise CheckpointError(
            f"`{path}` is damaged: what it holds does not fit its checksum. "
            f"Received: checksum={checksum!r}"
        )
    return arrays, json.loads(text)


def read_state(path: Path) -> dict[str, Any]:
    """Return the state of a checkpoint file without reading, or checking, its arrays.

    Raises:
        CheckpointError: If it is missing, or has no header.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        return json.loads(metadata[_METADATA].partition("\n")[2])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"`{path}` cannot be read as a checkpoint. Received: {error}"
        ) from error


def write_checkpoint(
    path: Path, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint file, whole or not at all, and bring it to disk.

    Raises:
        OSError: If the disk is full or cannot be written.
    """
    text = json.dumps(state)
    # Sorted, so that equal checkpoints are equal files.
    arrays = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    metadata = {_METADATA: f"{_checksum(arrays, text)}\n{text}"}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(arrays, temporary, metadata=metadata)
            bring_to_disk(temporary)
            os.replace(temporary, path)
            bring_to_disk(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def with_averages(
    arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return a checkpoint's arrays, the averages of weights in the weights' place.

    Averages are what a run tests and exports, where it keeps them; else its weights.
    """
    averages = state.get("averages", {})
    return {name: arrays[averages.get(name, name)] for name in arrays}


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a SHA-256 over names, types, shapes and values, in the names' order."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _checksum(arrays: Mapping[str, np.ndarray], text: str) -> str:
    return hashlib.sha256(f"{digest(arrays)}\n{text}".encode()).hexdigest()


def bring_to_disk(path: Path) -> None:
    """Return when the content of a file, or of a folder's list, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
