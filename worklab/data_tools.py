"""The tools that look at images before training: `check`, `show` and `stats`."""

import collections
import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worklab._quiet import standard_error_set_aside
from worklab.checking import KINDS, CheckResult, check_lists
from worklab.console import Track, show_skipped
from worklab.files import write_atomically, write_json
from worklab.image_statistics import image_statistics
from worklab.list_mending import mend_lists
from worklab.options import AugmentOptions, CheckOptions, ReaderOptions
from worklab.printing import open_console, plain, print_plainly, wide_console
from worklab.progress import track
from worklab.reader import Reader
from worklab.readers import find_class_names, open_reader
from worklab.runs import skipped_images
from worklab.showing import make_page, make_strips, take_samples
from worklab.writer import Writer

SPLITS = ("train", "valid", "test")

# More classes than this are only summed up; all are in the JSON file.
_MOST_CLASSES = 50


def find_lists(data: Sequence[Path]) -> dict[str, Path]:
    """Return lists by name: those of a folder (none given: this), or lists themselves.

    Raises:
        FileNotFoundError: If a folder has none, or a list is not there.
    """
    lists: dict[str, Path] = {}
    for path in data or [Path()]:
        found = [path]
        if path.is_dir():
            found = [path / f"{split}.json" for split in SPLITS]
            found = [each for each in found if each.is_file()]
        if not found or not found[0].is_file():
            raise FileNotFoundError(
                "there is no list: give a folder with `train.json`, `valid.json`, "
                "`test.json`, or lists themselves; `python -m worklab lists FOLDER` "
                f"makes them of a folder of classes. Received: {path}"
            )
        for each in found:
            if each.resolve() in {other.resolve() for other in lists.values()}:
                continue
            lists[each.stem if each.stem not in lists else str(each)] = each
    return lists


def check(
    data: tyro.conf.Positional[tuple[Path, ...]],
    /,
    json: Path | None = None,
    fix: bool = False,
    strict: bool = False,
    num_shown: int = 10,
    limits: Annotated[CheckOptions, tyro.conf.arg(name="")] = CheckOptions(),
) -> None:
    """Find what is wrong with images and lists before a run stops at it or learns it.

    Every file is read and decoded. Ends with 0 where no error was found, else with 1.

    Args:
        data: A folder with train.json, valid.json and test.json, or lists, the one
            to train on first.
        json: File for all findings.
        fix: Write the lists without the entries that have errors; the old ones are
            kept beside them.
        strict: End with 1 also where there are only warnings.
        num_shown: Findings of each kind to list here.
        limits: From where on an image is unusual.

    Raises:
        SystemExit: With 1, if there is an error or, with `strict`, a warning.
    """
    console = wide_console()
    with _progress() as progress:
        result = check_lists(find_lists(data), limits, track=_track(progress))
    if json is not None:
        write_json(json, result.to_json())
    _show_counts(console, result)
    _show_findings(console, result, num_shown)
    left = len(result.errors)
    if fix:
        left = _fix(console, result)
    if left or (strict and result.num_warnings):
        raise SystemExit(1)


@contextlib.contextmanager
def _progress() -> Iterator[Console]:
    """Give a console while what decoders say of bad files is kept off the screen."""
    with (
        standard_error_set_aside() as original,
        open(os.dup(original), "w", encoding="utf-8") as file,
    ):
        yield open_console(file)


def _show_counts(console: Console, result: CheckResult) -> None:
    splits = list(result.counts)
    table = Table("class", *splits, title="images", title_justify="left")
    columns = [result.counts[split] for split in splits]
    table.add_row("all", *(str(sum(column)) for column in columns))
    if len(result.class_names) <= _MOST_CLASSES:
        for name, *counts in zip(result.class_names, *columns, strict=True):
            table.add_row(Text(plain(name)), *map(str, counts))
    else:
        present = [sum(count > 0 for count in column) for column in columns]
        table.add_row("classes", *map(str, present))
        table.add_row("smallest class", *(str(min(column)) for column in columns))
        table.add_row("largest class", *(str(max(column)) for column in columns))
    console.print(table)


def _show_findings(console: Console, result: CheckResult, num_shown: int) -> None:
    by_kind = collections.defaultdict(list)
    for finding in result.findings:
        by_kind[finding.kind].append(finding)
    if by_kind:
        table = Table("found", "", "times", "what follows")
        for kind, findings in by_kind.items():
            severity = "[red]error[/]" if KINDS[kind].is_error else "warning"
            table.add_row(kind, severity, str(len(findings)), KINDS[kind].then)
        console.print(table)
    for findings in by_kind.values():
        for finding in findings[:num_shown]:
            print_plainly(console, str(finding))
        if len(findings) > num_shown:
            print_plainly(
                console,
                f"{findings[0].kind}: {len(findings) - num_shown} more; "
                "`--json FILE` has all",
            )
    print_plainly(
        console,
        f"errors: {len(result.errors)}, warnings: {result.num_warnings}, "
        f"images: {result.num_images}",
    )


def _fix(console: Console, result: CheckResult) -> int:
    """Mend the lists and return how many errors are left."""
    left = sum(finding.entry is None for finding in result.errors)
    for mended in mend_lists(result):
        count = len({finding.entry for finding in mended.removed})
        print_plainly(
            console,
            f"{mended.path}: entries taken off: {count}; as it was: {mended.backup}",
        )
    if left:
        print_plainly(console, f"not fixed, as they are of whole lists: {left} errors")
    return left


def show(
    data: tyro.conf.Positional[Path],
    /,
    out: Path,
    num_images: int = 4,
    num_draws: int = 4,
    num_classes: int = 50,
    tensorboard: Path | None = None,
    on_bad_file: Literal["stop", "skip"] = "stop",
    seed: int = 0,
    reader: ReaderOptions = ReaderOptions(),
    augment: AugmentOptions = AugmentOptions(),
) -> None:
    """Write one page of what a network will see of each class.

    It shows images as they are, as a test shows them, and as the first epochs of
    training with the same options do, changed by chance.

    Args:
        data: A folder with train.json, or anything that can be trained on.
        out: The HTML page to write; it needs no other file.
        num_images: Images of each class.
        num_draws: Epochs of training to show.
        num_classes: Classes to show, evenly chosen, where there are more.
        tensorboard: Folder to write the images to for TensorBoard, too.
        on_bad_file: At an image that cannot be read.
        seed: Of the run.
        reader: Sizes of images.
        augment: Random changes.
    """
    path = _source(data)
    source = _open(path, on_bad_file, reader, augment, seed)
    samples = take_samples(
        source, num_images=num_images, num_draws=num_draws, num_classes=num_classes
    )
    labels = source.labels.tolist()
    counts = {name: labels.count(n) for n, name in enumerate(source.class_names)}
    shown = f"{len(samples)} of {len(counts)} classes"
    notes = [f"{path}, {shown}, seed {seed}", str(reader), str(augment)]
    if source.skipped:
        notes.append(f"could not be read: {', '.join(source.skipped)}")
    page = make_page(f"What a network sees of {path.stem}", samples, counts, notes)
    write_atomically(out, lambda file: file.write(page))
    num_samples = sum(map(len, samples.values()))
    console = open_console()
    print_plainly(console, f"{out}: {num_samples} images, {shown}")
    if tensorboard is not None:
        with Writer(tensorboard) as writer:
            strips = {n: make_strips(each) for n, each in samples.items() if each}
            writer.write_images(0, {f"classes/{n}": each for n, each in strips.items()})
        print_plainly(console, f"TensorBoard: tensorboard --logdir {tensorboard}")


def stats(
    data: tyro.conf.Positional[Path],
    /,
    json: Path | None = None,
    on_bad_file: Literal["stop", "skip"] = "stop",
    reader: ReaderOptions = ReaderOptions(),
) -> None:
    """Compute mean and spread of a list's pixels, sizes, and images of each class.

    The pixels are those that a network sees in a test. The last lines are to be
    pasted: into a network's class, or behind a launcher's command.

    Args:
        data: A folder with train.json, or anything that can be trained on.
        json: File for the numbers.
        on_bad_file: At an image that cannot be read.
        reader: Sizes of images.
    """
    path = _source(data)
    source = _open(path, on_bad_file, reader, AugmentOptions(), 0)
    with _progress() as progress:
        found = image_statistics(source, track=_track(progress))
    if json is not None:
        write_json(json, dataclasses.asdict(found))
    console = wide_console()
    table = Table("class", "images")
    counts = sorted(found.counts.items(), key=lambda pair: pair[1])
    for name, count in counts if len(counts) <= _MOST_CLASSES else ():
        table.add_row(Text(plain(name)), str(count))
    if len(counts) > _MOST_CLASSES:
        for title, (name, count) in (("smallest", counts[0]), ("largest", counts[-1])):
            table.add_row(Text(plain(f"{title}: {name}")), str(count))
    console.print(table)
    show_skipped(console, skipped_images(**{path.stem: source}))
    for name, sides in (("heights", found.heights), ("widths", found.widths)):
        smallest, middle, largest = sides
        print_plainly(console, f"{name}: {smallest} to {largest}, median {middle}")
    print_plainly(
        console, f"images: {found.num_images}, different sizes: {found.num_sizes}"
    )
    mean, std = ([f"{value:.2f}" for value in m] for m in (found.mean, found.std))
    ending = "," if len(mean) == 1 else ""
    print_plainly(console, f"mean = ({', '.join(mean)}{ending})")
    print_plainly(console, f"std = ({', '.join(std)}{ending})")
    print_plainly(
        console, f"--layers.mean {' '.join(mean)} --layers.std {' '.join(std)}"
    )


def _source(data: Path) -> Path:
    """Return the list of a folder that has some, or else what was given."""
    listed = data.is_dir() and any((data / f"{name}.json").exists() for name in SPLITS)
    return next(iter(find_lists([data]).values())) if listed else data


def _open(
    path: Path,
    on_bad_file: Literal["stop", "skip"],
    options: ReaderOptions,
    augment: AugmentOptions,
    seed: int,
) -> Reader:
    # Each image is read once or few times, and shown or counted as it is.
    options = dataclasses.replace(options, cache_megabytes=0, reduced_decoding=False)
    return open_reader(
        path,
        find_class_names(path),
        options=options,
        augment=augment,
        seed=seed,
        on_bad_file=on_bad_file,
    )


def _track(console: Console) -> Track:
    return lambda files, total: track(files, total, "reading, file", console)
