"""What tests of imported networks share: whole networks, and files under any names."""

import keras
import numpy as np

from worklab.counting import count_work
from worklab.pretrained import import_weights

INITIALIZERS = ("kernel_initializer", "depthwise_initializer")


def whole(network_class, restore=True):
    """Return the class with a last layer that is restored, too.

    What is not restored is 0, as drawing random numbers takes longer than a whole file.
    """

    class Whole(network_class):
        def layer(self, *args, scope, policy=None, **settings):
            if scope == "logits":
                policy = dict(policy or {}) | {"restore": restore}
            for name in settings.keys() & {*INITIALIZERS}:
                settings[name] = "zeros"
            return super().layer(*args, scope=scope, policy=policy, **settings)

    return Whole


def relative_error(logits, expected):
    return np.abs(logits - expected).max() / np.abs(expected).max()


def randomise(model):
    """Give a Keras model random weights and statistics that keep signals in range."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        shape, leaf = variable.shape, variable.name
        if leaf == "moving_variance":
            value = rng.uniform(0.5, 1.5, shape)
        elif leaf == "gamma":
            value = rng.uniform(0.8, 1.2, shape)
        elif len(shape) > 1:
            depthwise = shape[-1] == 1 and len(shape) == 4
            inputs = np.prod(shape[:2] if depthwise else shape[:-1])
            value = rng.normal(size=shape) * np.sqrt(1.5 / inputs)
        else:
            value = 0.1 * rng.normal(size=shape)
        variable.assign(value.astype(np.float32))


def counts(network_class, size):
    """Return parameters, statistics and MACs of a network for 1000 classes."""
    work = count_work(network_class(1000, image_shape=(size, size, 3)))
    assert work.not_counted == ()
    return work.total("parameters"), work.total("statistics"), work.total("macs")


def check_answers_of_keras(network_class, model, preprocess, path, size):
    """Check that a network gives the logits of a Keras model saved by Keras."""
    randomise(model)
    model.save_weights(path)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    expected = model(preprocess(images.astype(np.float32)), training=False).numpy()
    network = whole(network_class)(
        expected.shape[-1], image_shape=(size, size, 3), layout="keras"
    )
    report = import_weights(network, path)
    assert report.layout == "keras"
    assert report.unused == ()
    logits = network({"images": images}, training=False).numpy()
    assert relative_error(logits, expected) < 1e-5


_SLIM_LEAVES = {"kernel": "weights", "bias": "biases"}


def check_slim_names(network_class, layers, path, size, *, layout="slim"):
    """Check that a file of tf-slim's names restores each layer from its own one.

    Args:
        network_class: The network.
        layers: tf-slim's names of the layers with kernels, in the network's order; a
            batch normalisation is in the scope of its convolution.
        path: Where to write the file.
        size: Of the images.
        layout: What the network calls these names.
    """
    shape = (size, size, 3)
    donor = whole(network_class)(5, image_shape=shape, layout=layout, seed=1)
    arrays, names, layer, home = {}, iter(layers), None, None
    for variable, value in donor.variables.items():
        layer, leaf = donor.split(variable)
        if leaf.endswith("seed_generator_state"):
            continue
        array = np.random.default_rng(len(arrays)).normal(size=value.shape)
        value.assign(array)
        if leaf == "kernel":
            home = next(names)
            if array.ndim == 2:  # full layers are convolutions there
                array = as_convolution(donor, layer, array)
        keras_layer = donor.keras_layer(layer)
        if isinstance(keras_layer, keras.layers.DepthwiseConv2D):
            arrays[f"{home}/depthwise_weights"] = array
        elif isinstance(keras_layer, keras.layers.BatchNormalization):
            arrays[f"{home}/BatchNorm/{leaf}"] = array
        else:
            arrays[f"{home}/{_SLIM_LEAVES[leaf]}"] = array
    assert next(names, None) is None
    np.savez(path, **arrays)

    network = whole(network_class)(5, image_shape=shape, layout=layout)
    report = import_weights(network, path)
    assert (report.layout, report.unused) == (layout, ())
    for variable, value in donor.variables.items():
        if not variable.endswith("seed_generator_state"):
            np.testing.assert_array_equal(value, network.variables[variable], variable)


def as_convolution(network, layer, kernel):
    """Return a matrix as the convolution that sees the whole of its input."""
    operation = network.keras_layer(layer).input._keras_history.operation
    if isinstance(operation, keras.layers.Flatten):
        return kernel.reshape(*operation.input.shape[1:], -1)
    return kernel.reshape(1, 1, *kernel.shape)
