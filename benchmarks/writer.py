"""What logging costs: the same training with a Writer, and with a silent one.

    python benchmarks/writer.py
    python benchmarks/writer.py --network small --steps 400

A row of the log comes every 20 steps, as in a launcher: a line of `history.csv`, one of
`layers.csv` for each group of layers, and the same in TensorBoard; the update of each
group is measured at these steps. Both sides train one network (ResNet-20 with the
demo's multipliers, or two convolutions of ten thousand parameters) by batches of 64
random images of 32x32. Rounds are interleaved; medians are shown, and of the pairs of
each round the median ratio. Aim: below 1.02.
"""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from worklab import Network, Session, Trainer, Writer
from worklab.networks.digits import DigitsNetwork
from worklab.options import AugmentOptions, ReaderOptions, TrainingOptions
from worklab.readers import ArrayReader


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure what logging costs."""

    network: Literal["digits", "small"] = "digits"
    """What is trained."""
    rounds: int = 9
    """Interleaved rounds of both sides."""
    steps: int = 40
    """Steps per round, a multiple of 20."""
    batch_size: int = 64
    """Images per step."""


class Small(Network):
    """Ten thousand parameters in two convolutions."""

    def _construct(self, images: Any) -> Any:
        with self.scope("block1"):
            x = self.conv_block(images, 16, 3, strides=2)
        with self.scope("block2"):
            x = self.conv_block(x, 32, 3, strides=2)
        return self.full_layer(self.global_pool(x), self.num_classes, scope="logits")


NETWORKS: dict[str, type[Network]] = {"digits": DigitsNetwork, "small": Small}


def main(options: Options) -> None:
    """Measure what logging costs."""
    seconds: dict[str, list[float]] = {"logging": [], "silent": []}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        writers = {"logging": Writer(run / "logged"), "silent": Writer(None)}
        trainers = {
            name: make_trainer(run / name, writer, options)
            for name, writer in writers.items()
        }
        for number in range(options.rounds + 1):
            # By turns, as the second may find the processor warmer.
            for name in sorted(trainers, reverse=number % 2 == 0):
                start = time.perf_counter()
                trainers[name].train(options.steps)
                if number > 0:  # the first compiles
                    seconds[name].append(time.perf_counter() - start)
        for trainer in trainers.values():
            trainer.session.close()
    show(seconds, options)


def make_trainer(run: Path, writer: Writer, options: Options) -> Trainer:
    """Return a trainer that has started."""
    rng = np.random.default_rng(0)
    count = 10 * options.batch_size
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    reader = ArrayReader(
        images,
        rng.integers(0, 10, count),
        [str(number) for number in range(10)],
        options=ReaderOptions(image_size=(32, 32), batch_size=options.batch_size),
        augment=AugmentOptions(preset="off"),
    )
    network = NETWORKS[options.network](10, image_shape=(32, 32, 3))
    trainer = Trainer(
        network,
        reader,
        Session(run),
        writer,
        learning_rate=lambda step: 0.01,
        options=TrainingOptions(),
    )
    trainer.session.start(network, reader.class_names)
    return trainer


def show(seconds: dict[str, list[float]], options: Options) -> None:
    """Print milliseconds per step, and the ratio."""
    table = Table(options.network, "ms a step (median)", "fastest", "slowest", "ratio")
    pairs = zip(seconds["logging"], seconds["silent"], strict=True)
    ratio = statistics.median(logging / silent for logging, silent in pairs)
    for name, each in seconds.items():
        steps = [1000 * second / options.steps for second in each]
        table.add_row(
            name,
            f"{statistics.median(steps):.2f}",
            f"{min(steps):.2f}",
            f"{max(steps):.2f}",
            f"{ratio:.3f}" if name == "logging" else "",
        )
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options))
