import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from worklab.networks import googlenet
from worklab.pretrained import import_weights

from .comparing import counts, relative_error, whole
from .slim import Slim, save_tensorflow1
from .test_layouts import TOLERANCE, answers, images

# Parameters, moving statistics and MACs at 224, without auxiliary heads.
COUNTS = {
    "GoogLeNet": (6_624_904, 14_560, 1_498_376_192),
    "CaffeGoogLeNet": (6_998_552, 0, 1_582_671_872),
}
# Where every way of padding gives something else.
SIZE = 70

# 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj; of tf-slim, inception_v1.py.
BLOCKS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
SLIM_BLOCKS = dict(
    zip(BLOCKS, ["3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"], strict=True)
)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_published_ones(name):
    with keras.StatelessScope(initialize_variables=False):
        assert counts(getattr(googlenet, name), 224) == COUNTS[name]


class WithHeads(googlenet.GoogLeNet):
    auxiliary_weight = 0.3


def test_auxiliary_heads_have_the_parameters_of_torchvision():
    with keras.StatelessScope(initialize_variables=False):
        network = WithHeads(1000)
        trained = network.model.trainable_variables
        assert sum(math.prod(v.shape) for v in trained) == 13_004_888
        assert counts(WithHeads, 224) == COUNTS["GoogLeNet"]


def test_auxiliary_heads_learn_and_do_not_answer():
    network = WithHeads(5, image_shape=(64, 64, 3))
    batch = {"images": images(64), "labels": np.array([1, 3])}
    with tf.GradientTape() as tape:
        logits = network(batch, training=True)
        losses = network.losses(batch, logits, training=True)
    assert [each.shape for each in logits] == [(2, 5)] * 3
    assert losses.shape == (2,)
    alone = [
        tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], each)
        for each in logits
    ]
    np.testing.assert_allclose(
        losses, alone[0] + 0.3 * alone[1] + 0.3 * alone[2], rtol=1e-5
    )
    right = network.scores(batch, logits)["accuracy"]
    np.testing.assert_array_equal(right, np.argmax(logits[0], -1) == batch["labels"])
    gradients = tape.gradient(losses, network.model.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    assert network(batch, training=False).shape == (2, 5)
    assert network.policies["stage4/auxiliary_d/logits"].restore is False
    assert "stage4/auxiliary_d/reduce/conv/kernel" in network.variables


def slim_inception_v1(slim, x, num_classes):
    """Source: tf-slim, inception_v1.py."""
    x = x / 127.5 - 1.0
    x = slim.conv(x, "Conv2d_1a_7x7", 64, 7, 2)
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    x = slim.conv(x, "Conv2d_2b_1x1", 64, 1)
    x = slim.conv(x, "Conv2d_2c_3x3", 192, 3)
    for block, filters in BLOCKS.items():
        if block.endswith("a"):
            size = 2 if block == "5a" else 3
            x = tf.nn.max_pool2d(x, size, 2, "SAME")
        name = f"Mixed_{SLIM_BLOCKS[block]}"
        last = "Conv2d_0a_3x3" if name == "Mixed_5b" else "Conv2d_0b_3x3"
        ways = [slim.conv(x, f"{name}/Branch_0/Conv2d_0a_1x1", filters[0], 1)]
        y = slim.conv(x, f"{name}/Branch_1/Conv2d_0a_1x1", filters[1], 1)
        ways.append(slim.conv(y, f"{name}/Branch_1/Conv2d_0b_3x3", filters[2], 3))
        y = slim.conv(x, f"{name}/Branch_2/Conv2d_0a_1x1", filters[3], 1)
        ways.append(slim.conv(y, f"{name}/Branch_2/{last}", filters[4], 3))
        y = tf.nn.max_pool2d(x, 3, 1, "SAME")
        ways.append(slim.conv(y, f"{name}/Branch_3/Conv2d_0b_1x1", filters[5], 1))
        x = tf.concat(ways, -1)
    x = tf.reduce_mean(x, (1, 2), keepdims=True)
    return slim.conv(x, "Logits/Conv2d_0c_1x1", num_classes, 1, norm=False)[:, 0, 0]


@pytest.fixture(scope="module")
def slim_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("slim") / "inception_v1.ckpt"
    slim = Slim(1e-3, root="InceptionV1", scale=False)
    return path, save_tensorflow1(path, slim_inception_v1, slim, SIZE, 1001)[:, 1:]


def test_logits_are_those_of_slim_without_the_background(slim_file):
    path, expected = slim_file
    logits, report = answers(googlenet.GoogLeNet, path, SIZE, layout="slim")
    assert relative_error(logits, expected) < TOLERANCE
    assert relative_error(expected[:1], expected[1:]) > 100 * TOLERANCE
    assert (report.layout, report.unused) == ("slim", ())
    assert report.count("filled") == 57  # its norms have no gamma


SETTINGS = googlenet.SLIM.settings
WRONG = {
    "stem": {"settings": {**SETTINGS, "stem_padding": "symmetric"}},
    "pools": {"settings": {**SETTINGS, "pool_padding": "ceil"}},
    "epsilon": {"epsilon": 1e-5},
    "pixels": {
        "preprocessing": dataclasses.replace(
            googlenet.SLIM.preprocessing, channel_order="BGR"
        )
    },
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_detail_gives_other_logits(wrong, slim_file):
    path, expected = slim_file
    layout = dataclasses.replace(googlenet.SLIM, **WRONG[wrong])
    kind = type("Wrong", (googlenet.GoogLeNet,), {"layouts": (layout,)})
    logits, _ = answers(kind, path, SIZE, layout="slim")
    assert relative_error(logits, expected) > 100 * TOLERANCE


def caffe_googlenet(weights, x):
    """Source: Caffe, bvlc_googlenet; pooling rounds up, which "SAME" does at 64."""

    def conv(x, name, filters, size, strides=1):
        rng = np.random.default_rng(len(weights))
        shape = (size, size, x.shape[-1], filters)
        kernel = rng.normal(0, (2 / math.prod(shape[:3])) ** 0.5, shape)
        weights[f"{name}/weights"] = kernel.astype(np.float32)
        weights[f"{name}/biases"] = rng.normal(0, 0.1, filters).astype(np.float32)
        pad = [size // 2] * 2
        x = tf.pad(x, [[0, 0], pad, pad, [0, 0]])
        x = tf.nn.conv2d(x, weights[f"{name}/weights"], strides, "VALID")
        return tf.nn.relu(x + weights[f"{name}/biases"])

    def local(x):
        return tf.nn.local_response_normalization(x, 2, 1.0, 1e-4 / 5, 0.75)

    x = x[..., ::-1] - np.float32([104, 117, 123])
    x = conv(x, "conv1/7x7_s2", 64, 7, 2)
    x = local(tf.nn.max_pool2d(x, 3, 2, "SAME"))
    x = local(conv(conv(x, "conv2/3x3_reduce", 64, 1), "conv2/3x3", 192, 3))
    for block, filters in BLOCKS.items():
        if block.endswith("a"):
            x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        name = f"inception_{block}"
        ways = [conv(x, f"{name}/1x1", filters[0], 1)]
        y = conv(x, f"{name}/3x3_reduce", filters[1], 1)
        ways.append(conv(y, f"{name}/3x3", filters[2], 3))
        y = conv(x, f"{name}/5x5_reduce", filters[3], 1)
        ways.append(conv(y, f"{name}/5x5", filters[4], 5))
        y = tf.nn.max_pool2d(x, 3, 1, "SAME")
        ways.append(conv(y, f"{name}/pool_proj", filters[5], 1))
        x = tf.concat(ways, -1)
    kernel = np.random.default_rng(0).normal(0, 0.03, (1024, 5)).astype(np.float32)
    weights["loss3/classifier/weights"] = kernel
    weights["loss3/classifier/biases"] = np.arange(5, dtype=np.float32) / 10
    return tf.reduce_mean(x, (1, 2)) @ kernel + np.arange(5, dtype=np.float32) / 10


def test_logits_are_those_of_caffe(tmp_path):
    weights = {"loss1/fc/weights": np.zeros(3, np.float32)}
    expected = caffe_googlenet(weights, tf.constant(images(64), tf.float32)).numpy()
    np.savez(tmp_path / "googlenet.npz", **weights)
    network = whole(googlenet.CaffeGoogLeNet)(5, image_shape=(64, 64, 3))
    report = import_weights(network, tmp_path / "googlenet.npz")
    logits = network({"images": images(64)}, training=False).numpy()
    assert relative_error(logits, expected) < TOLERANCE
    assert (report.layout, report.unused) == ("caffe", ())


def test_multipliers_are_those_of_the_class():
    class Slow(WithHeads):
        lr_mults = (0.0, 0.1, 0.2, 0.3)

    with keras.StatelessScope(initialize_variables=False):
        policies = Slow(5, image_shape=(64, 64, 3)).policies
    layers = ["stem/conv2/bn", *(f"stage{n}/a/1x1/conv" for n in (3, 4, 5)), "logits"]
    assert [policies[layer].lr_mult for layer in layers] == [0, 0.1, 0.2, 0.3, 1.0]
    assert policies["stage4/auxiliary_a/full"].lr_mult == 1.0
