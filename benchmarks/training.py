"""Speed of training and testing beside Keras and PyTorch, on the same work.

    python benchmarks/training.py
    python benchmarks/training.py --task testing --precision bfloat16
    python benchmarks/training.py --network resnet20 --steps 20
    python benchmarks/training.py --network small --steps 200
    python benchmarks/training.py --sides worklab     # shows the memory of one side

All train, or test, one network with SGD with momentum on random uint8 images in memory:
ResNet-50 (v1.5, 224x224, batch 16), ResNet-20 (32x32, batch 128), or a small one of ten
thousand parameters (32x32, batch 32), which shows what the loop costs. Keras's side has
Keras's own batch normalisation and `fit` or `predict` as they come; PyTorch's is in
channels_last, in a process of its own, from the environment that `make parity` makes
(without it, it is left out). Rounds are interleaved; medians and ratios of medians are
shown. Expected on two cores: about 10 minutes for ResNet-50. Aims in training: 1.2x
Keras and 1.15x PyTorch in float32, 1.4x and 1.05x in bfloat16, 2x and 1.1x for
ResNet-20, 1.5x Keras for the small one; in testing 1.05x and 1.0x.
"""

import contextlib
import dataclasses
import resource
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

from worklab import Network, Session, Tester, Trainer, Writer
from worklab.networks.resnet import ResNet20, ResNet50
from worklab.options import AugmentOptions, LayerOptions, ReaderOptions
from worklab.readers import ArrayReader

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare the speed of a network with Keras and PyTorch."""

    task: Literal["training", "testing"] = "training"
    """What is timed."""
    network: Literal["resnet50", "resnet20", "small"] = "resnet50"
    """What is trained or tested."""
    sides: tuple[Literal["worklab", "Keras", "PyTorch"], ...] = (
        "worklab",
        "Keras",
        "PyTorch",
    )
    """Who takes part; one alone shows its peak memory."""
    rounds: int = 5
    """Interleaved rounds."""
    steps: int = 4
    """Steps per round."""
    batch_size: int | None = None
    """Images per step; None: as above."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of all sides."""
    peer: Path = ROOT / ".venv-parity/bin/python"
    """Python of PyTorch's side; where it is missing that side is left out."""


class Small(Network):
    """Ten thousand parameters in two convolutions."""

    def _construct(self, images: Any) -> Any:
        with self.scope("block1"):
            x = self.conv_block(images, 16, 3, strides=2)
        with self.scope("block2"):
            x = self.conv_block(x, 32, 3, strides=2)
        return self.full_layer(self.global_pool(x), self.num_classes, scope="logits")


# Class, number of classes, image size, batch size.
NETWORKS: dict[str, tuple[type[Network], int, int, int]] = {
    "resnet50": (ResNet50, 1000, 224, 16),
    "resnet20": (ResNet20, 10, 32, 128),
    "small": (Small, 150, 32, 32),
}


def batch_norm_of_keras(
    self: Network, inputs: Any, *, momentum: float = 0.9, epsilon: Any = None, **_: Any
) -> Any:
    """Normalise by Keras, in place of `Network.batch_norm`."""
    return self.layer(
        keras.layers.BatchNormalization,
        inputs,
        scope="bn",
        momentum=momentum,
        epsilon=epsilon or self.epsilon,
    )


def main(options: Options) -> None:
    """Compare the speed of a network with Keras and PyTorch."""
    _, num_classes, size, batch_size = NETWORKS[options.network]
    batch_size = options.batch_size or batch_size
    options = dataclasses.replace(options, batch_size=batch_size)
    rng = np.random.default_rng(0)
    count = options.steps * batch_size
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    labels = rng.integers(0, num_classes, count)
    with tempfile.TemporaryDirectory() as folder, torch_peer(options) as run_torch:
        runs: dict[str, Callable[[], float]] = {}
        if "worklab" in options.sides:
            runs["worklab"] = make_worklab(images, labels, Path(folder), options)
        if "Keras" in options.sides:
            runs["Keras"] = make_keras(images, labels, options)
        if run_torch is not None:
            runs["PyTorch"] = run_torch
        seconds = time_interleaved(runs, options.rounds)
    show(seconds, count, options)
    if len(options.sides) == 1:
        who = resource.RUSAGE_CHILDREN if run_torch else resource.RUSAGE_SELF
        peak = resource.getrusage(who).ru_maxrss / 1024
        Console().print(f"peak memory of the process: {peak:.0f} MB")


def make_worklab(
    images: np.ndarray, labels: np.ndarray, folder: Path, options: Options
) -> Callable[[], float]:
    """Return a function that runs a round and returns its seconds."""
    kind, num_classes, size, _ = NETWORKS[options.network]
    batch_size = options.batch_size or 1
    reader = ArrayReader(
        images,
        labels,
        [str(number) for number in range(num_classes)],
        options=ReaderOptions(
            image_size=(size, size), batch_size=batch_size, test_batch_size=batch_size
        ),
        augment=AugmentOptions(preset="off"),
    )
    network = kind(num_classes, **settings(options))
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
    kind, num_classes, *_ = NETWORKS[options.network]
    as_keras = type(kind.__name__, (kind,), {"batch_norm": batch_norm_of_keras})
    model = as_keras(num_classes, **settings(options)).model
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
    if options.network == "small" or "PyTorch" not in options.sides:
        yield None
        return
    if not options.peer.exists():
        Console().print(f"PyTorch is left out: no {options.peer} (`make parity`)")
        yield None
        return
    words = [options.task, options.network, options.precision, options.batch_size]
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
        "image_shape": (NETWORKS[options.network][2],) * 2 + (3,),
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
        f"{options.network}, {options.task}, {options.precision}",
        "images/s (median)",
        "slowest",
        "fastest",
        "worklab is",
    )
    ours = statistics.median(next(iter(seconds.values())))
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
