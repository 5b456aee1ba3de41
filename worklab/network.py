"""Network: layers + lr_mult + restore names + loss."""

import abc
import contextlib
import dataclasses
import difflib
import inspect
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import keras
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from worklab.options import LayerOptions
from worklab.primitives import Primitives

Restore = bool | str

# Leaves that weight decay applies to: matrices and filters, not biases and norms.
_DECAYED_LEAVES = ("kernel",)


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


class Network(Primitives):
    """A Keras model whose layers say how they learn and where they come from.

    Implement: `_construct(images)`, which builds the layers with `conv_layer` and the
    other methods of `Primitives`, and returns logits (batch, num_classes). May
    override: `losses`, `scores`, and the class attributes `mean`, `std`,
    `channel_order`. Do not override: `__call__`, `scope`, `layer`.

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
        layer = variable.rpartition("/")[0]
        # A layer in a layer, as a dropout's generator, has its parent's policy.
        while layer not in self.policies:
            layer = layer.rpartition("/")[0]
        return self.policies[layer]

    def summary(self) -> str:
        """Return a table of all variables: shape, policy, and where they come from."""
        table = Table(
            "variable", "shape", "lr_mult", "decay", "restored from", "trainable"
        )
        trainable = {id(variable) for variable in self.model.trainable_variables}
        for name, variable in self.variables.items():
            policy = self.policy(name)
            leaf = name.rpartition("/")[2]
            table.add_row(
                name,
                str(tuple(variable.shape)),
                f"{policy.lr_mult:g}",
                f"{self.decay(name):g}",
                "-" if policy.restore is None else f"{policy.restore}/{leaf}",
                "yes" if id(variable) in trainable else "no",
            )
        console = Console(width=160)
        with console.capture() as capture:
            console.print(table)
        return capture.get()

    def decay(self, variable: str) -> float:
        """Return the weight decay of a variable; biases and norms have none."""
        if variable.rpartition("/")[2] not in _DECAYED_LEAVES:
            return 0.0
        return self.policy(variable).weight_decay

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

    def layer(
        self,
        layer_class: Any,
        inputs: Any,
        *,
        scope: str,
        policy: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        """Add any Keras layer; the primitives are made with this.

        Args:
            layer_class: E.g. `keras.layers.SpatialDropout2D`.
            inputs: One Keras tensor, or a list where the layer takes several.
            scope: Name of the layer in the current scope.
            policy: Its own `restore`, `lr_mult`, `weight_decay`.
            **settings: Arguments of the layer's constructor.

        Returns:
            The layer's output.

        Raises:
            ValueError: If the scope has a layer of the name already.
        """
        with self.scope(scope, **(policy or {})):
            inner = self._scopes[-1]
        if inner.path in self.policies:
            raise ValueError(
                f"two layers have the name `{inner.path}`; names are how variables are "
                "saved and restored. Give one of them another `scope=`. "
                f"Received: scope={scope!r} twice"
            )
        lr_mult = self._multiplier(inner)
        decay = inner.weight_decay
        self.policies[inner.path] = Policy(
            lr_mult=lr_mult,
            restore=_source_name(inner),
            weight_decay=self.options.weight_decay if decay is None else decay,
        )
        layer = layer_class(
            name=inner.path.replace("/", "."),
            trainable=lr_mult > 0,
            dtype=self._dtype,
            **_seeded(layer_class, settings, f"{self.seed}:{inner.path}"),
        )
        return layer(inputs)

    def _preprocess(self, images: Any) -> Any:
        if self.channel_order == "BGR":
            images = keras.ops.flip(images, axis=-1)
        return keras.layers.Rescaling(
            scale=[1 / std for std in self.std],
            offset=[-mean / std for mean, std in zip(self.mean, self.std, strict=True)],
            dtype="float32",
            name="preprocessing",
        )(images)

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


def _seeded(layer_class: Any, settings: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the settings with the seed of the layer's name wherever chance enters."""
    seed = zlib.crc32(key.encode())
    seeded = {
        name: keras.initializers.get({"class_name": value, "config": {"seed": seed}})
        for name, value in settings.items()
        if name.endswith("_initializer")
    }
    if "seed" in inspect.signature(layer_class).parameters:
        seeded["seed"] = seed
    return settings | seeded
