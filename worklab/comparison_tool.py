"""`python -m worklab compare-tests`: two tests of the same images, side by side."""

from collections.abc import Sequence
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worklab.comparison import Change, Comparison, compare
from worklab.files import write_json
from worklab.metrics import ClassScores
from worklab.printing import plain, print_plainly, wide_console
from worklab.saved_tests import find_test, read_test

_SIGNIFICANT = 0.05  # as usual, for the sentence on the console alone


def compare_tests(
    first: tyro.conf.Positional[Path],
    second: tyro.conf.Positional[Path],
    /,
    split: str = "test",
    json: Path | None = None,
    num_shown: int = 10,
    seed: int = 0,
) -> None:
    """Tell whether the second of two tests of the same images is better, and where.

    Intervals and p-value say what another choice of images might have brought, not
    what another training would.

    Args:
        first: A run that has one test of the split, or a file of its `tests`.
        second: What may be better: a run or a file, too.
        split: Which test of a run to take.
        json: File for all numbers and images.
        num_shown: Classes, gained and lost images to list here.
        seed: Of the bootstrap's chance.

    Raises:
        ValueError: If both are one test.
    """
    paths = [find_test(place, split) for place in (first, second)]
    if paths[0].resolve() == paths[1].resolve():
        raise ValueError(
            "a test is no better than itself: give two, as of two checkpoints. "
            f"Received: `{paths[0]}` twice"
        )
    found = compare(*map(read_test, paths), seed=seed)
    console = wide_console(soft_wrap=True)
    for which, path in zip(("first", "second"), paths, strict=True):
        print_plainly(console, f"{which + ':':8}{path}")
    _show_numbers(console, found)
    _show_classes(console, found, num_shown)
    for title, changes in (("second", found.gained), ("first", found.lost)):
        _show_images(console, f"only the {title} has right", changes, num_shown)
    if json is not None:
        content = {"first": str(paths[0]), "second": str(paths[1]), **found.to_json()}
        write_json(json, content)
        print_plainly(console, f"all numbers and images: {json}")


def _show_numbers(console: Console, found: Comparison) -> None:
    table = Table("", "first", "second", "difference", "95 % interval of it")
    for name, pair, difference, interval, form in (
        (
            "accuracy",
            found.accuracy,
            found.accuracy_difference,
            found.accuracy_interval,
            ".2%",
        ),
        ("loss", found.loss, found.loss_difference, found.loss_interval, ".4f"),
    ):
        bounds = interval and f"{interval.lower:+{form}} to {interval.upper:+{form}}"
        values = [f"{value:{form}}" for value in pair]
        table.add_row(name, *values, f"{difference:+{form}}", bounds or "")
    console.print(table)
    print_plainly(
        console,
        f"of {found.num_images} images both have right: {found.num_both_right}, only "
        f"the first: {len(found.lost)}, only the second: {len(found.gained)}, neither: "
        f"{found.num_both_wrong}",
    )
    better = "second" if len(found.gained) > len(found.lost) else "first"
    says = (
        f"the {better} is better, by more than chance among images explains"
        if found.p_value < _SIGNIFICANT
        else "chance among images may explain the difference"
    )
    print_plainly(
        console,
        f"McNemar's exact test of the accuracy: p = {found.p_value:.3g}, {says}",
    )


def _show_classes(console: Console, found: Comparison, num_shown: int) -> None:
    changed = [each for each in found.classes if each.num_gained or each.num_lost]
    changed.sort(key=lambda each: -abs(each.num_gained - each.num_lost))
    if not changed:
        return
    table = Table("class", "images", "gained", "lost", "recall", "precision", "F1")
    for each in changed[:num_shown]:
        table.add_row(
            Text(plain(each.name)),
            *map(str, (each.first.support, each.num_gained, each.num_lost)),
            *map(_arrow, *(_shares(scores) for scores in (each.first, each.second))),
        )
    console.print(table)
    if len(changed) > num_shown:
        print_plainly(console, f"{len(changed) - num_shown} more classes changed")


def _show_images(
    console: Console, title: str, changes: Sequence[Change], num_shown: int
) -> None:
    for change in changes[:num_shown]:
        print_plainly(
            console,
            f"{title}: {change.image}, {change.label}: called "
            f"{' -> '.join(change.predictions)}, probability of the label "
            f"{change.probabilities[0]:.3f} -> {change.probabilities[1]:.3f}",
        )
    if len(changes) > num_shown:
        print_plainly(
            console, f"{title}: {len(changes) - num_shown} more; `--json` has all"
        )


def _shares(scores: ClassScores) -> list[str]:
    shares = (scores.recall, scores.precision, scores.f1)
    return ["none" if share is None else f"{share:.1%}" for share in shares]


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"
