"""What a launcher shows on the console beside progress."""

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worklab.cluster import read_cluster
from worklab.printing import open_console, plain, print_event, print_plainly

if TYPE_CHECKING:  # it imports TensorFlow, which not every tool needs
    from worklab.tester import TestResult

Track = Callable[[Iterable[Any], int], Iterable[Any]]
"""Shows progress: called with what is iterated over and its length, it yields that."""

# More columns than this do not fit a terminal; the numbers are in the JSON file.
_LARGEST_CONFUSION = 20

# Names of skipped images on the console; all of them are in `result.json`.
_MOST_NAMES = 20


def make_console(file: TextIO | None = None, *, alone: bool = False) -> Console:
    """Return the console of a launcher, which only the chief of several workers has.

    Args:
        file: Where lines go; None: the standard output.
        alone: Whether this process is no worker, whatever `TF_CONFIG` says.

    Raises:
        ValueError: If `TF_CONFIG`, which says who is the chief, cannot be understood.
    """
    cluster = None if alone else read_cluster()
    return open_console(file, quiet=cluster is not None and cluster.index > 0)


def show_statistics(
    console: Console, statistics: Mapping[str, Any], class_names: Sequence[str]
) -> None:
    """Show loss, accuracy and, for up to 20 classes, the confusion matrix.

    Args:
        console: Where.
        statistics: As `Statistics.to_json` gives them.
        class_names: Names in label order.
    """
    summary = Table(show_header=False)
    summary.add_row("images", str(statistics["num_images"]))
    if statistics.get("num_skipped"):
        summary.add_row("skipped, unreadable", str(statistics["num_skipped"]))
    summary.add_row("loss", f"{statistics['loss']:.4f}")
    summary.add_row("accuracy", f"{statistics['accuracy']:.2%}")
    for k, value in statistics["top_k_accuracy"].items():
        summary.add_row(f"top-{k} accuracy", f"{value:.2%}")
    console.print(summary)
    if len(class_names) <= _LARGEST_CONFUSION:
        numbers = [str(number) for number in range(len(class_names))]
        confusion = Table("is \\ called", *numbers, "recall")
        for number, name in enumerate(class_names):
            recall = statistics["recall"][name]
            counts = [str(n) if n else "." for n in statistics["confusion"][number]]
            share = "" if recall is None else f"{recall:.1%}"
            title = name if name == str(number) else f"{number} {name}"
            confusion.add_row(Text(plain(title)), *counts, share)
        console.print(confusion)


def show_tests(console: Console, *groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Show loss and accuracy of several tests, with a line between the groups.

    Args:
        console: Where.
        *groups: What `Statistics.to_json` gives, by what its row is called.
    """
    top_k = list(next(iter(groups[0].values()))["top_k_accuracy"])
    table = Table("", "images", "loss", "accuracy", *(f"top-{k}" for k in top_k))
    for group in groups:
        table.add_section()
        for name, found in group.items():
            table.add_row(
                Text(plain(name)),
                str(found["num_images"]),
                f"{found['loss']:.4f}",
                f"{found['accuracy']:.2%}",
                *(f"{found['top_k_accuracy'][k]:.2%}" for k in top_k),
            )
    console.print(table)


def show_test(console: Console, result: "TestResult") -> None:
    """Show a test as one line, as for one of many."""
    found, skipped = result.statistics, len(result.skipped)
    line = (
        f"step {result.step:>7}  {result.split} loss {found.loss:.4f}  "
        f"accuracy {found.accuracy:.2%}"
        + (f"  ({skipped} images skipped)" if skipped else "")
    )
    numbers = result.to_json()
    for large in ("confusion", "recall"):  # the file of the test has them
        del numbers[large]
    print_event(console, line, "test", **numbers)


def show_skipped(console: Console, skipped: Mapping[str, Mapping[str, str]]) -> None:
    """Show which images could not be read, and how to find them all.

    Args:
        console: Where.
        skipped: Reasons by the image's name, by the split; as `runs.skipped_images`
            gives them.
    """
    for split, reasons in skipped.items():
        names = ", ".join([*reasons][:_MOST_NAMES])
        more = ", ..." if len(reasons) > _MOST_NAMES else ""
        print_plainly(
            console,
            f"skipped in {split}, as they cannot be read: {len(reasons)} ({names}"
            f"{more}); `python -m worklab check` says what is wrong with them",
        )


def show_places(console: Console, run: Path) -> None:
    """Show where the results are and how to look at the curves."""
    tests = f", tests: {run / 'tests'}" if (run / "tests").exists() else ""
    print_plainly(console, f"results: {run / 'result.json'}{tests}")
    if (run / "report.html").exists():
        print_plainly(console, f"report:  {run / 'report.html'}")
    tensorboard = Path(sys.executable).with_name("tensorboard")
    if tensorboard.is_relative_to(Path.cwd()):
        tensorboard = tensorboard.relative_to(Path.cwd())
    place = shlex.quote(str(run))
    print_plainly(console, f"curves:  {tensorboard} --logdir {place}")
