"""The checkpoints that wait for a tester which works beside training."""

import contextlib
import os
from pathlib import Path
from typing import Self

from worklab.checkpoints import checkpoint_path, deleted_steps, list_steps


class TestingQueue:
    """A folder of links to checkpoints that a tester has not tested yet.

    While the folder is there, `Checkpoints.save` links each new checkpoint into it
    before it deletes an old one, so a tester of any speed gets all of them. The queue
    outlives its tester: started again, it goes on. What was tested, by the result
    file of its step and split, is not queued again.

    Args:
        run: Folder of the run.
        split: Name of the split; each has its own queue.

    Attributes:
        missed: Steps whose checkpoints were deleted before this queue was there.
    """

    __test__ = False  # not a test case of pytest

    def __init__(self, run: Path, split: str) -> None:
        self.run = Path(run)
        self.split = split
        self.folder = self.run / "tests" / "queues" / split
        self.missed: list[int] = []

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoints = self.run / "checkpoints"
        for step in list_steps(checkpoints):
            path = checkpoint_path(checkpoints, step)
            # Queued already, or deleted by the trainer just now.
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.link(path, self.folder / path.name)
        queued = set(list_steps(self.folder))
        self.missed = [
            step
            for step in deleted_steps(checkpoints)
            if step not in queued and not self._is_tested(step)
        ]
        return self

    def __exit__(self, *error: object) -> None:
        if (self.run / "result.json").exists():
            with contextlib.suppress(OSError):  # something is left, or has just come
                self.folder.rmdir()

    def waiting(self) -> list[tuple[int, Path]]:
        """Return step and path of the checkpoints to test, oldest first."""
        waiting = []
        for step in list_steps(self.folder):
            path = checkpoint_path(self.folder, step)
            if self._is_tested(step):
                path.unlink()
            else:
                waiting.append((step, path))
        return waiting

    def remove(self, path: Path) -> None:
        """Take a checkpoint off, as its result has been saved."""
        path.unlink()

    def set_aside(self, path: Path) -> None:
        """Take a checkpoint that cannot be read off, but keep the file."""
        path.replace(path.with_suffix(".damaged"))

    def _is_tested(self, step: int) -> bool:
        return (self.run / "tests" / f"step-{step:08d}.{self.split}.json").exists()
