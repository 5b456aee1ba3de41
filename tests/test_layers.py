import keras
import numpy as np
import pytest
import tensorflow as tf

from worklab.layers import (
    BatchNormalization,
    GroupedConv2D,
    LocalResponseNormalization,
    PointwiseConv2D,
)

# Keras and the fused operation sum in another order: some last bits of float32.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}
WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance")


def random_inputs(shape=(3, 4, 4, 5), dtype=np.float32):
    return np.random.default_rng(0).normal(2, 3, shape).astype(dtype)


def make(layer_class=BatchNormalization, channels=5, **settings):
    """Return a layer whose variables are not the initial ones."""
    layer = layer_class(**settings)
    layer.build((None, None, None, channels))
    rng = np.random.default_rng(1)
    for name in WEIGHTS:
        variable = getattr(layer, name)
        if variable is not None:
            variable.assign(rng.uniform(0.5, 2, channels))
    return layer


def values(layer):
    return {v.name: v.value.numpy() for v in layer.variables}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "settings",
    [{}, {"scale": False}, {"center": False}, {"scale": False, "center": False}],
)
def test_outputs_are_those_of_keras(settings, training):
    inputs = random_inputs()
    ours = make(epsilon=1e-2, **settings)
    theirs = make(keras.layers.BatchNormalization, epsilon=1e-2, **settings)
    theirs.set_weights(ours.get_weights())
    expected = theirs(inputs, training=training)
    np.testing.assert_allclose(ours(inputs, training=training), expected, **CLOSE)
    assert [v.name for v in ours.variables] == [v.name for v in theirs.variables]
    assert [v.name for v in ours.trainable_variables] == [
        v.name for v in theirs.trainable_variables
    ]


def test_gradients_are_those_of_keras():
    inputs = tf.constant(random_inputs())
    gradients = []
    for layer_class in (BatchNormalization, keras.layers.BatchNormalization):
        layer = make(layer_class)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(layer(inputs, training=True) ** 3)
        gradients.append(tape.gradient(loss, [inputs, *layer.trainable_variables]))
    for ours, theirs in zip(*gradients, strict=True):
        # cubes of numbers of size 5, summed over 48 places
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_moving_statistics_follow_mean_and_unbiased_variance(momentum):
    inputs = random_inputs()
    layer = make(momentum=momentum)
    before = values(layer)
    layer(inputs, training=True)
    mean, variance = inputs.mean((0, 1, 2)), inputs.var((0, 1, 2), ddof=1)
    for name, current in (("moving_mean", mean), ("moving_variance", variance)):
        expected = momentum * before[name] + (1 - momentum) * current
        np.testing.assert_allclose(values(layer)[name], expected, rtol=1e-5)


def test_inference_keeps_the_moving_statistics():
    layer = make()
    before = values(layer)
    layer(random_inputs(), training=False)
    layer(random_inputs())
    for name, value in values(layer).items():
        np.testing.assert_array_equal(value, before[name])


def test_frozen_layer_is_in_inference_mode_in_training():
    inputs = random_inputs()
    layer = make()
    layer.trainable = False
    before = values(layer)
    outputs = layer(inputs, training=True)
    expected = (inputs - before["moving_mean"]) / np.sqrt(
        before["moving_variance"] + layer.epsilon
    ) * before["gamma"] + before["beta"]
    np.testing.assert_allclose(outputs, expected, **CLOSE)
    for name, value in values(layer).items():
        np.testing.assert_array_equal(value, before[name])


def test_gradient_passes_a_frozen_layer():
    inputs = tf.constant(random_inputs())
    layer = make()
    layer.trainable = False
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(layer(inputs, training=True))
    slope = layer.gamma / np.sqrt(layer.moving_variance + layer.epsilon)
    expected = np.broadcast_to(slope, inputs.shape)
    np.testing.assert_allclose(tape.gradient(loss, inputs), expected, rtol=1e-5)


def test_bfloat16_inputs_keep_float32_statistics():
    inputs = random_inputs()
    layer, plain = make(dtype="mixed_bfloat16"), make()
    outputs = layer(tf.cast(inputs, tf.bfloat16), training=True)
    assert outputs.dtype == tf.bfloat16
    assert {str(v.dtype) for v in layer.variables} == {"float32"}
    plain(inputs, training=True)
    for name, value in values(layer).items():
        # The inputs were rounded to 8 bits, the statistics were not: a mean of 48
        # rounded numbers is closer than one of them (2 ** -8).
        np.testing.assert_allclose(value, values(plain)[name], rtol=2e-3)


def test_layer_is_saved_and_loaded_with_a_keras_model(tmp_path):
    inputs = random_inputs()
    images = keras.Input((4, 4, 5))
    layer = make(momentum=0.7, epsilon=0.2, center=False, name="bn")
    model = keras.Model(images, layer(images))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("bn")) is BatchNormalization
    np.testing.assert_array_equal(loaded(inputs), model(inputs))


def test_config_round_trip():
    layer = make(momentum=0.7, epsilon=0.2, scale=False, trainable=False)
    config = layer.get_config()
    again = BatchNormalization.from_config(config)
    assert again.get_config() == config
    assert (again.momentum, again.epsilon) == (0.7, 0.2)
    assert (again.scale, again.center, again.trainable) == (False, True, False)


def test_inputs_without_height_and_width_are_an_error():
    with pytest.raises(ValueError, match="expected ndim=4, found ndim=2"):
        BatchNormalization()(np.ones((2, 3), np.float32))


# === Convolution in groups ===


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": "same"},
        {"padding": "valid", "strides": 2},
        {"padding": "same", "dilation_rate": 2, "use_bias": False},
    ],
)
def test_grouped_convolution_and_its_gradient_are_those_of_keras(settings):
    inputs = tf.constant(random_inputs((2, 7, 7, 6)))
    ours = GroupedConv2D(9, 3, groups=3, **settings)
    theirs = keras.layers.Conv2D(9, 3, groups=3, **settings)
    results = []
    for layer in (ours, theirs):
        layer.build(inputs.shape)
        layer.set_weights(ours.get_weights())
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs)
            loss = tf.reduce_sum(outputs**2)
        gradients = tape.gradient(loss, [inputs, *layer.trainable_variables])
        results.append([outputs, *gradients])
    for our, their in zip(*results, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-3)  # sums of 100s
    assert [v.name for v in ours.variables] == [v.name for v in theirs.variables]


# === Normalisation across channels ===


def test_local_response_normalization_is_its_formula():
    inputs = random_inputs((2, 3, 3, 7))
    layer = LocalResponseNormalization(size=5, alpha=0.3, beta=0.6)
    padded = np.pad(inputs**2, [(0, 0), (0, 0), (0, 0), (2, 2)])
    sums = sum(padded[..., start : start + 7] for start in range(5))
    expected = inputs / (1 + 0.3 / 5 * sums) ** 0.6
    np.testing.assert_allclose(layer(inputs), expected, rtol=1e-5)


def test_local_response_normalization_wants_a_channel_in_the_middle():
    with pytest.raises(ValueError, match=r"odd number of channels.*Received: size=4"):
        LocalResponseNormalization(size=4)


def test_new_layers_are_saved_and_loaded_with_a_keras_model(tmp_path):
    images = keras.Input((4, 4, 6))
    outputs = GroupedConv2D(4, 3, groups=2)(images)
    outputs = LocalResponseNormalization(3, alpha=0.5, beta=0.9)(outputs)
    model = keras.Model(images, outputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    inputs = random_inputs((2, 4, 4, 6))
    np.testing.assert_array_equal(loaded(inputs), model(inputs))


@pytest.mark.parametrize("strides", [1, 2])
def test_pointwise_convolution_trains_as_keras_does(strides, monkeypatch):
    rng = np.random.default_rng(0)
    images = tf.constant(rng.normal(size=(2, 6, 4, 5)), tf.float32)
    settings = {"strides": strides, "dtype": "mixed_bfloat16"}
    ours, theirs = (
        layer(3, 1, **settings) for layer in (PointwiseConv2D, keras.layers.Conv2D)
    )
    products = []
    matmul = keras.ops.matmul
    monkeypatch.setattr(
        keras.ops, "matmul", lambda *factors: products.append(1) or matmul(*factors)
    )
    weights = rng.normal(size=(1, 1, 5, 3)), rng.normal(size=3)
    results = []
    for layer, call in ((ours, {"training": True}), (theirs, {})):
        layer.build(images.shape)
        layer.set_weights(weights)
        sources = [images, layer.kernel.value, layer.bias.value]
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = tf.cast(layer(images, **call), tf.float32)
            loss = tf.reduce_sum(outputs**2)
        results.append([outputs, *tape.gradient(loss, sources)])
    assert products == [1]
    for mine, others in zip(*results, strict=True):
        # bfloat16 has 8 bits, and sums are made in another order.
        np.testing.assert_allclose(mine, others, rtol=0.05, atol=0.5)


def test_pointwise_convolution_is_keras_own_where_that_is_as_fast():
    images = tf.ones((1, 5, 5, 4), tf.bfloat16)
    odd = PointwiseConv2D(3, 1, strides=2, dtype="mixed_bfloat16")
    assert odd(images, training=True).shape == (1, 3, 3, 3)
    assert not odd._faster_as_product(images)
    assert not PointwiseConv2D(3, 1)._faster_as_product(images)
