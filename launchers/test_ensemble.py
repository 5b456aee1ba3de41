"""Test what several checkpoints answer together on one split.

    python launchers/test_ensemble.py --run runs/cycles

tests each snapshot of the run once, then their ensembles: the mean of their
probabilities, the geometric mean, the majority. `--steps 1000 2000` names other
checkpoints of the run, `--members runs/a runs/b@latest average.safetensors` those of
other runs and networks of the same classes. `--average-weights` also tests the mean of
the members' weights, which is one network again. Writes
`tests/ensemble.<split>.json` in the run folder, and a `.csv` beside it.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from worklab import Session, Tester, cli
from worklab.console import make_console, show_tests
from worklab.ensembles import (
    METHODS,
    EnsembleResult,
    Member,
    Method,
    WeightAverage,
    check_output,
    combine_tests,
    find_members,
    numbers,
    write_average,
)
from worklab.moving_statistics import estimate_statistics
from worklab.printing import print_plainly
from worklab.report.writing import report_test
from worklab.runs import RunSetup, make_network, make_reader, read_run
from worklab.tester import TestResult


@dataclasses.dataclass(frozen=True)
class Options:
    """Test what several checkpoints answer together on one split."""

    run: Path = Path("runs/demo")
    """Folder of the run, whose lists are tested and where the result is saved."""
    steps: tuple[int, ...] = ()
    """Its checkpoints that take part; none given: its snapshots."""
    members: tuple[str, ...] = ()
    """Runs or checkpoint files in their place: `runs/a runs/b@latest runs/c@1200`."""
    last: int | None = None
    """Only the last so many of them; None: all."""
    split: Literal["train", "valid", "test"] = "test"
    """Which of the run's lists."""
    method: Method = "mean"
    """Whose answers are saved image by image; the numbers of all methods are."""
    average_weights: bool = False
    """Test the mean of the members' weights, too; they must be of one network."""
    statistics_batches: int = 50
    """Training batches that its batch-norm statistics are set from; 0: their mean."""
    output: Path | None = None
    """File for the mean of the weights, as a checkpoint; None: it is not kept."""
    overwrite: bool = False
    """Replace that file."""
    data_folder: Path | None = None
    """Where the lists are now; None: where they were in training."""
    report: bool = True
    """Write a page on the test beside it, `<test>.report.html`."""


def main(options: Options) -> EnsembleResult:
    """Test what several checkpoints answer together on one split.

    Returns:
        The result, which has been saved.

    Raises:
        ValueError: If an option is out of range, or members do not fit each other.
    """
    check(options)
    setup = read_run(options.run, data_folder=options.data_folder)
    members = find_members(
        options.run,
        setup,
        places=options.members,
        steps=options.steps,
        last=options.last,
    )
    console = make_console(alone=True)
    average = WeightAverage() if options.average_weights else None
    tests: dict[str, TestResult] = {}
    for each, alike in itertools.groupby(members, lambda member: member.setup):
        tests |= test_members(options, each, list(alike), average)
    ensembles = {
        str(method): combine_tests(list(tests.values()), method) for method in METHODS
    }
    if average is not None:
        step = ensembles[options.method].step
        found = test_average(options, members[0].setup, average, step)
        ensembles["average weights"] = found
    result = EnsembleResult(tests, ensembles, options.method)
    path = result.save(options.run / "tests")
    print_plainly(console, f"{options.run}, {len(members)} members, {options.split}:")
    show_tests(console, numbers(result.members), numbers(result.ensembles))
    if options.output is not None:
        print_plainly(console, f"mean of the weights: {options.output}")
    print_plainly(console, f"result: {path}")
    report_test(console, path, options)
    return result


def check(options: Options) -> None:
    """Check what can be checked before anything is tested.

    Raises:
        ValueError: If options do not fit each other, or the output is there already.
    """
    if options.statistics_batches < 0:
        raise ValueError(
            "`statistics_batches` must be at least 0. "
            f"Received: statistics_batches={options.statistics_batches}"
        )
    if options.output is None:
        return
    if not options.average_weights:
        raise ValueError(
            "`--output` keeps the mean of the weights, so `--average-weights` must be "
            f"given, too. Received: output={str(options.output)!r}"
        )
    check_output(options.output, overwrite=options.overwrite)


def test_members(
    options: Options,
    setup: RunSetup,
    members: Sequence[Member],
    average: WeightAverage | None,
) -> dict[str, TestResult]:
    """Test members that are of one set-up, one after the other."""
    tests = {}
    with testing(options, setup) as tester:
        for member in members:
            tester.session.restore_file(member.checkpoint)
            if average is not None:
                average.add(tester.network)
            tests[member.name] = tester.test()
    return tests


def test_average(
    options: Options, setup: RunSetup, average: WeightAverage, step: int
) -> TestResult:
    """Test the mean of the members' weights, and keep it where that is wanted."""
    with testing(options, setup) as tester:
        average.assign_to(tester.network)
        if options.statistics_batches:
            reader = make_reader("train", setup.class_names, setup)
            estimate_statistics(
                tester.network, reader, tester.session, options.statistics_batches
            )
        result = tester.test(step=step)
        if options.output is not None:
            write_average(options.output, tester.network, setup, step)
    return result


@contextlib.contextmanager
def testing(options: Options, setup: RunSetup) -> Iterator[Tester]:
    """Give a tester of a set-up's network, whose weights are still random."""
    with Session(options.run, setup.session, alone=True) as session:
        reader = make_reader(options.split, setup.class_names, setup)
        network = make_network(reader, setup)
        session.track_variables(network.variables)
        console = make_console(alone=True)
        yield Tester(network, reader, session, split=options.split, console=console)


if __name__ == "__main__":
    cli.run(main, face="test")
