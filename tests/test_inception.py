import dataclasses
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from worklab.networks import inception
from worklab.pretrained import import_weights
from worklab.pretrained.files import write_weights

from .comparing import counts, randomise, relative_error
from .golden.values import make_values
from .slim import Slim, save_tensorflow1
from .test_golden import FOLDER
from .test_layouts import TOLERANCE, answers, images

SIZE = 75  # the smallest
SHAPE = (SIZE, SIZE, 3)


class WithHead(inception.InceptionV3):
    auxiliary_weight = 0.4


def test_counts_are_those_of_torchvision_and_keras():
    with keras.StatelessScope(initialize_variables=False):
        without = (23_834_568, 34_432, 5_713_216_096)
        assert counts(inception.InceptionV3, 299) == without
        assert counts(WithHead, 299) == without
        network = WithHead(1000, image_shape=(299, 299, 3))
        trained = network.model.trainable_variables
        assert sum(math.prod(v.shape) for v in trained) == 27_161_264
        model = inception.InceptionV3(1000, image_shape=SHAPE, layout="keras").model
        theirs = keras.applications.InceptionV3(weights=None)
        assert model.count_params() == theirs.count_params() == 23_851_784


# === Keras, whose names are numbers ===


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    """A file whose numbers begin at 3, and at 5 for the norms."""
    keras.backend.clear_session(free_memory=False)
    for kind, count in ((keras.layers.Conv2D, 3), (keras.layers.BatchNormalization, 5)):
        for _ in range(count):
            kind(1) if kind is keras.layers.BatchNormalization else kind(1, 1)
    model = keras.applications.InceptionV3(
        weights=None, input_shape=(SIZE, SIZE, 3), classifier_activation=None
    )
    randomise(model)
    path = tmp_path_factory.mktemp("keras") / "inception_v3.weights.h5"
    model.save_weights(path)
    pixels = images(SIZE).astype("float32")
    inputs = keras.applications.inception_v3.preprocess_input(pixels)
    return path, model(inputs, training=False).numpy()


def test_logits_are_those_of_keras_from_any_number_on(keras_file):
    path, expected = keras_file
    logits, report = answers(inception.InceptionV3, path, SIZE, layout="keras")
    assert relative_error(logits, expected) < TOLERANCE
    assert relative_error(expected[:1], expected[1:]) > 100 * TOLERANCE
    assert (report.layout, report.unused) == ("keras", ())
    sources = {row.variable: row.sources for row in report.rows}
    assert sources["stem/1a/conv/kernel"] == ("conv2d_3/kernel",)
    assert sources["stem/1a/bn/beta"] == ("batch_normalization_5/vars/0",)
    assert sources["stage7/c/pool/conv/kernel"] == ("conv2d_96/kernel",)


def changed(layout, **changes):
    layout = dataclasses.replace(layout, **changes)
    return type("Changed", (inception.InceptionV3,), {"layouts": (layout,)})


def exchanged(layer):
    """Return Keras's names with two of one shape exchanged."""
    numbers = {"stage5/c/3x3dbl_2": "stage5/b/3x3dbl_2"}
    numbers |= {theirs: ours for ours, theirs in numbers.items()}
    part, _, kind = layer.rpartition("/")
    return inception.KERAS.rename(f"{numbers.get(part, part)}/{kind}".lstrip("/"))


BGR = dataclasses.replace(inception.KERAS.preprocessing, channel_order="BGR")
WRONG = {
    "pools": {"settings": {**inception.KERAS.settings, "pool_padding": "symmetric"}},
    "epsilon": {"epsilon": 1e-5},
    "order": {"preprocessing": BGR},
    "numbers": {"rename": exchanged},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_detail_gives_other_logits(wrong, keras_file):
    path, expected = keras_file
    kind = changed(inception.KERAS, **WRONG[wrong])
    logits, _ = answers(kind, path, SIZE, layout="keras")
    assert relative_error(logits, expected) > 100 * TOLERANCE


def test_file_that_lacks_a_number_is_refused(tmp_path):
    keras_names = {}
    network = inception.InceptionV3(5, image_shape=(SIZE, SIZE, 3), layout="keras")
    for variable, value in network.variables.items():
        layer, leaf = network.split(variable)
        if layer != "dropout":
            name = inception.KERAS.rename(layer).replace("conv2d_93", "conv2d_94")
            keras_names[f"{name}/{leaf}"] = value.numpy()
    np.savez(tmp_path / "gap.npz", **keras_names)
    with pytest.raises(ValueError, match=r"1 variables and 1 names unexplained"):
        import_weights(network, tmp_path / "gap.npz")


# === tf-slim ===

# Ways through each block, as tf-slim's inception_v3.py has them: name, filters, kernel.
# A list in a list forks.
BLOCKS = {
    name: [
        [("0a_1x1", 64, 1)],
        [("0a_1x1", 48, 1), ("0b_5x5", 64, 5)],
        [("0a_1x1", 64, 1), ("0b_3x3", 96, 3), ("0c_3x3", 96, 3)],
        ["average", ("0b_1x1", pooled, 1)],
    ]
    for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64))
}
BLOCKS["5c"][1] = [("0b_1x1", 48, 1), ("Conv_1_0c_5x5", 64, 5)]
BLOCKS["6a"] = [
    [("1a_1x1", 384, 3, 2)],
    [("0a_1x1", 64, 1), ("0b_3x3", 96, 3), ("1a_1x1", 96, 3, 2)],
    ["max"],
]
BLOCKS |= {
    name: [
        [("0a_1x1", 192, 1)],
        [("0a_1x1", width, 1), ("0b_1x7", width, (1, 7)), ("0c_7x1", 192, (7, 1))],
        [
            ("0a_1x1", width, 1),
            ("0b_7x1", width, (7, 1)),
            ("0c_1x7", width, (1, 7)),
            ("0d_7x1", width, (7, 1)),
            ("0e_1x7", 192, (1, 7)),
        ],
        ["average", ("0b_1x1", 192, 1)],
    ]
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192))
}
BLOCKS["7a"] = [
    [("0a_1x1", 192, 1), ("1a_3x3", 320, 3, 2)],
    [
        ("0a_1x1", 192, 1),
        ("0b_1x7", 192, (1, 7)),
        ("0c_7x1", 192, (7, 1)),
        ("1a_3x3", 192, 3, 2),
    ],
    ["max"],
]
BLOCKS |= {
    name: [
        [("0a_1x1", 320, 1)],
        [("0a_1x1", 384, 1), [("0b_1x3", 384, (1, 3)), (last, 384, (3, 1))]],
        [
            ("0a_1x1", 448, 1),
            ("0b_3x3", 384, 3),
            [("0c_1x3", 384, (1, 3)), ("0d_3x1", 384, (3, 1))],
        ],
        ["average", ("0b_1x1", 192, 1)],
    ]
    for name, last in (("7b", "0b_3x1"), ("7c", "0c_3x1"))
}


def slim_inception_v3(slim, x, num_classes):
    """Source: tf-slim, inception_v3.py."""

    def step(x, scope, what):
        if what == "average":
            return tf.nn.avg_pool2d(x, 3, 1, "SAME")
        if what == "max":
            return tf.nn.max_pool2d(x, 3, 2, "VALID")
        if isinstance(what, list):
            return tf.concat([step(x, scope, each) for each in what], -1)
        name, filters, kernel, *strides = what
        name = name if name.startswith("Conv") else f"Conv2d_{name}"
        padding = "VALID" if strides else "SAME"
        where = f"{scope}/{name}"
        return slim.conv(x, where, filters, kernel, *(strides or [1]), padding)

    x = x / 127.5 - 1.0
    x = slim.conv(x, "Conv2d_1a_3x3", 32, 3, 2, "VALID")
    x = slim.conv(x, "Conv2d_2a_3x3", 32, 3, 1, "VALID")
    x = slim.conv(x, "Conv2d_2b_3x3", 64, 3)
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    x = slim.conv(x, "Conv2d_3b_1x1", 80, 1, 1, "VALID")
    x = slim.conv(x, "Conv2d_4a_3x3", 192, 3, 1, "VALID")
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    for block, branches in BLOCKS.items():
        ways = []
        for number, steps in enumerate(branches):
            y = x
            for what in steps:
                y = step(y, f"Mixed_{block}/Branch_{number}", what)
            ways.append(y)
        x = tf.concat(ways, -1)
    slim.named("AuxLogits/Conv2d_1b_1x1/weights", (1, 1, 768, 128), 1.0)
    x = tf.reduce_mean(x, (1, 2), keepdims=True)
    return slim.conv(x, "Logits/Conv2d_1c_1x1", num_classes, 1, norm=False)[:, 0, 0]


def test_logits_are_those_of_slim_without_the_background(tmp_path):
    path = tmp_path / "inception_v3.ckpt"
    slim = Slim(1e-3, root="InceptionV3", scale=False)
    expected = save_tensorflow1(path, slim_inception_v3, slim, SIZE, 1001)[:, 1:]
    logits, report = answers(inception.InceptionV3, path, SIZE, layout="slim")
    assert relative_error(logits, expected) < TOLERANCE
    assert relative_error(expected[:1], expected[1:]) > 100 * TOLERANCE
    assert (report.layout, report.unused) == ("slim", ())
    assert report.count("filled") == 0  # there is no gamma, here as there


# === The auxiliary head ===


def test_auxiliary_head_restores_from_torchvision_but_for_its_logits(tmp_path):
    golden = json.loads((FOLDER / "inceptionv3_torchvision.json").read_text())
    shapes = {
        name: tuple(int(n) for n in shape.split("x") if n)
        for name, shape in golden["variables"].items()
    }
    write_weights(tmp_path / "theirs.safetensors", make_values(shapes))
    network = WithHead(10, image_shape=(299, 299, 3))
    report = import_weights(network, tmp_path / "theirs.safetensors")
    assert report.unused == ()
    skipped = {row.variable for row in report.rows if row.action == "skipped"}
    leaves = ("kernel", "bias")
    assert skipped == {f"{p}logits/{n}" for p in ("", "auxiliary/") for n in leaves}
    sources = {row.variable: row.sources for row in report.rows}
    assert sources["auxiliary/conv1/conv/kernel"] == ("AuxLogits.conv1.conv.weight",)


def test_auxiliary_head_is_fresh_where_the_file_has_none():
    with keras.StatelessScope(initialize_variables=False):
        network = WithHead(10, image_shape=(299, 299, 3), layout="keras")
    assert network.policies["auxiliary/conv1/conv"].restore is False
    assert network.policies["stage6/e/1x1/conv"].restore is True


def test_multipliers_are_those_of_the_class():
    class Slow(WithHead):
        lr_mults = (0.0, 0.1, 0.2, 0.3)

    with keras.StatelessScope(initialize_variables=False):
        policies = Slow(5, image_shape=(299, 299, 3)).policies
    layers = ["stem/2a/bn", *(f"stage{n}/b/1x1/conv" for n in (5, 6, 7)), "logits"]
    assert [policies[layer].lr_mult for layer in layers] == [0, 0.1, 0.2, 0.3, 1.0]
    assert policies["auxiliary/reduce/conv"].lr_mult == 0.2
