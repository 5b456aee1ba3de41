"""Makes the digits data set: 1,797 handwritten digits as 8x8 greyscale PNG files.

    python data/make_digits.py [--folder data/digits]

The images come with scikit-learn, so nothing is downloaded; it takes a few seconds.
They are split 60/20/20 into `train.json`, `valid.json` and `test.json`, each with the
same share of every digit, the same on every machine.
"""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import tyro
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

DEFAULT_FOLDER = Path(__file__).resolve().parent / "digits"
LISTS = ("classes.json", "valid.json", "test.json", "train.json")  # in writing order
SEED = 0


def make_digits(folder: Path = DEFAULT_FOLDER) -> None:
    """Writes images, lists and class names, unless the lists are already there.

    The lists are written last, so that an interrupted run is done again.

    Args:
        folder: Folder to fill; it is made if needed.

    Raises:
        OSError: If an image cannot be written.
    """
    if all((folder / name).is_file() for name in LISTS):
        print(f"The digits are already in {folder}: nothing to do.")
        return
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    labels = [str(digit) for digit in digits.target]
    for label in sorted(set(labels)):
        (folder / "images" / label).mkdir(parents=True, exist_ok=True)
    paths = [f"images/{label}/{i:04}.png" for i, label in enumerate(labels)]
    for path, image in zip(paths, images, strict=True):
        if not cv2.imwrite(str(folder / path), image):
            raise OSError(
                f"Could not write `{folder / path}`. Check that there is space and "
                f"that the folder is writable. Received: folder={folder}"
            )

    indices = np.arange(len(labels))
    train, rest = train_test_split(
        indices, test_size=0.4, stratify=labels, random_state=SEED
    )
    valid, test = train_test_split(
        rest, test_size=0.5, stratify=[labels[i] for i in rest], random_state=SEED
    )
    splits = {"train.json": train, "valid.json": valid, "test.json": test}
    for name in LISTS:
        if name in splits:
            content: object = {paths[i]: labels[i] for i in sorted(splits[name])}
        else:
            content = sorted(set(labels))
        temporary = folder / f".{name}.tmp"
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, folder / name)
    print(f"Wrote {len(paths)} images and their lists to {folder}.")


if __name__ == "__main__":
    tyro.cli(make_digits)
