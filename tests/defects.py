"""A folder of images with planted defects, for the tests of what finds them."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from worklab.images import decode_image

CLASS_NAMES = ["circle", "square", "cross"]
NUM_TRAIN = 1200

# Each kind of finding with the files that must have it, by list.
UNREADABLE = {
    "missing": ["train gone.png", "train folder.png"],
    "empty": ["train empty.jpg"],
    "unreadable": [
        "train cut.jpg",
        "train cut.png",
        "train cut.bmp",
        "train cut.webp",
        "train cut.tif",
        "train page.jpg",
        "train flipped.png",
        "train zeros.jpg",
    ],
}
READABLE = {
    "damaged": ["train grey-end.jpg"],
    "two labels": ["train doubted.png", "train doubted-copy.png"],
    "leak": ["train leaked.png"],
    "near leak": ["train near-leaked.png"],
    "near duplicate": ["train near.jpg"],
    "duplicate": ["train copy.png", "train copy.bmp"],
    "outside": ["train ../outside.png"],
    "suffix": ["train png.jpg"],
    "CMYK": ["train inks.jpg"],
    "16 bits": ["train deep.png", "train deep.tif"],
    "alpha": ["train glass.png"],
    "palette": ["train palette.png"],
    "grey": ["train grey.png"],
    "rotated": ["train turned.jpg"],
    "frames": ["train moving.gif"],
    "tiny": ["train tiny.png"],
    "huge": ["train huge.png"],
    "aspect": ["train wide.png"],
    "flat": ["train flat.png"],
    "missing class": ["valid"],
}
PLANTED = UNREADABLE | READABLE


def smooth(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    noise = np.random.default_rng(seed + 100).integers(
        0, 256, (10, 12, 3), dtype=np.uint8
    )
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def saved(image: np.ndarray, file_format: str, mode: str = "RGB", **settings) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, file_format, **settings)
    return file.getvalue()


def planted_files() -> dict[str, bytes]:
    """Return what stands in the files with defects, each another picture."""
    pictures = (smooth(10**6 + number) for number in range(100))
    return (
        _broken_files(pictures)
        | _files_there_twice(pictures)
        | _files_of_odd_modes(pictures)
        | {
            "tiny.png": encoded(".png", smooth(-1, 31, 31)),
            "huge.png": encoded(".png", smooth(-2, 500, 500)),
            "wide.png": encoded(".png", smooth(-3, 40, 161)),
            "flat.png": encoded(".png", np.full((40, 48, 3), 90, np.uint8)),
        }
    )


def _broken_files(pictures: Iterator[np.ndarray]) -> dict[str, bytes]:
    files = {"empty.jpg": b"", "page.jpg": b"<html>404 not found</html>"}
    for suffix in (".jpg", ".png", ".bmp", ".webp", ".tif"):
        data = encoded(suffix, next(pictures))
        files[f"cut{suffix}"] = data[: len(data) * 2 // 3]
    flipped = bytearray(encoded(".png", next(pictures)))
    flipped[len(flipped) // 2] ^= 255
    files["flipped.png"] = bytes(flipped)
    data = encoded(".jpg", next(pictures))
    files["zeros.jpg"] = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
    data = encoded(".jpg", next(pictures))
    files["grey-end.jpg"] = data[: len(data) // 2] + b"\xff\xd9"
    return files


def _files_there_twice(pictures: Iterator[np.ndarray]) -> dict[str, bytes]:
    doubted, leaked, original = (encoded(".png", next(pictures)) for _ in range(3))
    near_leaked, near = next(pictures), next(pictures)
    return {
        "doubted.png": doubted,
        "doubted-copy.png": doubted,
        "leaked.png": leaked,
        "test-leak.png": leaked,
        "near-leaked.png": encoded(".png", near_leaked),
        "test-near.jpg": encoded(".jpg", cv2.resize(near_leaked, (96, 80))),
        "model.png": encoded(".png", near),
        "near.jpg": encoded(".jpg", near),
        "original.png": original,
        "copy.png": original,
        "copy.bmp": encoded(".bmp", decode_image(original, 3, "")[:, :, ::-1]),
    }


def _files_of_odd_modes(pictures: Iterator[np.ndarray]) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.fromarray(next(pictures)) for _ in range(3)]
    moving = io.BytesIO()
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    deep = [next(pictures).astype(np.uint16) * 257 for _ in range(2)]
    return {
        "../outside.png": encoded(".png", next(pictures)),
        "png.jpg": encoded(".png", next(pictures)),
        "inks.jpg": saved(next(pictures), "JPEG", "CMYK"),
        "deep.png": encoded(".png", deep[0]),
        "deep.tif": encoded(".tif", deep[1]),
        "glass.png": saved(next(pictures), "PNG", "RGBA"),
        "palette.png": saved(next(pictures), "PNG", "P"),
        "grey.png": saved(next(pictures), "PNG", "L"),
        "turned.jpg": saved(next(pictures), "JPEG", exif=exif.tobytes()),
        "moving.gif": moving.getvalue(),
    }


def make_defective_folder(folder: Path) -> None:
    """Write images, train.json, valid.json, test.json and classes.json.

    The lists themselves can be read; what is wrong is in the files, and 11 of them,
    less than 1 % of the train list, cannot be read.
    """
    (folder / "folder.png").mkdir(parents=True)
    lists: dict[str, dict[str, str]] = {"train": {}, "valid": {}, "test": {}}
    counts = {"train": NUM_TRAIN, "valid": 30, "test": 60}
    for seed, (split, number) in enumerate(
        (split, number) for split, count in counts.items() for number in range(count)
    ):
        name = f"{split}-{number}.png"
        (folder / name).write_bytes(encoded(".png", smooth(seed)))
        label = number % (2 if split == "valid" else 3)
        lists[split][name] = CLASS_NAMES[label]
    files = planted_files()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    for name in [*files, "gone.png", "folder.png"]:
        split = "test" if name.startswith("test-") else "train"
        lists[split][name] = CLASS_NAMES[name == "doubted-copy.png"]
    for split, records in lists.items():
        (folder / f"{split}.json").write_text(json.dumps(records))
    (folder / "classes.json").write_text(json.dumps(CLASS_NAMES))
