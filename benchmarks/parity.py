"""Imported networks against the frameworks they come from: the table docs/parity.md.

    make parity

Each network is made by the other framework with random weights and random statistics
of its batch normalisations, and saved by it. We import the file and compare logits for
two random images of the real size. Expected on two cores: one minute, and two
more when the environment is made.
"""

import dataclasses
import datetime
import importlib
import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its startup notes

import keras
import numpy as np
import torch
from safetensors.torch import save_file

from tests.comparing import randomise, relative_error, whole
from tests.golden.make import INCEPTION
from tests.golden.peers import HALF, IMAGENET, answer, make_peer
from tests.golden.values import make_images
from worklab.pretrained import import_weights

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-5
PACKAGES = ("tensorflow", "keras", "torch", "torchvision", "timm", "numpy")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One network of another framework.

    Attributes:
        network: Our class, after its module of `worklab.networks`.
        library: `torchvision`, `timm` or `keras`.
        model: What that calls the network.
        image_size: In pixels.
        suffix: Of the file that the library writes.
        settings: Of the library's constructor.
        gain: Of the kernels; see `make_value`.
        statistics: Mean and deviation by which its images are normalised.
        module: Of `keras.applications` where the preprocessing is.
        head: The last layer's name in the file; True: as the layout says.
    """

    network: str
    library: str
    model: str
    image_size: int = 224
    suffix: str = ".pth"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    gain: float = 1.0
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    module: str = ""
    head: str | bool = True


def torchvision(network: str, model: str, *size: int, **others: Any) -> Comparison:
    return Comparison(network, "torchvision", model, *size, **others)


def timm(network: str, model: str, *size: int, **others: Any) -> Comparison:
    return Comparison(network, "timm", model, *size, suffix=".safetensors", **others)


def applications(
    network: str, model: str, module: str, *size: int, **others: Any
) -> Comparison:
    settings = {"suffix": ".weights.h5", "module": module, **others}
    return Comparison(network, "keras", model, *size, **settings)


COMPARISONS = (
    torchvision("resnet.ResNet18", "resnet18"),
    torchvision("resnet.ResNet50", "resnet50"),
    torchvision("vgg.VGG16", "vgg16"),
    torchvision("alexnet.AlexNet", "alexnet"),
    torchvision("googlenet.GoogLeNet", "googlenet", settings=INCEPTION),
    torchvision("inception.InceptionV3", "inception_v3", 299, settings=INCEPTION),
    torchvision("mobilenet.MobileNetV2", "mobilenet_v2", gain=0.75),
    torchvision("squeezenet.SqueezeNet10", "squeezenet1_0"),
    torchvision("squeezenet.SqueezeNet11", "squeezenet1_1"),
    timm("resnet.ResNet18", "resnet18"),
    timm("resnet.ResNet50", "resnet50"),
    timm("vgg.VGG16", "vgg16"),
    timm("inception.InceptionV3", "inception_v3", 299, statistics=HALF),
    timm("mobilenet.MobileNetV1", "mobilenetv1_100", statistics=HALF),
    timm("mobilenet.MobileNetV2", "mobilenetv2_100", gain=0.75),
    applications("resnet.ResNet50", "ResNet50", "resnet"),
    applications("resnet.ResNet50", "ResNet50", "resnet", suffix=".keras"),
    applications("resnet.ResNet50", "ResNet50", "resnet", suffix=".h5"),
    applications("resnet_v2.ResNet50V2", "ResNet50V2", "resnet_v2"),
    applications(
        "keras_backbone.ResNet50V2", "ResNet50V2", "resnet_v2", head="predictions"
    ),
    applications("vgg.VGG16", "VGG16", "vgg16"),
    applications("inception.InceptionV3", "InceptionV3", "inception_v3", 299),
    applications("mobilenet.MobileNetV1", "MobileNet", "mobilenet"),
    applications("mobilenet.MobileNetV2", "MobileNetV2", "mobilenet_v2"),
)


def main() -> None:
    rows, wrong = list[str](), 0
    for comparison in COMPARISONS:
        what = f"{comparison.network} <- {comparison.library} {comparison.model}"
        network_class = find_class(comparison.network)
        if network_class is None:
            print(f"{what}: skipped, as there is no such network yet")
            continue
        with tempfile.TemporaryDirectory() as folder:
            row, error = compare(network_class, comparison, Path(folder))
        rows.append(row)
        wrong += not error < TOLERANCE
        print(f"{what} {comparison.suffix}: {error:.1e}")
    path = ROOT / "docs" / "parity.md"
    path.write_text(page(rows))
    print(f"wrote {path}")
    if wrong:
        sys.exit(f"{wrong} errors are {TOLERANCE:g} or more")


def find_class(name: str) -> type | None:
    module, _, kind = name.partition(".")
    try:
        return getattr(
            importlib.import_module(f"worklab.networks.{module}"), kind, None
        )
    except ModuleNotFoundError:
        return None


def compare(
    network_class: type, comparison: Comparison, folder: Path
) -> tuple[str, float]:
    """Return a row of the table and the relative error."""
    path = folder / f"weights{comparison.suffix}"
    images = make_images(comparison.image_size)
    save = save_keras if comparison.library == "keras" else save_torch
    expected = save(comparison, images, path)

    shape = (comparison.image_size, comparison.image_size, 3)
    names = [layout.name for layout in network_class.layouts]
    layout = comparison.library if comparison.library in names else names[0]
    network = whole(network_class, comparison.head)(
        expected.shape[1], image_shape=shape, layout=layout
    )
    report = import_weights(network, path)
    assert report.unused == (), report
    error = relative_error(network({"images": images}, training=False), expected)
    cells = (
        f"`{comparison.network}`",
        f"{comparison.library} `{comparison.model}`",
        report.layout or "own names",
        f"`{comparison.suffix}`",
        comparison.image_size,
        f"{error:.1e}",
    )
    return f"| {' | '.join(map(str, cells))} |", float(error)


def save_torch(comparison: Comparison, images: np.ndarray, path: Path) -> np.ndarray:
    model = make_peer(
        comparison.library,
        comparison.model,
        gain=comparison.gain,
        **comparison.settings,
    )
    state = model.state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return answer(model, images, comparison.statistics)


def save_keras(comparison: Comparison, images: np.ndarray, path: Path) -> np.ndarray:
    size = comparison.image_size
    model = getattr(keras.applications, comparison.model)(
        weights=None, input_shape=(size, size, 3), classifier_activation=None
    )
    randomise(model)
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    module = importlib.import_module(f"keras.applications.{comparison.module}")
    inputs = module.preprocess_input(images.astype("float32"))
    return model(inputs, training=False).numpy()


def page(rows: list[str]) -> str:
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
    lines = [
        "# Imported networks against their origin",
        "",
        "Written by `make parity`. The other framework makes the network with random",
        "weights and random statistics, saves it, and answers two random images; we",
        "import its file. The error is the largest difference of a logit, divided by",
        "the largest logit. PyTorch reckons in float64 there, Keras in float32, and we",
        f"in float32; {TOLERANCE:g} or more fails.",
        "",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, Python "
        f"{platform.python_version()}, {versions}.",
        "",
        "| network | from | layout | file | image size | relative error |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
