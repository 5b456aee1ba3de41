"""Network: layers + lr_mult + restore names + loss."""

import abc
import contextlib
import dataclasses
import difflib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import keras
import tensorflow as tf

from worklab.layers import BatchNormalization
from worklab.options import LayerOptions

Padding = Literal["same", "valid", "symmetric"]
Restore = bool | str


@dataclasses.dataclass(frozen=True)
class Policy:
    """What holds for the variables of one layer.

    Attributes:
        lr_mult: Factor on the learning rate; 0 freezes the layer.
        restore: Name of the layer in a pretrained file; None to initialise.
        weight_decay: Decay of the kernel.
    """

    lr_mult: float
    restore: str | None
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class _Scope:
    path: str
    restore: Restore
    lr_mult: float
    weight_decay: float | None


class Network(abc.ABC):
    """A Keras model whose layers say how they learn and where they come from.

    Implement: `_construct(images)`, which builds the layers with the primitives below
    and returns logits (batch, num_classes). May override: `losses`, `scores`, and the
    class attributes `mean`, `std`, `channel_order`. Do not override: `__call__`, `scope`.

    Scopes nest, and hand their `restore`, `lr_mult` and `weight_decay` down; a
    layer's own argument wins. `restore=True` takes a layer's variables from the same
    names in the pretrained file, a string gives the layer's or scope's full name
    there, `False` initialises. `lr_mult` multiplies the layer's learning rate.
    `lr_mult=0` freezes it: weights stay, no optimizer memory is kept, and batch
    normalisation runs in inference mode, so that its moving statistics stay as well.

    Args:
        num_classes: Width of the logits.
        image_shape: Height, width and channels of the uint8 images that come in.
        num_features: Numbers that come with each image as `self.features`; 0: none.
        precision: Arithmetic of the layers; weights and logits are float32.
        seed: Seed of the initialisation; a layer's values depend on it and on the
            layer's name, not on the layers around it.
        options: Multipliers by scope, weight decay and label smoothing.

    Attributes:
        mean: What is subtracted from RGB values 0..255, one number per channel.
        std: What they are divided by afterwards.
        channel_order: Order of the channels that the layers see.
        model: The Keras functional model: uint8 images in, float32 logits out.
        policies: `Policy` of each layer by its name with slashes.

    Raises:
        ValueError: If `_construct` returns no logits or logits of another width, two
            layers have one name, or a multiplier is negative or for an unknown scope.

    Example:
        >>> class Tiny(Network):
        ...     def _construct(self, images):
        ...         with self.scope("stem", restore=True, lr_mult=0.1):
        ...             x = self.conv_block(images, 8, 3)
        ...         x = self.global_pool(x)
        ...         return self.full_layer(x, self.num_classes, scope="logits")
        >>> network = Tiny(10, image_shape=(8, 8, 3))
        >>> network.policies["stem/conv"].lr_mult
        0.1
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    channel_order: Literal["RGB", "BGR"] = "RGB"

    def __init__(
        self,
        num_classes: int,
        *,
        image_shape: tuple[int, int, int] = (224, 224, 3),
        num_features: int = 0,
        precision: Literal["float32", "bfloat16"] = "float32",
        seed: int = 0,
        options: LayerOptions = LayerOptions(),
    ) -> None:
        self.num_classes = num_classes
        self.image_shape = image_shape
        self.num_features = num_features
        self.seed = seed
        self.options = options
        self._dtype = "mixed_bfloat16" if precision == "bfloat16" else "float32"
        self._scopes = [_Scope("", True, 1.0, None)]
        self.policies: dict[str, Policy] = {}
        self._check_options()

        images = keras.Input(image_shape, name="images", dtype="uint8")
        inputs = {"images": images}
        self.features: Any = None
        if num_features:
            self.features = keras.Input((num_features,), name="features")
            inputs["features"] = self.features
        logits = self._checked_logits(self._construct(self._preprocess(images)))
        logits = keras.layers.Activation("linear", dtype="float32", name="output")(
            logits
        )
        self.model = keras.Model(inputs, logits, name=type(self).__name__)
        self._check_multiplied_scopes_exist()

    @abc.abstractmethod
    def _construct(self, images: Any) -> Any:
        """Build the layers and return the logits (batch, num_classes).

        Args:
            images: Preprocessed images, float (batch, height, width, channels).
        """

    def __call__(self, batch: Mapping[str, Any], *, training: bool) -> tf.Tensor:
        """Return float32 logits (batch, num_classes) for a batch of the Reader."""
        inputs = {name: batch[name] for name in self.model.input}
        return self.model(inputs, training=training)

    def losses(
        self, batch: Mapping[str, Any], logits: tf.Tensor, *, training: bool
    ) -> tf.Tensor:
        """Return the loss of each image, float32 (batch,): softmax cross-entropy.

        Labels are smoothed in training only, so that a test loss is the plain log
        loss whatever the recipe.
        """
        smoothing = self.options.label_smoothing if training else 0.0
        if not smoothing:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(
                batch["labels"], logits
            )
        targets = tf.one_hot(batch["labels"], self.num_classes)
        targets = targets * (1 - smoothing) + smoothing / self.num_classes
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)

    def scores(
        self, batch: Mapping[str, Any], logits: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Return what to log beside the loss, each float32 (batch,)."""
        right = tf.equal(tf.argmax(logits, axis=-1), batch["labels"])
        return {"accuracy": tf.cast(right, tf.float32)}

    @property
    def variables(self) -> dict[str, Any]:
        """Every variable by its name with slashes, e.g. `block1/a/conv/kernel`."""
        return {variable_name(v): v for v in self.model.variables}

    def policy(self, variable: str) -> Policy:
        """Return the policy of a variable, given by its name with slashes."""
        return self.policies[variable.rpartition("/")[0]]

    @contextlib.contextmanager
    def scope(
        self,
        name: str,
        *,
        restore: Restore | None = None,
        lr_mult: float | None = None,
        weight_decay: float | None = None,
    ) -> Iterator[None]:
        """Name the layers made inside, and hand them what is given here.

        Args:
            name: Joined to the names of the scopes around it by slashes.
            restore: True, False, or the scope's full name in the pretrained file.
            lr_mult: Factor on the learning rate, at least 0.
            weight_decay: Decay of the kernels, at least 0.
        """
        outer = self._scopes[-1]
        inherited = (
            f"{outer.restore}/{name}"
            if isinstance(outer.restore, str)
            else outer.restore
        )
        inner = _Scope(
            path=f"{outer.path}/{name}".lstrip("/"),
            restore=inherited if restore is None else restore,
            lr_mult=outer.lr_mult if lr_mult is None else lr_mult,
            weight_decay=outer.weight_decay if weight_decay is None else weight_decay,
        )
        self._scopes.append(inner)
        try:
            yield
        finally:
            self._scopes.pop()

    # === Primitives: one layer each. All take scope=, restore=, lr_mult= ===

    def conv_layer(
        self,
        inputs: Any,
        filters: int,
        kernel_size: int | tuple[int, int],
        *,
        strides: int = 1,
        padding: Padding = "same",
        use_bias: bool = True,
        scope: str = "conv",
        **policy: Any,
    ) -> Any:
        """Convolve: (batch, height, width, channels) to (..., `filters`).

        `padding="symmetric"` adds `kernel_size // 2` pixels on every side, as PyTorch
        and Caffe do; `"same"` puts the odd pixel at the bottom and right.
        """
        if padding == "symmetric":
            inputs, padding = self._pad_symmetric(inputs, kernel_size, scope), "valid"
        return self._add(
            keras.layers.Conv2D,
            inputs,
            scope,
            policy,
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
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
        if padding == "symmetric":
            inputs, padding = self._pad_symmetric(inputs, kernel_size, scope), "valid"
        return self._add(
            keras.layers.DepthwiseConv2D,
            inputs,
            scope,
            policy,
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
        epsilon: float = 1e-5,
        scope: str = "bn",
        **policy: Any,
    ) -> Any:
        """Normalise over batch, height and width; frozen by `lr_mult=0` throughout."""
        return self._add(
            BatchNormalization,
            inputs,
            scope,
            policy,
            momentum=momentum,
            epsilon=epsilon,
        )

    def pool_layer(
        self,
        inputs: Any,
        pool_size: int,
        *,
        strides: int | None = None,
        padding: Padding = "same",
        mode: Literal["max", "average"] = "max",
        scope: str = "pool",
    ) -> Any:
        """Take the maximum or the average of each window.

        `strides=None` takes `pool_size`. `padding="symmetric"` pads with zeros, which
        equals PyTorch's maximum only after a ReLU.
        """
        if padding == "symmetric":
            inputs, padding = self._pad_symmetric(inputs, pool_size, scope), "valid"
        layer = (
            keras.layers.MaxPooling2D
            if mode == "max"
            else keras.layers.AveragePooling2D
        )
        return self._add(
            layer,
            inputs,
            scope,
            {},
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
        return self._add(layer, inputs, scope, {})

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
            inputs = self._add(keras.layers.Flatten, inputs, f"{scope}_flatten", {})
        if features is not None:
            inputs = self._add(
                keras.layers.Concatenate, [inputs, features], f"{scope}_features", {}
            )
        return self._add(
            keras.layers.Dense,
            inputs,
            scope,
            policy,
            units=units,
            use_bias=use_bias,
            kernel_initializer="glorot_uniform",
        )

    def dropout(self, inputs: Any, rate: float, *, scope: str = "dropout") -> Any:
        """Set a share `rate` of the values to zero in training."""
        return self._add(
            keras.layers.Dropout,
            inputs,
            scope,
            {},
            rate=rate,
            seed=self._seed_of(scope),
        )

    def activation(
        self, inputs: Any, function: str = "relu", *, scope: str | None = None
    ) -> Any:
        """Apply a Keras activation by name, e.g. `relu`, `gelu`, `sigmoid`."""
        return self._add(
            keras.layers.Activation, inputs, scope or function, {}, activation=function
        )

    def add(self, inputs: list[Any], *, scope: str = "add") -> Any:
        """Add tensors of one shape, e.g. a shortcut to a block's output."""
        return self._add(keras.layers.Add, inputs, scope, {})

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

    def residual_block(
        self,
        inputs: Any,
        filters: int,
        *,
        strides: int = 1,
        bottleneck: bool = False,
        expansion: int = 4,
    ) -> Any:
        """Add a shortcut to two (basic) or three (bottleneck) convolutions, then ReLU.

        Args:
            inputs: (batch, height, width, channels).
            filters: Of the 3x3 convolutions.
            strides: Of the first 3x3 convolution and of the shortcut.
            bottleneck: 1x1, 3x3, 1x1 with `expansion` times the filters at the end.
            expansion: Of the bottleneck's last convolution.

        Source: He et al. 2016, arXiv:1512.03385, figure 5. The stride is on the 3x3
            convolution ("v1.5", as in torchvision), the shortcut is a 1x1 convolution
            where the shape changes.
        """
        outputs = filters * expansion if bottleneck else filters
        if bottleneck:
            layers = [("a", filters, 1, 1), ("b", filters, 3, strides)]
        else:
            layers = [("a", filters, 3, strides)]
        x = inputs
        for name, width, kernel_size, stride in layers:
            with self.scope(name):
                x = self.conv_block(x, width, kernel_size, strides=stride)
        with self.scope("c" if bottleneck else "b"):
            x = self.conv_block(x, outputs, 1 if bottleneck else 3, activation=None)
        shortcut = inputs
        if strides != 1 or inputs.shape[-1] != outputs:
            with self.scope("shortcut"):
                shortcut = self.conv_block(
                    inputs, outputs, 1, strides=strides, activation=None
                )
        return self.activation(self.add([x, shortcut]))

    # === How it is built ===

    def _add(
        self,
        layer_class: Any,
        inputs: Any,
        name: str,
        policy: dict[str, Any],
        **settings: Any,
    ) -> Any:
        with self.scope(name, **policy):
            scope = self._scopes[-1]
        if scope.path in self.policies:
            raise ValueError(
                f"two layers have the name `{scope.path}`; names are how variables are "
                "saved and restored. Give one of them another `scope=`. "
                f"Received: scope={name!r} twice"
            )
        lr_mult = self._multiplier(scope)
        self.policies[scope.path] = Policy(
            lr_mult=lr_mult,
            restore=_source_name(scope),
            weight_decay=(
                self.options.weight_decay
                if scope.weight_decay is None
                else scope.weight_decay
            ),
        )
        for setting in ("kernel_initializer", "depthwise_initializer"):
            if setting in settings:
                settings[setting] = _seeded(settings[setting], self._seed_of(name))
        layer = layer_class(
            name=scope.path.replace("/", "."),
            trainable=lr_mult > 0,
            dtype=self._dtype,
            **settings,
        )
        return layer(inputs)

    def _preprocess(self, images: Any) -> Any:
        if self.channel_order == "BGR":
            images = keras.ops.flip(images, axis=-1)
        return keras.layers.Rescaling(
            scale=[1 / std for std in self.std],
            offset=[
                -mean / std for mean, std in zip(self.mean, self.std, strict=True)
            ],
            dtype="float32",
            name="preprocessing",
        )(images)

    def _pad_symmetric(
        self, inputs: Any, kernel_size: int | tuple[int, int], scope: str
    ) -> Any:
        height, width = (
            (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        )
        if height == 1 and width == 1:
            return inputs
        return self._add(
            keras.layers.ZeroPadding2D,
            inputs,
            f"{scope}_pad",
            {},
            padding=(height // 2, width // 2),
        )

    def _seed_of(self, name: str) -> int:
        path = f"{self._scopes[-1].path}/{name}"
        return zlib.crc32(f"{self.seed}:{path}".encode())

    def _multiplier(self, scope: _Scope) -> float:
        parts = scope.path.split("/")
        for length in range(len(parts), 0, -1):
            given = self.options.lr_mult.get("/".join(parts[:length]))
            if given is not None:
                return given
        if scope.lr_mult < 0:
            raise ValueError(
                f"`lr_mult` of `{scope.path}` must be at least 0 (0 freezes the "
                f"layer). Received: lr_mult={scope.lr_mult}"
            )
        return scope.lr_mult

    def _checked_logits(self, logits: Any) -> Any:
        name = type(self).__name__
        if not isinstance(logits, keras.KerasTensor):
            raise ValueError(
                f"`{name}._construct` must return the logits, a Keras tensor (batch, "
                f"{self.num_classes}); is a `return` missing? Received: {logits!r}"
            )
        if tuple(logits.shape[1:]) != (self.num_classes,):
            raise ValueError(
                f"`{name}._construct` must return logits of shape (batch, "
                f"{self.num_classes}), one for each class. End with "
                "`self.full_layer(x, self.num_classes, scope='logits')`. "
                f"Received: shape={tuple(logits.shape)}"
            )
        return logits

    def _check_options(self) -> None:
        if not 0 <= self.options.label_smoothing < 1:
            raise ValueError(
                "`label_smoothing` must be in [0, 1). "
                f"Received: label_smoothing={self.options.label_smoothing}"
            )
        for name, value in [
            ("weight_decay", self.options.weight_decay),
            *((f"lr_mult of {k}", v) for k, v in self.options.lr_mult.items()),
        ]:
            if value < 0:
                raise ValueError(f"`{name}` must be at least 0. Received: {value}")

    def _check_multiplied_scopes_exist(self) -> None:
        paths = {
            "/".join(name.split("/")[:length])
            for name in self.policies
            for length in range(1, name.count("/") + 2)
        }
        for given in self.options.lr_mult:
            if given not in paths:
                near = difflib.get_close_matches(given, sorted(paths), n=3, cutoff=0.0)
                raise ValueError(
                    f"`lr_mult` names a scope that `{type(self).__name__}` does not "
                    f"have; the nearest are {near}. Received: {given!r}"
                )


def variable_name(variable: Any) -> str:
    """Return a Keras variable's name with slashes: `block1/a/conv/kernel`."""
    layer, _, leaf = variable.path.partition("/")
    return f"{layer.replace('.', '/')}/{leaf}"


def _source_name(scope: _Scope) -> str | None:
    if scope.restore is False:
        return None
    return scope.path if scope.restore is True else scope.restore


def _seeded(name: str, seed: int) -> Any:
    return keras.initializers.get(
        {"class_name": name, "config": {"seed": seed}}
    )
