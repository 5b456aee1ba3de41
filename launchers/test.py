"""Test one checkpoint of a run on one split, once or again and again.

    python launchers/test.py --run runs/demo --split test

writes `tests/step-<step>.<split>.json` in the run folder, and a `.csv` beside it with
the answer for each image, or with `--table parquet` a `.parquet`. With `--checkpoint
FILE` any file of weights is tested, and with `--every 600` the newest checkpoint every
ten minutes, until the run is complete; `test_many.py` tests each of them.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

from rich.console import Console

from worklab import Session, Tester, cli
from worklab.answer_tables import Table, check_table
from worklab.checkpoints import CheckpointError, newest_checkpoint
from worklab.console import make_console, show_skipped, show_statistics, show_test
from worklab.printing import print_plainly
from worklab.report.writing import report_test
from worklab.runs import (
    make_network,
    make_reader,
    read_run,
    skipped_images,
)
from worklab.tester import TestResult
from worklab.trained import restore_trained
from worklab.views import PLAIN, ViewOptions
from worklab.watching import looks, wait_for_run


@dataclasses.dataclass(frozen=True)
class Options:
    """Test one checkpoint of a run on one split, once or again and again."""

    run: Path = Path("runs/demo")
    """Folder of the run; with `every`, waited for when it is not there yet."""
    checkpoint: Literal["best", "latest"] | int | Path = "best"
    """A step or a file; `best` has the lowest validation loss."""
    split: Literal["train", "valid", "test"] = "test"
    """Which of the run's lists."""
    data_folder: Path | None = None
    """Where the lists are now; None: where they were in training."""
    every: float | None = None
    """Seconds between tests of the newest checkpoint; None: one test."""
    follow: bool = False
    """With `every`: go on after the run is complete, e.g. for more steps."""
    views: ViewOptions = PLAIN
    """Ways to see each image; the mean of their probabilities is its answer."""
    table: Table = "csv"
    """Format of the per-image results; Parquet needs the extra `parquet`."""
    report: bool = True
    """Write a page on the test beside it, `<test>.report.html`."""


def main(options: Options) -> TestResult:
    """Test one checkpoint of a run on one split, once or again and again.

    Returns:
        The newest result; all have been saved.

    Raises:
        ValueError: If an option does not go with `every`, or not without it, or the
            package for the table is not installed.
    """
    check_watching(options)
    check_table(options.table)
    console = make_console(alone=True)
    if options.every is not None:
        show = functools.partial(print_plainly, console)
        wait_for_run(options.run, min(options.every, 1.0), show)
    setup = read_run(options.run, data_folder=options.data_folder)
    with Session(options.run, setup.session, alone=True) as session:
        reader = make_reader(options.split, setup.class_names, setup)
        network = make_network(reader, setup)
        tester = Tester(
            network,
            reader,
            session,
            split=options.split,
            views=options.views,
            console=console,
        )
        if options.every is not None:
            session.track_variables(network.variables)
            result, path = keep_testing(tester, options, console)
        else:
            checkpoint, names = options.checkpoint, setup.class_names
            step = restore_trained(session, network, names, checkpoint)
            result = tester.test(step=step)
            path = result.save(results_folder(options), table=options.table)
            print_plainly(console, f"{options.run}, step {step}, {options.split}:")
            show_statistics(console, result.statistics.to_json(), names)
            show_skipped(console, skipped_images(**{options.split: reader}))
    print_plainly(console, f"result: {path}")
    report_test(console, path, options)
    return result


def keep_testing(
    tester: Tester, options: Options, console: Console
) -> tuple[TestResult, Path]:
    """Test the newest checkpoint every so often, each once.

    Returns:
        The last result, and where it was saved.

    Raises:
        CheckpointError: If the run is complete, and nothing could be tested.
    """
    session, result, path = tester.session, None, Path()
    for _ in looks(session, options.every or 0, follow=options.follow):
        tested = -1 if result is None else result.step
        try:
            if newest_checkpoint(options.run) == session.checkpoints.path(tested):
                continue
            session.restore_latest()
        except CheckpointError:  # there is none yet
            continue
        if session.step != tested:  # the newest may be damaged
            result = tester.test()
            path = result.save(options.run / "tests", table=options.table)
            show_test(console, result)
    if result is None:
        raise CheckpointError(
            f"`{options.run}` is complete, and has no checkpoint that can be read. "
            f"Received: steps {session.checkpoints.steps()}"
        )
    return result, path


def check_watching(options: Options) -> None:
    """Refuse what does not go with `every`, or not without it.

    Raises:
        ValueError: If there is something.
    """
    if options.every is None:
        if options.follow:
            raise ValueError(
                "`--follow` goes with `--every`, the seconds between two tests. "
                "Received: follow=True, every=None"
            )
        return
    if not options.every > 0:
        raise ValueError(
            f"`every` must be above 0 seconds. Received: every={options.every}"
        )
    if isinstance(options.checkpoint, int | Path):
        raise ValueError(
            "with `--every` the newest checkpoint is tested each time, so leave "
            f"`--checkpoint` out. Received: checkpoint={options.checkpoint}"
        )


def results_folder(options: Options) -> Path:
    """Return where results go; those of a file from elsewhere in a folder apart."""
    folder, file = options.run / "tests", options.checkpoint
    if not isinstance(file, Path):
        return folder
    own = (options.run / "checkpoints").resolve()
    return folder if file.resolve().parent == own else folder / file.stem


if __name__ == "__main__":
    cli.run(main, face="test")
