"""Make the golden files; see README.md.

python -m tests.golden.make              all of them
python -m tests.golden.make resnet18     those of which the name begins so
"""

import dataclasses
import importlib.metadata
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.golden.peers import HALF, IMAGENET, answer, make_peer
from tests.golden.values import checksum, make_images

NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Golden:
    """One golden file.

    Attributes:
        network: Class of `worklab.networks`, after its module.
        library: The peer, and what the layout is called.
        model: The peer's name of the network.
        image_size: Of the images, in pixels; small where the network allows.
        settings: Of the peer's constructor.
        gain: Of the kernels; see `make_value`.
        statistics: Mean and deviation by which the peer's images are normalised.
    """

    network: str
    library: str
    model: str
    image_size: int
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    gain: float = 1.0
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET


# As pretrained weights have it: with heads for training, and images taken to -1..1.
INCEPTION = {"aux_logits": True, "transform_input": True, "init_weights": False}
GOLDENS = (
    Golden("resnet.ResNet18", "torchvision", "resnet18", 64),
    Golden("resnet.ResNet50", "torchvision", "resnet50", 64),
    Golden("googlenet.GoogLeNet", "torchvision", "googlenet", 64, INCEPTION),
    Golden("inception.InceptionV3", "torchvision", "inception_v3", 139, INCEPTION),
    Golden("vgg.VGG16", "torchvision", "vgg16", 224),
    Golden("alexnet.AlexNet", "torchvision", "alexnet", 224),
    Golden("squeezenet.SqueezeNet10", "torchvision", "squeezenet1_0", 80),
    Golden("squeezenet.SqueezeNet11", "torchvision", "squeezenet1_1", 84),
    Golden("mobilenet.MobileNetV2", "torchvision", "mobilenet_v2", 64, gain=0.75),
    Golden("mobilenet.MobileNetV2", "timm", "mobilenetv2_100", 64, gain=0.75),
    Golden("mobilenet.MobileNetV1", "timm", "mobilenetv1_100", 64, statistics=HALF),
)


def file_name(golden: Golden) -> str:
    """Return `<network>_<layout>.json`, the network's name in small letters."""
    return f"{golden.network.rpartition('.')[2].lower()}_{golden.library}.json"


def make(golden: Golden) -> None:
    """Write a golden file."""
    settings = {"num_classes": NUM_CLASSES, **golden.settings}
    model = make_peer(golden.library, golden.model, gain=golden.gain, **settings)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    logits = answer(model, make_images(golden.image_size), golden.statistics)
    packages = {"torch", golden.library}
    content = {
        "network": golden.network,
        "layout": golden.library,
        "peer": {name: importlib.metadata.version(name) for name in sorted(packages)},
        "image_size": golden.image_size,
        "num_classes": NUM_CLASSES,
        "gain": golden.gain,
        "checksum": checksum(shapes, golden.image_size),
        "logits": [" ".join(f"{value:.9g}" for value in row) for row in logits],
        "variables": {name: "x".join(map(str, shapes[name])) for name in shapes},
    }
    path = Path(__file__).with_name(file_name(golden))
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{path.name}: logits from {logits.min():.3g} to {logits.max():.3g}")


if __name__ == "__main__":
    chosen = tuple(sys.argv[1:]) or ("",)
    for each in GOLDENS:
        if file_name(each).startswith(chosen):
            make(each)
