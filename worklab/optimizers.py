"""Keras's optimizers with an exact learning-rate multiplier for each layer."""

import collections
import inspect
from collections.abc import Collection
from typing import Any

import keras
import tensorflow as tf

from worklab.network import Network
from worklab.options import OptimizerOptions

# Decay is taken from the weight apart from the gradient: "decoupled".
_DECOUPLED = ("adamw", "lamb", "lion", "muon")

# What a schedule's momentum moves.
_MOMENTUM = {"sgd": "momentum", "muon": "momentum"} | dict.fromkeys(
    ("adam", "adamw", "adamax", "nadam", "lamb", "lion"), "beta_1"
)

# Their updates depend on how many there were.
_COUNTING = ("adam", "adamw", "adamax", "lamb", "adafactor", "muon")

# What an optimizer here is called with beside its options.
_SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "nesterov": True},
    "rmsprop": {"momentum": 0.9},
    "muon": {"adam_weight_decay": None},  # the policies have it
}

# Options by range; what is not here may have any value that Keras takes.
_FRACTIONS = ("momentum", "beta_1", "beta_2", "rho")
_BOUNDS = ("clip_norm", "clip_variable_norm", "clip_value")
_GENERAL = ("name", "average", *_BOUNDS)
_AT_LEAST_0 = (
    *("epsilon", "initial_accumulator_value"),
    *("l1_regularization_strength", "l2_regularization_strength"),
)


def make_optimizer(
    options: OptimizerOptions,
    network: Network,
    *,
    variables: list[Any] | None = None,
    late: Collection[str] = (),
) -> Any:
    """Return a built Keras optimizer that follows the network's policies.

    The update of a layer is the plain update at `lr_mult` times the learning rate, for
    every optimizer, because its learning rate is multiplied and not its gradient
    (which would do nothing under Adam). Clipping comes before the multipliers and the
    decay; the global norm is that over all trained layers. Weight decay is added to
    the gradient, or taken from the weight apart from it (adamw, lamb, lion, muon).

    Args:
        options: Name and numbers.
        network: Its policies are followed.
        variables: What gets slots; None: the network's trainable variables.
        late: Names of variables that begin to learn later: an optimizer that counts
            its updates (Adam) counts theirs from there.

    Returns:
        A `keras.optimizers.Optimizer`; set `learning_rate` before each step.

    Raises:
        ValueError: If an option is out of range or none of this optimizer's, or
            nothing is trainable, or a variable begins later under `nadam`.
    """
    _check(options)
    if late and options.name == "nadam":
        raise ValueError(
            "`nadam` has one product of its momentums for all layers, so none can "
            "begin to learn later: take `--optimizer.name adam`, or no `--stages` that "
            "thaw. "
            f"Received: {len(late)} variables that begin later"
        )
    if variables is None:
        variables = network.model.trainable_variables
    if not variables:
        raise ValueError(
            f"no layer of `{type(network).__name__}` can learn: every `lr_mult` is 0. "
            "Give the last layer a positive one. Received: lr_mult=0 everywhere"
        )
    optimizer = _with_policies(_OPTIMIZERS[options.name])(
        learning_rate=0.0,
        name=options.name,
        global_clipnorm=options.clip_norm,
        clipnorm=options.clip_variable_norm,
        clipvalue=options.clip_value,
        use_ema=options.average is not None,
        ema_momentum=options.average or 0.99,
        weight_decay=None,  # the policies have it
        **_settings(options),
    )
    optimizer.decoupled = options.name in _DECOUPLED
    optimizer.build(variables)
    optimizer.counts = {
        index: optimizer.add_variable(
            (), dtype="int64", name=f"{name.replace('/', '.')}_updates"
        )
        for index, name in enumerate(_trained_names(optimizer, network))
        if name in late and options.name in _COUNTING
    }
    follow(optimizer, network)
    return optimizer


def follow(optimizer: Any, network: Network) -> None:
    """Let an optimizer of `make_optimizer` follow the network's policies of now."""
    names = _trained_names(optimizer, network)
    optimizer.lr_mults = [network.policy(name).lr_mult for name in names]
    optimizer.decays = [network.decay(name) for name in names]


def averages(optimizer: Any, network: Network) -> dict[str, Any]:
    """Return the moving averages of weights that an optimizer keeps, by weight."""
    if not optimizer.use_ema:
        return {}
    kept = optimizer._model_variables_moving_average
    return dict(zip(_trained_names(optimizer, network), kept, strict=True))


def slots(optimizer: Any, network: Network) -> dict[str, Any]:
    """Return every variable of an optimizer by a name that is the same in any process.

    Keras has no names for some (Nadam's product), and one name for several (the rows
    and columns of Adafactor); these are called after the attribute that holds them.
    """
    variables = optimizer.variables
    count = collections.Counter(variable.path for variable in variables)
    found = {}
    for variable in variables:
        path = variable.path
        if count[path] > 1 or not path.startswith(f"{optimizer.name}/"):
            path = f"{optimizer.name}/{_holder(variable, optimizer, network)}"
        found[path] = variable
    return found


def movable_momentum(optimizer: Any) -> tf.Variable:
    """Put a variable in the place of an optimizer's momentum, or `beta_1`.

    Returns:
        The variable; assign to it before each step.

    Raises:
        ValueError: If the optimizer has no momentum.
    """
    name = _MOMENTUM.get(optimizer.name)
    if name is None or not getattr(optimizer, name):
        raise ValueError(
            "`one-cycle` moves the momentum too, which cannot be done here. Give "
            "`--schedule.momentum None`, or another `--optimizer.name`. "
            f"Received: the optimizer {optimizer.name!r}"
        )
    momentum = tf.Variable(
        getattr(optimizer, name),
        dtype=tf.float32,
        trainable=False,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
    setattr(optimizer, name, momentum)
    return momentum


def _holder(variable: Any, optimizer: Any, network: Network) -> str:
    names = _trained_names(optimizer, network)
    for attribute, value in vars(optimizer).items():
        if value is variable:
            return attribute.strip("_")
        if isinstance(value, list) and len(value) == len(names):
            for name, each in zip(names, value, strict=True):
                if each is variable:
                    return f"{name}/{attribute.strip('_')}"
    raise RuntimeError(
        f"a variable of the optimizer `{optimizer.name}` cannot be told from others, "
        f"so it cannot be restored by name. Received: {variable.path!r}"
    )


def _trained_names(optimizer: Any, network: Network) -> list[str]:
    name_of = {id(variable): name for name, variable in network.variables.items()}
    return [name_of[id(variable)] for variable in optimizer._trainable_variables]


def _check(options: OptimizerOptions) -> None:
    """Check the ranges of the options.

    Raises:
        ValueError: If one is out of range.
    """
    if options.name not in _OPTIMIZERS:
        raise ValueError(
            f"`name` of the optimizer must be one of {list(_OPTIMIZERS)}. "
            f"Received: name={options.name!r}"
        )
    for name in _FRACTIONS:
        value = getattr(options, name)
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={value}")
    for name in _BOUNDS:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ValueError(
                f"`{name}` must be above 0, or None for no clipping. "
                f"Received: {name}={value}"
            )
    for name in _AT_LEAST_0:
        value = getattr(options, name)
        if value is not None and not value >= 0:
            raise ValueError(f"`{name}` must be at least 0. Received: {name}={value}")
    given = {name: getattr(options, name) for name in _BOUNDS}
    if sum(value is not None for value in given.values()) > 1:
        raise ValueError(
            "a gradient is clipped in one way: give one of `clip_norm`, "
            f"`clip_variable_norm`, `clip_value`. Received: {given}"
        )
    if options.average is not None and not 0 < options.average < 1:
        raise ValueError(
            "`average` must be in (0, 1), e.g. 0.999, or None for no average. "
            f"Received: average={options.average}"
        )


def _settings(options: OptimizerOptions) -> dict[str, Any]:
    """Return the numbers that are the optimizer's own.

    Raises:
        ValueError: If a number is given that it does not have.
    """
    settings = dict(_SETTINGS.get(options.name, {}))
    for name, value in vars(options).items():
        if name in _GENERAL or value is None:
            continue
        if not _has(options.name, name):
            users = [kind for kind in _OPTIMIZERS if _has(kind, name)]
            raise ValueError(
                f"`--optimizer.{name.replace('_', '-')}` is a number of "
                f"{', '.join(users)}; leave it out, or give `--optimizer.name`. "
                f"Received: {name}={value} with the optimizer {options.name!r}"
            )
        # Keras refuses whole numbers where it wants a fraction.
        settings[name] = value if isinstance(value, bool) else float(value)
    return settings


def _has(kind: str, setting: str) -> bool:
    return setting in inspect.signature(_OPTIMIZERS[kind].__init__).parameters


class _FusedSGD(keras.optimizers.SGD):
    """Keras's SGD; with momentum, an update is one operation in place of eight."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a variable and its velocity."""
        if not self.momentums:
            super().update_step(gradient, variable, learning_rate)
            return
        velocity = self.momentums[self._get_variable_index(variable)]
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=velocity.handle,
            lr=tf.cast(learning_rate, gradient.dtype),
            grad=gradient,
            momentum=tf.cast(self.momentum, gradient.dtype),
            use_nesterov=self.nesterov,
        )


_OPTIMIZERS: dict[str, Any] = {
    "sgd": _FusedSGD,
    "rmsprop": keras.optimizers.RMSprop,
    "adagrad": keras.optimizers.Adagrad,
    "adadelta": keras.optimizers.Adadelta,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.Adam,  # with the policies' decay, apart from it
    "adamax": keras.optimizers.Adamax,
    "nadam": keras.optimizers.Nadam,
    "adafactor": keras.optimizers.Adafactor,
    "lamb": keras.optimizers.Lamb,
    "lion": keras.optimizers.Lion,
    "ftrl": keras.optimizers.Ftrl,
    "muon": keras.optimizers.Muon,
}


def _with_policies(base: Any) -> Any:
    class WithPolicies(base):
        """`base` with a learning-rate multiplier and a decay for each variable."""

        lr_mults: list[float]
        decays: list[float]
        counts: dict[int, Any]  # updates so far of variables that began later
        decoupled: bool
        _count: Any = None

        @property
        def iterations(self) -> Any:
            """Updates so far, of the variable that is being updated."""
            return base.iterations.fget(self) if self._count is None else self._count

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            index = self._get_variable_index(variable)
            learning_rate = learning_rate * self.lr_mults[index]
            decay = self.decays[index]
            if decay and self.decoupled:
                variable.assign_sub(variable * (learning_rate * decay))
            elif decay:
                gradient = gradient + decay * variable
            self._count = count = self.counts.get(index)
            super().update_step(gradient, variable, learning_rate)
            self._count = None
            if count is not None:
                count.assign_add(1)

        def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
            # The Trainer has summed them, so that clipping sees the whole batch's.
            return grads_and_vars

    return WithPolicies
