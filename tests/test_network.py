import random
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from worklab import Network
from worklab.network import Policy
from worklab.options import LayerOptions

from .conftest import TinyNetwork

SHAPE = (8, 8, 3)


def make(construct, *, num_classes=3, image_shape=SHAPE, attributes=None, **settings):
    """Return a Network whose `_construct` is a function of network and images."""
    made = type("Made", (Network,), {"_construct": construct} | (attributes or {}))
    return made(num_classes, image_shape=image_shape, **settings)


def make_with_end(construct, **settings):
    """The same for a function that need not return logits."""

    def with_end(network, images):
        x = construct(network, images)
        return network.full_layer(x, network.num_classes, scope="end")

    return make(with_end, **settings)


def probe(build, images, **settings):
    """Return what a function of network and images builds, as computed for images."""
    results = []

    def construct(network, inputs):
        results.append(build(network, inputs))
        return results[0]

    network = make_with_end(construct, image_shape=images.shape[1:], **settings)
    model = keras.Model(network.model.input, results[0])
    return network, model({"images": images}).numpy()


def random_images(shape=SHAPE, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def numpy_values(network):
    return {name: v.value.numpy() for name, v in network.variables.items()}


def convolve(images, kernel, strides=1, padding=(0, 0)):
    """Convolve as PyTorch does: `padding` zeros on both sides, rest dropped."""
    height, width = padding
    images = np.pad(images, ((0, 0), (height, height), (width, width), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel.shape[:2], (1, 2))
    return np.einsum("bhwcij,ijcf->bhwf", windows[:, ::strides, ::strides], kernel)


# === Scopes and policies ===


def test_layer_without_scope_has_the_defaults():
    options = LayerOptions(weight_decay=0.25)
    network = make_with_end(lambda n, x: n.conv_layer(x, 2, 1), options=options)
    assert network.policies["conv"] == Policy(1.0, True, 0.25)


def test_scopes_hand_their_policy_down():
    def construct(network, x):
        with (
            network.scope("a", restore="x/y", lr_mult=0.1, weight_decay=0.01),
            network.scope("b"),
        ):
            x = network.conv_layer(x, 2, 1)
        return network.conv_layer(x, 2, 1)

    network = make_with_end(construct)
    assert network.policies["a/b/conv"] == Policy(0.1, "x/y/b/conv", 0.01)
    assert network.policies["conv"] == Policy(1.0, True, 5e-4)


def test_inner_scope_wins_over_outer_and_layer_over_scope():
    def construct(network, x):
        outer = {"restore": False, "lr_mult": 0.1, "weight_decay": 0.01}
        own = {"restore": "z", "lr_mult": 0.0, "weight_decay": 0.0}
        with network.scope("a", **outer):
            x = network.conv_layer(x, 2, 1, scope="given")
            x = network.conv_layer(x, 2, 1, scope="own", **own)
            with network.scope("b", restore=True, lr_mult=2.0, weight_decay=0.0):
                return network.conv_layer(x, 2, 1)

    network = make_with_end(construct)
    assert network.policies["a/given"] == Policy(0.1, False, 0.01)
    assert network.policies["a/own"] == Policy(0.0, "z", 0.0)
    assert network.policies["a/b/conv"] == Policy(2.0, True, 0.0)


def test_restore_prefix_may_be_empty():
    def construct(network, x):
        with network.scope("body", restore=""), network.scope("a"):
            return network.conv_layer(x, 2, 1)

    assert make_with_end(construct).source("body/a/conv/kernel") == "a/conv/kernel"


def test_restore_names_what_is_inside_by_its_path():
    def construct(network, x):
        names = {"conv": "conv1", "b/bn/gamma": "scale", "b/bn/beta": "shift"}
        with network.scope("a", restore=names):
            x = network.conv_layer(x, 2, 1)
            with network.scope("b"):
                return network.batch_norm(x)

    network = make_with_end(construct)
    sources = {name: network.source(name) for name in network.variables}
    assert sources["a/conv/kernel"] == "conv1/kernel"
    assert sources["a/b/bn/gamma"] == "scale"
    assert sources["a/b/bn/beta"] == "shift"
    assert sources["a/b/bn/moving_mean"] == "a/b/bn/moving_mean"


def test_scope_ends_when_its_body_raises():
    def construct(network, x):
        with pytest.raises(RuntimeError), network.scope("a"):
            raise RuntimeError
        return network.conv_layer(x, 2, 1)

    assert "conv" in make_with_end(construct).policies


def two_scopes(network, x):
    with network.scope("a", lr_mult=0.1):
        with network.scope("b"):
            x = network.conv_layer(x, 2, 1)
        x = network.conv_layer(x, 2, 1, scope="c", lr_mult=0.2)
    with network.scope("ab", lr_mult=0.3):
        return network.conv_layer(x, 2, 1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [0.1, 0.2, 0.3, 1]),
        ({"a": 5}, [5, 5, 0.3, 1]),
        ({"a": 5, "a/b": 6}, [6, 5, 0.3, 1]),
        ({"a/b": 6, "a/c": 0, "end": 7}, [6, 0, 0.3, 7]),
        ({"a/b/conv": 8, "a": 5}, [8, 5, 0.3, 1]),
    ],
)
def test_longest_scope_of_the_option_replaces_the_multiplier(given, expected):
    network = make_with_end(two_scopes, options=LayerOptions(lr_mult=given))
    layers = ["a/b/conv", "a/c", "ab/conv", "end"]
    assert [network.policies[layer].lr_mult for layer in layers] == expected


def test_multiplier_of_an_unknown_scope_is_an_error_with_the_nearest():
    with pytest.raises(ValueError, match=r"nearest are \['a/b',.*Received: 'a/bb'"):
        make_with_end(two_scopes, options=LayerOptions(lr_mult={"a/bb": 0.1}))


def test_only_the_scopes_of_the_option_learn():
    options = LayerOptions(train_only=("a/c", "end"))
    network = make_with_end(two_scopes, options=options)
    plain = make_with_end(two_scopes)
    for layer, policy in plain.policies.items():
        expected = policy.lr_mult if layer in ("a/c", "end") else 0
        assert network.policies[layer].lr_mult == expected, layer
    trained = {id(variable) for variable in network.model.trainable_variables}
    assert {
        network.split(n)[0] for n, v in network.variables.items() if id(v) in trained
    } == {"a/c", "end"}
    with pytest.raises(
        ValueError, match=r"`train_only` names a scope.*Received: 'ends'"
    ):
        make_with_end(two_scopes, options=LayerOptions(train_only=("ends",)))


@pytest.mark.parametrize("value", [-0.1, float("nan")])
@pytest.mark.parametrize("name", ["lr_mult", "weight_decay"])
def test_negative_policy_is_an_error_that_names_the_scope(name, value):
    def construct(network, x):
        with network.scope("a"):
            return network.conv_layer(x, 2, 1, **{name: value})

    with pytest.raises(ValueError, match=rf"`{name}` of `a/conv` .*{name}={value}"):
        make_with_end(construct)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LayerOptions(lr_mult={"a": -1}), "`lr_mult` of `a` must be .*Received: -1"),
        (LayerOptions(weight_decay=-1), "`weight_decay` must be .*Received: -1"),
        (LayerOptions(label_smoothing=1), r"in \[0, 1\).*label_smoothing=1"),
        (LayerOptions(label_smoothing=-0.1), r"in \[0, 1\).*label_smoothing=-0.1"),
    ],
)
def test_option_out_of_range_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        make_with_end(two_scopes, options=options)


def test_variables_are_named_by_their_scopes():
    def construct(network, x):
        with network.scope("stage1"), network.scope("block1"):
            return network.conv_block(x, 2, 3)

    network = make_with_end(construct)
    block = "stage1/block1"
    assert set(network.variables) == {
        f"{block}/conv/kernel",
        *(f"{block}/bn/{n}" for n in ("gamma", "beta")),
        *(f"{block}/bn/moving_{n}" for n in ("mean", "variance")),
        "end/kernel",
        "end/bias",
    }
    assert {id(v) for v in network.variables.values()} == {
        id(v) for v in network.model.variables
    }


def test_random_generators_have_the_same_names_in_every_network_of_a_process():
    def construct(network, x):
        with network.scope("a"):
            x = network.dropout(x, 0.5)
        return network.layer(keras.layers.SpatialDropout2D, x, scope="b", rate=0.5)

    first, second = make_with_end(construct), make_with_end(construct)
    assert list(first.variables) == list(second.variables)
    assert [name for name in first.variables if name.startswith(("a", "b"))] == [
        "a/dropout/random0/seed_generator_state",
        "b/random0/seed_generator_state",
    ]


def test_variables_of_a_layer_in_a_layer_have_the_policy_of_the_outer():
    def construct(network, x):
        x = network.layer(keras.layers.Reshape, x, scope="rows", target_shape=(8, 24))
        policy = {"lr_mult": 0.0, "restore": "there", "weight_decay": 0.01}
        return network.layer(
            keras.layers.LSTM, x, scope="lstm", policy=policy, units=2, dropout=0.1
        )

    network = make_with_end(construct)
    name = "lstm/lstm_cell/recurrent_kernel"
    assert network.policy(name).lr_mult == 0
    assert network.source(name) == "there/lstm_cell/recurrent_kernel"
    assert network.decay(name) == 0.01
    assert network.source("lstm/random0/seed_generator_state") is None
    assert [v.path for v in network.model.trainable_variables] == [
        "end/kernel",
        "end/bias",
    ]


def test_kernels_are_decayed_and_nothing_else():
    def construct(network, x):
        x = network.conv_block(x, 4, 3)
        x = network.depthwise_layer(x, 3)
        return network.layer(
            keras.layers.SeparableConv2D, x, scope="both", filters=2, kernel_size=3
        )

    network = make_with_end(construct, options=LayerOptions(weight_decay=0.25))
    assert {name: network.decay(name) for name in network.variables} == {
        "conv/kernel": 0.25,
        "bn/gamma": 0.0,
        "bn/beta": 0.0,
        "bn/moving_mean": 0.0,
        "bn/moving_variance": 0.0,
        "depthwise/kernel": 0.25,
        "depthwise/bias": 0.0,
        "both/depthwise_kernel": 0.25,
        "both/pointwise_kernel": 0.25,
        "both/bias": 0.0,
        "end/kernel": 0.25,
        "end/bias": 0.0,
    }


def test_two_layers_with_one_name_are_an_error():
    def construct(network, x):
        with network.scope("a"):
            return network.conv_layer(network.conv_layer(x, 2, 1), 2, 1)

    with pytest.raises(ValueError, match="two layers have the name `a/conv`.*scope="):
        make_with_end(construct)


@pytest.mark.parametrize("name", ["images", "preprocessing", "output"])
def test_layer_with_the_name_of_a_part_of_every_network_is_an_error(name):
    with pytest.raises(ValueError, match=f"part of its own called `{name}`.*scope="):
        make_with_end(lambda network, x: network.conv_layer(x, 2, 1, scope=name))


def test_unknown_precision_is_an_error():
    with pytest.raises(ValueError, match=r"precision.*Received: precision='int8'"):
        make_with_end(lambda network, x: x, precision="int8")


@pytest.mark.parametrize("name", ["", "a.b", "a//b", "/a", "a/", "a b"])
def test_scope_name_that_variables_cannot_have_is_an_error(name):
    with pytest.raises(ValueError, match=rf"letters, digits.*scope='{name}'"):
        make_with_end(lambda n, x: n.conv_layer(x, 2, 1, scope=name))


def test_layer_made_apart_from_the_network_is_an_error():
    with pytest.raises(ValueError, match=r"Use `self.layer\(keras.layers.Conv2D"):
        make_with_end(lambda n, x: keras.layers.Conv2D(2, 1, name="mine")(x))


@pytest.mark.parametrize("result", [None, "x"])
def test_construct_that_returns_no_tensor_is_an_error(result):
    with pytest.raises(ValueError, match=f"is a `return` missing.*{result}"):
        make(lambda network, x: result)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda n, x: n.full_layer(x, 4), r"\(None, 4\)"),
        (lambda n, x: n.conv_layer(x, 3, 1), r"\(None, 8, 8, 3\)"),
    ],
)
def test_logits_of_another_width_are_an_error(build, shape):
    with pytest.raises(ValueError, match=rf"\(batch, 3\), one.*shape={shape}"):
        make(build)


# === Initialisation ===


def longer(network, x):
    with network.scope("new"):
        x = network.conv_block(x, 3, 1)
        x = network.dropout(x, 0.5)
    return shorter(network, x)


def shorter(network, x):
    x = network.conv_block(x, 4, 3)
    x = network.layer(  # its initialisers are Keras's own
        keras.layers.SeparableConv2D, x, scope="separable", filters=4, kernel_size=3
    )
    return network.dropout(x, 0.5)


def test_values_do_not_depend_on_the_layers_around():
    short = numpy_values(make_with_end(shorter))
    keras.utils.set_random_seed(7)
    long = numpy_values(make_with_end(longer))
    assert set(short) < set(long)
    for name, value in short.items():
        np.testing.assert_array_equal(value, long[name], err_msg=name)


def test_values_depend_on_seed_and_name():
    def construct(network, x):
        x = network.conv_layer(x, 3, 1, scope="a")
        return network.conv_layer(x, 3, 1, scope="b")

    values = numpy_values(make_with_end(construct, seed=0))
    others = numpy_values(make_with_end(construct, seed=1))
    kernels = [values["a/kernel"], values["b/kernel"], others["a/kernel"]]
    assert len({kernel.tobytes() for kernel in kernels}) == 3


def test_values_are_those_that_published_runs_began_with():
    network = make_with_end(lambda n, x: n.conv_layer(x, 4, 3), seed=5)
    initializer = keras.initializers.HeNormal(seed=zlib.crc32(b"5:conv"))
    np.testing.assert_array_equal(
        network.variables["conv/kernel"].value, initializer((3, 3, 3, 4))
    )


def test_making_a_network_leaves_the_random_state_of_python_alone():
    random.seed(0)
    expected = random.random()
    random.seed(0)
    make_with_end(shorter)
    assert random.random() == expected


@pytest.mark.parametrize(
    "initializer", ["zeros", "he_normal", keras.initializers.HeNormal()]
)
def test_initializer_is_a_name_or_an_object(initializer):
    def construct(network, x):
        return network.layer(
            keras.layers.Conv2D,
            x,
            scope="conv",
            filters=2,
            kernel_size=1,
            kernel_initializer=initializer,
        )

    first, second = make_with_end(construct), make_with_end(construct)
    kernel = first.variables["conv/kernel"].value.numpy()
    assert bool(kernel.any()) == (initializer != "zeros")
    np.testing.assert_array_equal(kernel, second.variables["conv/kernel"].value)


# === Primitives ===


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda n, x: n.conv_layer(x, 5, 1, strides=2), (4, 4, 5)),
        (lambda n, x: n.conv_layer(x, 5, 3), (8, 8, 5)),
        (lambda n, x: n.conv_layer(x, 5, 3, padding="valid"), (6, 6, 5)),
        (lambda n, x: n.conv_layer(x, 5, (1, 3), padding="symmetric"), (8, 8, 5)),
        (lambda n, x: n.depthwise_layer(x, 3), (8, 8, 3)),
        (
            lambda n, x: n.depthwise_layer(x, 5, strides=2, padding="symmetric"),
            (4, 4, 3),
        ),
        (lambda n, x: n.batch_norm(x), (8, 8, 3)),
        (lambda n, x: n.pool_layer(x, 2), (4, 4, 3)),
        (lambda n, x: n.pool_layer(x, 3, strides=2, mode="average"), (4, 4, 3)),
        (lambda n, x: n.pool_layer(x, 3, strides=1, padding="valid"), (6, 6, 3)),
        (lambda n, x: n.pool_layer(x, 3, strides=2, padding="symmetric"), (4, 4, 3)),
        (lambda n, x: n.pool_layer(x, 3, strides=2, padding="ceil"), (4, 4, 3)),
        (lambda n, x: n.conv_layer(x, 6, 3, groups=3), (8, 8, 6)),
        (lambda n, x: n.full_block(x, 7), (7,)),
        (lambda n, x: n.global_pool(x), (3,)),
        (lambda n, x: n.global_pool(x, mode="max"), (3,)),
        (lambda n, x: n.full_layer(x, 7), (7,)),
        (lambda n, x: n.full_layer(n.global_pool(x), 7, use_bias=False), (7,)),
        (lambda n, x: n.dropout(x, 0.5), (8, 8, 3)),
        (lambda n, x: n.activation(x, "gelu"), (8, 8, 3)),
        (lambda n, x: n.add([x, x]), (8, 8, 3)),
        (lambda n, x: n.conv_block(x, 5, 3, strides=2), (4, 4, 5)),
        (lambda n, x: n.conv_block(x, 5, 3, activation=None), (8, 8, 5)),
        (lambda n, x: n.residual_block(x, 5, strides=2), (4, 4, 5)),
        (lambda n, x: n.residual_block(x, 5, bottleneck=True), (8, 8, 20)),
    ],
)
def test_primitive_has_its_shape(build, shape):
    network, outputs = probe(build, random_images())
    assert outputs.shape == (2, *shape)
    assert network.model.get_layer("end").input.shape[0] is None


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(
    ("kernel_size", "strides"), [(1, 2), (3, 1), (3, 2), (5, 2), (7, 2), ((1, 3), 1)]
)
def test_symmetric_padding_is_that_of_pytorch(kernel_size, strides, size):
    images = random_images((size, size, 3))
    network, outputs = probe(
        lambda n, x: n.conv_layer(
            x, 4, kernel_size, strides=strides, padding="symmetric"
        ),
        images,
    )
    kernel = network.variables["conv/kernel"].value.numpy()
    padding = (kernel.shape[0] // 2, kernel.shape[1] // 2)
    expected = convolve(images / 255, kernel, strides, padding)
    # float32 sums of at most 147 products of size 1
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


def test_depthwise_layer_convolves_each_channel_by_itself():
    images = random_images()
    network, outputs = probe(
        lambda n, x: n.depthwise_layer(x, 3, strides=2, padding="symmetric"), images
    )
    kernel = network.variables["depthwise/kernel"].value.numpy()
    for channel in range(3):
        expected = convolve(
            images[..., [channel]] / 255, kernel[:, :, [channel]], 2, (1, 1)
        )
        np.testing.assert_allclose(outputs[..., [channel]], expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["max", "average"])
def test_pool_layer_pools_windows(mode):
    images = random_images()
    _, outputs = probe(lambda n, x: n.pool_layer(x, 2, mode=mode), images)
    windows = (images / 255).reshape(2, 4, 2, 4, 2, 3)
    expected = {"max": windows.max, "average": windows.mean}[mode](axis=(2, 4))
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "pool_size", "strides", "starts"),
    [
        (7, 3, 2, [0, 2, 4]),
        (8, 3, 2, [0, 2, 4, 6]),
        (7, 2, None, [0, 2, 4, 6]),
        (8, 2, None, [0, 2, 4, 6]),
    ],
)
def test_pool_layer_leaves_no_pixel_over(size, pool_size, strides, starts):
    """The windows of PyTorch's `ceil_mode`, the last of which may go over the edge."""
    images = random_images((size, size, 3))
    _, outputs = probe(
        lambda n, x: n.pool_layer(x, pool_size, strides=strides, padding="ceil"), images
    )
    expected = [
        [
            (images / 255)[:, y : y + pool_size, x : x + pool_size].max(axis=(1, 2))
            for x in starts
        ]
        for y in starts
    ]
    expected = np.moveaxis(np.array(expected), 2, 0)
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)


@pytest.mark.parametrize("mode", ["max", "average"])
def test_global_pool_pools_everything(mode):
    images = random_images()
    _, outputs = probe(lambda n, x: n.global_pool(x, mode=mode), images)
    expected = {"max": images.max, "average": images.mean}[mode](axis=(1, 2)) / 255
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)


def test_dropout_is_on_in_training_only():
    network = make_with_end(lambda n, x: n.dropout(x, 0.5))
    batch = {"images": random_images()}
    quiet = [network(batch, training=False).numpy() for _ in range(2)]
    noisy = [network(batch, training=True).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*quiet)
    assert not np.allclose(*noisy)


def test_full_layer_joins_features():
    def construct(network, x):
        return network.full_layer(x, 3, features=network.features, scope="logits")

    network = make(construct, image_shape=(2, 2, 1), num_features=4)
    images = random_images((2, 2, 1))
    features = np.arange(8, dtype=np.float32).reshape(2, 4)
    logits = network({"images": images, "features": features}, training=False)
    values = numpy_values(network)
    inputs = np.concatenate([images.reshape(2, 4) / 255, features], axis=1)
    expected = inputs @ values["logits/kernel"] + values["logits/bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "last", "shortcut"),
    [
        ({"filters": 3}, "b.bn", "preprocessing"),
        ({"filters": 4}, "b.bn", "shortcut.bn"),
        ({"filters": 3, "strides": 2}, "b.bn", "shortcut.bn"),
        ({"filters": 3, "bottleneck": True, "expansion": 1}, "c.bn", "preprocessing"),
        ({"filters": 3, "bottleneck": True, "strides": 2}, "c.bn", "shortcut.bn"),
    ],
)
def test_residual_block_is_relu_of_the_sum(settings, last, shortcut):
    network = make_with_end(lambda n, x: n.residual_block(x, **settings))
    layers = [network.model.get_layer(name) for name in (last, shortcut, "relu")]
    model = keras.Model(network.model.input, [layer.output for layer in layers])
    change, kept, outputs = model({"images": random_images()})
    assert (change.numpy() < 0).any()
    np.testing.assert_array_equal(outputs, np.maximum(change.numpy() + kept.numpy(), 0))


def test_stride_of_a_bottleneck_is_on_its_3x3_convolution():
    network = make_with_end(
        lambda n, x: n.residual_block(x, 4, strides=2, bottleneck=True)
    )
    shapes = {
        name: tuple(network.model.get_layer(f"{name}.conv").output.shape[1:])
        for name in ("a", "b", "c", "shortcut")
    }
    assert shapes == {
        "a": (8, 8, 4),
        "b": (4, 4, 4),
        "c": (4, 4, 16),
        "shortcut": (4, 4, 16),
    }


# === Preprocessing, arithmetic, loss ===


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_preprocessing_takes_mean_and_std_in_rgb_order(order):
    mean, std = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
    attributes = {"mean": mean, "std": std, "channel_order": order}
    images = random_images()
    _, outputs = probe(lambda n, x: x, images, attributes=attributes)
    expected = (images - np.array(mean)) / np.array(std)
    expected = expected[..., ::-1] if order == "BGR" else expected
    # scale and offset are applied as float32: x * (1 / std) - mean / std
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_mean_serves_any_number_of_channels(channels):
    images = random_images((8, 8, channels))
    _, outputs = probe(lambda n, x: x, images)
    np.testing.assert_allclose(outputs, images / 255, rtol=1e-6)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_mean_of_other_channels_than_the_images_is_an_error(name):
    with pytest.raises(ValueError, match=rf"{name}` is for images of 3 .*\(8, 8, 1\)"):
        make_with_end(
            lambda n, x: n.conv_layer(x, 2, 1),
            image_shape=(8, 8, 1),
            attributes={name: (1.0, 2.0, 3.0)},
        )


def test_bfloat16_keeps_variables_and_logits_in_float32():
    def construct(network, x):
        with network.scope("stem"):
            x = network.conv_block(x, 4, 3)
        return network.residual_block(x, 4)

    plain = make_with_end(construct)
    half = make_with_end(construct, precision="bfloat16")
    batch = {"images": random_images()}
    logits = half(batch, training=True)
    assert half.model.get_layer("stem.conv").output.dtype == "bfloat16"
    assert {str(v.dtype) for v in half.variables.values()} == {"float32"}
    assert logits.dtype == tf.float32
    # bfloat16 has 8 bits of fraction; the errors of five layers add up
    np.testing.assert_allclose(logits, plain(batch, training=True), atol=0.05)


@pytest.fixture
def logits_and_labels():
    rng = np.random.default_rng(1)
    return rng.normal(0, 5, (6, 3)).astype(np.float32), np.arange(6) % 3


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_cross_entropy_and_smoothed_in_training_only(
    logits_and_labels, smoothing, training
):
    logits, labels = logits_and_labels
    network = make_with_end(
        lambda n, x: x, options=LayerOptions(label_smoothing=smoothing)
    )
    losses = network.losses({"labels": labels}, tf.constant(logits), training=training)
    targets = np.eye(3)[labels]
    if training:
        targets = (1 - smoothing) * targets + smoothing / 3
    expected = -(targets * log_softmax(logits)).sum(axis=1)
    assert losses.dtype == tf.float32
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)


def test_scores_hold_the_accuracy_of_each_image(logits_and_labels, tiny_network):
    logits, labels = logits_and_labels
    scores = tiny_network.scores({"labels": labels}, tf.constant(logits))
    expected = (logits.argmax(axis=1) == labels).astype(np.float32)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(scores["accuracy"], expected)


# === The whole ===


@pytest.mark.parametrize("training", [True, False])
def test_eager_equals_graph(tiny_images, training):
    batch = {"images": tiny_images[0][:4]}
    eager, graph = (TinyNetwork(3, image_shape=SHAPE) for _ in range(2))
    function = tf.function(lambda batch: graph(batch, training=training))
    # the graph fuses operations, which moves the last bits
    np.testing.assert_allclose(
        eager(batch, training=training), function(batch), rtol=1e-5, atol=1e-6
    )
    for name, value in numpy_values(eager).items():
        np.testing.assert_allclose(
            value, numpy_values(graph)[name], rtol=1e-5, atol=1e-6
        )


def test_summary_has_a_row_for_each_variable():
    def construct(network, x):
        with network.scope("stem", restore="old", lr_mult=0.0):
            x = network.conv_block(x, 4, 3)
        x = network.conv_layer(x, 2, 1, lr_mult=0.1, restore=False)
        return network.dropout(x, 0.5)

    network = make_with_end(construct, options=LayerOptions(weight_decay=0.01))
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in network.summary().splitlines()
        if line.startswith("│")
    ]
    assert [row[0] for row in rows] == list(network.variables)
    for row in (
        ["stem/conv/kernel", "(3, 3, 3, 4)", "0", "0.01", "old/conv/kernel", "no"],
        ["stem/bn/gamma", "(4,)", "0", "0", "old/bn/gamma", "no"],
        ["conv/kernel", "(1, 1, 4, 2)", "0.1", "0.01", "-", "yes"],
        ["conv/bias", "(2,)", "0.1", "0", "-", "yes"],
        ["dropout/random0/seed_generator_state", "(2,)", "1", "0", "-", "no"],
        ["end/kernel", "(128, 3)", "1", "0.01", "end/kernel", "yes"],
    ):
        assert row in rows
