"""MobileNets: convolutions taken apart into depthwise and pointwise ones."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from worklab.layouts import TF_PREPROCESSING, TORCH_PREPROCESSING, Layout
from worklab.network import Network
from worklab.primitives import Padding


class _MobileNet(Network):
    """What both MobileNets are made of.

    Attributes:
        width: Factor on the filters of all layers.
    """

    width: float = 1.0

    def _padding(self) -> Padding:
        settings = self.layout.settings if self.layout is not None else {}
        return settings.get("padding", "same")

    def _convolve(self, x: Any, filters: int, kernel_size: int, strides: int) -> Any:
        return self.conv_block(
            x,
            filters,
            kernel_size,
            strides=strides,
            padding=self._padding(),
            activation="relu6",
        )

    def _depthwise(self, x: Any, strides: int) -> Any:
        x = self.depthwise_layer(
            x,
            3,
            strides=strides,
            padding=self._padding() if strides > 1 else "same",
            use_bias=False,
            scope="conv",
        )
        return self.activation(self.batch_norm(x), "relu6")


# === Layouts: what others call these layers, and where their networks differ ===

# Names of the convolutions of a block, and of the norms after them, from the block's
# number in the whole network, its stage, its number there, and our names.
_BlockNames = Callable[[int, int, int, Sequence[str]], Iterable[tuple[str, str]]]


def _name_all(
    convs: Sequence[Sequence[Sequence[str]]], of_block: _BlockNames, **others: str
) -> dict[str, str]:
    """Return the names in the file by those here.

    Args:
        convs: Our names of the convolutions, by stage and block.
        of_block: Their names.
        **others: Their names of the layers outside of the blocks, with `_` for `/`.
    """
    names = {ours.replace("_", "/"): theirs for ours, theirs in others.items()}
    index = 0
    for stage, blocks in enumerate(convs, start=1):
        for block, ours in enumerate(blocks, start=1):
            theirs = of_block(index, stage, block, ours)
            for conv, (kernel, norm) in zip(ours, theirs, strict=True):
                layer = f"stage{stage}/block{block}/{conv}"
                names |= {f"{layer}/conv": kernel, f"{layer}/bn": norm}
            index += 1
    return names


def _timm_block(
    index: int, stage: int, block: int, convs: Sequence[str]
) -> Iterable[tuple[str, str]]:
    kinds = ("dw", "pw") if len(convs) == 2 else ("pw", "dw", "pwl")
    name = f"blocks.{stage - 1}.{block - 1}"
    return [(f"{name}.conv_{kind}", f"{name}.bn{n}") for n, kind in enumerate(kinds, 1)]


# === Version 1 ===

# Filters of the blocks, by stage; the first block of all stages but one halves the
# size.
_V1_STAGES = ((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024))
_V1_CONVS = [[("depthwise", "pointwise") for _ in stage] for stage in _V1_STAGES]


def _keras_v1_block(
    index: int, stage: int, block: int, convs: Sequence[str]
) -> Iterable[tuple[str, str]]:
    names = [f"conv_{kind}_{index + 1}" for kind in ("dw", "pw")]
    return [(name, f"{name}_bn") for name in names]


def _slim_v1_block(
    index: int, stage: int, block: int, convs: Sequence[str]
) -> Iterable[tuple[str, str]]:
    names = [f"MobilenetV1/Conv2d_{index + 1}_{conv}" for conv in convs]
    return [(name, f"{name}/BatchNorm") for name in names]


_V1_LAYOUTS = (
    Layout(
        "keras",
        r"(.*/)?conv_dw_1/(depthwise_)?kernel",
        _name_all(
            _V1_CONVS,
            _keras_v1_block,
            stem_conv="conv1",
            stem_bn="conv1_bn",
            logits="conv_preds",
        ).get,
        TF_PREPROCESSING,
        epsilon=1e-3,
    ),
    Layout(
        "slim",
        r"MobilenetV1/Conv2d_1_depthwise/depthwise_weights",
        _name_all(
            _V1_CONVS,
            _slim_v1_block,
            stem_conv="MobilenetV1/Conv2d_0",
            stem_bn="MobilenetV1/Conv2d_0/BatchNorm",
            logits="MobilenetV1/Logits/Conv2d_1c_1x1",
        ).get,
        TF_PREPROCESSING,
        epsilon=1e-3,
    ),
    Layout(
        "timm",
        r"blocks\.0\.0\.conv_dw\.weight",
        _name_all(
            _V1_CONVS,
            _timm_block,
            stem_conv="conv_stem",
            stem_bn="bn1",
            logits="classifier",
        ).get,
        dataclasses.replace(TF_PREPROCESSING, interpolation="bicubic"),
        settings={"padding": "symmetric"},
    ),
)


class MobileNetV1(_MobileNet):
    """MobileNet, 4.2 million parameters.

    Scopes: `stem`, `stage1/block1/depthwise`, `stage1/block1/pointwise` ...
    `stage5/block2/pointwise`, `logits`. All layers restore under their own names but
    `logits`, which is fresh; from a file of one of the `layouts`, under the names
    that they have there.

    Attributes:
        width: Factor on the filters of all layers.
        lr_mults: Multipliers of stem and stages.

    Source: Howard et al. 2017, arXiv:1704.04861, table 1. Keras pads as tf-slim does
        where a size is even, and so at 128, 160, 192 and 224 pixels; for odd sizes
        this is tf-slim's network.
    """

    lr_mults: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    layouts = _V1_LAYOUTS

    def _construct(self, images: Any) -> Any:
        with self.scope("stem", lr_mult=self.lr_mults[0]):
            x = self._convolve(images, self._widened(32), 3, 2)
        for stage, blocks in enumerate(_V1_STAGES, start=1):
            with self.scope(f"stage{stage}", lr_mult=self.lr_mults[stage]):
                for block, filters in enumerate(blocks, start=1):
                    strides = 2 if stage > 1 and block == 1 else 1
                    with self.scope(f"block{block}/depthwise"):
                        x = self._depthwise(x, strides)
                    with self.scope(f"block{block}/pointwise"):
                        x = self._convolve(x, self._widened(filters), 1, 1)
        x = self.dropout(self.global_pool(x), 0.001)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)

    def _widened(self, filters: int) -> int:
        return max(8, int(filters * self.width))


# === Version 2 ===

# Expansion, filters, blocks and strides of each stage.
_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_V2_CONVS = [
    [("expand", "depthwise", "project")[0 if expansion > 1 else 1 :]] * blocks
    for expansion, _, blocks, _ in _V2_STAGES
]


def _torchvision_v2_block(
    index: int, stage: int, block: int, convs: Sequence[str]
) -> Iterable[tuple[str, str]]:
    name, last = f"features.{index + 1}.conv", len(convs) - 1
    inner = [(f"{name}.{n}.0", f"{name}.{n}.1") for n in range(last)]
    return [*inner, (f"{name}.{last}", f"{name}.{last + 1}")]


def _keras_v2_block(
    index: int, stage: int, block: int, convs: Sequence[str]
) -> Iterable[tuple[str, str]]:
    prefix = f"block_{index}" if index else "expanded_conv"
    return [(f"{prefix}_{conv}", f"{prefix}_{conv}_BN") for conv in convs]


def _slim_v2_block(
    index: int, stage: int, block: int, convs: Sequence[str]
) -> Iterable[tuple[str, str]]:
    prefix = "MobilenetV2/expanded_conv" + (f"_{index}" if index else "")
    return [(f"{prefix}/{conv}", f"{prefix}/{conv}/BatchNorm") for conv in convs]


_V2_LAYOUTS = (
    Layout(
        "torchvision",
        r"features\.0\.0\.weight",
        _name_all(
            _V2_CONVS,
            _torchvision_v2_block,
            stem_conv="features.0.0",
            stem_bn="features.0.1",
            head_conv="features.18.0",
            head_bn="features.18.1",
            logits="classifier.1",
        ).get,
        TORCH_PREPROCESSING,
        settings={"padding": "symmetric"},
    ),
    Layout(
        "timm",
        r"blocks\.0\.0\.conv_dw\.weight",
        _name_all(
            _V2_CONVS,
            _timm_block,
            stem_conv="conv_stem",
            stem_bn="bn1",
            head_conv="conv_head",
            head_bn="bn2",
            logits="classifier",
        ).get,
        dataclasses.replace(TORCH_PREPROCESSING, interpolation="bicubic"),
        settings={"padding": "symmetric"},
    ),
    Layout(
        "keras",
        r"(.*/)?expanded_conv_depthwise/(depthwise_)?kernel",
        _name_all(
            _V2_CONVS,
            _keras_v2_block,
            stem_conv="Conv1",
            stem_bn="bn_Conv1",
            head_conv="Conv_1",
            head_bn="Conv_1_bn",
            logits="predictions",
        ).get,
        TF_PREPROCESSING,
        epsilon=1e-3,
    ),
    Layout(
        "slim",
        r"MobilenetV2/expanded_conv/depthwise/depthwise_weights",
        _name_all(
            _V2_CONVS,
            _slim_v2_block,
            stem_conv="MobilenetV2/Conv",
            stem_bn="MobilenetV2/Conv/BatchNorm",
            head_conv="MobilenetV2/Conv_1",
            head_bn="MobilenetV2/Conv_1/BatchNorm",
            logits="MobilenetV2/Logits/Conv2d_1c_1x1",
        ).get,
        TF_PREPROCESSING,
        epsilon=1e-3,
    ),
)


class MobileNetV2(_MobileNet):
    """MobileNet of inverted residuals with linear bottlenecks, 3.5 million parameters.

    Scopes: `stem`, `stage1/block1` ... `stage7/block1` with `expand` (not in the
    first), `depthwise` and `project`, `head`, `logits`. All layers restore under
    their own names but `logits`, which is fresh; from a file of one of the `layouts`,
    under the names that they have there.

    Attributes:
        width: Factor on the filters of all layers, which are rounded to eights; the
            head is not made narrower than 1280.
        lr_mults: Multipliers of stem, seven stages, and head.

    Source: Sandler et al. 2018, arXiv:1801.04381, table 2. torchvision and timm pad
        on every side, Keras and tf-slim at the bottom and right where sizes are even.
    """

    lr_mults: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    layouts = _V2_LAYOUTS

    def _construct(self, images: Any) -> Any:
        with self.scope("stem", lr_mult=self.lr_mults[0]):
            x = self._convolve(images, _rounded(32 * self.width), 3, 2)
        for stage, (expansion, filters, blocks, strides) in enumerate(
            _V2_STAGES, start=1
        ):
            with self.scope(f"stage{stage}", lr_mult=self.lr_mults[stage]):
                for block in range(1, blocks + 1):
                    with self.scope(f"block{block}"):
                        x = self._inverted_residual(
                            x,
                            _rounded(filters * self.width),
                            strides=strides if block == 1 else 1,
                            expansion=expansion,
                        )
        with self.scope("head", lr_mult=self.lr_mults[8]):
            x = self._convolve(x, _rounded(1280 * max(1.0, self.width)), 1, 1)
        x = self.dropout(self.global_pool(x), 0.2)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)

    def _inverted_residual(
        self, inputs: Any, filters: int, *, strides: int, expansion: int
    ) -> Any:
        x = inputs
        if expansion > 1:
            with self.scope("expand"):
                x = self._convolve(x, expansion * inputs.shape[-1], 1, 1)
        with self.scope("depthwise"):
            x = self._depthwise(x, strides)
        with self.scope("project"):
            x = self.conv_block(x, filters, 1, activation=None)
        if strides == 1 and inputs.shape[-1] == filters:
            x = self.add([inputs, x])
        return x


def _rounded(filters: float) -> int:
    """Return the nearest multiple of eight that is not less than nine tenths."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded
