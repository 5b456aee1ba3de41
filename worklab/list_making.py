"""Lists made from a folder of classes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from worklab.files import write_json
from worklab.lists import CLASSES_FILE, write_class_names

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SPLIT_FRACTIONS: Mapping[str, float] = {"train": 0.6, "valid": 0.2, "test": 0.2}

_SPLIT_FOLDERS = {"train": ["train"], "valid": ["valid", "val"], "test": ["test"]}

_Classes = dict[str, list[Path]]  # class name -> its images


def make_lists(
    folder: Path,
    *,
    fractions: Mapping[str, float] = SPLIT_FRACTIONS,
    seed: int = 0,
    image_suffixes: Sequence[str] = IMAGE_SUFFIXES,
    overwrite: bool = False,
) -> dict[str, Path]:
    """Write `train.json`, `valid.json`, `test.json`, `classes.json` into a folder.

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
            "them give `--overwrite`, or `overwrite=True`. "
            f"Received: {', '.join(existing)}"
        )
    write_class_names(classes_path, sorted(set().union(*splits.values())))
    for split, path in paths.items():
        entries = {
            image.relative_to(folder).as_posix(): name
            for name, images in sorted(splits[split].items())
            for image in sorted(images)
        }
        write_json(path, entries)
    return paths


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
        return {"train": find_classes(folder, suffixes)}
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
            splits[split] = find_classes(folder / ready[0], suffixes)
    return splits


def find_classes(
    folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> dict[str, list[Path]]:
    """Return the images in each class folder of a folder, sorted.

    Args:
        folder: Holds a folder for each class. Hidden ones are skipped.
        suffixes: File name endings of images, in lower case.

    Raises:
        ValueError: If there is no class folder, an empty one, or an image beside them.
    """
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
