"""Speed of ResNet-50 beside Keras and PyTorch, on the same work.

    python benchmarks/training.py
    python benchmarks/training.py --task testing --precision bfloat16

All train, or test, one network (ResNet-50, v1.5, 224x224, batch 16, SGD with momentum,
random uint8 images in memory). Keras's side has Keras's own batch normalisation and
`fit` or `predict` as they come; PyTorch's is torchvision's model in channels_last, in a
process of its own, from the environment that `make parity` makes (without it, it is
left out). Rounds are interleaved; medians and ratios of medians are shown. Expected on
two cores: about 10 minutes. Aims in training: 1.2 times Keras, 1.15 times PyTorch in
float32; in testing: 1.05 times Keras, 1.0 times PyTorch.
"""

import contextlib
import dataclasses
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from worklab import Session, Tester, Trainer, Writer
from worklab.networks.resnet import ResNet50
from worklab.options import AugmentOptions, LayerOptions, ReaderOptions
from worklab.readers import ArrayReader

NUM_CLASSES = 1000
ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare the speed of ResNet-50 with Keras and PyTorch."""

    task: Literal["training", "testing"] = "training"
    """What is timed."""
    rounds: int = 5
    """Interleaved rounds."""
    steps: int = 4
    """Steps per round."""
    batch_size: int = 16
    """Images per step."""
    image_size: int = 224
    """Height and width in pixels."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of all sides."""
    peer: Path = ROOT / ".venv-parity/bin/python"
    """Python of PyTorch's side; where it is missing that side is left out."""


class KerasResNet50(ResNet50):
    """The same network with Keras's own batch normalisation."""

    def batch_norm(
        self, inputs: Any, *, momentum: float = 0.9, epsilon: Any = None, **_: Any
    ) -> Any:
        """Normalise by Keras."""
        return self.layer(
            keras.layers.BatchNormalization,
            inputs,
            scope="bn",
            momentum=momentum,
            epsilon=epsilon or self.epsilon,
        )


def main(options: Options) -> None:
    """Compare the speed of ResNet-50 with Keras and PyTorch."""
    size, batch_size = options.image_size, options.batch_size
    rng = np.random.default_rng(0)
    count = options.steps * batch_size
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    labels = rng.integers(0, NUM_CLASSES, count)
    with tempfile.TemporaryDirectory() as folder, torch_peer(options) as run_torch:
        runs = {
            "worklab": make_worklab(images, labels, Path(folder), options),
            "Keras": make_keras(images, labels, options),
        }
        if run_torch is not None:
            runs["PyTorch"] = run_torch
        seconds = time_interleaved(runs, options.rounds)
    show(seconds, count, options)


def make_worklab(
    images: np.ndarray, labels: np.ndarray, folder: Path, options: Options
) -> Callable[[], float]:
    """Return a function that runs a round and returns its seconds."""
    size = (options.image_size, options.image_size)
    reader = ArrayReader(
        images,
        labels,
        [str(number) for number in range(NUM_CLASSES)],
        options=ReaderOptions(
            image_size=size,
            batch_size=options.batch_size,
            test_batch_size=options.batch_size,
        ),
        augment=AugmentOptions(preset="off"),
    )
    network = ResNet50(NUM_CLASSES, **settings(options))
    session = Session(folder)
    trainer = Trainer(
        network, reader, session, Writer(folder), learning_rate=lambda step: 0.01
    )
    session.start(network, reader.class_names)
    if options.task == "testing":
        tester = Tester(network, reader, session, split="test")
        return lambda: timed(tester.test)
    return lambda: timed(lambda: trainer.train(options.steps))


def make_keras(
    images: np.ndarray, labels: np.ndarray, options: Options
) -> Callable[[], float]:
    """Return the same of Keras."""
    model = KerasResNet50(NUM_CLASSES, **settings(options)).model
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    inputs, size = {"images": images}, options.batch_size
    if options.task == "testing":
        return lambda: timed(lambda: model.predict(inputs, batch_size=size, verbose=0))
    return lambda: timed(lambda: model.fit(inputs, labels, batch_size=size, verbose=0))


@contextlib.contextmanager
def torch_peer(options: Options) -> Iterator[Callable[[], float] | None]:
    """Give the same of PyTorch, from a process of its own; None where there is none."""
    if not options.peer.exists():
        Console().print(f"PyTorch is left out: no {options.peer} (`make parity`)")
        yield None
        return
    words = [options.task, options.precision, options.batch_size, options.image_size]
    with subprocess.Popen(
        [str(options.peer), "-m", "benchmarks.torch_peer", *map(str, words)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        stdin, stdout = process.stdin, process.stdout

        def run() -> float:
            print(options.steps, file=stdin, flush=True)
            return float(stdout.readline() if stdout is not None else "nan")

        yield run
        if stdin is not None:
            stdin.close()


def settings(options: Options) -> dict[str, Any]:
    """Return what worklab's network and Keras's are made with."""
    # No decay on any side: Keras's would have to be written into each layer.
    return {
        "image_shape": (options.image_size, options.image_size, 3),
        "precision": options.precision,
        "options": LayerOptions(weight_decay=0.0),
    }


def timed(run: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def time_interleaved(
    runs: dict[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Return seconds per round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            took = run()
            if number > 0:
                seconds[name].append(took)
    return seconds


def show(seconds: dict[str, list[float]], images: int, options: Options) -> None:
    """Print images per second, and how many times as fast worklab is."""
    table = Table(
        f"{options.task}, {options.precision}",
        "images/s (median)",
        "slowest",
        "fastest",
        "worklab is",
    )
    ours = statistics.median(seconds["worklab"])
    for name, each in seconds.items():
        rates = [images / second for second in each]
        table.add_row(
            name,
            f"{statistics.median(rates):.2f}",
            f"{min(rates):.2f}",
            f"{max(rates):.2f}",
            f"{statistics.median(each) / ours:.2f}x as fast",
        )
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options))
