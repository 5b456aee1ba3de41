"""SqueezeNet: the accuracy of AlexNet with a fiftieth of its parameters."""

from typing import Any

import keras

from worklab.layouts import TORCH_PREPROCESSING, Layout
from worklab.network import Network


class SqueezeNet(Network):
    """Three stages of fire blocks, which squeeze the channels and expand them again.

    Scopes: `stem`, `stage1/fire1` ... `stage3/fireN` with `squeeze`, `expand1x1` and
    `expand3x3`, and `logits`. All layers restore under their own names but `logits`,
    which is fresh; from a file of the layout, under the names that they have there.

    The last convolution gives the logits, after a ReLU and the average over all
    pixels, so that no logit is negative.

    Attributes:
        stem: Filters and kernel size of the first convolution.
        squeezes: Filters of the squeezing convolutions, by stage; either expanding
            one has four times as many.
        lr_mults: Multipliers of stem and stages.

    Source: Iandola et al. 2016, arXiv:1602.07360, table 1 and figure 2.
    """

    stem: tuple[int, int]
    squeezes: tuple[tuple[int, ...], ...]
    lr_mults: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    def _construct(self, images: Any) -> Any:
        with self.scope("stem", lr_mult=self.lr_mults[0]):
            filters, kernel_size = self.stem
            x = self.conv_layer(
                images, filters, kernel_size, strides=2, padding="valid"
            )
            x = self.activation(x)
        for stage, squeezes in enumerate(self.squeezes, start=1):
            with self.scope(f"stage{stage}", lr_mult=self.lr_mults[stage]):
                x = self.pool_layer(x, 3, strides=2, padding="ceil")
                for fire, squeeze in enumerate(squeezes, start=1):
                    with self.scope(f"fire{fire}"):
                        x = self._fire(x, squeeze)
        x = self.dropout(x, 0.5)
        x = self.conv_layer(x, self.num_classes, 1, scope="logits", restore=False)
        return self.global_pool(self.activation(x))

    def _fire(self, x: Any, squeeze: int) -> Any:
        x = self.conv_layer(x, squeeze, 1, scope="squeeze")
        x = self.activation(x, scope="squeeze_relu")
        expanded = [
            self.conv_layer(x, 4 * squeeze, size, scope=f"expand{size}x{size}")
            for size in (1, 3)
        ]
        return self.activation(
            self.layer(keras.layers.Concatenate, expanded, scope="concat")
        )


def _torchvision_layout(squeezes: tuple[tuple[int, ...], ...]) -> Layout:
    names = {"stem/conv": "features.0", "logits": "classifier.1"}
    index = 2  # after the stem's convolution and its ReLU
    for stage, fires in enumerate(squeezes, start=1):
        index += 1  # the pooling
        for fire in range(1, len(fires) + 1):
            for conv in ("squeeze", "expand1x1", "expand3x3"):
                names[f"stage{stage}/fire{fire}/{conv}"] = f"features.{index}.{conv}"
            index += 1
    return Layout(
        "torchvision",
        r"features\.3\.squeeze\.weight",
        names.get,
        TORCH_PREPROCESSING,
    )


class SqueezeNet10(SqueezeNet):
    """SqueezeNet 1.0 of the paper, 1.25 million parameters."""

    stem = (96, 7)
    squeezes = ((16, 16, 32), (32, 48, 48, 64), (64,))
    layouts = (_torchvision_layout(squeezes),)


class SqueezeNet11(SqueezeNet):
    """SqueezeNet 1.1, which pools earlier: 1.24 million parameters, 0.4 of the work."""

    stem = (64, 3)
    squeezes = ((16, 16), (32, 32), (48, 48, 64, 64))
    layouts = (_torchvision_layout(squeezes),)
