"""Test one checkpoint of a run on one split.

    python launchers/test.py --run runs/demo --split test

writes `tests/step-<step>.<split>.json` in the run folder, and a `.csv` beside it with
the answer for each image.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from rich.console import Console

from worklab import Session, Tester, cli
from worklab.console import show_skipped, show_statistics
from worklab.runs import make_network, make_reader, read_run, skipped_images
from worklab.tester import TestResult


@dataclasses.dataclass(frozen=True)
class Options:
    """Test one checkpoint of a run on one split."""

    run: Path = Path("runs/demo")
    """Folder of the run."""
    checkpoint: Literal["best", "latest"] | int = "best"
    """The step to test; `best` has the lowest validation loss."""
    split: Literal["train", "valid", "test"] = "test"
    """Which of the run's lists."""
    data_folder: Path | None = None
    """Where the lists are now; None: where they were in training."""


def main(options: Options) -> TestResult:
    """Test one checkpoint of a run on one split.

    Returns:
        The result, which has been saved.
    """
    setup = read_run(options.run, data_folder=options.data_folder)
    console = Console(soft_wrap=True)
    with Session(options.run, setup.session, alone=True) as session:
        reader = make_reader(options.split, setup.class_names, setup)
        network = make_network(reader, setup)
        session.track_variables(network.variables)
        step = restore(session, options.checkpoint)
        tester = Tester(network, reader, session, split=options.split)
        result = tester.test(step=step)
    path = result.save(options.run / "tests")
    console.print(f"{options.run}, step {step}, {options.split}:")
    show_statistics(console, result.statistics.to_json(), setup.class_names)
    show_skipped(console, skipped_images(**{options.split: reader}))
    console.print(f"result: {path}")
    return result


def restore(session: Session, checkpoint: Literal["best", "latest"] | int) -> int:
    """Restore the weights of a checkpoint and return its step."""
    if isinstance(checkpoint, int):
        session.restore_step(checkpoint)
        return checkpoint
    session.restore_latest()
    return session.restore_best() if checkpoint == "best" else session.step


if __name__ == "__main__":
    cli.run(main, face="test")
