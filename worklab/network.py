"""Network: layers + lr_mult + restore names + loss."""

import abc
import contextlib
import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from worklab.layouts import Layout
from worklab.options import LayerOptions
from worklab.policies import CLASSES, Policy, Restore, Scope, given_for, is_inside
from worklab.primitives import Primitives
from worklab.seeding import seeds_from, with_seed

# Leaves that weight decay applies to: matrices and filters, not biases and norms.
# Also `depthwise_kernel` and `recurrent_kernel`, as Keras calls them in some layers.
_DECAYED_LEAF = "kernel"

# A variable that its layer gave no name; Keras numbers these, too.
_NAMELESS = re.compile(r"variable(_\d+)?")

# The layers that every network has beside those that `_construct` makes.
_TAKEN_NAMES = ("images", "features", "preprocessing", "output")


class Network(Primitives):
    """A Keras model whose layers say how they learn and where they come from.

    Implement: `_construct(images)`, which builds the layers with `conv_layer` and the
    other methods of `Primitives`, and returns logits (batch, num_classes). May
    override: `losses`, `scores`, and the class attributes `mean`, `std`,
    `channel_order`, or `layouts` where the network has forms that other projects
    trained. Do not override: `__call__`, `scope`, `layer`.

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
        hyper: A number that `_construct` may read as `self.hyper`, such as a width or
            a depth, to be searched by `train_with_hyper.py`; None: none was given.
        options: Multipliers by scope, weight decay and label smoothing.

    Attributes:
        mean: What is subtracted from values 0..255: one number, or one for each
            channel in the order RGB, whatever `channel_order` is.
        std: What they are divided by afterwards.
        channel_order: Order of the channels that the layers see.
        model: The Keras functional model: uint8 images in, float32 logits out.
        policies: `Policy` of each layer by its name with slashes.
        variables: Every variable by its name with slashes: `block1/a/conv/kernel`.

    Raises:
        ValueError: If `_construct` returns no logits or logits of another width, two
            layers have one name or one is made without `layer`, `mean` does not fit
            the channels, a multiplier is negative or for an unknown scope, or `hyper`
            is given and `_construct` does not read it.

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
    layouts: tuple[Layout, ...] = ()

    def __init__(
        self,
        num_classes: int,
        *,
        image_shape: tuple[int, int, int] = (224, 224, 3),
        num_features: int = 0,
        precision: Literal["float32", "bfloat16"] = "float32",
        seed: int = 0,
        layout: str | None = None,
        hyper: float | None = None,
        options: LayerOptions = LayerOptions(),
    ) -> None:
        self._hyper, self._reads_hyper = hyper, False
        self.num_classes = num_classes
        self.image_shape = image_shape
        self.num_features = num_features
        self.seed = seed
        self.options = options
        self.precision = precision
        self._dtype = "mixed_bfloat16" if precision == "bfloat16" else "float32"
        self._scopes = [Scope()]
        self.policies: dict[str, Policy] = {}
        self.layout = self._find_layout(layout)
        if self.layout is not None:
            self.mean = self.layout.preprocessing.mean
            self.std = self.layout.preprocessing.std
            self.channel_order = self.layout.preprocessing.channel_order
            if self.layout.epsilon is not None:
                self.epsilon = self.layout.epsilon
        self.mean = options.mean or self.mean
        self.std = options.std or self.std
        self._check_options()
        self._check_channels()

        images = keras.Input(image_shape, name="images", dtype="uint8")
        inputs = {"images": images}
        self.features: Any = None
        if num_features:
            self.features = keras.Input((num_features,), name="features")
            inputs["features"] = self.features
        self._auxiliary: list[tuple[Any, float]] = []
        logits = self._construct(self._preprocess(images))
        self._check_hyper_is_read()
        logits = _as_output(self._checked_logits(logits), "output")
        self.model = keras.Model(inputs, logits, name=type(self).__name__)
        if self._auxiliary:
            others = [
                _as_output(each, f"output_auxiliary{number}")
                for number, (each, _) in enumerate(self._auxiliary, start=1)
            ]
            # As an attribute, its variables are the model's, but not its layers.
            self.model.in_training = keras.Model(inputs, [logits, *others])
        self._keras_layers = {layer.name: layer for layer in self._all_layers()}
        self._layer_of: dict[str, str] = {}
        self.variables: dict[str, Any] = {}
        self._name_variables()
        self._check_scopes_of_options()

    @property
    def hyper(self) -> float | None:
        """The number that is searched, or None where none was given."""
        self._reads_hyper = True
        return self._hyper

    @abc.abstractmethod
    def _construct(self, images: Any) -> Any:
        """Build the layers and return the logits (batch, num_classes).

        Args:
            images: Preprocessed images, float (batch, height, width, channels).
        """

    def __call__(self, batch: Mapping[str, Any], *, training: bool) -> tf.Tensor:
        """Return float32 logits (batch, num_classes) for a batch of the Reader.

        In training, a network with auxiliary logits returns a list: its logits first,
        then these, in their order. `losses` and `scores` take both.
        """
        inputs = {name: batch[name] for name in self.model.input}
        if training and self._auxiliary:
            return self.model.in_training(inputs, training=True)
        return self.model(inputs, training=training)

    def losses(
        self, batch: Mapping[str, Any], logits: tf.Tensor, *, training: bool
    ) -> tf.Tensor:
        """Return the loss of each image, float32 (batch,): softmax cross-entropy.

        Labels are smoothed in training only, so that a test loss is the plain log
        loss whatever the recipe. Of a mixed image (MixUp, CutMix) both labels count,
        each with its part. Auxiliary logits add theirs, times their weights.
        """
        if isinstance(logits, list):
            weights = (1.0, *(weight for _, weight in self._auxiliary))
            return tf.add_n(
                [
                    weight * Network.losses(self, batch, each, training=training)
                    for weight, each in zip(weights, logits, strict=True)
                ]
            )
        smoothing = self.options.label_smoothing if training else 0.0
        if not smoothing and "mix" not in batch:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(
                batch["labels"], logits
            )
        targets = tf.one_hot(batch["labels"], self.num_classes)
        if "mix" in batch:  # two labels, each with its part
            others = tf.one_hot(batch["mixed_labels"], self.num_classes)
            mix = batch["mix"][:, None]
            targets = mix * targets + (1 - mix) * others
        targets = targets * (1 - smoothing) + smoothing / self.num_classes
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)

    def scores(
        self, batch: Mapping[str, Any], logits: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Return what to log beside the loss, each float32 (batch,).

        The accuracy of a mixed image is the part of the label that is answered, so
        that its expectation is what the network would have to say.
        """
        if isinstance(logits, list):  # the others are auxiliary
            logits = logits[0]
        answers = tf.argmax(logits, axis=-1)
        right = tf.cast(tf.equal(answers, batch["labels"]), tf.float32)
        if "mix" in batch:
            others = tf.cast(tf.equal(answers, batch["mixed_labels"]), tf.float32)
            right = batch["mix"] * right + (1 - batch["mix"]) * others
        return {"accuracy": right}

    def policy(self, variable: str) -> Policy:
        """Return the policy of a variable, given by its name with slashes."""
        return self.policies[self._layer_of[variable]]

    def decay(self, variable: str) -> float:
        """Return the weight decay of a variable; biases and norms have none."""
        if not variable.endswith(_DECAYED_LEAF):
            return 0.0
        return self.policy(variable).weight_decay

    def source(self, variable: str) -> str | None:
        """Return what a variable is restored from, the leaf as here; None: fresh."""
        restore = self.policy(variable).restore
        # The state of a random generator is nobody's weight.
        if restore is False or variable.endswith("/seed_generator_state"):
            return None
        if restore is True or restore == CLASSES:
            return variable
        _, leaf = self.split(variable)
        if isinstance(restore, str):
            return f"{restore}/{leaf}".lstrip("/")
        return restore.get(leaf, variable)

    def split(self, variable: str) -> tuple[str, str]:
        """Return the name of a variable's layer, and the rest of its name."""
        layer = self._layer_of[variable]
        return layer, variable.removeprefix(f"{layer}/")

    def keras_layer(self, name: str) -> Any:
        """Return the Keras layer of a name with slashes."""
        return self._keras_layers[name.replace("/", ".")]

    def multipliers(self, given: Mapping[str, float], option: str) -> dict[str, float]:
        """Return the multipliers of the layers in scopes; the innermost scope wins.

        Args:
            given: Multipliers by scope, at least 0.
            option: What to call them in an error.

        Raises:
            ValueError: If the network has no such scope, or one is negative.
        """
        self._check_multipliers(given, option)
        found = {path: given_for(path, given) for path in self.policies}
        return {path: value for path, value in found.items() if value is not None}

    def set_multipliers(self, multipliers: Mapping[str, float]) -> None:
        """Let layers learn at other multipliers from now on; 0 freezes them.

        Who trains must take notice: a `Trainer` does where its stages say so.

        Args:
            multipliers: By the name of the layer with slashes.
        """
        for path, lr_mult in multipliers.items():
            policy = self.policies[path]
            if policy.lr_mult == lr_mult:
                continue  # also where somebody has frozen the layer by hand
            self.policies[path] = dataclasses.replace(policy, lr_mult=lr_mult)
            self.keras_layer(path).trainable = lr_mult > 0

    def check_scopes(self, option: str, scopes: Iterable[str]) -> None:
        """Check that an option names scopes or layers of this network.

        Raises:
            ValueError: If it does not; names the nearest.
        """
        paths = {
            "/".join(name.split("/")[:length])
            for name in self.policies
            for length in range(1, name.count("/") + 2)
        }
        for given in scopes:
            if given not in paths:
                near = difflib.get_close_matches(given, sorted(paths), n=3, cutoff=0.0)
                raise ValueError(
                    f"`{option}` names a scope that `{type(self).__name__}` does not "
                    f"have; the nearest are {near}. Received: {given!r}"
                )

    def summary(self) -> str:
        """Return a table of all variables: shape, policy, and where they come from."""
        table = Table(
            "variable", "shape", "lr_mult", "decay", "restored from", "trainable"
        )
        trainable = {id(variable) for variable in self.model.trainable_variables}
        for name, variable in self.variables.items():
            policy = self.policy(name)
            table.add_row(
                name,
                str(tuple(variable.shape)),
                f"{policy.lr_mult:g}",
                f"{self.decay(name):g}",
                self.source(name) or "-",
                "yes" if id(variable) in trainable else "no",
            )
        console = Console(width=160)
        with console.capture() as capture:
            console.print(table)
        return capture.get()

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
            restore: True for the own name, False, the scope's full name in the
                pretrained file ("" for a file whose names begin inside the scope),
                full names by the path of a layer or variable inside the scope, or
                "classes" for a last layer that keeps the classes that the file knows.
            lr_mult: Factor on the learning rate, at least 0.
            weight_decay: Decay of the kernels, at least 0.

        Raises:
            ValueError: If the name has other signs than letters, digits, `_`, `-` and
                slashes between them, or a number is negative.
        """
        inner = self._scopes[-1].inside(name, restore, lr_mult, weight_decay)
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
        call: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        """Add any Keras layer; the primitives are made with this.

        Args:
            layer_class: E.g. `keras.layers.SpatialDropout2D`.
            inputs: One Keras tensor, or a list where the layer takes several.
            scope: Name of the layer in the current scope.
            policy: Its own `restore`, `lr_mult`, `weight_decay`.
            call: Further arguments of its call.
            **settings: Arguments of the layer's constructor.

        Returns:
            The layer's output.

        Raises:
            ValueError: If the scope has a layer of the name already.
        """
        with self.scope(scope, **(policy or {})):
            inner = self._scopes[-1]
        if inner.path in _TAKEN_NAMES:
            raise ValueError(
                f"the network has a part of its own called `{inner.path}`; give the "
                f"layer another `scope=`. Received: scope={scope!r}"
            )
        if inner.path in self.policies:
            raise ValueError(
                f"two layers have the name `{inner.path}`; names are how variables are "
                "saved and restored. Give one of them another `scope=`. "
                f"Received: scope={scope!r} twice"
            )
        lr_mult = self._multiplier(inner)
        self.policies[inner.path] = Policy(
            lr_mult=lr_mult,
            restore=inner.restore,
            weight_decay=(
                self.options.weight_decay
                if inner.weight_decay is None
                else inner.weight_decay
            ),
        )
        with seeds_from(f"{self.seed}:{inner.path}") as seed:
            layer = layer_class(
                name=inner.path.replace("/", "."),
                dtype=self._dtype,
                **with_seed(settings, seed),
            )
            layer.trainable = lr_mult > 0
            return layer(inputs, **(call or {}))

    def add_auxiliary_logits(self, logits: Any, *, weight: float) -> None:
        """Let logits from the middle of the network add their loss in training.

        Their layers have policies, are saved and restored as all others; answers,
        counts and exports are without them.

        Args:
            logits: (batch, num_classes).
            weight: Factor on their loss, at least 0.

        Raises:
            ValueError: If the logits have another shape, or the weight is negative.
        """
        if not weight >= 0:
            raise ValueError(
                "`weight` of auxiliary logits must be at least 0. "
                f"Received: weight={weight}"
            )
        self._auxiliary.append((self._checked_logits(logits), weight))

    def _preprocess(self, images: Any) -> Any:
        std = np.asarray(self.std)
        images = keras.layers.Rescaling(
            scale=(1 / std).tolist(),
            offset=(-np.asarray(self.mean) / std).tolist(),
            dtype="float32",
            name="preprocessing",
        )(images)
        return (
            keras.ops.flip(images, axis=-1) if self.channel_order == "BGR" else images
        )

    def _multiplier(self, scope: Scope) -> float:
        only = self.options.train_only
        if only and not is_inside(scope.path, only):
            return 0.0
        given = given_for(scope.path, self.options.lr_mult)
        return scope.lr_mult if given is None else given

    def _all_layers(self) -> list[Any]:
        """Return the layers, with those that only training needs."""
        model = self.model.in_training if self._auxiliary else self.model
        return model.layers

    def _name_variables(self) -> None:
        for layer in self._all_layers():
            path = layer.name.replace(".", "/")
            if layer.variables and path not in self.policies:
                raise ValueError(
                    f"`{type(self).__name__}._construct` made a layer apart from the "
                    "network, so that nobody knows its `lr_mult` and `restore`. Use "
                    f"`self.layer(keras.layers.{type(layer).__name__}, x, "
                    f"scope='{layer.name}', ...)`. Received: layer {layer.name!r}"
                )
            for number, variable in enumerate(layer.variables):
                # Keras numbers random generators and nameless variables over the whole
                # process, so that their paths differ from one process to the next.
                outer, _, leaf = variable.path.partition("/")
                name = f"{path}/{leaf}"
                if outer != layer.name:
                    count = sum(n.startswith(f"{path}/random") for n in self.variables)
                    name = f"{path}/random{count}/{leaf}"
                elif _NAMELESS.fullmatch(variable.name):
                    name = f"{path}/vars/{number}"
                self.variables[name] = variable
                self._layer_of[name] = path

    def _find_layout(self, name: str | None) -> Layout | None:
        if name is None:
            return self.layouts[0] if self.layouts else None
        for layout in self.layouts:
            if layout.name == name:
                return layout
        names = [layout.name for layout in self.layouts]
        if not names:
            raise ValueError(
                f"`{type(self).__name__}` has no layouts: it restores by the names "
                f"that its layers say. Received: layout={name!r}"
            )
        raise ValueError(
            f"`layout` of `{type(self).__name__}` must be one of {names}. "
            f"Received: layout={name!r}"
        )

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
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(
                "`precision` must be 'float32' or 'bfloat16'. "
                f"Received: precision={self.precision!r}"
            )
        if not 0 <= self.options.label_smoothing < 1:
            raise ValueError(
                "`label_smoothing` must be in [0, 1). "
                f"Received: label_smoothing={self.options.label_smoothing}"
            )
        if not all(value > 0 for value in self.std):
            raise ValueError(
                "`std` divides the pixels, so each of its numbers must be above 0. "
                f"Received: std={self.std}"
            )
        if not self.options.weight_decay >= 0:
            raise ValueError(
                "`weight_decay` must be at least 0. "
                f"Received: {self.options.weight_decay}"
            )

    def _check_channels(self) -> None:
        channels = self.image_shape[-1]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(
                    f"`{type(self).__name__}.{name}` is for images of {len(values)} "
                    f"channels. Read such images (`--reader.channels {len(values)}` "
                    f"converts them), or give `{name}` one number for each channel. "
                    f"Received: image_shape={self.image_shape}, {name}={values}"
                )

    def _check_scopes_of_options(self) -> None:
        self._check_multipliers(self.options.lr_mult, "lr_mult")
        self.check_scopes("train_only", self.options.train_only)

    def _check_hyper_is_read(self) -> None:
        if self._hyper is not None and not self._reads_hyper:
            raise ValueError(
                f"`_construct` of `{type(self).__name__}` does not read `self.hyper`, "
                "so it would change nothing. Let a width or a depth follow from it, or "
                f"leave out `hyper`. Received: hyper={self._hyper}"
            )

    def _check_multipliers(self, given: Mapping[str, float], option: str) -> None:
        self.check_scopes(option, given)
        for scope, lr_mult in given.items():
            if not lr_mult >= 0:
                raise ValueError(
                    f"`{option}` of `{scope}` must be at least 0. Received: {lr_mult}"
                )


def _as_output(logits: Any, name: str) -> Any:
    return keras.layers.Activation("linear", dtype="float32", name=name)(logits)
