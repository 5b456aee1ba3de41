"""What the tests share: tiny images, a two-block network, fixed seeds."""

import json
import linecache
import sys
import types
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from worklab import Network
from worklab.options import (
    AugmentOptions,
    DataOptions,
    PatienceOptions,
    ReaderOptions,
    ScheduleOptions,
    SessionOptions,
    TrainingOptions,
)
from worklab.readers import ArrayReader

# Three devices for test_devices.py; TensorFlow computes on the first if not told.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 3,
)

CLASS_NAMES = ["circle", "square", "cross"]


class TinyNetwork(Network):
    """Two blocks and three classes; `frozen` learns nothing, `slow` a tenth."""

    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    def _construct(self, images: Any) -> Any:
        with self.scope("frozen", lr_mult=0.0):
            x = self.conv_block(images, 4, 3)
        with self.scope("slow", lr_mult=0.1):
            x = self.residual_block(x, 8, strides=2)
        x = self.global_pool(x)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)


@pytest.fixture(autouse=True)
def _seeds():
    keras.utils.set_random_seed(0)
    yield
    keras.backend.clear_session(free_memory=False)  # collecting takes a second


@pytest.fixture
def without_values():
    """Build networks without values, in a fraction of the time: shapes are enough."""
    with keras.StatelessScope(initialize_variables=False):
        yield


@pytest.fixture
def tiny_network() -> TinyNetwork:
    return TinyNetwork(3, image_shape=(8, 8, 3))


@pytest.fixture(scope="session")
def tiny_images() -> tuple[np.ndarray, np.ndarray]:
    """30 images of 8x8: noise with a bright patch whose place is the class."""
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    images = rng.integers(0, 120, (30, 8, 8, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 3, 2 * label : 2 * label + 3] += 120
    return images, labels


@pytest.fixture
def tiny_reader(tiny_images) -> ArrayReader:
    images, labels = tiny_images
    return ArrayReader(
        images,
        labels,
        CLASS_NAMES,
        options=ReaderOptions(image_size=(8, 8), batch_size=6, test_batch_size=8),
        augment=AugmentOptions(preset="off", shift=0.1),
    )


@pytest.fixture(scope="session")
def tiny_folder(tiny_images, tmp_path_factory) -> Path:
    """The tiny images as PNG files with train.json, valid.json and test.json."""
    folder = tmp_path_factory.mktemp("tiny")
    images, labels = tiny_images
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number}.png"), image[:, :, ::-1])
    for split, start, stop in (("train", 0, 18), ("valid", 18, 24), ("test", 24, 30)):
        records = {f"{n}.png": CLASS_NAMES[labels[n]] for n in range(start, stop)}
        (folder / f"{split}.json").write_text(json.dumps(records))
    (folder / "classes.json").write_text(json.dumps(CLASS_NAMES))
    return folder


class Notebook:
    """Runs cells as Jupyter does: all in one module, their text kept for tracebacks."""

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        self.names = vars(self.module)
        self.number = 0

    def run(self, cell: str) -> None:
        """Run a cell."""
        self.number += 1
        name = f"<cell {id(self)} {self.number}>"
        lines = cell.splitlines(keepends=True)
        linecache.cache[name] = (len(cell), None, lines, name)
        exec(compile(cell, name, "exec"), self.names)


@pytest.fixture
def notebook(monkeypatch) -> Notebook:
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "__main__", notebook.module)
    monkeypatch.setattr(linecache, "cache", dict(linecache.cache))  # others' cells
    return notebook


@pytest.fixture(scope="session")
def figures(request):
    """Rows `(fault, done, found)` for the table that `make stress` ends with."""
    rows = []
    yield rows
    if request.config.getoption("markexpr") == "stress":
        table = Table("fault", "done", "found", show_lines=True)
        for fault, found in dict.fromkeys((row[0], row[2]) for row in rows):
            done = [row[1] for row in rows if (row[0], row[2]) == (fault, found)]
            table.add_row(fault, ", ".join(done), found)
        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            Console(width=100).print("", table)


@pytest.fixture(scope="session")
def tiny_run(tiny_folder, tmp_path_factory) -> Path:
    """A complete run on `tiny_folder`, of which nothing may be changed."""
    from launchers import train_with_patience

    run = tmp_path_factory.mktemp("runs") / "tiny"
    train_with_patience.main(
        train_with_patience.Options(
            run=run,
            network="tests.conftest:TinyNetwork",
            pretrained=None,
            data=DataOptions(folder=tiny_folder),
            reader=ReaderOptions(image_size=(8, 8), batch_size=6, test_batch_size=4),
            schedule=ScheduleOptions(learning_rate=0.1),
            patience=PatienceOptions(valid_every=3, patience=1, max_decays=0),
            training=TrainingOptions(log_every=1),
            session=SessionOptions(keep=99),
        )
    )
    return run
