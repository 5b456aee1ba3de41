"""VGG networks: 3x3 convolutions, and three full layers."""

from typing import Any

from worklab.layouts import (
    CAFFE_PREPROCESSING,
    SLIM_PREPROCESSING,
    TORCH_PREPROCESSING,
    Layout,
)
from worklab.network import Network

# Of the convolutions in each stage.
_FILTERS = (64, 128, 256, 512, 512)


class VGG(Network):
    """Five stages of 3x3 convolutions with pooling after each, and three full layers.

    Scopes: `stage1/conv1` ... `stage5/convN`, `full1`, `full2`, `logits`. All layers
    restore under their own names but `logits`, which is fresh; from a file of one of
    the `layouts`, under the names that they have there. The full layers can be
    restored at 224x224 only, as their matrices depend on the size of the images.

    Attributes:
        convs: Convolutions in each stage.
        lr_mults: Multipliers of the five stages, and of both full layers.

    Source: Simonyan and Zisserman 2015, arXiv:1409.1556, table 1, columns A, B, D, E.
    """

    convs: tuple[int, int, int, int, int]
    lr_mults: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)

    def _construct(self, images: Any) -> Any:
        x = images
        for stage, convs in enumerate(self.convs, start=1):
            with self.scope(f"stage{stage}", lr_mult=self.lr_mults[stage - 1]):
                for conv in range(1, convs + 1):
                    x = self.conv_layer(x, _FILTERS[stage - 1], 3, scope=f"conv{conv}")
                    x = self.activation(x, scope=f"relu{conv}")
                x = self.pool_layer(x, 2, padding="valid")
        for full in ("full1", "full2"):
            with self.scope(full, lr_mult=self.lr_mults[5]):
                x = self.full_block(x, 4096)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)


# === Layouts: what others call these layers ===


def _full_names(first: str, second: str, last: str) -> dict[str, str]:
    return {"full1/full": first, "full2/full": second, "logits": last}


def _torch_layouts(convs: tuple[int, ...]) -> tuple[Layout, Layout]:
    names, index = dict[str, str](), 0
    for stage, number in enumerate(convs, start=1):
        for conv in range(1, number + 1):
            names[f"stage{stage}/conv{conv}"] = f"features.{index}"
            index += 2  # the convolution and its ReLU
        index += 1  # the pooling
    torchvision = names | _full_names("classifier.0", "classifier.3", "classifier.6")
    timm = names | _full_names("pre_logits.fc1", "pre_logits.fc2", "head.fc")
    return (
        Layout(
            "torchvision",
            r"classifier\.0\.weight",
            torchvision.get,
            TORCH_PREPROCESSING,
        ),
        Layout("timm", r"pre_logits\.fc1\.weight", timm.get, TORCH_PREPROCESSING),
    )


def _keras_layout(convs: tuple[int, ...]) -> Layout:
    names = _full_names("fc1", "fc2", "predictions")
    for stage, number in enumerate(convs, start=1):
        for conv in range(1, number + 1):
            names[f"stage{stage}/conv{conv}"] = f"block{stage}_conv{conv}"
    return Layout("keras", r"(.*/)?block1_conv1/kernel", names.get, CAFFE_PREPROCESSING)


def _slim_layout(root: str, convs: tuple[int, ...]) -> Layout:
    names = _full_names(f"{root}/fc6", f"{root}/fc7", f"{root}/fc8")
    for stage, number in enumerate(convs, start=1):
        for conv in range(1, number + 1):
            name = f"{root}/conv{stage}/conv{stage}_{conv}"
            names[f"stage{stage}/conv{conv}"] = name
    sign = rf"{root}/conv1/conv1_1/weights"
    return Layout("slim", sign, names.get, SLIM_PREPROCESSING)


class VGG11(VGG):
    """VGG of 11 layers, 132.9 million parameters."""

    convs = (1, 1, 2, 2, 2)
    layouts = (*_torch_layouts(convs), _slim_layout("vgg_a", convs))


class VGG13(VGG):
    """VGG of 13 layers, 133.0 million parameters."""

    convs = (2, 2, 2, 2, 2)
    layouts = _torch_layouts(convs)


class VGG16(VGG):
    """VGG of 16 layers, 138.4 million parameters."""

    convs = (2, 2, 3, 3, 3)
    layouts = (
        *_torch_layouts(convs),
        _keras_layout(convs),
        _slim_layout("vgg_16", convs),
    )


class VGG19(VGG):
    """VGG of 19 layers, 143.7 million parameters."""

    convs = (2, 2, 4, 4, 4)
    layouts = (
        *_torch_layouts(convs),
        _keras_layout(convs),
        _slim_layout("vgg_19", convs),
    )
