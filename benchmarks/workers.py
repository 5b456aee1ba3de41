"""What several devices cost: the same training by one, and by two on the same cores.

    python benchmarks/workers.py

One process with every core; two logical devices in one process; two workers, processes
of their own with half of the cores each, that talk through the loopback. All train one
network without batch normalisation (which takes the statistics of each device's rows)
on the same batches, so the losses must be the same. What the two take longer is the
engine: copies, summing of gradients, and processes that wait for each other. Rounds are
interleaved. Expected on two cores: three minutes.
"""

import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from worklab import Network, Session, Trainer, Writer
from worklab.options import (
    AugmentOptions,
    ReaderOptions,
    SessionOptions,
    TrainingOptions,
)
from worklab.readers import ArrayReader

NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare one device with two, and with two workers."""

    rounds: int = 3
    """Interleaved rounds, each in fresh processes."""
    steps: int = 40
    """Steps per round, after ten that are not counted."""
    batch_size: int = 128
    """Images of 32x32 per step, of all devices together."""
    child: Path | None = None
    """Used by the benchmark itself: where a process writes what it found."""
    num_devices: int = 0
    """Used by the benchmark itself."""
    num_threads: int = 0
    """Used by the benchmark itself."""


class Plain(Network):
    """Six convolutions, 0.6 million parameters."""

    def _construct(self, images: Any) -> Any:
        x = images
        for number, filters in enumerate((32, 32, 64, 64, 128, 128, 256)):
            strides = 2 if number in (2, 4, 6) else 1
            x = self.conv_layer(x, filters, 3, strides=strides, scope=f"conv{number}")
            x = self.activation(x, scope=f"relu{number}")
        return self.full_layer(self.global_pool(x), NUM_CLASSES, scope="logits")


def main(options: Options) -> None:
    """Compare one device with two, and with two workers."""
    if options.child is not None:
        train(options)
        return
    cores = os.cpu_count() or 2
    sides: dict[str, list[list[str]]] = {
        "one device": [[]],
        "two devices": [["--num-devices", "2"]],
        "two workers": [["--num-threads", str(max(1, cores // 2))]] * 2,
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, processes in sides.items():
            found[name].append(run(options, processes))
    show(found)


def run(options: Options, processes: list[list[str]]) -> dict[str, Any]:
    """Run a side's processes; return what the first has found."""
    with tempfile.TemporaryDirectory() as folder:
        ports = free_ports(len(processes))
        children = []
        for index, words in enumerate(processes):
            environment = dict(os.environ)
            if len(processes) > 1:
                cluster = {"worker": [f"localhost:{port}" for port in ports]}
                task = {"type": "worker", "index": index}
                environment["TF_CONFIG"] = json.dumps(
                    {"cluster": cluster, "task": task}
                )
            words = [
                *("--steps", str(options.steps)),
                *("--batch-size", str(options.batch_size)),
                *("--child", str(Path(folder) / f"{index}.json")),
                *words,
            ]
            children.append(
                subprocess.Popen([sys.executable, __file__, *words], env=environment)
            )
        for child in children:
            assert child.wait() == 0, f"a process has ended with {child.returncode}"
        return json.loads((Path(folder) / "0.json").read_text())


def train(options: Options) -> None:
    """Train in this process, and write losses and seconds for each step."""
    assert options.child is not None
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4096, 32, 32, 3), np.uint8)
    labels = rng.integers(0, NUM_CLASSES, len(images))
    reader = ArrayReader(
        images,
        labels,
        [str(number) for number in range(NUM_CLASSES)],
        options=ReaderOptions(batch_size=options.batch_size),
        augment=AugmentOptions(preset="off"),
    )
    run = options.child.with_suffix("")
    session = Session(
        run.parent / "run",
        SessionOptions(
            num_devices=options.num_devices, num_threads=options.num_threads
        ),
    )
    with session, Writer(run.parent / "run" if session.is_chief else None) as writer:
        trainer = Trainer(
            Plain(NUM_CLASSES, image_shape=(32, 32, 3)),
            reader,
            session,
            writer,
            learning_rate=lambda step: 1e-3,
            options=TrainingOptions(log_every=1),
        )
        session.start(trainer.network, reader.class_names)
        trainer.train(10)
        began = os.times().elapsed
        trainer.train(options.steps)
        seconds = (os.times().elapsed - began) / options.steps
        if session.is_chief:
            lines = writer.history_path.read_text().splitlines()[1:]
            losses = [float(line.split(",")[2]) for line in lines]
            options.child.write_text(json.dumps({"seconds": seconds, "losses": losses}))


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print seconds for each step, and how far the losses are apart."""
    table = Table("", "ms a step (median)", "against one", "largest difference of loss")
    of_one = found["one device"]
    reference = np.array(of_one[0]["losses"])
    base = statistics.median(each["seconds"] for each in of_one)
    for name, rounds in found.items():
        seconds = statistics.median(each["seconds"] for each in rounds)
        apart = max(
            float(np.max(np.abs(np.array(each["losses"]) / reference - 1)))
            for each in rounds
        )
        table.add_row(
            name, f"{1e3 * seconds:.1f}", f"{seconds / base:.2f}", f"{apart:.1e}"
        )
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options))
