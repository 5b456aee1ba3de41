"""What a checkpoint costs training: the pause, the wait for the disk, the next step.

    python benchmarks/checkpoint.py

For networks of 0.3, 25 and 100 million parameters, with the momentum of SGD: how long
`Session.save` holds up training, how long until the file is on disk, and how much
longer the step after it takes (it copies each variable that the save still reads).
Beside it a plain write of the same bytes, brought to disk as the checkpoint is. Rounds
are interleaved, medians shown. Aim: the pause is at most 15 % of the plain write.
"""

import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from worklab import Network, Session, Trainer, Writer
from worklab.networks.resnet import ResNet20, ResNet50
from worklab.options import AugmentOptions, ReaderOptions, SessionOptions
from worklab.readers import ArrayReader


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure what a checkpoint costs."""

    rounds: int = 5
    """Interleaved rounds."""
    folder: Path | None = None
    """Where to write; None: the system's place for temporary files."""


class Wide(Network):
    """A hundred million parameters in four layers."""

    def _construct(self, images: Any) -> Any:
        x = self.global_pool(self.conv_block(images, 5000, 1))
        for number in range(4):
            x = self.full_layer(x, 5000, scope=f"full{number}")
        return self.full_layer(x, self.num_classes, scope="logits")


def main(options: Options) -> None:
    table = Table(
        "parameters", "MB", "plain write", "pause", "share", "on disk", "next step"
    )
    for network_class in (ResNet20, ResNet50, Wide):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            table.add_row(*measure(network_class, Path(folder), options.rounds))
    Console(width=100).print(table)


def measure(network_class: type[Network], folder: Path, rounds: int) -> list[str]:
    size = (32, 32)
    images = np.zeros((4, *size, 3), np.uint8)
    reader = ArrayReader(
        images,
        [0, 1, 0, 1],
        ["a", "b"],
        options=ReaderOptions(image_size=size, batch_size=2),
        augment=AugmentOptions(preset="off"),
    )
    network = network_class(2, image_shape=(*size, 3))
    session = Session(folder, SessionOptions(keep=1))
    trainer = Trainer(
        network, reader, session, Writer(folder), learning_rate=lambda step: 1e-4
    )
    session.start(network, reader.class_names)
    trainer.train(3)
    session.finish()
    arrays = {n: v.value.numpy() for n, v in session._variables.items()}
    content = b"".join(array.tobytes() for array in arrays.values())

    times: dict[str, list[float]] = {
        name: [] for name in ("plain", "pause", "disk", "step", "next step")
    }
    for _ in range(rounds):
        times["plain"].append(seconds(lambda: plain_write(folder / "plain", content)))
        times["step"].append(seconds(lambda: trainer.train(1)))
        start = time.perf_counter()
        session.save()
        times["pause"].append(time.perf_counter() - start)
        session.finish()
        times["disk"].append(time.perf_counter() - start)
        session.save()
        times["next step"].append(seconds(lambda: trainer.train(1)))
        session.finish()
    session.close()
    median = {name: statistics.median(each) for name, each in times.items()}
    longer = median["next step"] - median["step"]
    return [
        f"{network.model.count_params() / 1e6:.1f} M",
        f"{len(content) / 1e6:.1f}",
        f"{median['plain'] * 1e3:.1f} ms",
        f"{median['pause'] * 1e3:.1f} ms",
        f"{median['pause'] / median['plain']:.1%}",
        f"{median['disk'] * 1e3:.1f} ms",
        f"{longer * 1e3:+.1f} ms on {median['step'] * 1e3:.1f}",
    ]


def plain_write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(tyro.cli(Options))
