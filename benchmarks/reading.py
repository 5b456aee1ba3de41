"""What reading costs: CPU time per photo, and small images per second from memory.

    python benchmarks/reading.py --folder FOLDER_OF_JPEG_FILES

A photo is read from its file, decoded, augmented (224x224, preset `strong`, flips) and
put into a batch; `cv2.imdecode` of the same bytes stands beside it as the part that
nobody can save. Both are CPU time of one thread, so other work on the machine counts
only as far as it takes away cache and memory bandwidth. Small images (32x32, cropped
and flipped, batch 128) are counted by the clock. Rounds are interleaved; medians are
shown. Expected on two cores: about 10 seconds. Aim: at most 1.6 ms of CPU for a JPEG
of 500x375, which is what the photos of `../shared/data/photos` are on average.
"""

import dataclasses
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from worklab import Reader
from worklab.images import decode_image
from worklab.options import AugmentOptions, ReaderOptions
from worklab.readers import ArrayReader, JsonListReader

ROOT = Path(__file__).resolve().parent.parent
AIM_MILLISECONDS = 1.6
STRONG = AugmentOptions(preset="strong", flip=True)
CROPS = AugmentOptions(
    preset="off",
    area=(0.08, 1.0),
    flip=True,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure decoding, augmenting and batching."""

    folder: Path = ROOT.parent / "shared" / "data" / "photos"
    """JPEG files, best of about 500x375 pixels."""
    rounds: int = 7
    """Interleaved rounds."""
    small_batches: int = 60
    """Batches of 128 small images per round."""


def main(options: Options) -> float:
    paths = sorted(
        path.resolve()
        for path in options.folder.glob("*")
        if path.suffix.lower() in {".jpg", ".jpeg"}
    )
    if not paths:
        raise SystemExit(
            f"There are no JPEG files in `{options.folder}`. Give a folder that has "
            "some: python benchmarks/reading.py --folder FOLDER"
        )
    data = [np.fromfile(path, np.uint8) for path in paths]
    pixels = [
        decode_image(each.tobytes(), 1, str(path)).size
        for path, each in zip(paths, data, strict=True)
    ]
    steps = itertools.count()
    with tempfile.TemporaryDirectory() as folder:
        reader = photo_reader(paths, Path(folder), STRONG)
        cropping = photo_reader(paths, Path(folder), CROPS)

        def decode() -> float:
            start = time.process_time()
            for each in data:
                cv2.imdecode(each, cv2.IMREAD_COLOR_RGB)
            return 1e3 * (time.process_time() - start) / len(data)

        def read() -> float:  # one batch is one epoch: each photo once, as above
            start = time.process_time()
            reader.train_batch(next(steps))
            return 1e3 * (time.process_time() - start) / len(data)

        def crop() -> float:
            start = time.process_time()
            cropping.train_batch(next(steps))
            return 1e3 * (time.process_time() - start) / len(data)

        costs = interleaved(
            {
                "decode only": decode,
                "read, decode, augment": read,
                "read, decode, random crop, flip, colours": crop,
            },
            options.rounds,
        )
    single, double = small_reader(1), small_reader(2)
    rates = interleaved(
        {
            "1 thread": lambda: rate(single, options.small_batches),
            "2 threads": lambda: rate(double, options.small_batches),
        },
        options.rounds,
    )
    console = Console()
    console.print(
        f"{len(paths)} photos, {np.mean(pixels) / 1e6:.3f} megapixel on average "
        f"(500x375 is {0.5 * 0.375:.3f}); load {os.getloadavg()[0]:.1f}"
    )
    show(console, "ms of CPU per photo", costs, ".3f")
    show(console, "small images/s", rates, ",.0f")
    cost = statistics.median(costs["read, decode, augment"])
    ratio = cost / statistics.median(costs["decode only"])
    verdict = "met" if cost <= AIM_MILLISECONDS else "missed"
    console.print(
        f"A photo costs {cost:.2f} ms of CPU, {ratio:.2f}x decoding it.\n"
        f"Aim: at most {AIM_MILLISECONDS} ms for 500x375: {verdict}."
    )
    return cost


def photo_reader(paths: list[Path], folder: Path, augment: AugmentOptions) -> Reader:
    """Return a Reader whose every training batch is all photos, from their files."""
    (folder / "photos.json").write_text(json.dumps({str(path): 0 for path in paths}))
    return JsonListReader(
        folder / "photos.json",
        ["photo"],
        options=ReaderOptions(
            image_size=(224, 224),
            crop_fraction=0.875,
            batch_size=len(paths),
            num_threads=0,
            cache_megabytes=0,
        ),
        augment=augment,
    )


def small_reader(num_threads: int) -> Reader:
    images = np.random.default_rng(0).integers(0, 256, (5000, 32, 32, 3), np.uint8)
    return ArrayReader(
        images,
        np.zeros(len(images), int),
        ["noise"],
        options=ReaderOptions((32, 32), batch_size=128, num_threads=num_threads),
        augment=AugmentOptions(preset="off", shift=0.125, flip=True),
    )


def rate(reader: Reader, num_batches: int) -> float:
    """Return images per second by the clock, after a batch that is not counted."""
    batches = reader.train_batches(0)
    next(batches)
    start = time.perf_counter()
    for _ in range(num_batches):
        next(batches)
    seconds = time.perf_counter() - start
    return num_batches * reader.options.batch_size / seconds


def interleaved(
    measures: dict[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Return what each measured per round, after one round that is not counted."""
    results: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            result = measure()
            if number > 0:
                results[name].append(result)
    return results


def show(
    console: Console, title: str, results: dict[str, list[float]], form: str
) -> None:
    table = Table(title, "median", "lowest", "highest")
    for name, each in results.items():
        cells = (statistics.median(each), min(each), max(each))
        table.add_row(name, *(format(cell, form) for cell in cells))
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Options))
