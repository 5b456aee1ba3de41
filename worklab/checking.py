"""What is wrong with lists of images, found before a run stops at it or learns it."""

import collections
import dataclasses
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np

from worklab.console import Track
from worklab.image_files import ImageFile, inspect_image
from worklab.lists import checked_record, find_class_names, raw_entries
from worklab.near_duplicates import near_groups
from worklab.options import CheckOptions

_STOPS = "training stops there; `--data.on-bad-file skip` goes on without it"
_NO_START = "training does not start"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of finding.

    Attributes:
        is_error: Whether training stops or its results mislead; else it is a warning.
        then: What the Reader does, or what follows.
    """

    is_error: bool
    then: str


KINDS: Mapping[str, Kind] = {
    "list": Kind(True, _NO_START),
    "entry": Kind(True, _NO_START),
    "missing": Kind(True, _STOPS),
    "empty": Kind(True, _STOPS),
    "unreadable": Kind(True, _STOPS),
    "damaged": Kind(True, "read, with a part of the picture grey or shifted"),
    "two labels": Kind(True, "learned as both, and counted wrong as one of them"),
    "leak": Kind(True, "a test knows what was trained on: its result is too good"),
    "untrained class": Kind(True, "never answered, so always counted wrong"),
    "missing class": Kind(False, "no result for these classes"),
    "near leak": Kind(False, "if they are one picture, the result is too good"),
    "near duplicate": Kind(False, "if they are one picture, it counts more"),
    "duplicate": Kind(False, "counts as often as it is there"),
    "outside": Kind(False, "read, but not there when the folder is moved alone"),
    "suffix": Kind(False, "read as what it is, whatever its name"),
    "CMYK": Kind(False, "converted to RGB, without its colour profile"),
    "16 bits": Kind(False, "the upper 8 bits are kept"),
    "alpha": Kind(False, "dropped: what was transparent is seen"),
    "palette": Kind(False, "converted to RGB"),
    "grey": Kind(False, "among colour: three equal channels, which can tell the class"),
    "colour": Kind(False, "among grey: its colours can tell the class"),
    "rotated": Kind(False, "turned upright as a viewer does"),
    "frames": Kind(False, "only the first is read"),
    "tiny": Kind(False, "enlarged, so blurred"),
    "huge": Kind(False, "costs memory and time at every reading; not decoded here"),
    "aspect": Kind(False, "only the middle is seen, unless shifted"),
    "flat": Kind(False, "read, but shows nothing"),
}
"""What can be found, the worst first."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong or unusual.

    Attributes:
        kind: Key of `KINDS`.
        split: Name of the list.
        detail: What exactly.
        path: The image as the list has it; None where it is about the whole list.
        entry: Its number in the list, from 1.
    """

    kind: str
    split: str
    detail: str
    path: str | None = None
    entry: int | None = None

    @property
    def is_error(self) -> bool:
        """Whether training stops or its results mislead."""
        return KINDS[self.kind].is_error

    def __str__(self) -> str:
        place = self.split if self.entry is None else f"{self.split} {self.entry}"
        path = "" if self.path is None else f" {self.path}"
        return f"{self.kind}: {place}{path}: {self.detail}"

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON has it."""
        severity = "error" if self.is_error else "warning"
        then = KINDS[self.kind].then
        return {"severity": severity, **dataclasses.asdict(self), "then": then}


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        lists: Path of each list, by its name.
        class_names: Names in label order; empty where they could not be found.
        counts: Images of each class, by the list's name.
        findings: The worst first.
    """

    lists: Mapping[str, Path]
    class_names: Sequence[str]
    counts: Mapping[str, Sequence[int]]
    findings: Sequence[Finding]

    @property
    def errors(self) -> list[Finding]:
        """Those where training stops or its results mislead."""
        return [finding for finding in self.findings if finding.is_error]

    @property
    def num_warnings(self) -> int:
        """How many findings are no errors."""
        return len(self.findings) - len(self.errors)

    @property
    def num_images(self) -> int:
        """Entries of all lists with a known label."""
        return sum(sum(counts) for counts in self.counts.values())

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON has it."""
        return {
            "lists": {name: str(path) for name, path in self.lists.items()},
            "num_images": self.num_images,
            "num_errors": len(self.errors),
            "num_warnings": self.num_warnings,
            "classes": {
                split: dict(zip(self.class_names, counts, strict=True))
                for split, counts in self.counts.items()
            },
            "findings": [finding.to_json() for finding in self.findings],
        }


@dataclasses.dataclass(frozen=True)
class _Image:
    """An entry of a list whose path and label could be understood."""

    split: str
    entry: int
    path: str
    label: int
    file: Path

    def finding(self, kind: str, detail: str) -> Finding:
        return Finding(kind, self.split, detail, self.path, self.entry)


def check_lists(
    lists: Mapping[str, Path],
    options: CheckOptions = CheckOptions(),
    *,
    track: Track = lambda files, _: files,
) -> CheckResult:
    """Read every list and every file named there, and return what is wrong.

    Args:
        lists: JSON lists by name. The first is trained on and has the classes; of an
            image that is in two lists, the last has it rightly.
        options: From where on an image is unusual.
        track: Called with what is iterated over and its length, to show progress.

    Returns:
        The result; the same for any number of cores.
    """
    findings: list[Finding] = []
    class_names = _find_classes(lists, findings)
    images = [
        image
        for split, path in lists.items()
        for image in _read_list(split, path, class_names, findings)
    ]
    paths = list(dict.fromkeys(image.file for image in images))
    files = dict(zip(paths, _inspect_all(paths, options, track), strict=True))
    splits = list(lists)
    findings += [
        image.finding(kind, detail)
        for image in images
        for kind, detail in files[image.file].notes.items()
    ]
    findings += _find_odd_colours(images, files)
    findings += _find_same(images, files, splits, class_names)
    findings += _find_near(images, files, splits, class_names)
    counts = _count(images, splits, len(class_names))
    findings += _find_missing_classes(counts, class_names)
    order = {kind: number for number, kind in enumerate(KINDS)}
    findings.sort(key=lambda f: (order[f.kind], splits.index(f.split), f.entry or 0))
    return CheckResult(lists, class_names, counts, findings)


def _find_classes(lists: Mapping[str, Path], findings: list[Finding]) -> list[str]:
    split, path = next(iter(lists.items()))
    try:
        return find_class_names(path)
    except (ValueError, OSError) as error:
        findings.append(Finding("list", split, str(error)))
        return []


def _read_list(
    split: str, path: Path, class_names: Sequence[str], findings: list[Finding]
) -> Iterator[_Image]:
    try:
        entries = raw_entries(path)
    except (ValueError, OSError) as error:
        if not any(finding.detail == str(error) for finding in findings):
            findings.append(Finding("list", split, str(error)))
        return
    if not class_names:  # that has been found already
        return
    folder = str(path.parent)
    indices = {name: label for label, name in enumerate(class_names)}
    for number, entry in enumerate(entries, start=1):
        try:
            record = checked_record(path, number, entry, indices)
        except ValueError as error:
            named = entry.get("image") if isinstance(entry, dict) else None
            name = named if isinstance(named, str) else None
            findings.append(Finding("entry", split, str(error), name, number))
            continue
        file = Path(os.path.normpath(os.path.join(folder, record.path)))
        image = _Image(split, number, record.path, record.label, file)
        if os.path.isabs(record.path) or os.path.normpath(record.path).startswith(".."):
            findings.append(image.finding("outside", f"is not in `{folder}`"))
        yield image


def _inspect_all(
    paths: Sequence[Path], options: CheckOptions, track: Track
) -> list[ImageFile]:
    # Threads: decoding and digests run without Python's lock.
    with ThreadPool(os.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about headers: these are findings
        found = pool.imap(lambda path: inspect_image(path, options), paths, 16)
        return list(track(found, len(paths)))


def _find_odd_colours(
    images: Sequence[_Image], files: Mapping[Path, ImageFile]
) -> Iterator[Finding]:
    """Yield images whose number of channels is that of fewer images."""
    grey = [image for image in images if files[image.file].is_grey is True]
    colour = [image for image in images if files[image.file].is_grey is False]
    kind, odd = ("grey", grey) if len(grey) <= len(colour) else ("colour", colour)
    if grey and colour:
        for image in odd:
            yield image.finding(kind, f"{len(odd)} of {len(grey) + len(colour)} are")


def _find_same(
    images: Sequence[_Image],
    files: Mapping[Path, ImageFile],
    splits: Sequence[str],
    class_names: Sequence[str],
) -> Iterator[Finding]:
    """Yield images whose pixels are also those of another entry."""
    groups = collections.defaultdict(list)
    for image in images:
        digest = files[image.file].pixels_digest
        if digest is not None:
            groups[digest].append(image)
    for group in groups.values():
        labels = {image.label for image in group}
        for image in group if len(labels) > 1 else ():
            other = next(each for each in group if each.label != image.label)
            detail = _compared(image, other, files, class_names)
            yield image.finding("two labels", detail)
        yield from (
            image.finding(kind, _compared(image, other, files, class_names))
            for kind, image, other in _in_vain(group, splits)
            if kind == "leak" or len(labels) == 1
        )


def _in_vain(
    group: Sequence[_Image], splits: Sequence[str]
) -> Iterator[tuple[str, _Image, _Image]]:
    """Yield the images of a group that are there already, and where."""
    last = max(group, key=lambda image: splits.index(image.split))
    first: dict[str, _Image] = {}
    for image in group:
        if image.split != last.split:
            yield "leak", image, last
        elif image.split in first:
            yield "duplicate", image, first[image.split]
        first.setdefault(image.split, image)


def _compared(
    image: _Image,
    other: _Image,
    files: Mapping[Path, ImageFile],
    class_names: Sequence[str],
) -> str:
    one, two = files[image.file], files[other.file]
    same = "the same pixels as"
    if one.data_digest == two.data_digest:
        same = "the same file as" if image.file == other.file else "the same bytes as"
    elif one.pixels_digest != two.pixels_digest:
        same = "looks like"
    return f"{same} {other.split} {other.entry} {other.path}" + (
        f", labelled {class_names[other.label]}, not {class_names[image.label]}"
        if image.label != other.label
        else ""
    )


def _find_near(
    images: Sequence[_Image],
    files: Mapping[Path, ImageFile],
    splits: Sequence[str],
    class_names: Sequence[str],
) -> Iterator[Finding]:
    """Yield images that look like another, but have not the same pixels."""
    unique: dict[bytes, _Image] = {}
    for image in sorted(images, key=lambda each: -splits.index(each.split)):
        file = files[image.file]
        if file.pixels_digest is not None and file.near_hash is not None:
            unique.setdefault(file.pixels_digest, image)
    found = [files[image.file] for image in unique.values()]
    if len(found) < 2:
        return
    hashes = np.array([file.near_hash for file in found], np.uint64)
    thumbnails = np.array([file.thumbnail for file in found])
    groups = collections.defaultdict(list)
    for image, number in zip(
        unique.values(), near_groups(hashes, thumbnails), strict=True
    ):
        groups[int(number)].append(image)
    for group in groups.values():
        for kind, image, other in _in_vain(group, splits):
            detail = _compared(image, other, files, class_names)
            yield image.finding(f"near {kind}", detail)


def _count(
    images: Sequence[_Image], splits: Sequence[str], num_classes: int
) -> dict[str, list[int]]:
    counts = {split: [0] * num_classes for split in splits}
    for image in images:
        counts[image.split][image.label] += 1
    return counts


def _find_missing_classes(
    counts: Mapping[str, Sequence[int]], class_names: Sequence[str]
) -> Iterator[Finding]:
    """Yield the classes that a list has no image of."""
    present = {
        split: {number for number, count in enumerate(numbers) if count}
        for split, numbers in counts.items()
    }
    trained = next(iter(present.values()))
    tested = set().union(*present.values()) - trained
    for split, numbers in present.items():
        missing = set(range(len(class_names))) - numbers
        kind = "missing class"
        if numbers is trained and tested:
            kind, missing = "untrained class", tested
        if missing and numbers:
            names = ", ".join(class_names[number] for number in sorted(missing))
            share = f"{len(missing)} of {len(class_names)} classes have no image"
            yield Finding(kind, split, f"{share}: {names:.300}")
