"""The layers and blocks that a Network is written with."""

import abc
import contextlib
from collections.abc import Mapping
from typing import Any, Literal

import keras

from worklab import adoption
from worklab.adoption import Rules
from worklab.layers import BatchNormalization, GroupedConv2D, PointwiseConv2D
from worklab.policies import Restore

Padding = Literal["same", "valid", "symmetric"]


class Primitives(abc.ABC):
    """One method for each layer and block; `Network` adds names and policies.

    Every method takes and returns Keras tensors (batch, height, width, channels), or
    (batch, channels) after `global_pool`. Layers with variables take, beside `scope`,
    their own `restore`, `lr_mult` and `weight_decay`; see `Network.scope`.

    Attributes:
        epsilon: Of batch normalisation where a layer gives none.
    """

    epsilon: float = 1e-5

    @abc.abstractmethod
    def scope(
        self,
        name: str,
        *,
        restore: Restore | None = None,
        lr_mult: float | None = None,
        weight_decay: float | None = None,
    ) -> contextlib.AbstractContextManager[None]:
        """Name the layers made inside, and hand them a policy."""

    @abc.abstractmethod
    def layer(
        self,
        layer_class: Any,
        inputs: Any,
        *,
        scope: str,
        policy: Mapping[str, Any] | None = None,
        call: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        """Add a Keras layer to the current scope."""

    def conv_layer(
        self,
        inputs: Any,
        filters: int,
        kernel_size: int | tuple[int, int],
        *,
        strides: int = 1,
        padding: Padding = "same",
        groups: int = 1,
        use_bias: bool = True,
        scope: str = "conv",
        **policy: Any,
    ) -> Any:
        """Convolve: (batch, height, width, channels) to (..., `filters`).

        `padding="symmetric"` adds `kernel_size // 2` pixels on every side, as PyTorch
        and Caffe do; `"same"` puts the odd pixel at the bottom and right. Each of
        `groups` parts of the channels makes as many of the filters by itself.
        """
        if padding == "symmetric" and strides == 1 and _is_odd(kernel_size):
            padding = "same"  # the same pixels, without a padded copy of the input
        elif padding == "symmetric":
            inputs, padding = self._pad_symmetric(inputs, kernel_size, scope), "valid"
        return self.layer(
            _convolution(kernel_size, groups),
            inputs,
            scope=scope,
            policy=policy,
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            groups=groups,
            use_bias=use_bias,
            kernel_initializer="he_normal",
        )

    def depthwise_layer(
        self,
        inputs: Any,
        kernel_size: int | tuple[int, int],
        *,
        strides: int = 1,
        padding: Padding = "same",
        use_bias: bool = True,
        scope: str = "depthwise",
        **policy: Any,
    ) -> Any:
        """Convolve each channel by itself; the number of channels stays."""
        if padding == "symmetric" and strides == 1 and _is_odd(kernel_size):
            padding = "same"  # the same pixels, without a padded copy of the input
        elif padding == "symmetric":
            inputs, padding = self._pad_symmetric(inputs, kernel_size, scope), "valid"
        return self.layer(
            keras.layers.DepthwiseConv2D,
            inputs,
            scope=scope,
            policy=policy,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            use_bias=use_bias,
            depthwise_initializer="he_normal",
        )

    def batch_norm(
        self,
        inputs: Any,
        *,
        momentum: float = 0.9,
        epsilon: float | None = None,
        scale: bool = True,
        scope: str = "bn",
        **policy: Any,
    ) -> Any:
        """Normalise over batch, height and width; frozen by `lr_mult=0` throughout.

        Without `scale` there is no gamma.
        """
        return self.layer(
            BatchNormalization,
            inputs,
            scope=scope,
            policy=policy,
            momentum=momentum,
            epsilon=self.epsilon if epsilon is None else epsilon,
            scale=scale,
        )

    def pool_layer(
        self,
        inputs: Any,
        pool_size: int,
        *,
        strides: int | None = None,
        padding: Padding | Literal["ceil"] = "same",
        mode: Literal["max", "average"] = "max",
        scope: str = "pool",
    ) -> Any:
        """Take the maximum or the average of each window.

        `strides=None` takes `pool_size`. `padding="symmetric"` pads with zeros, which
        equals PyTorch's maximum only after a ReLU; so does `"ceil"`, but at the bottom
        and right, and only until no pixel is left over (PyTorch's `ceil_mode`).
        """
        if padding == "symmetric":
            inputs, padding = self._pad_symmetric(inputs, pool_size, scope), "valid"
        elif padding == "ceil":
            inputs = self._pad_to_fit(inputs, pool_size, strides or pool_size, scope)
            padding = "valid"
        layer = (
            keras.layers.MaxPooling2D
            if mode == "max"
            else keras.layers.AveragePooling2D
        )
        return self.layer(
            layer,
            inputs,
            scope=scope,
            pool_size=pool_size,
            strides=strides,
            padding=padding,
        )

    def global_pool(
        self,
        inputs: Any,
        *,
        mode: Literal["average", "max"] = "average",
        scope: str = "global_pool",
    ) -> Any:
        """Reduce (batch, height, width, channels) to (batch, channels)."""
        layer = (
            keras.layers.GlobalAveragePooling2D
            if mode == "average"
            else keras.layers.GlobalMaxPooling2D
        )
        return self.layer(layer, inputs, scope=scope)

    def full_layer(
        self,
        inputs: Any,
        units: int,
        *,
        features: Any = None,
        use_bias: bool = True,
        scope: str = "full",
        **policy: Any,
    ) -> Any:
        """Multiply with a matrix: (batch, ...) flattened to (batch, `units`).

        Args:
            inputs: Flattened first where it has more than two axes.
            units: Width of the result.
            features: Further inputs (batch, n), e.g. `self.features`, concatenated.
            use_bias: Whether to add a bias.
            scope: Name of the layer.
            **policy: `restore`, `lr_mult`, `weight_decay` of the layer.
        """
        if len(inputs.shape) > 2:
            inputs = self.layer(keras.layers.Flatten, inputs, scope=f"{scope}_flatten")
        if features is not None:
            inputs = self.layer(
                keras.layers.Concatenate, [inputs, features], scope=f"{scope}_features"
            )
        return self.layer(
            keras.layers.Dense,
            inputs,
            scope=scope,
            policy=policy,
            units=units,
            use_bias=use_bias,
            kernel_initializer="glorot_uniform",
        )

    def dropout(self, inputs: Any, rate: float, *, scope: str = "dropout") -> Any:
        """Set a share `rate` of the values to zero in training."""
        return self.layer(
            keras.layers.Dropout,
            inputs,
            scope=scope,
            rate=rate,
        )

    def activation(
        self, inputs: Any, function: str = "relu", *, scope: str | None = None
    ) -> Any:
        """Apply a Keras activation by name, e.g. `relu`, `gelu`, `sigmoid`."""
        return self.layer(
            keras.layers.Activation,
            inputs,
            scope=scope or function,
            activation=function,
        )

    def add(self, inputs: list[Any], *, scope: str = "add") -> Any:
        """Add tensors of one shape, e.g. a shortcut to a block's output."""
        return self.layer(keras.layers.Add, inputs, scope=scope)

    def adopt(
        self,
        model: keras.Model,
        inputs: Any,
        *,
        restore: Rules = (),
        lr_mult: Rules = (),
        weight_decay: Rules = (),
    ) -> Any:
        r"""Build the layers of a Keras model here, under their own names.

        The model gives the structure; its values are not taken. Rules are pairs of a
        pattern, which must fit a layer's whole name, and a value; the first that fits
        a layer holds, and where none fits, the scope around.

        Args:
            model: Functional or sequential, e.g. one of `keras.applications` made
                with `weights=None, include_top=False`.
            inputs: What the model is to see, instead of its own input.
            restore: Values as for `scope`; in a name, `\1` stands for what the first
                group of the pattern fits.
            lr_mult: Multipliers, e.g. `[("conv5_.*", 0.1), (".*", 0.0)]`.
            weight_decay: Decays of kernels.

        Returns:
            The model's output for the inputs.

        Raises:
            ValueError: If the model is not functional, or a pattern fits no layer.
        """
        return adoption.adopt(
            self,
            model,
            inputs,
            restore=restore,
            lr_mult=lr_mult,
            weight_decay=weight_decay,
        )

    # === Blocks: several layers under one scope ===

    def conv_block(
        self,
        inputs: Any,
        filters: int,
        kernel_size: int | tuple[int, int],
        *,
        strides: int = 1,
        padding: Padding = "symmetric",
        activation: str | None = "relu",
    ) -> Any:
        """Convolve without bias, normalise, activate; layers `conv`, `bn`, `relu`."""
        x = self.conv_layer(
            inputs,
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            use_bias=False,
        )
        x = self.batch_norm(x)
        return x if activation is None else self.activation(x, activation)

    def full_block(self, inputs: Any, units: int, *, dropout: float = 0.5) -> Any:
        """Multiply with a matrix, ReLU, drop out; layers `full`, `relu`, `dropout`."""
        x = self.activation(self.full_layer(inputs, units))
        return self.dropout(x, dropout)

    def residual_block(
        self,
        inputs: Any,
        filters: int,
        *,
        strides: int = 1,
        bottleneck: bool = False,
        expansion: int = 4,
        strides_on: Literal["3x3", "1x1"] = "3x3",
        shortcut: Literal["conv", "pool"] = "conv",
    ) -> Any:
        """Add a shortcut to two (basic) or three (bottleneck) convolutions, then ReLU.

        Args:
            inputs: (batch, height, width, channels).
            filters: Of the 3x3 convolutions.
            strides: Of one convolution and of the shortcut.
            bottleneck: 1x1, 3x3, 1x1 with `expansion` times the filters at the end.
            expansion: Of the bottleneck's last convolution.
            strides_on: Which convolution of the bottleneck has the strides: "3x3"
                ("v1.5", as in torchvision) or the first "1x1" (as in the paper).

            shortcut: What it goes through where the size changes and the channels do
                not: a 1x1 convolution, or nothing but a choice of pixels.

        Source: He et al. 2016, arXiv:1512.03385, figure 5, and options A and B of
            section 4.1.
        """
        outputs = filters * expansion if bottleneck else filters
        if bottleneck:
            first, second = (strides, 1) if strides_on == "1x1" else (1, strides)
            layers = [("a", filters, 1, first), ("b", filters, 3, second)]
        else:
            layers = [("a", filters, 3, strides)]
        x = inputs
        for name, width, kernel_size, stride in layers:
            with self.scope(name):
                x = self.conv_block(x, width, kernel_size, strides=stride)
        with self.scope("c" if bottleneck else "b"):
            x = self.conv_block(x, outputs, 1 if bottleneck else 3, activation=None)
        widens, shrinks = inputs.shape[-1] != outputs, strides != 1
        if widens or (shrinks and shortcut == "conv"):
            with self.scope("shortcut"):
                inputs = self.conv_block(
                    inputs, outputs, 1, strides=strides, activation=None
                )
        elif shrinks:
            inputs = self.pool_layer(inputs, 1, strides=strides, scope="shortcut")
        return self.activation(self.add([x, inputs]))

    def _pad_symmetric(
        self, inputs: Any, kernel_size: int | tuple[int, int], scope: str
    ) -> Any:
        height, width = (
            (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        )
        if height == 1 and width == 1:
            return inputs
        return self.layer(
            keras.layers.ZeroPadding2D,
            inputs,
            scope=f"{scope}_pad",
            padding=(height // 2, width // 2),
        )

    def _pad_to_fit(self, inputs: Any, size: int, strides: int, scope: str) -> Any:
        after = [(size - length) % strides for length in inputs.shape[1:3]]
        if not any(after):
            return inputs
        return self.layer(
            keras.layers.ZeroPadding2D,
            inputs,
            scope=f"{scope}_pad",
            padding=tuple((0, pixels) for pixels in after),
        )


def _is_odd(kernel_size: int | tuple[int, int]) -> bool:
    sizes = (kernel_size,) if isinstance(kernel_size, int) else kernel_size
    return all(size % 2 for size in sizes)


def _convolution(kernel_size: int | tuple[int, int], groups: int) -> Any:
    if groups > 1:
        return GroupedConv2D
    return PointwiseConv2D if kernel_size in (1, (1, 1)) else keras.layers.Conv2D
