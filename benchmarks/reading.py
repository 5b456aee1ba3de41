"""What reading costs: CPU time per photo, and small images per second from memory.

    python benchmarks/reading.py --folder FOLDER_OF_JPEG_FILES

A photo is read from its file, decoded, augmented (224x224, preset `strong`, flips) and
put into a batch; `cv2.imdecode` of the same bytes stands beside it as the part that
nobody can save. With a random resized crop, flips and colours in place of `strong`, the
same is done by tf.data with `tf.image`, and by torchvision's transforms (in a process
of its own, from the environment that `make parity` makes; without it, it is left out).
All is CPU time of one thread, so other work on the machine counts only as far as it
takes away cache and memory bandwidth. Small images (32x32, cropped and flipped, batch
128) are counted by the clock. Rounds are interleaved; medians are shown. Expected on
two cores: about 20 seconds. Aims: at most 1.6 ms of CPU for a JPEG of 500x375, which is
what the photos of `../shared/data/photos` are on average; with random crops at most
1.25 times decoding, and less than the peers.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf
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
    peer: Path = ROOT / ".venv-parity/bin/python"
    """Python of torchvision's side; where it is missing that side is left out."""


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
    with (
        tempfile.TemporaryDirectory() as folder,
        torchvision_peer(paths, options.peer) as torchvision,
    ):
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

        measures = {
            "decode only": decode,
            "read, decode, augment": read,
            "read, decode, random crop, flip, colours": crop,
            "the same by tf.data": tf_data(paths),
        }
        if torchvision is not None:
            measures["the same by torchvision"] = torchvision
        costs = interleaved(measures, options.rounds)
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
    crop_ratio = statistics.median(
        costs["read, decode, random crop, flip, colours"]
    ) / statistics.median(costs["decode only"])
    console.print(f"With a random crop it costs {crop_ratio:.2f}x decoding (aim 1.25).")
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


def tf_data(paths: list[Path]) -> Callable[[], float]:
    """Return a function that takes all photos through tf.data once."""

    def load(path: tf.Tensor) -> tf.Tensor:
        data = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(data),
            tf.zeros((1, 0, 4)),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        image = tf.image.decode_and_crop_jpeg(data, window, channels=3)
        image = tf.image.resize(image, (224, 224))
        image = tf.image.random_flip_left_right(image) / 255
        image = tf.image.random_brightness(image, 0.4)
        image = tf.image.random_contrast(image, 0.6, 1.4)
        image = tf.image.random_saturation(image, 0.6, 1.4)
        return tf.image.convert_image_dtype(image, tf.uint8, saturate=True)

    names = [str(path) for path in paths]
    dataset = tf.data.Dataset.from_tensor_slices(names).map(load)
    batches = dataset.batch(len(paths))

    def run() -> float:  # an iterator each time, or it would run ahead untimed
        start = time.process_time()
        for _ in batches:
            pass
        return 1e3 * (time.process_time() - start) / len(paths)

    return run


@contextlib.contextmanager
def torchvision_peer(
    paths: list[Path], python: Path
) -> Iterator[Callable[[], float] | None]:
    """Give the same by torchvision, from its own process; None where there is none."""
    if not python.exists():
        Console().print(f"torchvision is left out: no {python} (`make parity`)")
        yield None
        return
    with subprocess.Popen(
        [str(python), "-m", "benchmarks.torchvision_peer", *map(str, paths)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        stdin, stdout = process.stdin, process.stdout

        def run() -> float:
            print(file=stdin, flush=True)
            return float(stdout.readline() if stdout is not None else "nan")

        yield run
        if stdin is not None:
            stdin.close()


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
