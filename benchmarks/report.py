"""How long a report takes, and how large it is: 10,000 images of 2 and of 1000 classes.

    python -m benchmarks.report

makes images of three handwritten digits side by side, whose class is the number (000
to 999) or whether it is even, trains a small network on each, and writes the report of
the test several times. The aim: under 20 s and 5 MB. The runs stay, to be looked at.
"""

import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from sklearn.datasets import load_digits

from launchers import train_and_test
from worklab import Network
from worklab.options import DataOptions, ReaderOptions
from worklab.report.writing import write_report

SIZES = {"train": 20_000, "valid": 2_000, "test": 10_000}
TASKS = {2: ("odd", "even"), 1000: tuple(f"{number:03}" for number in range(1000))}


class NumberNetwork(Network):
    """Three convolutions that keep the place of each digit."""

    def _construct(self, images: Any) -> Any:
        x = images
        for number, filters in enumerate((32, 64, 64), start=1):
            with self.scope(f"block{number}"):
                x = self.conv_block(x, filters, 3, strides=1 if number == 1 else 2)
        return self.full_layer(x, self.num_classes, scope="logits")


def make_numbers(folder: Path, num_classes: int) -> None:
    """Write lists of images (8, 24, 1) of three digits each, split by their writers."""
    digits, rng = load_digits(), np.random.default_rng(0)
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    parts = dict(
        zip(SIZES, np.split(np.arange(len(images)), [1000, 1200]), strict=True)
    )
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in SIZES.items():
        drawn = rng.choice(parts[split], (size, 3))
        numbers = digits.target[drawn] @ [100, 10, 1]
        labels = numbers if num_classes == 1000 else 1 - numbers % 2
        rows = np.concatenate([images[drawn[:, place]] for place in range(3)], axis=2)
        np.savez(
            folder / f"{split}.npz",
            images=rows[..., None],
            labels=labels,
            class_names=np.array(TASKS[num_classes]),
        )


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how often."""

    runs: Path = Path("runs/report")
    """Where data and runs are; what is there is used again."""
    num_steps: int = 1500
    """Training steps of each network."""
    repeats: int = 5
    """Reports of each run."""


def main(options: Options) -> None:
    """Print the median time and the size of the reports."""
    for num_classes in TASKS:
        data = options.runs / f"data-{num_classes}"
        run = options.runs / f"numbers-{num_classes}"
        if not data.exists():
            make_numbers(data, num_classes)
        train_and_test.main(
            train_and_test.Options(
                run=run,
                sequence=((options.num_steps, 0.05), (options.num_steps // 3, 0.005)),
                network="benchmarks.report:NumberNetwork",
                pretrained=None,
                data=DataOptions(
                    folder=data, train="train.npz", valid="valid.npz", test="test.npz"
                ),
                reader=ReaderOptions(
                    image_size=(8, 24), channels=1, batch_size=64, test_batch_size=500
                ),
                report=False,
            )
        )
        seconds = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            page = write_report(run)
            seconds.append(time.perf_counter() - start)
        accuracy = json.loads((run / "result.json").read_text())["test"]["accuracy"]
        print(
            f"{num_classes:>5} classes, {SIZES['test']} images ({accuracy:.1%} right): "
            f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to "
            f"{max(seconds):.1f}), {page.stat().st_size / 1e6:.2f} MB: {page}"
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
