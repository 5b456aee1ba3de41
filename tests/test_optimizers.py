import typing

import keras
import numpy as np
import pytest
import tensorflow as tf

from worklab import Network
from worklab.optimizers import make_optimizer, movable_momentum, slots
from worklab.options import LayerOptions, OptimizerOptions

from .conftest import TinyNetwork

NAMES = ("sgd", "adam", "adamw", "rmsprop")
MOMENTUM = 0.9  # of sgd and rmsprop, if not given
RATES = (0.1, 0.05, 0.2)
# Three steps in float32 against float64.
CLOSE = {"rtol": 2e-5, "atol": 1e-6}


class Full(Network):
    """Two matrices: `slow` at a tenth of the rate, `plain` with another decay."""

    def _construct(self, images):
        x = self.full_layer(images, 4, scope="slow", lr_mult=0.1)
        return self.full_layer(x, 3, scope="plain", weight_decay=0.1)


def make_full(weight_decay=0.01, **lr_mult):
    options = LayerOptions(lr_mult=lr_mult, weight_decay=weight_decay)
    return Full(3, image_shape=(2, 2, 1), options=options)


def random_gradients(network, count=1, scale=1.0):
    rng = np.random.default_rng(0)
    return [
        {
            name: scale * rng.normal(size=variable.shape).astype(np.float32)
            for name, variable in network.variables.items()
        }
        for _ in range(count)
    ]


def apply(optimizer, network, gradients, rate):
    optimizer.learning_rate.assign(rate)
    name_of = {id(v): name for name, v in network.variables.items()}
    variables = network.model.trainable_variables
    ordered = [tf.convert_to_tensor(gradients[name_of[id(v)]]) for v in variables]
    optimizer.apply(ordered, variables)


def values(network):
    return {name: v.value.numpy() for name, v in network.variables.items()}


def set_to_zero(network):
    for variable in network.variables.values():
        variable.assign(np.zeros(variable.shape))


class Reference:
    """The optimizers' formulas for one variable, in float64."""

    def __init__(self, options, weight, lr_mult, decay):
        self.options, self.lr_mult, self.decay = options, lr_mult, decay
        self.weight = weight.astype(np.float64)
        self.first = self.second = np.zeros(weight.shape)
        self.num_steps = 0

    def step(self, gradient, rate):
        gradient = gradient.astype(np.float64)
        rate = rate * self.lr_mult
        if self.options.name == "adamw":
            self.weight = self.weight * (1 - rate * self.decay)
        else:
            gradient = gradient + self.decay * self.weight
        self.num_steps += 1
        self.weight = self.weight + getattr(self, self.options.name)(gradient, rate)

    def sgd(self, gradient, rate):
        momentum = MOMENTUM if self.options.momentum is None else self.options.momentum
        self.first = momentum * self.first - rate * gradient
        if self.options.nesterov is not False:
            return momentum * self.first - rate * gradient
        return self.first

    def adam(self, gradient, rate):
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first_scale = 1 - 0.9**self.num_steps
        second_scale = np.sqrt(1 - 0.999**self.num_steps)
        # The epsilon is that of Keras: "epsilon hat" of the paper.
        change = self.first / (np.sqrt(self.second) + 1e-7)
        return -rate * second_scale / first_scale * change

    adamw = adam

    def rmsprop(self, gradient, rate):
        self.second = 0.9 * self.second + 0.1 * gradient**2
        change = rate * gradient / np.sqrt(self.second + 1e-7)
        momentum = MOMENTUM if self.options.momentum is None else self.options.momentum
        self.first = momentum * self.first + change
        return -self.first


@pytest.mark.parametrize(
    "options",
    [
        OptimizerOptions(name="sgd", nesterov=True),
        OptimizerOptions(name="sgd", nesterov=False),
        OptimizerOptions(name="sgd", momentum=0.0),
        OptimizerOptions(name="adam"),
        OptimizerOptions(name="adamw"),
        OptimizerOptions(name="rmsprop"),
        OptimizerOptions(name="rmsprop", momentum=0.0),
    ],
    ids=str,
)
def test_three_steps_follow_the_formulas(options):
    network = make_full()
    policies = {
        "slow/kernel": (0.1, 0.01),
        "slow/bias": (0.1, 0.0),
        "plain/kernel": (1.0, 0.1),
        "plain/bias": (1.0, 0.0),
    }
    references = {
        name: Reference(options, value, *policies[name])
        for name, value in values(network).items()
    }
    optimizer = make_optimizer(options, network)
    steps = random_gradients(network, count=3)
    for gradients, rate in zip(steps, RATES, strict=True):
        apply(optimizer, network, gradients, rate)
        for name, reference in references.items():
            reference.step(gradients[name], rate)
    for name, value in values(network).items():
        np.testing.assert_allclose(value, references[name].weight, **CLOSE)


@pytest.mark.parametrize("lr_mult", [0.25, 0.1, 3.0])
def test_first_sgd_update_is_the_multiple_of_the_plain_one(lr_mult):
    updates = []
    for multiplier in (lr_mult, 1.0):
        network = make_full(slow=multiplier)
        set_to_zero(network)  # so that weights are updates, without rounding
        optimizer = make_optimizer(OptimizerOptions(), network)
        apply(optimizer, network, random_gradients(network)[0], 0.1)
        updates.append(values(network))
    for name in ("slow/kernel", "slow/bias"):
        ours, plain = (update[name] for update in updates)
        # Powers of two are exact; else the rate is rounded once, the update once.
        exact = {"rtol": 0} if lr_mult == 0.25 else {"rtol": 2.5e-7}
        np.testing.assert_allclose(ours, np.float32(lr_mult) * plain, **exact)
    np.testing.assert_array_equal(*(update["plain/kernel"] for update in updates))


@pytest.mark.parametrize("name", NAMES)
def test_update_is_multiplied_also_where_its_size_ignores_the_gradient(name):
    network = make_full(weight_decay=0.0, slow=0.01, plain=1.0)
    set_to_zero(network)
    optimizer = make_optimizer(OptimizerOptions(name=name), network)
    ones = {k: np.ones(v.shape, np.float32) for k, v in network.variables.items()}
    apply(optimizer, network, ones, 0.1)
    slow, plain = (values(network)[f"{layer}/kernel"] for layer in ("slow", "plain"))
    np.testing.assert_allclose(slow.mean() / plain.mean(), 0.01, rtol=1e-5)


ALL = typing.get_args(typing.get_type_hints(OptimizerOptions)["name"])


@pytest.mark.parametrize("name", ALL)
def test_multiplied_update_is_kerass_own_at_the_multiplied_rate(name):
    base, settings = {
        "sgd": (keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
        "rmsprop": (keras.optimizers.RMSprop, {"momentum": 0.9}),
        "adamw": (keras.optimizers.Adam, {}),
        "adafactor": (keras.optimizers.Adafactor, {"relative_step": False}),
        "muon": (
            keras.optimizers.Muon,
            {"weight_decay": None, "adam_weight_decay": None},
        ),
    }.get(name, (getattr(keras.optimizers, name.title(), None), {}))
    network = make_full(weight_decay=0.0, slow=0.25, plain=1.0)
    starts = values(network)
    ours = make_optimizer(OptimizerOptions(name=name), network)
    plain = {"slow/kernel": 0.25, "plain/bias": 1.0}
    references = {}
    for variable in plain:
        weight = keras.Variable(starts[variable], name="weight")
        references[variable] = weight, base(0.1, **settings)
        references[variable][1].build([weight])
    for gradients, rate in zip(random_gradients(network, 3), RATES, strict=True):
        apply(ours, network, gradients, rate)
        for variable, lr_mult in plain.items():
            weight, reference = references[variable]
            reference.learning_rate.assign(rate * lr_mult)
            reference.apply([tf.constant(gradients[variable])], [weight])
    for variable, (weight, _) in references.items():
        expected = weight.value.numpy()
        assert not np.array_equal(expected, starts[variable])
        np.testing.assert_allclose(values(network)[variable], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_slots_have_names_that_another_process_has_too(name):
    networks = [make_full(), make_full()]  # Keras numbers the second one's otherwise
    kinds = [make_optimizer(OptimizerOptions(name=name), each) for each in networks]
    steps = random_gradients(networks[0], count=3)
    for gradients in steps[:2]:
        apply(kinds[0], networks[0], gradients, 0.1)
    first, second = (slots(*pair) for pair in zip(kinds, networks, strict=True))
    assert list(first) == list(second)
    assert len(first) == len(kinds[0].variables)
    for path, variable in first.items():
        second[path].assign(variable)
    for path, variable in networks[0].variables.items():
        networks[1].variables[path].assign(variable)
    for optimizer, network in zip(kinds, networks, strict=True):
        apply(optimizer, network, steps[2], 0.1)
    for path, value in values(networks[0]).items():
        np.testing.assert_array_equal(value, values(networks[1])[path])


@pytest.mark.parametrize("name", ["sgd", "adam", "nadam", "lamb", "muon"])
def test_momentum_can_be_moved_from_step_to_step(name):
    kernels = []
    for moved in (0.9, 0.05):
        network = make_full(weight_decay=0.0)
        optimizer = make_optimizer(OptimizerOptions(name=name), network)
        momentum = movable_momentum(optimizer)
        step = tf.function(
            lambda gradients, o=optimizer, n=network: apply(o, n, gradients, 0.1)
        )
        for gradients, value in zip(
            random_gradients(network, 3), (0.9, moved, 0.9), strict=True
        ):
            momentum.assign(value)
            step({k: tf.constant(v) for k, v in gradients.items()})
        kernels.append(values(network)["plain/kernel"])
    assert not np.allclose(*kernels)
    fixed = {"beta_1": 0.9} if name in ("adam", "nadam", "lamb") else {"momentum": 0.9}
    network = make_full(weight_decay=0.0)
    optimizer = make_optimizer(OptimizerOptions(name=name, **fixed), network)
    for gradients in random_gradients(network, 3):
        apply(optimizer, network, gradients, 0.1)
    np.testing.assert_allclose(
        values(network)["plain/kernel"], kernels[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "options",
    [OptimizerOptions(name="rmsprop"), OptimizerOptions(momentum=0.0)],
    ids=["rmsprop", "sgd without"],
)
def test_moving_a_momentum_that_is_not_there_is_an_error(options):
    optimizer = make_optimizer(options, make_full())
    with pytest.raises(ValueError, match="`--schedule.momentum None`.*Received: the"):
        movable_momentum(optimizer)


def test_number_of_another_optimizer_is_an_error():
    with pytest.raises(ValueError, match="number of rmsprop, adadelta; .*rho=0.9 with"):
        make_optimizer(OptimizerOptions(rho=0.9), make_full())


@pytest.mark.parametrize(
    ("option", "clipped"),
    [
        ({"clip_value": 0.5}, lambda g: np.clip(g, -0.5, 0.5)),
        ({"clip_variable_norm": 0.5}, lambda g: g * min(1, 0.5 / np.linalg.norm(g))),
    ],
)
def test_clipping_of_each_variable(option, clipped):
    network = make_full(weight_decay=0.0, slow=1.0)
    set_to_zero(network)
    options = OptimizerOptions(momentum=0.0, **option)
    optimizer = make_optimizer(options, network)
    (gradients,) = random_gradients(network)
    apply(optimizer, network, gradients, 1.0)
    for name, value in values(network).items():
        np.testing.assert_allclose(value, -clipped(gradients[name]), rtol=1e-5)


def test_clipping_in_two_ways_is_an_error():
    options = OptimizerOptions(clip_norm=1.0, clip_value=1.0)
    with pytest.raises(ValueError, match="give one of .*'clip_value': 1.0"):
        make_optimizer(options, make_full())


def test_unknown_optimizer_is_an_error():
    with pytest.raises(ValueError, match=r"one of \['sgd', .*Received: name='sgdm'"):
        make_optimizer(OptimizerOptions(name="sgdm"), make_full())


@pytest.mark.parametrize("name", NAMES)
def test_frozen_layers_keep_weights_statistics_and_have_no_slots(name, tiny_images):
    images, labels = tiny_images
    network = TinyNetwork(3, image_shape=(8, 8, 3))
    optimizer = make_optimizer(OptimizerOptions(name=name), network)
    before = values(network)
    batch = {"images": images, "labels": labels}
    variables = network.model.trainable_variables
    optimizer.learning_rate.assign(0.1)
    for _ in range(2):
        with tf.GradientTape() as tape:
            logits = network(batch, training=True)
            loss = tf.reduce_mean(network.losses(batch, logits, training=True))
        optimizer.apply(tape.gradient(loss, variables), variables)
    unchanged = {
        variable
        for variable, value in values(network).items()
        if np.array_equal(value, before[variable])
    }
    assert unchanged == {v for v in before if v.startswith("frozen/")}
    assert {"frozen/bn/moving_mean", "frozen/conv/kernel"} <= unchanged
    paths = [variable.path for variable in optimizer.variables]
    assert not [path for path in paths if "frozen" in path]
    num_each = {"sgd": 1}.get(name, 2)
    assert len(paths) == 2 + num_each * len(variables)  # iteration, learning rate


def test_layer_in_a_frozen_layer_is_frozen():
    class Nested(Network):
        def _construct(self, images):
            x = self.layer(keras.layers.Reshape, images, scope="r", target_shape=(4, 1))
            x = self.layer(
                keras.layers.Bidirectional,
                x,
                scope="both",
                policy={"lr_mult": 0.0},
                layer=keras.layers.GRU(2, name="gru"),
            )
            return self.full_layer(x, 3, scope="logits")

    network = Nested(3, image_shape=(2, 2, 1))
    optimizer = make_optimizer(OptimizerOptions(), network)
    assert [v.path for v in optimizer.variables[2:]] == [
        "sgd/logits_kernel_momentum",
        "sgd/logits_bias_momentum",
    ]


@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_clipping_is_by_the_norm_over_all_layers_before_multipliers(scale):
    network = make_full(weight_decay=0.0)
    set_to_zero(network)  # so that nothing decays
    options = OptimizerOptions(momentum=0.0, clip_norm=1.0)
    optimizer = make_optimizer(options, network)
    (gradients,) = random_gradients(network, scale=scale)
    apply(optimizer, network, gradients, 0.5)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    assert (norm > 1) == (scale > 1)
    for name, value in values(network).items():
        lr_mult = 0.1 if name.startswith("slow") else 1.0
        expected = -0.5 * lr_mult * gradients[name] / max(1.0, norm)
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_clipping_leaves_the_decay_alone():
    network = make_full()
    before = values(network)
    options = OptimizerOptions(momentum=0.0, clip_norm=1e-6)
    optimizer = make_optimizer(options, network)
    apply(optimizer, network, random_gradients(network)[0], 1.0)
    kernel = values(network)["plain/kernel"]
    # The gradient is clipped to nothing: what remains is the decay of 0.1.
    np.testing.assert_allclose(kernel, 0.9 * before["plain/kernel"], atol=2e-6)


def test_learning_rate_of_each_step_is_the_one_set():
    network = make_full(weight_decay=0.0)
    set_to_zero(network)
    (gradients,) = random_gradients(network)
    optimizer = make_optimizer(OptimizerOptions(momentum=0.0), network)
    step = tf.function(lambda rate: apply(optimizer, network, gradients, rate))
    for rate in RATES:
        step(tf.constant(rate))
    assert step.experimental_get_tracing_count() == 1
    expected = -sum(RATES) * gradients["plain/bias"]
    np.testing.assert_allclose(values(network)["plain/bias"], expected, rtol=1e-6)
    assert optimizer.iterations.value.numpy() == 3


def test_network_in_which_nothing_learns_is_an_error():
    network = make_full(slow=0, plain=0)
    with pytest.raises(ValueError, match="no layer of `Full` can learn.*lr_mult=0"):
        make_optimizer(OptimizerOptions(), network)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": -0.1}, r"`momentum` must be in \[0, 1\).*momentum=-0.1"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\).*momentum=1.0"),
        ({"momentum": float("nan")}, r"`momentum` must be in \[0, 1\).*=nan"),
        ({"clip_norm": 0.0}, "`clip_norm` must be above 0.*clip_norm=0.0"),
        ({"clip_value": 0.0}, "`clip_value` must be above 0.*clip_value=0.0"),
        ({"beta_2": 1.0}, r"`beta_2` must be in \[0, 1\).*beta_2=1.0"),
        ({"clip_norm": -1.0}, "`clip_norm` must be above 0.*clip_norm=-1.0"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_option_out_of_range_is_an_error(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(OptimizerOptions(name=name, **settings), make_full())


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_momentum_may_be_an_integer(name):
    make_optimizer(OptimizerOptions(name=name, momentum=0), make_full())
