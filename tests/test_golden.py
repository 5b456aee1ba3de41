"""Networks give other libraries' answers, kept in `tests/golden`; see its README."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from tests.comparing import relative_error, whole
from tests.golden.values import checksum, make_images, make_values
from worklab.layouts import Preprocessing
from worklab.networks import resnet
from worklab.pretrained import import_weights
from worklab.pretrained.files import write_weights

FOLDER = Path(__file__).parent / "golden"
GOLDENS = sorted(path.stem for path in FOLDER.glob("*.json"))
# Float32 of a hundred layers, in an order that differs by library.
TOLERANCE = 1e-5
# What a wrong detail must change, so that the right ones are seen to matter.
VISIBLE = 1e-3


@dataclasses.dataclass(frozen=True)
class Golden:
    """A golden file as it was read, and the weights file made from it."""

    network_class: type
    layout: str
    image_size: int
    num_classes: int
    logits: np.ndarray
    weights: Path

    def relative_error(self, network_class):
        """Return by how much the class's answers differ, with the weights imported."""
        network = whole(network_class)(
            self.num_classes,
            image_shape=(self.image_size, self.image_size, 3),
            layout=self.layout,
        )
        report = import_weights(network, self.weights)
        assert report.layout == self.layout
        assert report.unused == ()
        images = make_images(self.image_size)
        logits = network({"images": images}, training=False).numpy()
        return relative_error(logits, self.logits)


def find_class(name):
    module, _, kind = name.partition(".")
    try:
        return getattr(importlib.import_module(f"worklab.networks.{module}"), kind)
    except ModuleNotFoundError:
        pytest.skip(f"there is no {name} yet")


def read_golden(name, folder):
    content = json.loads((FOLDER / f"{name}.json").read_text())
    network_class = find_class(content["network"])
    shapes = {
        variable: tuple(int(n) for n in shape.split("x") if n)
        for variable, shape in content["variables"].items()
    }
    size = content["image_size"]
    assert content["checksum"] == checksum(shapes, size), (
        "NumPy makes other values than those that the file was made with"
    )
    path = folder / f"{name}.safetensors"
    write_weights(path, make_values(shapes, content["gain"]))
    return Golden(
        network_class,
        content["layout"],
        size,
        content["num_classes"],
        np.array([row.split() for row in content["logits"]], np.float64),
        path,
    )


@pytest.mark.parametrize("name", GOLDENS)
def test_network_gives_the_answers_of_its_peer(name, tmp_path):
    golden = read_golden(name, tmp_path)
    assert golden.relative_error(golden.network_class) < TOLERANCE
    golden.weights.unlink()  # half a gigabyte, of VGG


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    return read_golden("resnet50_torchvision", tmp_path_factory.mktemp("golden"))


def of_layout(network_class, **changes):
    layout = network_class.layouts[0]
    changed = dataclasses.replace(layout, **changes)
    return type("Changed", (network_class,), {"layouts": (changed,)})


class PaddedLikeTensorFlow(resnet.ResNet50):
    """Pads as `padding="same"` does: the odd pixel at the bottom and right."""

    def conv_layer(self, *args, padding, **settings):
        return super().conv_layer(*args, padding="same", **settings)

    def pool_layer(self, *args, padding, **settings):
        return super().pool_layer(*args, padding="same", **settings)


BGR = dataclasses.replace(resnet.TORCHVISION.preprocessing, channel_order="BGR")
WRONG = {
    "strides on 1x1": of_layout(resnet.ResNet50, settings={"strides_on": "1x1"}),
    "padding": PaddedLikeTensorFlow,
    "epsilon": of_layout(resnet.ResNet50, epsilon=1e-3),
    "BGR": of_layout(resnet.ResNet50, preprocessing=BGR),
    "0 to 1": of_layout(resnet.ResNet50, preprocessing=Preprocessing()),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_detail_gives_other_answers(wrong, resnet50):
    assert resnet50.relative_error(WRONG[wrong]) > VISIBLE
