"""GoogLeNet, the first Inception network.

Source: Szegedy et al. 2015, "Going deeper with convolutions", arXiv:1409.4842; table 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from worklab.layers import LocalResponseNormalization
from worklab.layouts import TF_PREPROCESSING, Layout, Preprocessing
from worklab.network import Network
from worklab.primitives import Padding

# Filters of each block: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj.
_BLOCKS = {
    3: {"a": (64, 96, 128, 16, 32, 32), "b": (128, 128, 192, 32, 96, 64)},
    4: {
        "a": (192, 96, 208, 16, 48, 64),
        "b": (160, 112, 224, 24, 64, 64),
        "c": (128, 128, 256, 24, 64, 64),
        "d": (112, 144, 288, 32, 64, 64),
        "e": (256, 160, 320, 32, 128, 128),
    },
    5: {"a": (256, 160, 320, 32, 128, 128), "b": (384, 192, 384, 48, 128, 128)},
}
# After these blocks there is a head of its own in training.
_AUXILIARY = ("4a", "4d")

# === Layouts: what others call these layers, and where their networks differ ===

_TORCHVISION_PARTS = {
    "1x1": "branch1",
    "3x3_reduce": "branch2.0",
    "3x3": "branch2.1",
    "5x5_reduce": "branch3.0",
    "5x5": "branch3.1",
    "pool_proj": "branch4.1",
}
_SLIM_STEM = ("Conv2d_1a_7x7", "Conv2d_2b_1x1", "Conv2d_2c_3x3")
_SLIM_PARTS = {
    "1x1": "Branch_0/Conv2d_0a_1x1",
    "3x3_reduce": "Branch_1/Conv2d_0a_1x1",
    "3x3": "Branch_1/Conv2d_0b_3x3",
    "5x5_reduce": "Branch_2/Conv2d_0a_1x1",
    "5x5": "Branch_2/Conv2d_0b_3x3",
    "pool_proj": "Branch_3/Conv2d_0b_1x1",
}
_CAFFE_STEM = ("conv1/7x7_s2", "conv2/3x3_reduce", "conv2/3x3")


def _renaming(
    stem: Callable[[int], str], part: Callable[[str, str], str], logits: str
) -> Callable[[str], str | None]:
    """Return the function that a layout has for the names of layers.

    Args:
        stem: Name of a convolution before the blocks, by its number from 0.
        part: Name of a convolution in a block such as `3a`, by its name here.
        logits: Name of the last layer.
    """

    def name(layer: str) -> str | None:
        if layer == "logits":
            return logits
        if "auxiliary" in layer:
            return None
        *scopes, last, _ = layer.split("/")
        if scopes == ["stem"]:
            return stem(int(last.removeprefix("conv")) - 1)
        stage, block = scopes
        return part(stage.removeprefix("stage") + block, last)

    return name


def _with_kind(
    rename: Callable[[str], str | None], conv: str, norm: str
) -> Callable[[str], str | None]:
    """Return the same with what follows the name of a convolution, and of its norm."""

    def name(layer: str) -> str | None:
        renamed, kind = rename(layer), layer.rpartition("/")[2]
        suffix = {"conv": conv, "bn": norm}.get(kind, "")
        return None if renamed is None else renamed + suffix

    return name


def _slim_part(block: str, part: str) -> str:
    name = f"Mixed_{block[0]}{chr(ord(block[1]) + 1)}/{_SLIM_PARTS[part]}"
    if name == "Mixed_5b/Branch_2/Conv2d_0b_3x3":
        name = "Mixed_5b/Branch_2/Conv2d_0a_3x3"  # an error of the published file
    return f"InceptionV1/{name}"


TORCHVISION = Layout(
    "torchvision",
    r"inception3a\.branch1\.conv\.weight",
    _with_kind(
        _renaming(
            lambda index: f"conv{index + 1}",
            lambda block, part: f"inception{block}.{_TORCHVISION_PARTS[part]}",
            "fc",
        ),
        ".conv",
        ".bn",
    ),
    TF_PREPROCESSING,  # what its `transform_input=True` comes to
    epsilon=1e-3,
    ignored=r"^aux[12]\.",
)
SLIM = Layout(
    "slim",
    r"InceptionV1/Conv2d_1a_7x7/weights",
    _with_kind(
        _renaming(
            lambda index: f"InceptionV1/{_SLIM_STEM[index]}",
            _slim_part,
            "InceptionV1/Logits/Conv2d_0c_1x1",
        ),
        "",
        "/BatchNorm",
    ),
    TF_PREPROCESSING,
    epsilon=1e-3,
    settings={"stem_padding": "same", "pool_padding": "same"},
)
CAFFE = Layout(
    "caffe",
    r"conv1/7x7_s2/weights",
    _renaming(
        lambda index: _CAFFE_STEM[index],
        lambda block, part: f"inception_{block}/{part}",
        "loss3/classifier",
    ),
    Preprocessing((123.0, 117.0, 104.0), (1.0,), "BGR"),
    ignored=r"^loss[12]/",
)


class GoogLeNet(Network):
    """GoogLeNet with batch normalisation, for images of about 224x224.

    Scopes: `stem/conv1` ... `stem/conv3`, `stage3/a` ... `stage5/b` with the paper's
    names of their parts, and `logits`, which is fresh. All other layers restore under
    their own names; from a file of one of the `layouts`, under the names that they
    have there. Heads for training alone, `stage4/auxiliary_a` and `_d`, are there if
    they have a weight; they are fresh, too.

    Attributes:
        lr_mults: Multipliers of stem and stages 3, 4 and 5.
        auxiliary_weight: Factor on the loss of each auxiliary head; 0: there is none.
        dropout_rate: Of the pooled features.
        normalises: Whether convolutions are normalised, instead of biased.
        large_kernel: Size of the kernel in the part `5x5`.
        last_pool: Size of the window before stage 5.

    Source: arXiv:1409.4842, table 1, as torchvision and tf-slim have it: with batch
        normalisation, a 3x3 kernel in the part `5x5` and a 2x2 window before stage 5.
        The heads pool to 4x4 for images of any size, as torchvision's do.
    """

    lr_mults: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    auxiliary_weight: float = 0.0
    dropout_rate: float = 0.4
    normalises: bool = True
    large_kernel: int = 3
    last_pool: int = 2
    layouts: tuple[Layout, ...] = (TORCHVISION, SLIM)

    def _construct(self, images: Any) -> Any:
        with self.scope("stem", lr_mult=self.lr_mults[0]):
            x = self._stem(images)
        for stage, multiplier in zip(_BLOCKS, self.lr_mults[1:], strict=True):
            size = self.last_pool if stage == 5 else 3
            with self.scope(f"stage{stage}", lr_mult=multiplier):
                x = self._pool(x, size)
                for block, filters in _BLOCKS[stage].items():
                    with self.scope(block):
                        x = self._block(x, filters)
                    if f"{stage}{block}" in _AUXILIARY and self.auxiliary_weight:
                        with self.scope(
                            f"auxiliary_{block}", restore=False, lr_mult=1.0
                        ):
                            self._add_head(x)
        x = self.dropout(self.global_pool(x), self.dropout_rate)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)

    def _stem(self, images: Any) -> Any:
        padding = self._setting("stem_padding", "symmetric")
        x = self._convolve(images, "conv1", 64, 7, strides=2, padding=padding)
        x = self._normalise_locally(self._pool(x, 3, "pool1"))
        x = self._convolve(x, "conv2", 64, 1)
        return self._normalise_locally(self._convolve(x, "conv3", 192, 3), "norm2")

    def _block(self, x: Any, filters: Sequence[int]) -> Any:
        """Concatenate four ways of looking at the same place; filters as in table 1."""
        one, reduce3, three, reduce5, five, proj = filters
        pooled = self.pool_layer(x, 3, strides=1)
        reduced3 = self._convolve(x, "3x3_reduce", reduce3, 1)
        reduced5 = self._convolve(x, "5x5_reduce", reduce5, 1)
        branches = [
            self._convolve(x, "1x1", one, 1),
            self._convolve(reduced3, "3x3", three, 3),
            self._convolve(reduced5, "5x5", five, self.large_kernel),
            self._convolve(pooled, "pool_proj", proj, 1),
        ]
        return self.layer(keras.layers.Concatenate, branches, scope="concat")

    def _add_head(self, x: Any) -> None:
        x = self.layer(
            keras.layers.AdaptiveAveragePooling2D, x, scope="pool", output_size=4
        )
        x = self._convolve(x, "reduce", 128, 1)
        x = self.activation(self.full_layer(x, 1024))
        x = self.dropout(x, 0.7)
        logits = self.full_layer(x, self.num_classes, scope="logits")
        self.add_auxiliary_logits(logits, weight=self.auxiliary_weight)

    def _convolve(
        self,
        x: Any,
        scope: str,
        filters: int,
        kernel_size: int,
        *,
        strides: int = 1,
        padding: Padding = "same",
    ) -> Any:
        shape: dict[str, Any] = {"strides": strides, "padding": padding}
        with self.scope(scope):
            if self.normalises:
                return self.conv_block(x, filters, kernel_size, **shape)
            return self.activation(self.conv_layer(x, filters, kernel_size, **shape))

    def _pool(self, x: Any, size: int, scope: str = "pool") -> Any:
        padding = self._setting("pool_padding", "ceil")
        return self.pool_layer(x, size, strides=2, padding=padding, scope=scope)

    def _normalise_locally(self, x: Any, scope: str = "norm1") -> Any:
        if self.normalises:
            return x
        return self.layer(LocalResponseNormalization, x, scope=scope)

    def _setting(self, name: str, default: Any) -> Any:
        return (
            default if self.layout is None else self.layout.settings.get(name, default)
        )


class CaffeGoogLeNet(GoogLeNet):
    """GoogLeNet as it won in 2014: biases, 5x5 kernels, local normalisation.

    Source: arXiv:1409.4842, table 1, with the numbers of Caffe's bvlc_googlenet.
    """

    normalises = False
    large_kernel = 5
    last_pool = 3
    layouts = (CAFFE,)
