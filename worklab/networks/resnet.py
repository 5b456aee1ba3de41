"""Residual networks for small (CIFAR) and large (ImageNet) images.

Source: He et al. 2016, arXiv:1512.03385; section 4.2 for CIFAR, table 1 for ImageNet.
"""

from typing import Any

from worklab.layouts import (
    CAFFE_PREPROCESSING,
    SLIM_PREPROCESSING,
    TORCH_PREPROCESSING,
    Layout,
    Preprocessing,
)
from worklab.network import Network


class CifarResNet(Network):
    """ResNet for images of about 32x32: three stages of basic blocks.

    Scopes: `stem`, `stage1/block1` ... `stage3/blockN`, `logits`. All layers restore
    under their own names but `logits`, which is fresh.

    Attributes:
        blocks: Residual blocks in each stage; depth = 6 * blocks + 2.
        lr_mults: Multipliers of stem and stages.

    Source: arXiv:1512.03385, section 4.2; here the shortcut is a 1x1 convolution
        where the shape changes (option B; the paper's CIFAR networks use option A).
    """

    blocks: int
    lr_mults: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    # Mean and deviation of the CIFAR-10 training images, RGB.
    mean = (125.3, 123.0, 113.9)
    std = (63.0, 62.1, 66.7)

    def _construct(self, images: Any) -> Any:
        with self.scope("stem", lr_mult=self.lr_mults[0]):
            x = self.conv_block(images, 16, 3)
        for stage, filters in enumerate((16, 32, 64), start=1):
            with self.scope(f"stage{stage}", lr_mult=self.lr_mults[stage]):
                for block in range(1, self.blocks + 1):
                    with self.scope(f"block{block}"):
                        strides = 2 if stage > 1 and block == 1 else 1
                        x = self.residual_block(x, filters, strides=strides)
        x = self.global_pool(x)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)


class ResNet20(CifarResNet):
    """CIFAR ResNet of 20 layers, 0.27 million parameters."""

    blocks = 3


class ResNet32(CifarResNet):
    """CIFAR ResNet of 32 layers, 0.47 million parameters."""

    blocks = 5


class ResNet44(CifarResNet):
    """CIFAR ResNet of 44 layers, 0.66 million parameters."""

    blocks = 7


class ResNet56(CifarResNet):
    """CIFAR ResNet of 56 layers, 0.86 million parameters."""

    blocks = 9


# === Layouts: what others call these layers, and where their networks differ ===


def _place(layer: str) -> tuple[int, int, str]:
    """Return stage, block and convolution of a layer such as `stage1/block2/a/bn`."""
    stage, block, conv, _ = layer.split("/")
    return int(stage.removeprefix("stage")), int(block.removeprefix("block")), conv


def _torchvision_name(layer: str) -> str:
    is_norm = layer.endswith("/bn")
    if layer == "logits":
        return "fc"
    if layer.startswith("stem/"):
        return "bn1" if is_norm else "conv1"
    stage, block, conv = _place(layer)
    if conv == "shortcut":
        name = "downsample.1" if is_norm else "downsample.0"
    else:
        name = f"{'bn' if is_norm else 'conv'}{'abc'.index(conv) + 1}"
    return f"layer{stage}.{block - 1}.{name}"


def _keras_name(layer: str) -> str:
    kind = "bn" if layer.endswith("/bn") else "conv"
    if layer == "logits":
        return "predictions"
    if layer.startswith("stem/"):
        return f"conv1_{kind}"
    stage, block, conv = _place(layer)
    number = ["shortcut", "a", "b", "c"].index(conv)
    return f"conv{stage + 1}_block{block}_{number}_{kind}"


def _ry_name(layer: str) -> str:
    if layer == "logits":
        return "fc"
    if layer.startswith("stem/"):
        return "scale1"
    stage, block, conv = _place(layer)
    return f"scale{stage + 1}/block{block}/{conv}"


def _slim_layout(depth: int) -> Layout:
    root = f"resnet_v1_{depth}"

    def name(layer: str) -> str:
        if layer == "logits":
            return f"{root}/logits"
        convolution = f"{root}/conv1"
        if not layer.startswith("stem/"):
            stage, block, conv = _place(layer)
            last = "shortcut" if conv == "shortcut" else f"conv{'abc'.index(conv) + 1}"
            convolution = f"{root}/block{stage}/unit_{block}/bottleneck_v1/{last}"
        return f"{convolution}/BatchNorm" if layer.endswith("/bn") else convolution

    return Layout(
        "slim",
        rf"{root}/block1/unit_1/bottleneck_v1/conv1/weights",
        name,
        SLIM_PREPROCESSING,
        settings={"strides_on": "last", "pool_padding": "same"},
    )


TORCHVISION = Layout(
    "torchvision",  # and timm's
    r"layer1\.0\.conv1\.weight",
    _torchvision_name,
    TORCH_PREPROCESSING,
)
KERAS = Layout(
    "keras",
    r"(.*/)?conv2_block1_0_conv/kernel",
    _keras_name,
    CAFFE_PREPROCESSING,
    epsilon=1.001e-5,
    settings={"strides_on": "1x1"},
)
RY = Layout(
    "ry",  # ry/tensorflow-resnet, which pads and divides otherwise than Caffe
    r"scale2/block1/a/weights",
    _ry_name,
    Preprocessing((123.1516, 115.9029, 103.0626), (1.0,), "BGR"),
    epsilon=1e-3,
    settings={"strides_on": "1x1", "stem_padding": "same", "pool_padding": "same"},
)
CAFFE = Layout(
    "caffe",  # the names are ry's, but the answers Caffe's: only if it is named
    RY.sign,
    _ry_name,
    RY.preprocessing,
    settings={"strides_on": "1x1", "pool_padding": "same"},
)


class ImageNetResNet(Network):
    """ResNet for images of about 224x224: four stages.

    Scopes: `stem`, `stage1/block1` ... `stage4/blockN`, `logits`. All layers restore
    under their own names but `logits`, which is fresh; from a file of one of the
    `layouts`, under the names that they have there.

    Attributes:
        blocks: Residual blocks in each stage.
        bottleneck: Whether blocks are bottlenecks.
        lr_mults: Multipliers of stem and stages.

    Source: arXiv:1512.03385, table 1. The layouts differ in where a stage has its
        stride: on the first 3x3 convolution ("v1.5", torchvision), on the first 1x1
        (the paper, Keras, Caffe), or on the 3x3 of the stage's last block (slim).
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    lr_mults: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    layouts: tuple[Layout, ...] = (TORCHVISION,)

    def _construct(self, images: Any) -> Any:
        settings = self.layout.settings if self.layout is not None else {}
        strides_on = settings.get("strides_on", "3x3")
        with self.scope("stem", lr_mult=self.lr_mults[0]):
            padding = settings.get("stem_padding", "symmetric")
            x = self.conv_block(images, 64, 7, strides=2, padding=padding)
            padding = settings.get("pool_padding", "symmetric")
            x = self.pool_layer(x, 3, strides=2, padding=padding)
        for stage, blocks in enumerate(self.blocks, start=1):
            with self.scope(f"stage{stage}", lr_mult=self.lr_mults[stage]):
                if strides_on == "last":
                    shrinking = blocks if stage < 4 else None
                else:
                    shrinking = 1 if stage > 1 else None
                for block in range(1, blocks + 1):
                    with self.scope(f"block{block}"):
                        x = self.residual_block(
                            x,
                            64 * 2 ** (stage - 1),
                            strides=2 if block == shrinking else 1,
                            bottleneck=self.bottleneck,
                            strides_on="1x1" if strides_on == "1x1" else "3x3",
                            shortcut="pool" if strides_on == "last" else "conv",
                        )
        x = self.global_pool(x)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)


class ResNet18(ImageNetResNet):
    """ImageNet ResNet of 18 layers, 11.7 million parameters."""

    blocks = (2, 2, 2, 2)
    bottleneck = False


class ResNet34(ImageNetResNet):
    """ImageNet ResNet of 34 layers, 21.8 million parameters."""

    blocks = (3, 4, 6, 3)
    bottleneck = False


class ResNet50(ImageNetResNet):
    """ImageNet ResNet of 50 layers, 25.6 million parameters."""

    blocks = (3, 4, 6, 3)
    bottleneck = True
    layouts = (TORCHVISION, KERAS, _slim_layout(50), RY, CAFFE)


class ResNet101(ImageNetResNet):
    """ImageNet ResNet of 101 layers, 44.5 million parameters."""

    blocks = (3, 4, 23, 3)
    bottleneck = True
    layouts = (TORCHVISION, KERAS, _slim_layout(101), RY, CAFFE)


class ResNet152(ImageNetResNet):
    """ImageNet ResNet of 152 layers, 60.2 million parameters."""

    blocks = (3, 8, 36, 3)
    bottleneck = True
    layouts = (TORCHVISION, KERAS, _slim_layout(152), RY, CAFFE)
