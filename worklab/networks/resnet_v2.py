"""Residual networks whose blocks normalise and activate before they convolve.

Source: He et al. 2016, "Identity mappings in deep residual networks",
    arXiv:1603.05027; figure 4 (e) is the block.
"""

from typing import Any

from worklab.layouts import TF_PREPROCESSING, Layout
from worklab.network import Network

# === Layouts: what others call these layers, and where their networks differ ===

_KERAS_ENDS = {"stem/conv": "conv1_conv", "post/bn": "post_bn", "logits": "predictions"}
_SLIM_ENDS = {"stem/conv": "conv1", "post/bn": "postnorm", "logits": "logits"}


def _place(layer: str) -> tuple[int, str, str, str]:
    """Return the parts of a layer's name such as `stage1/block2/a/bn`."""
    stage, block, part, kind = layer.split("/")
    return int(stage.removeprefix("stage")), block, part, kind


def _keras_name(layer: str) -> str:
    if layer in _KERAS_ENDS:
        return _KERAS_ENDS[layer]
    stage, block, part, kind = _place(layer)
    number = {"shortcut": 0, "a": 1, "b": 2, "c": 3}.get(part, part)
    return f"conv{stage + 1}_{block}_{number}_{kind}"


def _slim_layout(depth: int) -> Layout:
    root = f"resnet_v2_{depth}"

    def name(layer: str) -> str:
        if layer in _SLIM_ENDS:
            return f"{root}/{_SLIM_ENDS[layer]}"
        stage, block, part, kind = _place(layer)
        number = block.removeprefix("block")
        unit = f"{root}/block{stage}/unit_{number}/bottleneck_v2"
        if part in ("preact", "shortcut"):
            return f"{unit}/{part}"
        convolution = f"{unit}/conv{'abc'.index(part) + 1}"
        return f"{convolution}/BatchNorm" if kind == "bn" else convolution

    return Layout(
        "slim",
        rf"{root}/block1/unit_1/bottleneck_v2/preact/gamma",
        name,
        TF_PREPROCESSING,
        settings={"pool_padding": "same"},
    )


KERAS = Layout(
    "keras",
    r"(.*/)?conv2_block1_preact_bn/gamma",
    _keras_name,
    TF_PREPROCESSING,
    epsilon=1.001e-5,
)


class ResNetV2(Network):
    """Pre-activation ResNet for images of about 224x224: four stages of bottlenecks.

    Scopes: `stem`, `stage1/block1` ... `stage4/blockN`, each with `preact`, `a`, `b`,
    `c` and, in the first, `shortcut`; `post`, `logits`. All layers restore under their
    own names but `logits`, which is fresh; from a file of one of the `layouts`, under
    the names that they have there.

    Attributes:
        blocks: Blocks in each stage.
        lr_mults: Multipliers of stem and stages; `post` has the last stage's.

    Source: arXiv:1603.05027, as Keras and tf-slim have it: a stage but the last has
        its stride in its last block, where the shortcut is a choice of pixels; stem,
        shortcut and last convolution of a block have biases, as no normalisation
        follows. The two differ in the padding of the first pooling, whose inputs are
        not activated: Keras pads with zeros on all sides.
    """

    blocks: tuple[int, int, int, int]
    lr_mults: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    layouts: tuple[Layout, ...] = (KERAS,)

    def _construct(self, images: Any) -> Any:
        settings = self.layout.settings if self.layout is not None else {}
        with self.scope("stem", lr_mult=self.lr_mults[0]):
            x = self.conv_layer(images, 64, 7, strides=2, padding="symmetric")
            padding = settings.get("pool_padding", "symmetric")
            x = self.pool_layer(x, 3, strides=2, padding=padding)
        for stage, blocks in enumerate(self.blocks, start=1):
            with self.scope(f"stage{stage}", lr_mult=self.lr_mults[stage]):
                for block in range(1, blocks + 1):
                    shrinks = block == blocks and stage < 4
                    with self.scope(f"block{block}"):
                        x = self._block(x, 64 * 2 ** (stage - 1), 2 if shrinks else 1)
        with self.scope("post", lr_mult=self.lr_mults[4]):
            x = self.activation(self.batch_norm(x))
        x = self.global_pool(x)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)

    def _block(self, x: Any, filters: int, strides: int) -> Any:
        outputs = 4 * filters
        with self.scope("preact"):
            activated = self.activation(self.batch_norm(x))
        shortcut = x
        if x.shape[-1] != outputs:
            with self.scope("shortcut"):
                shortcut = self.conv_layer(activated, outputs, 1, strides=strides)
        elif strides > 1:
            shortcut = self.pool_layer(x, 1, strides=strides, scope="shortcut")
        with self.scope("a"):
            y = self.conv_block(activated, filters, 1)
        with self.scope("b"):
            y = self.conv_block(y, filters, 3, strides=strides)
        with self.scope("c"):
            y = self.conv_layer(y, outputs, 1)
        return self.add([shortcut, y])


class ResNet50V2(ResNetV2):
    """Pre-activation ResNet of 50 layers, 25.6 million parameters."""

    blocks = (3, 4, 6, 3)
    layouts = (KERAS, _slim_layout(50))


class ResNet101V2(ResNetV2):
    """Pre-activation ResNet of 101 layers, 44.6 million parameters."""

    blocks = (3, 4, 23, 3)
    layouts = (KERAS, _slim_layout(101))


class ResNet152V2(ResNetV2):
    """Pre-activation ResNet of 152 layers, 60.3 million parameters."""

    blocks = (3, 8, 36, 3)
    layouts = (KERAS, _slim_layout(152))
