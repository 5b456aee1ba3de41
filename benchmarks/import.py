"""What importing weights costs: time and memory beside reading and assigning them.

    python benchmarks/import.py

A ResNet-50 (25.6 million parameters, 102 MB) is imported from files of several
formats, with the names of torchvision, Keras, ry and this project. Beside it the same
bytes are read from a plain file and assigned to the same variables, which nobody can
save. Rounds are interleaved; medians are shown, and the memory that a process takes at
its peak beyond what it had with the network built. Files are in the page cache
throughout. Expected on two cores: about a minute. Aim: at most 1.5 times the plain
time, at most 1.3 times the file's size in memory.
"""

import dataclasses
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tyro
from rich.console import Console
from rich.table import Table

from worklab.networks.resnet import ResNet50
from worklab.pretrained import ImportReport, import_weights
from worklab.pretrained.files import write_weights

IMAGE_SHAPE = (64, 64, 3)


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure what importing weights costs."""

    rounds: int = 5
    """Interleaved rounds."""


class Whole(ResNet50):
    """ResNet-50 with its last layer restored, too."""

    def full_layer(self, *arguments, **settings):  # type: ignore[no-untyped-def]
        """As of the base class, but restored."""
        return super().full_layer(*arguments, **settings | {"restore": True})


def main(options: Options) -> None:
    """Measure what importing weights costs."""
    table = Table("file", "MB", "plain", "import", "ratio", "memory", "of the file")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {
            "safetensors, own names": (write_own(folder), "torchvision"),
            "safetensors, torchvision's names": (
                write_torchvision(folder),
                "torchvision",
            ),
            "Keras .weights.h5": (write_keras(folder), "keras"),
            "TensorFlow 1 checkpoint, ry's names": (write_tensorflow(folder), "ry"),
        }
        for title, (path, layout) in files.items():
            table.add_row(title, *measure(path, layout, folder, options.rounds))
    Console(width=110).print(table)


def measure(path: Path, layout: str, folder: Path, rounds: int) -> list[str]:
    """Return the cells of one file's row."""
    network = Whole(1000, image_shape=IMAGE_SHAPE, layout=layout)
    arrays = {name: v.value.numpy() for name, v in network.variables.items()}
    plain = folder / "plain"
    plain.write_bytes(b"".join(array.tobytes() for array in arrays.values()))
    megabytes = plain.stat().st_size / 1e6
    shapes = {name: array.shape for name, array in arrays.items()}
    del arrays

    def read_and_assign() -> None:
        values, start = np.fromfile(plain, np.float32), 0
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            network.variables[name].assign(values[start : start + size].reshape(shape))
            start += size

    def read_weights() -> ImportReport:
        return import_weights(network, path)

    times: dict[str, list[float]] = {"plain": [], "import": []}
    memory = []
    for number in range(rounds + 1):  # the first is not counted
        seconds = {"plain": timed(read_and_assign)}
        gc.collect()
        before = reset_peak_memory()
        seconds["import"] = timed(read_weights)
        memory.append(peak_memory() - before)
        for name, value in seconds.items():
            if number:
                times[name].append(value)
    plain_time, import_time = (statistics.median(times[name]) for name in times)
    extra = statistics.median(memory[1:])
    return [
        f"{megabytes:.0f}",
        f"{plain_time * 1e3:.0f} ms",
        f"{import_time * 1e3:.0f} ms",
        f"{import_time / plain_time:.2f}",
        f"{extra:.0f} MB",
        f"{extra / megabytes:.0%}",
    ]


def write_own(folder: Path) -> Path:
    """Write a file with this project's names."""
    network = Whole(1000, image_shape=IMAGE_SHAPE)
    path = folder / "own.safetensors"
    write_weights(path, {n: v.value.numpy() for n, v in network.variables.items()})
    return path


def write_torchvision(folder: Path) -> Path:
    """Write a file with torchvision's names and order of axes."""
    network = Whole(1000, image_shape=IMAGE_SHAPE)
    layout = network.layout
    leaves = {
        "kernel": "weight",
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
    arrays = {}
    for name, variable in network.variables.items():
        layer, leaf = network.split(name)
        array = variable.value.numpy()
        if leaf == "kernel":
            array = array.transpose((3, 2, 0, 1) if array.ndim == 4 else (1, 0))
        source = layout.rename(layer) if layout is not None else layer
        arrays[f"{source}.{leaves.get(leaf, leaf)}"] = array
    path = folder / "torchvision.safetensors"
    write_weights(path, arrays)
    return path


def write_keras(folder: Path) -> Path:
    """Write Keras's own ResNet-50, by Keras."""
    model = keras.applications.ResNet50(weights=None, input_shape=IMAGE_SHAPE)
    path = folder / "keras.weights.h5"
    model.save_weights(path)
    return path


def write_tensorflow(folder: Path) -> Path:
    """Write a checkpoint with the names of ry/tensorflow-resnet, by TensorFlow."""
    network = Whole(1000, image_shape=IMAGE_SHAPE, layout="ry")
    layout = network.layout
    path = folder / "ry.ckpt"
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, variable in network.variables.items():
            layer, leaf = network.split(name)
            leaf = {"kernel": "weights", "bias": "biases"}.get(leaf, leaf)
            source = layout.rename(layer) if layout is not None else layer
            shape = tuple(variable.shape)
            tf.compat.v1.get_variable(f"{source}/{leaf}", shape)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(path), write_meta_graph=False)
    return path


def timed(run: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def reset_peak_memory() -> float:
    """Let the peak of this process begin anew; return its memory now, in MB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_memory()


def peak_memory() -> float:
    """Return the most memory this process has had since the reset, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


if __name__ == "__main__":
    main(tyro.cli(Options))
