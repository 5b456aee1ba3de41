"""Training speed of ResNet-50 beside `keras.Model.fit`, on the same work.

    python benchmarks/training.py

Both train one network (ResNet-50, v1.5, 224x224, batch 16, SGD with momentum, random
images in memory) in float32; Keras's side has Keras's own batch normalisation and
`fit` as it comes. Rounds are interleaved; medians and the ratio of medians are shown.
Expected on two cores: about 10 minutes. Aim: a ratio of at least 1.15 in float32.
"""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from worklab import Session, Trainer, Writer
from worklab.networks.resnet import ResNet50
from worklab.options import AugmentOptions, LayerOptions, ReaderOptions
from worklab.readers import ArrayReader

NUM_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare the training speed of ResNet-50 with `keras.Model.fit`."""

    rounds: int = 5
    """Interleaved rounds."""
    steps: int = 4
    """Steps per round."""
    batch_size: int = 16
    """Images per step."""
    image_size: int = 224
    """Height and width in pixels."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of worklab's side and of Keras's."""


class KerasResNet50(ResNet50):
    """The same network with Keras's own batch normalisation."""

    def batch_norm(
        self, inputs: Any, *, momentum: float = 0.9, epsilon: float = 1e-5, **_: Any
    ) -> Any:
        return self.layer(
            keras.layers.BatchNormalization,
            inputs,
            scope="bn",
            momentum=momentum,
            epsilon=epsilon,
        )


def main(options: Options) -> float:
    size, batch_size = options.image_size, options.batch_size
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4 * batch_size, size, size, 3), np.uint8)
    labels = rng.integers(0, NUM_CLASSES, len(images))
    # No decay on either side: Keras's would have to be written into each layer.
    settings: dict[str, Any] = {
        "image_shape": (size, size, 3),
        "precision": options.precision,
        "options": LayerOptions(weight_decay=0.0),
    }

    with tempfile.TemporaryDirectory() as folder:
        reader = ArrayReader(
            images,
            labels,
            [str(number) for number in range(NUM_CLASSES)],
            options=ReaderOptions(image_size=(size, size), batch_size=batch_size),
            augment=AugmentOptions(preset="off"),
        )
        network = ResNet50(NUM_CLASSES, **settings)
        trainer = Trainer(
            network,
            reader,
            Session(Path(folder)),
            Writer(Path(folder)),
            learning_rate=lambda step: 0.01,
        )
        trainer.session.start(network, reader.class_names)

        model = KerasResNet50(NUM_CLASSES, **settings).model
        model.compile(
            keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        count = options.steps * batch_size
        rows = np.arange(count) % len(images)

        def run_worklab() -> None:
            trainer.train(options.steps)

        def run_keras() -> None:
            inputs = {"images": images[rows]}
            model.fit(inputs, labels[rows], batch_size=batch_size, verbose=0)

        seconds = time_interleaved(
            {"worklab": run_worklab, "keras.Model.fit": run_keras}, options.rounds
        )
    return show(seconds, count, options)


def time_interleaved(runs: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Return seconds per round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def show(seconds: dict[str, list[float]], images: int, options: Options) -> float:
    table = Table("", "images/s (median)", "slowest", "fastest")
    for name, each in seconds.items():
        rates = [images / second for second in each]
        table.add_row(
            name,
            f"{statistics.median(rates):.2f}",
            f"{min(rates):.2f}",
            f"{max(rates):.2f}",
        )
    console = Console()
    console.print(table)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    ratio = medians["keras.Model.fit"] / medians["worklab"]
    console.print(f"{options.precision}: {ratio:.2f}x keras.Model.fit (aim 1.15)")
    return ratio


if __name__ == "__main__":
    main(tyro.cli(Options))
