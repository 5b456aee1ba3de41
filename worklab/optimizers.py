"""Keras's optimizers with an exact learning-rate multiplier for each layer."""

from typing import Any

import keras
import tensorflow as tf

from worklab.network import Network
from worklab.options import OptimizerOptions


def make_optimizer(options: OptimizerOptions, network: Network) -> Any:
    """Return a built Keras optimizer that follows the network's policies.

    The update of a layer is `lr_mult` times the plain update, for every optimizer,
    because its learning rate is multiplied and not its gradient (which would do
    nothing under Adam). Clipping is by the norm over all trained layers and comes
    before the multipliers and the decay. Weight decay is added to the gradient (sgd,
    rmsprop, adam), or taken from the weight apart from it (adamw).

    Args:
        options: Name and numbers.
        network: Its trainable variables get slots; frozen ones get none.

    Returns:
        A `keras.optimizers.Optimizer`; set `learning_rate` before each step.

    Raises:
        ValueError: If an option is out of range or nothing is trainable.
    """
    if not 0 <= options.momentum < 1:
        raise ValueError(
            f"`momentum` must be in [0, 1). Received: momentum={options.momentum}"
        )
    if options.clip_norm is not None and options.clip_norm <= 0:
        raise ValueError(
            "`clip_norm` must be above 0, or None for no clipping. "
            f"Received: clip_norm={options.clip_norm}"
        )
    if options.average is not None and not 0 < options.average < 1:
        raise ValueError(
            "`average` must be in (0, 1), e.g. 0.999, or None for no average. "
            f"Received: average={options.average}"
        )
    variables = network.model.trainable_variables
    if not variables:
        raise ValueError(
            f"no layer of `{type(network).__name__}` can learn: every `lr_mult` is 0. "
            "Give the last layer a positive one. Received: lr_mult=0 everywhere"
        )
    momentum = float(options.momentum)  # Keras refuses the integer 0
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "sgd": (
            _FusedSGD,
            {"momentum": momentum, "nesterov": options.nesterov},
        ),
        "rmsprop": (keras.optimizers.RMSprop, {"momentum": momentum}),
        "adam": (keras.optimizers.Adam, {}),
        "adamw": (keras.optimizers.Adam, {}),  # with the decay below, apart from it
    }
    if options.name not in kinds:
        raise ValueError(
            f"`name` of the optimizer must be one of {list(kinds)}. "
            f"Received: name={options.name!r}"
        )
    base, settings = kinds[options.name]
    name_of = {id(variable): name for name, variable in network.variables.items()}
    names = [name_of[id(variable)] for variable in variables]
    optimizer = _with_policies(base)(
        learning_rate=0.0,
        name=options.name,
        global_clipnorm=options.clip_norm,
        use_ema=options.average is not None,
        ema_momentum=options.average or 0.99,
        **settings,
    )
    optimizer.lr_mults = [network.policy(name).lr_mult for name in names]
    optimizer.decays = [network.decay(name) for name in names]
    optimizer.decoupled = options.name == "adamw"
    optimizer.build(variables)
    return optimizer


def averages(optimizer: Any, network: Network) -> dict[str, Any]:
    """Return the moving averages of weights that an optimizer keeps, by weight."""
    if not optimizer.use_ema:
        return {}
    name_of = {id(variable): name for name, variable in network.variables.items()}
    names = [name_of[id(variable)] for variable in network.model.trainable_variables]
    kept = optimizer._model_variables_moving_average
    return dict(zip(names, kept, strict=True))


class _FusedSGD(keras.optimizers.SGD):
    """Keras's SGD; with momentum, an update is one operation in place of eight."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if not self.momentum:
            super().update_step(gradient, variable, learning_rate)
            return
        velocity = self.momentums[self._get_variable_index(variable)]
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=velocity.handle,
            lr=tf.cast(learning_rate, gradient.dtype),
            grad=gradient,
            momentum=self.momentum,
            use_nesterov=self.nesterov,
        )


def _with_policies(base: Any) -> Any:
    class WithPolicies(base):
        """`base` with a learning-rate multiplier and a decay for each variable."""

        lr_mults: list[float]
        decays: list[float]
        decoupled: bool

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            index = self._get_variable_index(variable)
            learning_rate = learning_rate * self.lr_mults[index]
            decay = self.decays[index]
            if decay and self.decoupled:
                variable.assign_sub(variable * (learning_rate * decay))
            elif decay:
                gradient = gradient + decay * variable
            super().update_step(gradient, variable, learning_rate)

        def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
            # The Trainer has summed them, so that clipping sees the whole batch's.
            return grads_and_vars

    return WithPolicies
