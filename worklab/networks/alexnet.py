"""AlexNet in the three forms in which its weights are found."""

from typing import Any

import keras

from worklab.layers import LocalResponseNormalization
from worklab.layouts import (
    SLIM_PREPROCESSING,
    TORCH_PREPROCESSING,
    Layout,
    Preprocessing,
)
from worklab.network import Network

_KERNEL_SIZES = (11, 5, 3, 3, 3)
_POOLED = (1, 2, 5)  # numbers of the convolutions that pooling follows
_NORMALISED = (1, 2)


def _torchvision_name(layer: str) -> str:
    if layer.startswith("conv"):
        number = int(layer.removeprefix("conv").removesuffix("/conv"))
        return f"features.{(0, 3, 6, 8, 10)[number - 1]}"
    number = ("full1/full", "full2/full", "logits").index(layer)
    return f"classifier.{(1, 4, 6)[number]}"


def _slim_name(layer: str) -> str:
    return f"alexnet_v2/{_caffe_name(layer)}"


def _caffe_name(layer: str) -> str:
    if layer.startswith("conv"):
        return layer.removesuffix("/conv")
    number = ("full1/full", "full2/full", "logits").index(layer)
    return f"fc{6 + number}"


class AlexNet(Network):
    """Five convolutions and three full layers, as in torchvision.

    Scopes: `conv1` ... `conv5`, `full1`, `full2`, `logits`. All layers restore under
    their own names but `logits`, which is fresh; from a file of the layout, under the
    names that they have there. The full layers can be restored at the layout's size
    of images only, as their matrices depend on it.

    Attributes:
        filters: Of the convolutions.
        groups: Of the convolutions; 2 where either half of the filters saw half of
            the channels, as on the two GPUs of 2012.
        padding: Pixels around the image.
        normalises: Whether the first two convolutions are normalised across channels.
        lr_mults: Multipliers of the five convolutions, and of both full layers.

    Source: Krizhevsky 2014, arXiv:1404.5997, "One weird trick for parallelizing
        convolutional neural networks". Dropout follows the full layers, as in the
        paper of 2012; torchvision has it before them.
    """

    filters: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256)
    groups: tuple[int, int, int, int, int] = (1, 1, 1, 1, 1)
    padding: int = 2
    normalises: bool = False
    lr_mults: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    layouts = (
        Layout(
            "torchvision",
            r"classifier\.1\.weight",
            _torchvision_name,
            TORCH_PREPROCESSING,
        ),
    )

    def _construct(self, images: Any) -> Any:
        x = images
        if self.padding:
            x = self.layer(
                keras.layers.ZeroPadding2D, x, scope="pad", padding=self.padding
            )
        for number in range(1, 6):
            with self.scope(f"conv{number}", lr_mult=self.lr_mults[number - 1]):
                x = self.conv_layer(
                    x,
                    self.filters[number - 1],
                    _KERNEL_SIZES[number - 1],
                    strides=4 if number == 1 else 1,
                    padding="valid" if number == 1 else "same",
                    groups=self.groups[number - 1],
                )
                x = self.activation(x)
                if self.normalises and number in _NORMALISED:
                    x = self.layer(LocalResponseNormalization, x, scope="norm")
                if number in _POOLED:
                    x = self.pool_layer(x, 3, strides=2, padding="valid")
        for full in ("full1", "full2"):
            with self.scope(full, lr_mult=self.lr_mults[5]):
                x = self.full_block(x, 4096)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)


class SlimAlexNet(AlexNet):
    """AlexNet as tf-slim's `alexnet_v2` has it: one more wide layer, no padding.

    Source: as `AlexNet`; layers-imagenet-1gpu.cfg of cuda-convnet2.
    """

    filters = (64, 192, 384, 384, 256)
    padding = 0
    layouts = (
        Layout("slim", r"alexnet_v2/conv1/weights", _slim_name, SLIM_PREPROCESSING),
    )


class CaffeAlexNet(AlexNet):
    """AlexNet as it won in 2012, for images of 227x227: in groups, and normalised.

    Source: Krizhevsky et al. 2012, "ImageNet classification with deep convolutional
        neural networks", section 3.5, with the numbers of Caffe's bvlc_alexnet.
    """

    filters = (96, 256, 384, 384, 256)
    groups = (1, 2, 1, 2, 2)
    padding = 0
    normalises = True
    layouts = (
        Layout(
            "caffe",
            r"conv1/weights",
            _caffe_name,
            # Means of the channels of Caffe's mean image of ImageNet.
            Preprocessing((122.679, 116.669, 104.007), (1.0,), "BGR", image_size=227),
        ),
    )
