"""JSON lists of labelled images: read them, pin their classes, make them.

A list is `{"1.png": label, ...}` or `[{"image": "1.png", "label": label, ...}, ...]`.
A label is a class index (a number) or a class name (a string, also if it is "3").
"""

import difflib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CLASSES_FILE = "classes.json"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SPLIT_FRACTIONS: Mapping[str, float] = {"train": 0.6, "valid": 0.2, "test": 0.2}

_SPLIT_FOLDERS = {"train": ["train"], "valid": ["valid", "val"], "test": ["test"]}
_HOW_TO_MAKE = "make lists of a folder of classes: `python -m worklab lists FOLDER`"
_FORMS = '`{"1.png": label, ...}` or `[{"image": "1.png", "label": label}, ...]`'

_Classes = dict[str, list[Path]]  # class name -> its images


@dataclass(frozen=True)
class Record:
    """One image of a list.

    Args:
        path: Path of the image as the list has it, relative to the list's folder.
        label: Index of the class, in [0, number of classes).
        fields: Further fields of the entry; empty for the short form of a list.
    """

    path: str
    label: int
    fields: Mapping[str, Any] = field(default_factory=dict)


def read_class_names(path: Path) -> list[str]:
    """Reads `classes.json`: a JSON list of unique names in the order of the labels."""
    names = _load_json(path)
    return _checked_names(names if isinstance(names, list) else [], f"`{path}`")


def write_class_names(path: Path, names: Sequence[str]) -> None:
    """Writes class names; the file appears whole or not at all."""
    _write_json(path, _checked_names(names, "`names`"))


def find_class_names(list_path: Path) -> list[str]:
    """Finds the class names to pin for all splits, usually from the train list.

    A `classes.json` beside the list decides. Without it, integer labels give the
    names "0", "1", ... up to the largest label, and class names are sorted.

    Args:
        list_path: The list to take the classes from.

    Returns:
        The class names in the order of the labels.

    Raises:
        ValueError: If a label is negative, or integers and names are mixed.
    """
    classes_path = list_path.parent / CLASSES_FILE
    if classes_path.is_file():
        return read_class_names(classes_path)
    labels: set[Any] = set()
    for where, _, label, _ in _read_entries(list_path):
        if labels and type(label) is not type(next(iter(labels))):
            raise ValueError(
                f"{where} mixes integer labels with class names. Use one of the two, "
                f"or put `{CLASSES_FILE}` beside the list. Received: label={label!r}"
            )
        if isinstance(label, int) and label < 0:
            raise ValueError(
                f"{where} has a negative label. Number the classes from 0. "
                f"Received: label={label}"
            )
        labels.add(label)
    if isinstance(next(iter(labels)), int):
        return [str(label) for label in range(max(labels) + 1)]
    return sorted(labels)


def read_list(list_path: Path, class_names: Sequence[str]) -> list[Record]:
    """Reads a list in either form, with every label turned into a class index.

    The order of the list is kept, and the images are not opened.

    Args:
        list_path: The JSON list.
        class_names: Names of all classes in the order of the labels, the same for
            every split: those of `find_class_names` or `read_class_names`.

    Returns:
        One record per entry, at least one.
    """
    names = _checked_names(class_names, "`class_names`")
    indices = {name: index for index, name in enumerate(names)}
    return [
        Record(path, _class_index(label, indices, where), fields)
        for where, path, label, fields in _read_entries(list_path)
    ]


def make_lists(
    folder: Path,
    *,
    fractions: Mapping[str, float] = SPLIT_FRACTIONS,
    seed: int = 0,
    image_suffixes: Sequence[str] = IMAGE_SUFFIXES,
    overwrite: bool = False,
) -> dict[str, Path]:
    """Writes `train.json`, `valid.json`, `test.json`, `classes.json` into a folder.

    The images stand in `folder/CLASS/` or, with ready splits, in `folder/train/CLASS/`,
    `folder/test/CLASS/` and `folder/valid/CLASS/` (or `val`). Ready splits are used as
    they are; a missing one is split off from train class by class, in its proportion
    to train, and each class keeps at least one train image. The same files, fractions
    and seed give the same lists.

    Args:
        folder: Folder of class folders or of split folders. Hidden ones are skipped.
        fractions: Share of each split in the images to be split; they sum to 1.
        seed: Seed of the choice of images.
        image_suffixes: File name endings of images, in any case.
        overwrite: Whether to replace lists that are already there.

    Returns:
        The path of the list of each split.

    Raises:
        FileExistsError: If there are lists already and `overwrite` is False.
        ValueError: If a split would be empty.
    """
    _check_fractions(fractions)
    splits = _find_splits(folder, tuple(suffix.lower() for suffix in image_suffixes))
    splits |= _split_off(splits, fractions, seed)
    for split, classes in splits.items():
        if not any(classes.values()):
            raise ValueError(
                f"The split `{split}` of `{folder}` would be empty. Add images or "
                f"raise its fraction. Received: fractions={dict(fractions)}"
            )
    paths = {split: folder / f"{split}.json" for split in _SPLIT_FOLDERS}
    classes_path = folder / CLASSES_FILE
    existing = [path.name for path in (*paths.values(), classes_path) if path.exists()]
    if existing and not overwrite:
        raise FileExistsError(
            f"`{folder}` has lists already, which are left as they are. To replace "
            f"them give `overwrite=True`. Received: {', '.join(existing)}"
        )
    write_class_names(classes_path, sorted(set().union(*splits.values())))
    for split, path in paths.items():
        entries = {
            image.relative_to(folder).as_posix(): name
            for name, images in sorted(splits[split].items())
            for image in sorted(images)
        }
        _write_json(path, entries)
    return paths


def _load_json(path: Path) -> Any:
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        found = sorted(entry.name for entry in folder.glob("*.json"))
        raise FileNotFoundError(
            f"There is no file `{path}`. JSON files in `{folder}`: "
            f"{', '.join(found) or 'none'}. Give one of them, or {_HOW_TO_MAKE}. "
            f"Received: {path}"
        )

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise ValueError(
                    f"`{path}` has a key twice in one object. Keep one of the two. "
                    f"Received: {key!r} with {result[key]!r} and with {value!r}"
                )
            result[key] = value
        return result

    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`{path}` is not UTF-8 text at byte {error.start}. Save it as UTF-8. "
            f"Received: {error.object[error.start : error.start + 8]!r}"
        ) from error
    except json.JSONDecodeError as error:
        line = error.doc.split("\n")[error.lineno - 1]
        start = max(0, error.colno - 40)
        raise ValueError(
            f"`{path}` is not valid JSON at line {error.lineno}, column {error.colno}: "
            f"{error.msg}. Mend that line. Received: {line[start : start + 80]!r}"
        ) from error


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    try:  # a file name that is not Unicode has lone surrogates: escaped, as JSON does
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _checked_names(names: Sequence[Any], source: str) -> list[str]:
    wrong = [name for name in names if not isinstance(name, str) or not name.strip()]
    if not names or wrong or len(set(names)) < len(names):
        repeated = [] if wrong else [name for name in names if names.count(name) > 1]
        raise ValueError(
            f"{source} is not a list of unique class names. Give every label one name, "
            f'like ["cat", "dog"]. Received: {(wrong or repeated or names)!r:.80}'
        )
    return list(names)


def _read_entries(list_path: Path) -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    # Yields (where, path, label, fields) with a label that is an int or a str.
    content = _load_json(list_path)
    if not isinstance(content, dict | list) or not content:
        raise ValueError(
            f"`{list_path}` is empty or not a list of images. Write {_FORMS}, or "
            f"{_HOW_TO_MAKE}. Received: {content!r:.80}"
        )
    if isinstance(content, dict):
        content = [{"image": path, "label": label} for path, label in content.items()]
    for number, entry in enumerate(content, start=1):
        fields = dict(entry) if isinstance(entry, dict) else {}
        path, label = fields.pop("image", None), fields.pop("label", None)
        where = f"`{list_path}`, entry {number} ({path!r}),"
        if not isinstance(path, str) or not path.strip():
            raise ValueError(
                f"{where} has no image path. Write {_FORMS}. "
                f"Received: {json.dumps(entry):.80}"
            )
        if type(label) not in (int, str):  # not isinstance: a bool is an int
            raise ValueError(
                f"{where} has a label that is neither an integer nor a class name. "
                f"Write one of the two. Received: label={json.dumps(label):.80}"
            )
        yield where, path, label, fields


def _class_index(label: int | str, indices: Mapping[str, int], where: str) -> int:
    if isinstance(label, int) and 0 <= label < len(indices):
        return label
    if isinstance(label, str) and label in indices:
        return indices[label]
    cutoff = 1.0 if isinstance(label, int) else 0.6
    close = difflib.get_close_matches(str(label), indices, n=1, cutoff=cutoff)
    meant = f"Did you mean {json.dumps(close[0])}? If not, add" if close else "Add"
    problem = "a label out of range" if isinstance(label, int) else "an unknown class"
    raise ValueError(
        f"{where} has {problem}: the labels are 0 to {len(indices) - 1}, the class "
        f"names {', '.join(indices):.200}. {meant} the class to `{CLASSES_FILE}`, or "
        f"correct the list. Received: label={label!r}"
    )


def _check_fractions(fractions: Mapping[str, float]) -> None:
    positive = all(fraction > 0 for fraction in fractions.values())
    whole = math.isclose(sum(fractions.values()), 1, abs_tol=1e-6)
    if set(fractions) != set(_SPLIT_FOLDERS) or not positive or not whole:
        raise ValueError(
            "`fractions` are not positive shares of train, valid and test which sum to "
            f"1. Give for example 0.6, 0.2, 0.2. Received: fractions={dict(fractions)}"
        )


def _find_splits(folder: Path, suffixes: tuple[str, ...]) -> dict[str, _Classes]:
    # A folder of classes counts as one `train` split.
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder `{folder}`. Give a folder that holds one folder of "
            f"images per class. Received: {folder}"
        )
    train = folder / "train"
    if not train.is_dir() or not any(path.is_dir() for path in _visible(train)):
        return {"train": _find_classes(folder, suffixes)}
    _refuse_loose_images(folder, suffixes)
    splits = {}
    for split, names in _SPLIT_FOLDERS.items():
        ready = [name for name in names if (folder / name).is_dir()]
        if len(ready) > 1:
            raise ValueError(
                f"`{folder}` has two folders for the split `{split}`. Keep one. "
                f"Received: {', '.join(ready)}"
            )
        if ready:
            splits[split] = _find_classes(folder / ready[0], suffixes)
    return splits


def _find_classes(folder: Path, suffixes: tuple[str, ...]) -> _Classes:
    _refuse_loose_images(folder, suffixes)
    folders = [path for path in _visible(folder) if path.is_dir()]
    classes = {path.name: _images(path, suffixes) for path in folders}
    empty = [name for name, images in classes.items() if not images]
    if empty or not classes:
        problem = "class folders without images" if empty else "no class folders"
        raise ValueError(
            f"`{folder}` has {problem}. Put the images ({', '.join(suffixes)}) of each "
            f"class into one folder named like it, and remove empty folders. "
            f"Received: folders={empty}"
        )
    return classes


def _refuse_loose_images(folder: Path, suffixes: tuple[str, ...]) -> None:
    loose = _images(folder, suffixes)
    if loose:
        raise ValueError(
            f"`{folder}` has images outside of class folders. Move them into folders "
            f"named like their classes. Received: {len(loose)} ({loose[0].name}, ...)"
        )


def _images(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = [path for path in _visible(folder) if path.suffix.lower() in suffixes]
    return [path for path in found if path.is_file()]


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _split_off(
    splits: Mapping[str, _Classes], fractions: Mapping[str, float], seed: int
) -> dict[str, _Classes]:
    # What rounding takes from a split in one class it gets in the next ones, so that
    # the fractions hold for each class within one image, and for all images too.
    missing = [split for split in _SPLIT_FOLDERS if split not in splits]
    whole = sum(fractions[split] for split in ("train", *missing))
    due = dict.fromkeys(missing, 0.0)
    result: dict[str, _Classes] = {split: {} for split in ("train", *missing)}
    generator = np.random.default_rng(seed)
    for name, images in splits["train"].items():
        order = [images[index] for index in generator.permutation(len(images))]
        for split in missing:
            share = len(images) * fractions[split] / whole
            due[split] += share
            count = min(round(due[split]), math.ceil(share), len(order) - 1)
            due[split] -= count
            result[split][name] = [order.pop() for _ in range(count)]
        result["train"][name] = order
    return result
