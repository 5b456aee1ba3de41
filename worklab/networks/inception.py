"""Inception v3.

Source: Szegedy et al. 2016, "Rethinking the Inception architecture for computer
    vision", arXiv:1512.00567; table 1 and figures 5, 6, 7 and 10.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras

from worklab.layouts import TF_PREPROCESSING, Layout
from worklab.network import Network
from worklab.primitives import Padding

_Kernel: TypeAlias = tuple[int, int]
# Filters of a convolution and its kernel; with two kernels it forks into two of them.
_Step: TypeAlias = tuple[int, Sequence[_Kernel]]
_Branches: TypeAlias = Mapping[str, Sequence[_Step]]

_1x1, _3x3, _5x5 = [(1, 1)], [(3, 3)], [(5, 5)]
_1x7, _7x1 = [(1, 7)], [(7, 1)]
_FORK = [(1, 3), (3, 1)]

_STEM = {"1a": (32, 3), "2a": (32, 3), "2b": (64, 3), "3b": (80, 1), "4a": (192, 3)}


def _of_stage_5(pool: int) -> _Branches:
    return {
        "1x1": [(64, _1x1)],
        "5x5": [(48, _1x1), (64, _5x5)],
        "3x3dbl": [(64, _1x1), (96, _3x3), (96, _3x3)],
        "pool": [(pool, _1x1)],
    }


def _of_stage_6(width: int) -> _Branches:
    there, back = (width, _1x7), (width, _7x1)
    return {
        "1x1": [(192, _1x1)],
        "7x7": [(width, _1x1), there, (192, _7x1)],
        "7x7dbl": [(width, _1x1), back, there, back, (192, _1x7)],
        "pool": [(192, _1x1)],
    }


_OF_STAGE_7: _Branches = {
    "1x1": [(320, _1x1)],
    "3x3": [(384, _1x1), (384, _FORK)],
    "3x3dbl": [(448, _1x1), (384, _3x3), (384, _FORK)],
    "pool": [(192, _1x1)],
}

# A block that shrinks has strides in the last convolution of each branch, and a
# branch that pools and does nothing else.
_SHRINKING = ("6a", "7a")
_BLOCKS: Mapping[str, _Branches] = {
    "5b": _of_stage_5(32),
    "5c": _of_stage_5(64),
    "5d": _of_stage_5(64),
    "6a": {
        "3x3": [(384, _3x3)],
        "3x3dbl": [(64, _1x1), (96, _3x3), (96, _3x3)],
    },
    "6b": _of_stage_6(128),
    "6c": _of_stage_6(160),
    "6d": _of_stage_6(160),
    "6e": _of_stage_6(192),
    "7a": {
        "3x3": [(192, _1x1), (320, _3x3)],
        "7x7x3": [(192, _1x1), (192, _1x7), (192, _7x1), (192, _3x3)],
    },
    "7b": _OF_STAGE_7,
    "7c": _OF_STAGE_7,
}


def _scopes(branch: str, steps: Sequence[_Step]) -> list[list[str]]:
    """Return the names of a branch's convolutions: `5x5_1`, `5x5_2`, forks `a`, `b`."""
    if len(steps) == 1:
        return [[branch]]
    return [
        [f"{branch}_{number}{end}" for end in ("ab" if len(kernels) > 1 else [""])]
        for number, (_, kernels) in enumerate(steps, start=1)
    ]


# === Layouts: what others call these layers, and where their networks differ ===

_SLIM_EXCEPTIONS = {  # as the published file has them
    "5c/5x5_1": "Branch_1/Conv2d_0b_1x1",
    "5c/5x5_2": "Branch_1/Conv_1_0c_5x5",
    "6a/3x3": "Branch_0/Conv2d_1a_1x1",
    "6a/3x3dbl_3": "Branch_1/Conv2d_1a_1x1",
    "7b/3x3_2b": "Branch_1/Conv2d_0b_3x1",
}


def _slim_parts() -> Iterator[tuple[str, str]]:
    """Yield our and tf-slim's name of each convolution in a block.

    In a branch tf-slim counts by letters, and begins anew after strides; that of the
    pooled branch is the second thing there.
    """
    for block, branches in _BLOCKS.items():
        for index, (branch, steps) in enumerate(branches.items()):
            letters = iter("bcdef" if branch == "pool" else "abcdef")
            for scopes, (_, kernels) in zip(_scopes(branch, steps), steps, strict=True):
                for scope, (height, width) in zip(scopes, kernels, strict=True):
                    count = f"0{next(letters)}"
                    if block in _SHRINKING and scope == _scopes(branch, steps)[-1][0]:
                        count = "1a"
                    part = f"{block}/{scope}"
                    usual = f"Branch_{index}/Conv2d_{count}_{height}x{width}"
                    yield part, _SLIM_EXCEPTIONS.get(part, usual)


_SLIM_PARTS = dict(_slim_parts())
# Keras gives most layers no names, so that they have its counts of their kinds: the
# first convolution made is `conv2d`, the next `conv2d_1`. It makes them in the order
# in which this file lists them; the number is therefore a name like any other, only
# that all of them are larger by what the process had made before (`Layout.counted`).
_KERAS_NUMBERS = {part: number for number, part in enumerate([*_STEM, *_SLIM_PARTS])}


def _part(layer: str) -> tuple[str, str]:
    """Return part and kind: `5b/1x1`, `conv`, or in the stem `1a`, `conv`."""
    *scopes, part, kind = layer.split("/")
    if scopes == ["stem"]:
        return part, kind
    return f"{scopes[0].removeprefix('stage')}{scopes[1]}/{part}", kind


def _torchvision_name(layer: str) -> str | None:
    if layer == "logits":
        return "fc"
    if layer.startswith("auxiliary/"):
        name = layer.replace("reduce", "conv0").replace("logits", "fc")
        return name.replace("auxiliary", "AuxLogits")
    part, kind = _part(layer)
    if part in _STEM:
        return f"{_stem_name(part)}.{kind}"
    block, branch = part.split("/")
    branch = "_pool" if branch == "pool" else branch
    return f"Mixed_{block}.branch{branch}.{kind}"


def _slim_name(layer: str) -> str | None:
    if layer == "logits":
        return "InceptionV3/Logits/Conv2d_1c_1x1"
    if layer.startswith("auxiliary/"):
        _, part, *kind = layer.split("/")
        name = f"AuxLogits/{_SLIM_AUXILIARY[part]}"
    else:
        part, *kind = _part(layer)
        block = part.split("/")[0]
        name = (
            _stem_name(part) if part in _STEM else f"Mixed_{block}/{_SLIM_PARTS[part]}"
        )
    return f"InceptionV3/{name}" + ("/BatchNorm" if kind == ["bn"] else "")


_SLIM_AUXILIARY = {
    "reduce": "Conv2d_1b_1x1",
    "conv1": "Conv2d_2a_5x5",
    "logits": "Conv2d_2b_1x1",
}


def _stem_name(part: str) -> str:
    size = _STEM[part][1]
    return f"Conv2d_{part}_{size}x{size}"


def _keras_name(layer: str) -> str | None:
    if layer == "logits":
        return "predictions"
    if layer.startswith("auxiliary/"):
        return None
    part, kind = _part(layer)
    stem = {"conv": "conv2d", "bn": "batch_normalization"}[kind]
    number = _KERAS_NUMBERS[part]
    return f"{stem}_{number}" if number else stem


TORCHVISION = Layout(
    "torchvision",
    r"Conv2d_1a_3x3\.conv\.weight",
    _torchvision_name,
    TF_PREPROCESSING,  # what its `transform_input=True` comes to
    epsilon=1e-3,
    ignored=r"^AuxLogits\.",
)
KERAS = Layout(
    "keras",
    r"conv2d(_\d+)?/kernel",
    _keras_name,
    TF_PREPROCESSING,
    epsilon=1e-3,
    settings={"pool_padding": "same", "scale": False, "auxiliary": False},
    counted="conv2d|batch_normalization",
)
SLIM = Layout(
    "slim",
    r"InceptionV3/Conv2d_1a_3x3/weights",
    _slim_name,
    TF_PREPROCESSING,
    epsilon=1e-3,
    settings={"pool_padding": "same", "scale": False},
    ignored="^InceptionV3/AuxLogits/",
)


class InceptionV3(Network):
    """Inception v3, for images of about 299x299, at least 75x75.

    Scopes: `stem/1a` ... `stem/4a`, `stage5/b` ... `stage7/c` with the parts of their
    branches, and `logits`, which is fresh. All other layers restore under their own
    names; from a file of one of the `layouts`, under the names that they have there.
    The head for training alone, `auxiliary`, is there if it has a weight (0.4 in
    tf-slim), and wants images of 299x299 or more; its logits are fresh, too.

    Attributes:
        lr_mults: Multipliers of stem and stages 5, 6 and 7; the auxiliary head has
            the stage's before it.
        auxiliary_weight: Factor on the loss of the auxiliary head; 0: there is none.
        dropout_rate: Of the pooled features.

    Source: arXiv:1512.00567, table 1, as torchvision, Keras and tf-slim have it. At the
        border of an image the average pools of torchvision count zeros around it, those
        of the others do not; only torchvision's normalisations have a gamma.
    """

    lr_mults: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    auxiliary_weight: float = 0.0
    dropout_rate: float = 0.5
    layouts = (TORCHVISION, KERAS, SLIM)

    def batch_norm(self, inputs: Any, **settings: Any) -> Any:
        """Normalise, without a gamma where the layout has none."""
        scale = self._setting("scale", True)
        return super().batch_norm(inputs, **{"scale": scale} | settings)

    def _construct(self, images: Any) -> Any:
        multipliers = dict(zip("567", self.lr_mults[1:], strict=True))
        with self.scope("stem", lr_mult=self.lr_mults[0]):
            x = self._stem(images)
        for name, branches in _BLOCKS.items():
            multiplier = multipliers[name[0]]
            with self.scope(f"stage{name[0]}/{name[1]}", lr_mult=multiplier):
                x = self._block(x, branches, shrinks=name in _SHRINKING)
            if name == "6e" and self.auxiliary_weight:
                restore = self._setting("auxiliary", True)
                with self.scope("auxiliary", restore=restore, lr_mult=multipliers["6"]):
                    self._add_head(x)
        x = self.dropout(self.global_pool(x), self.dropout_rate)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)

    def _stem(self, x: Any) -> Any:
        for scope, (filters, size) in _STEM.items():
            with self.scope(scope):
                x = self.conv_block(
                    x,
                    filters,
                    size,
                    strides=2 if scope == "1a" else 1,
                    padding="same" if scope == "2b" else "valid",
                )
                if scope in ("2b", "4a"):
                    x = self.pool_layer(x, 3, strides=2, padding="valid")
        return x

    def _block(self, x: Any, branches: _Branches, *, shrinks: bool) -> Any:
        """Concatenate what the branches make of the same input."""
        outputs = []
        for branch, steps in branches.items():
            y = [x]
            if branch == "pool":
                padding = self._setting("pool_padding", "symmetric")
                y = [self.pool_layer(x, 3, strides=1, padding=padding, mode="average")]
            for scopes, (filters, kernels) in zip(
                _scopes(branch, steps), steps, strict=True
            ):
                last = shrinks and scopes == _scopes(branch, steps)[-1]
                y = [
                    self._convolve(y[0], scope, filters, kernel, shrinks=last)
                    for scope, kernel in zip(scopes, kernels, strict=True)
                ]
            outputs += y
        if shrinks:
            outputs.append(self.pool_layer(x, 3, strides=2, padding="valid"))
        return self.layer(keras.layers.Concatenate, outputs, scope="concat")

    def _convolve(
        self, x: Any, scope: str, filters: int, kernel: _Kernel, *, shrinks: bool
    ) -> Any:
        padding: Padding = "valid" if shrinks else "same"
        with self.scope(scope):
            return self.conv_block(
                x, filters, kernel, strides=2 if shrinks else 1, padding=padding
            )

    def _add_head(self, x: Any) -> None:
        x = self.pool_layer(x, 5, strides=3, padding="valid", mode="average")
        with self.scope("reduce"):
            x = self.conv_block(x, 128, 1)
        with self.scope("conv1"):
            x = self.conv_block(x, 768, 5, padding="valid")
        x = self.global_pool(x)
        logits = self.full_layer(x, self.num_classes, scope="logits", restore=False)
        self.add_auxiliary_logits(logits, weight=self.auxiliary_weight)

    def _setting(self, name: str, default: Any) -> Any:
        return (
            default if self.layout is None else self.layout.settings.get(name, default)
        )
