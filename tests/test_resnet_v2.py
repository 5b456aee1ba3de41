import dataclasses

import keras
import pytest
import tensorflow as tf

from worklab.layouts import Preprocessing
from worklab.networks import resnet_v2

from .comparing import counts, randomise, relative_error
from .slim import Slim, save_tensorflow1
from .test_layouts import TOLERANCE, answers, images

# Parameters, moving statistics and MACs at 224; Keras counts the first two as one.
COUNTS = {
    "ResNet50V2": (25_613_800, 3_482_255_360),
    "ResNet101V2": (44_675_560, 7_194_476_544),
    "ResNet152V2": (60_380_648, 10_906_697_728),
}
SIZE = 64


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_those_of_keras(name):
    with keras.StatelessScope(initialize_variables=False):
        parameters, statistics, macs = counts(getattr(resnet_v2, name), 224)
        assert (parameters + statistics, macs) == COUNTS[name]


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    model = keras.applications.ResNet50V2(
        weights=None, input_shape=(SIZE, SIZE, 3), classifier_activation=None
    )
    randomise(model)
    path = tmp_path_factory.mktemp("keras") / "resnet50v2.weights.h5"
    model.save_weights(path)
    inputs = keras.applications.resnet_v2.preprocess_input(images(SIZE).astype("f4"))
    return path, model(inputs, training=False).numpy()


def test_logits_are_those_of_keras(keras_file):
    path, expected = keras_file
    logits, report = answers(resnet_v2.ResNet50V2, path, SIZE, layout="keras")
    assert relative_error(logits, expected) < TOLERANCE
    assert relative_error(expected[:1], expected[1:]) > 100 * TOLERANCE
    assert (report.layout, report.unused) == ("keras", ())


class StridesFirst(resnet_v2.ResNet50V2):
    """Strides in the first block of a stage, as in other residual networks."""

    def _construct(self, images):
        self._seen = set()
        return super()._construct(images)

    def _block(self, x, filters, strides):
        first = filters not in self._seen
        self._seen.add(filters)
        return super()._block(x, filters, 2 if first and filters > 64 else 1)


def changed(**changes):
    layout = dataclasses.replace(resnet_v2.KERAS, **changes)
    return type("Changed", (resnet_v2.ResNet50V2,), {"layouts": (layout,)})


WRONG = {
    "pool": changed(settings={"pool_padding": "same"}),
    "epsilon": changed(epsilon=1e-3),
    "pixels": changed(preprocessing=Preprocessing()),
    "strides": StridesFirst,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_detail_gives_other_logits(wrong, keras_file):
    path, expected = keras_file
    logits, _ = answers(WRONG[wrong], path, SIZE, layout="keras")
    assert relative_error(logits, expected) > 100 * TOLERANCE


class Shallow(resnet_v2.ResNet50V2):
    blocks = (2, 1, 2, 1)


def slim_resnet_v2(slim, x, num_classes):
    """Source: tf-slim, resnet_v2.py and resnet_utils.py; fewer units to a block."""
    x = x / 127.5 - 1.0
    x = slim.conv(x, "conv1", 64, 7, 2, "FIXED", norm=False)
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    for block, (width, units, stride) in enumerate(
        [(64, 2, 2), (128, 1, 2), (256, 2, 2), (512, 1, 1)], 1
    ):
        for unit in range(1, units + 1):
            name = f"block{block}/unit_{unit}/bottleneck_v2"
            strides = stride if unit == units else 1
            preact = tf.nn.relu(slim.normalise(x, f"{name}/preact"))
            shortcut = x[:, ::strides, ::strides]
            if unit == 1:
                where = f"{name}/shortcut"
                shortcut = slim.conv(preact, where, 4 * width, 1, strides, norm=False)
            y = slim.conv(preact, f"{name}/conv1", width, 1)
            y = slim.conv(y, f"{name}/conv2", width, 3, strides, "FIXED")
            x = shortcut + slim.conv(y, f"{name}/conv3", 4 * width, 1, norm=False)
    x = tf.nn.relu(slim.normalise(x, "postnorm"))
    x = tf.reduce_mean(x, (1, 2), keepdims=True)
    return slim.conv(x, "logits", num_classes, 1, norm=False)[:, 0, 0]


def test_logits_are_those_of_slim_without_the_background(tmp_path):
    path = tmp_path / "resnet_v2_50.ckpt"
    slim = Slim(1e-5, root="resnet_v2_50")
    expected = save_tensorflow1(path, slim_resnet_v2, slim, SIZE, 1001)[:, 1:]
    logits, report = answers(Shallow, path, SIZE, layout="slim")
    assert relative_error(logits, expected) < TOLERANCE
    assert (report.layout, report.unused) == ("slim", ())


def test_multipliers_are_those_of_the_class():
    class Slow(resnet_v2.ResNet50V2):
        lr_mults = (0.0, 0.1, 0.2, 0.3, 0.4)

    with keras.StatelessScope(initialize_variables=False):
        policies = Slow(10, image_shape=(32, 32, 3)).policies
    layers = ["stem/conv", *(f"stage{n}/block2/preact/bn" for n in (1, 2, 3, 4))]
    assert tuple(policies[layer].lr_mult for layer in layers) == Slow.lr_mults
    assert policies["post/bn"].lr_mult == 0.4
    assert policies["logits"].restore is False
    assert policies["logits"].lr_mult == 1.0
