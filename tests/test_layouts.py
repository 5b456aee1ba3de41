"""Other projects' weights give other projects' answers."""

import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from worklab.networks import resnet
from worklab.pretrained import import_weights

from .comparing import relative_error, whole

# Float32 of a hundred layers, in an order that differs by library.
TOLERANCE = 1e-5


def randomise(model, seed=0):
    """Give a Keras model random weights and statistics that keep signals in range."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        shape = variable.shape
        if variable.name == "moving_variance":
            value = rng.uniform(0.5, 1.5, shape)
        elif variable.name == "gamma":
            value = rng.uniform(0.8, 1.2, shape)
        elif len(shape) > 1:
            value = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        else:
            value = 0.1 * rng.normal(size=shape)
        variable.assign(value.astype(np.float32))


def images(size, count=2):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def answers(network_class, path, size, *, layout=None, num_classes=1000):
    network = whole(network_class)(
        num_classes, image_shape=(size, size, 3), layout=layout
    )
    report = import_weights(network, path)
    return network({"images": images(size)}, training=False).numpy(), report


@pytest.fixture(scope="module")
def keras_resnet50(tmp_path_factory):
    """Weights of Keras's own ResNet-50 and its logits for raw images."""
    model = keras.applications.ResNet50(
        weights=None, input_shape=(64, 64, 3), classifier_activation=None
    )
    randomise(model)
    path = tmp_path_factory.mktemp("keras") / "resnet50.weights.h5"
    model.save_weights(path)
    inputs = keras.applications.resnet.preprocess_input(images(64).astype("float32"))
    return path, model.predict(inputs, verbose=0)


def test_resnet50_of_keras_gives_its_logits(keras_resnet50):
    path, expected = keras_resnet50
    logits, report = answers(resnet.ResNet50, path, 64, layout="keras")
    assert relative_error(logits, expected) < TOLERANCE
    assert report.unused == ()
    assert report.count("folded") == 53  # its convolutions have biases


@pytest.mark.parametrize("layout", ["torchvision", "slim", "ry"])
def test_file_is_refused_by_a_network_of_another_layout(keras_resnet50, layout):
    path, _ = keras_resnet50
    with pytest.raises(ValueError, match=r"is of the layout `keras`.*layout='keras'"):
        answers(resnet.ResNet50, path, 64, layout=layout)


# === TensorFlow 1: tf-slim and ry/tensorflow-resnet, written by their own Saver ===


class Tensorflow1:
    """Enough of the old way to build a network and save it."""

    def __init__(self, epsilon, norm):
        self.epsilon = epsilon
        self.norm = norm  # where a batch normalisation keeps its variables
        self.feeds = {}  # the first values, which would slow down a graph as constants

    def variable(self, name, shape, scale):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        kind = name.rpartition("/")[2]
        value = {
            "moving_variance": lambda: rng.uniform(0.5, 1.5, shape),
            "gamma": lambda: rng.uniform(0.8, 1.2, shape),
        }.get(kind, lambda: scale * rng.standard_normal(shape, np.float32))()
        first = tf.compat.v1.placeholder(tf.float32, shape)
        self.feeds[first] = value
        return tf.compat.v1.get_variable(name, initializer=first)

    def conv(self, x, name, filters, size, strides=1, padding="SAME"):
        channels = x.shape[-1]
        shape = (size, size, channels, filters)
        kernel = self.variable(
            f"{name}/weights", shape, (2 / (size**2 * channels)) ** 0.5
        )
        if padding == "FIXED":
            pad = (size - 1) // 2
            x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
            padding = "VALID"
        x = tf.nn.conv2d(x, kernel, strides, padding)
        scope = f"{name}/{self.norm}".rstrip("/")
        gamma, beta, mean, variance = (
            self.variable(f"{scope}/{leaf}", (filters,), 0.1)
            for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) * gamma / tf.sqrt(variance + self.epsilon) + beta

    def full(self, x, name, units, *, as_conv):
        channels = x.shape[-1]
        shape = (1, 1, channels, units) if as_conv else (channels, units)
        kernel = self.variable(f"{name}/weights", shape, channels**-0.5)
        return x @ tf.reshape(kernel, (channels, units)) + self.variable(
            f"{name}/biases", (units,), 0.1
        )


def slim_resnet50(tf1, x, num_classes):
    """Source: tf-slim, resnet_v1.py and resnet_utils.py: strides in the last units."""
    x = x - np.float32([123.68, 116.78, 103.94])
    x = tf.nn.relu(tf1.conv(x, "resnet_v1_50/conv1", 64, 7, 2, "FIXED"))
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    for block, (width, units, stride) in enumerate(
        [(64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 1)], 1
    ):
        for unit in range(1, units + 1):
            name = f"resnet_v1_50/block{block}/unit_{unit}/bottleneck_v1"
            strides = stride if unit == units else 1
            if unit == 1:
                shortcut = tf1.conv(x, f"{name}/shortcut", 4 * width, 1, strides)
            else:
                shortcut = x[:, ::strides, ::strides]
            y = tf.nn.relu(tf1.conv(x, f"{name}/conv1", width, 1))
            padding = "SAME" if strides == 1 else "FIXED"
            y = tf.nn.relu(tf1.conv(y, f"{name}/conv2", width, 3, strides, padding))
            x = tf.nn.relu(shortcut + tf1.conv(y, f"{name}/conv3", 4 * width, 1))
    x = tf.reduce_mean(x, (1, 2))
    return tf1.full(x, "resnet_v1_50/logits", num_classes, as_conv=True)


def ry_resnet50(tf1, x, num_classes, padding="SAME"):
    """Source: ry/tensorflow-resnet, resnet.py: strides in the first units' 1x1."""
    x = x[..., ::-1] - np.float32([103.0626, 115.9029, 123.1516])
    x = tf.nn.relu(tf1.conv(x, "scale1", 64, 7, 2, padding))
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    for scale, (width, blocks) in enumerate(
        [(64, 3), (128, 4), (256, 6), (512, 3)], start=2
    ):
        for block in range(1, blocks + 1):
            name = f"scale{scale}/block{block}"
            strides = 2 if block == 1 and scale > 2 else 1
            shortcut = x
            if block == 1:
                shortcut = tf1.conv(x, f"{name}/shortcut", 4 * width, 1, strides)
            y = tf.nn.relu(tf1.conv(x, f"{name}/a", width, 1, strides))
            y = tf.nn.relu(tf1.conv(y, f"{name}/b", width, 3))
            x = tf.nn.relu(shortcut + tf1.conv(y, f"{name}/c", 4 * width, 1))
    return tf1.full(tf.reduce_mean(x, (1, 2)), "fc", num_classes, as_conv=False)


def save_tensorflow1(path, build, tf1, size, num_classes, *, old_path=None):
    """Write a checkpoint as TensorFlow 1 does; return the logits.

    At `old_path`, if given, it is written once more, in the format of before 2017.
    """
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        logits = build(tf1, tf.constant(images(size), tf.float32), num_classes)
        tf.compat.v1.train.get_or_create_global_step()
        session.run(tf.compat.v1.global_variables_initializer(), tf1.feeds)
        for version, place in ((2, path), (1, old_path)):
            if place is not None:
                saver = tf.compat.v1.train.Saver(write_version=version)
                saver.save(session, str(place), write_meta_graph=False)
        return session.run(logits)


def test_resnet50_of_slim_gives_its_logits_without_the_background(tmp_path):
    path = tmp_path / "resnet_v1_50.ckpt"
    tf1 = Tensorflow1(1e-5, "BatchNorm")
    expected = save_tensorflow1(path, slim_resnet50, tf1, 64, 1001)
    logits, report = answers(resnet.ResNet50, path, 64, layout="slim")
    assert relative_error(logits, expected[:, 1:]) < TOLERANCE
    assert report.unused == ()
    assert report.count("sliced") == 2  # kernel and bias of the head


@pytest.fixture(scope="module")
def ry_files(tmp_path_factory):
    """One ResNet-50 of ry in both formats of checkpoints, and its logits."""
    folder = tmp_path_factory.mktemp("ry")
    paths = {version: folder / f"ResNet-L50.v{version}.ckpt" for version in (1, 2)}
    tf1 = Tensorflow1(1e-3, "")
    logits = save_tensorflow1(paths[2], ry_resnet50, tf1, 64, 7, old_path=paths[1])
    return paths, logits


@pytest.mark.parametrize("version", [1, 2])
def test_resnet50_of_ry_gives_its_logits(ry_files, version):
    paths, expected = ry_files
    path = paths[version]
    assert path.with_name(f"{path.name}.index").exists() == (version == 2)
    logits, report = answers(resnet.ResNet50, path, 64, layout="ry", num_classes=7)
    assert relative_error(logits, expected) < TOLERANCE
    assert report.unused == ()


def test_names_of_ry_with_the_numbers_of_caffe_are_another_layout(tmp_path):
    path = tmp_path / "ResNet-L50.ckpt"

    def caffe_resnet50(tf1, x, num_classes):
        return ry_resnet50(tf1, x, num_classes, padding="FIXED")

    expected = save_tensorflow1(path, caffe_resnet50, Tensorflow1(1e-5, ""), 64, 7)
    logits, _ = answers(resnet.ResNet50, path, 64, layout="caffe", num_classes=7)
    assert relative_error(logits, expected) < TOLERANCE
    wrong, _ = answers(resnet.ResNet50, path, 64, layout="ry", num_classes=7)
    assert relative_error(wrong, expected) > 100 * TOLERANCE
