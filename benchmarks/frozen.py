"""What frozen layers cost: ResNet-50 of which the last stage, or the head, learns.

    python benchmarks/frozen.py

The same network on both sides, with the same layers frozen; Keras's has its own batch
normalisation and is trained by `fit`. With only the last stage learning, steps are
timed in interleaved rounds. With only the head learning, whole trainings are timed,
worklab's with the outputs of the frozen layers kept (`--training.cache-features`),
which it first computes; Keras runs them at every step. Expected on two cores: five
minutes; `--images 1000` takes most of an hour. Aims: 1.3 times as fast with the last
stage, 10 times with the head.
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from worklab import Session, Trainer, Writer
from worklab.networks.resnet import ResNet50
from worklab.options import (
    AugmentOptions,
    LayerOptions,
    ReaderOptions,
    TrainingOptions,
)
from worklab.readers import ArrayReader

NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare training with frozen layers with `keras.Model.fit`."""

    rounds: int = 3
    """Interleaved rounds of steps with the last stage."""
    steps: int = 4
    """Steps per round."""
    images: int = 96
    """Images of the training of the head."""
    epochs: int = 20
    """Epochs of the training of the head."""
    batch_size: int = 16
    """Images per step."""
    image_size: int = 224
    """Height and width in pixels."""


class LastStage(ResNet50):
    """ResNet-50 of which the last stage and the head learn."""

    lr_mults = (0.0, 0.0, 0.0, 0.0, 1.0)


class Head(ResNet50):
    """ResNet-50 of which the head learns."""

    lr_mults = (0.0, 0.0, 0.0, 0.0, 0.0)


class KerasNormalization:
    """Keras's own batch normalisation in place of ours."""

    def batch_norm(self: Any, inputs: Any, **_: Any) -> Any:
        """Normalise by Keras."""
        return self.layer(
            keras.layers.BatchNormalization,
            inputs,
            scope="bn",
            momentum=0.9,
            epsilon=self.epsilon,
        )


class KerasLastStage(KerasNormalization, LastStage):
    """The same with Keras's batch normalisation."""


class KerasHead(KerasNormalization, Head):
    """The same with Keras's batch normalisation."""


def main(options: Options) -> None:
    """Compare training with frozen layers with `keras.Model.fit`."""
    table = Table("what learns", "worklab", "keras.Model.fit", "ratio", "aim")
    table.add_row(*last_stage(options))
    table.add_row(*head(options))
    Console(width=100).print(table)


def last_stage(options: Options) -> list[str]:
    """Return the row of the last stage: seconds a step, medians of rounds."""
    images, labels = random_images(options, 4 * options.batch_size)
    count = options.steps * options.batch_size
    rows = np.arange(count) % len(images)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(LastStage, images, labels, Path(folder), options)
        model = make_keras(KerasLastStage, options)
        runs: dict[str, Callable[[], Any]] = {
            "worklab": lambda: trainer.train(options.steps),
            "keras": lambda: model.fit(
                {"images": images[rows]},
                labels[rows],
                batch_size=options.batch_size,
                verbose=0,
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(options.rounds + 1):  # the first is not counted
            for name, run in runs.items():
                took = timed(run) / options.steps
                if number:
                    seconds[name].append(took)
    ours, theirs = (statistics.median(each) for each in seconds.values())
    return [
        "last stage",
        f"{ours:.2f} s a step",
        f"{theirs:.2f} s a step",
        f"{theirs / ours:.2f}",
        "1.3",
    ]


def head(options: Options) -> list[str]:
    """Return the row of the head: seconds of a whole training, compilation included."""
    images, labels = random_images(options, options.images)
    num_steps = options.epochs * options.images // options.batch_size
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            Head, images, labels, Path(folder), options, cache_features=True
        )
        ours = timed(lambda: trainer.train(num_steps))
    model = make_keras(KerasHead, options)
    theirs = timed(
        lambda: model.fit(
            {"images": images},
            labels,
            batch_size=options.batch_size,
            epochs=options.epochs,
            verbose=0,
        )
    )
    return [
        f"head, {options.epochs} epochs of {options.images} images",
        f"{ours:.1f} s",
        f"{theirs:.1f} s",
        f"{theirs / ours:.1f}",
        "10",
    ]


def make_trainer(
    network_class: Any,
    images: np.ndarray,
    labels: np.ndarray,
    folder: Path,
    options: Options,
    *,
    cache_features: bool = False,
) -> Trainer:
    """Return a trainer that has started."""
    size = (options.image_size, options.image_size)
    reader = ArrayReader(
        images,
        labels,
        [str(number) for number in range(NUM_CLASSES)],
        options=ReaderOptions(
            image_size=size,
            batch_size=options.batch_size,
            test_batch_size=options.batch_size,
            copies=1,
        ),
        augment=AugmentOptions(preset="off"),
    )
    network = network_class(NUM_CLASSES, **settings(options))
    trainer = Trainer(
        network,
        reader,
        Session(folder),
        Writer(folder),
        learning_rate=lambda step: 0.01,
        options=TrainingOptions(cache_features=cache_features),
    )
    trainer.session.start(network, reader.class_names)
    return trainer


def make_keras(network_class: Any, options: Options) -> Any:
    """Return a Keras model that is compiled for `fit`."""
    model = network_class(NUM_CLASSES, **settings(options)).model
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def settings(options: Options) -> dict[str, Any]:
    """Return what both networks are made with; no decay, as Keras has none here."""
    return {
        "image_shape": (options.image_size, options.image_size, 3),
        "options": LayerOptions(weight_decay=0.0),
    }


def random_images(options: Options, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 images and their labels."""
    rng = np.random.default_rng(0)
    shape = (count, options.image_size, options.image_size, 3)
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, NUM_CLASSES, count)


def timed(run: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(tyro.cli(Options))
