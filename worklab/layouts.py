"""Layouts: how other projects name and feed a canonical network."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What weights expect of the images they see.

    Attributes:
        mean: Subtracted from the pixels 0..255; one number for each RGB channel.
        std: What the difference is divided by; one number for each RGB channel.
        channel_order: In which the network takes the channels.
        image_size: Height and width at which the weights were tested, in pixels.
        crop_fraction: Share of the shorter side that was seen in the test.
        interpolation: Of the test's resizing.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    channel_order: Literal["RGB", "BGR"] = "RGB"
    image_size: int = 224
    crop_fraction: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


# ImageNet's statistics, as torchvision and timm have them, on pixels of 0..255.
TORCH_PREPROCESSING = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# To -1..1, as TensorFlow's Inception and MobileNet take them.
TF_PREPROCESSING = Preprocessing((127.5,), (127.5,))
# Without a scale, BGR, as Caffe and the first Keras networks take them.
CAFFE_PREPROCESSING = Preprocessing((123.68, 116.779, 103.939), (1.0,), "BGR")
# The same means, but RGB, as tf-slim's VGG and ResNet take them.
SLIM_PREPROCESSING = Preprocessing((123.68, 116.78, 103.94), (1.0,))


@dataclasses.dataclass(frozen=True)
class Layout:
    """One project's form of a canonical network: its names, numbers and images.

    Source: each project's own code; `docs/pretrained.md` lists what differs.

    Attributes:
        name: What `--restore.layout` calls it.
        sign: Pattern of a name that only files of this layout have.
        rename: From a layer's name here, with slashes, to its name in the file; None
            where the file has no such layer.
        preprocessing: Of the images.
        epsilon: Added to the variance by batch normalisation; None: each layer's own.
        settings: What else differs, read by the network's `_construct`.
        ignored: Pattern of the names in the file that nobody needs, e.g. those of
            auxiliary heads.
        counted: Pattern of names that Keras counted over the process that wrote the
            file, e.g. `conv2d|batch_normalization`: what `rename` calls `conv2d` and
            `conv2d_1` may be `conv2d_94` and `conv2d_95` there. The smallest number
            of a name in the file tells. Nothing is taken by its place for that: the
            numbers are names, and each must be there and be asked for once.
    """

    name: str
    sign: str
    rename: Callable[[str], str | None]
    preprocessing: Preprocessing
    epsilon: float | None = 1e-5
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ignored: str = ""
    counted: str = ""
