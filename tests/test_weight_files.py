"""Files of every format, written by the library whose format it is."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from worklab.checkpoints import Checkpoints
from worklab.pretrained.files import open_weights, read_weights, write_weights

RNG = np.random.default_rng(0)
ARRAYS = {
    "conv1/weights": RNG.normal(size=(3, 3, 2, 4)).astype(np.float32),
    "conv1/biases": RNG.normal(size=4).astype(np.float32),
    "step": np.array(7, np.int64),
    "half": RNG.normal(size=(5, 2)).astype(np.float16),
    "mask": np.array([True, False, True]),
}


def assert_same(weights, expected):
    assert set(weights) == set(expected)
    assert len(weights) == len(expected)
    for name, array in expected.items():
        assert weights.shape(name) == array.shape, name
        assert weights.dtype(name) == weights[name].dtype == array.dtype, name
        np.testing.assert_array_equal(weights[name], array, err_msg=name)


def make_model():
    """A model with a nested one, and each kind of layer that numbers its variables."""
    layers = keras.layers
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, use_bias=False, name="conv_a"),
            layers.BatchNormalization(name="bn_a"),
            layers.DepthwiseConv2D(3, name="depthwise"),
        ],
        name="backbone",
    )
    inputs = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(4, 2, name="separable")(inner(inputs))
    x = layers.PReLU(name="prelu")(x)
    x = layers.Reshape((9, 4), name="rows")(x)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.LSTM(3, use_bias=False, name="lstm")(x)
    x = layers.BatchNormalization(scale=False, name="bn_b")(x)
    x = layers.LayerNormalization(center=False, name="norm_b")(x)
    outputs = layers.Dense(2, name="predictions")(x)
    model = keras.Model(inputs, outputs, name="whole")
    for variable in model.variables:
        variable.assign(RNG.normal(size=variable.shape))
    return model


def variables(model):
    return {
        variable.path: np.array(variable.value)
        for variable in model.variables
        if "seed_generator" not in variable.path
    }


# === safetensors ===


def test_safetensors_of_our_own(tmp_path):
    write_weights(tmp_path / "w", ARRAYS, class_names=["cat", "dog"])
    with open_weights(tmp_path / "w") as weights:
        assert weights.format == "safetensors"
        assert weights.class_names == ["cat", "dog"]
        assert_same(weights, ARRAYS)


def test_checkpoint_of_our_own_has_class_names(tmp_path):
    path = Checkpoints(tmp_path).save(3, ARRAYS, {"class_names": ["cat", "dog"]})
    with open_weights(path) as weights:
        assert weights.class_names == ["cat", "dog"]
        assert_same(weights, ARRAYS)


# === TensorFlow ===


# TensorFlow itself reads no float16 of format V1.
TENSORFLOW_1 = {name: array for name, array in ARRAYS.items() if name != "half"}


def save_v1(path, version):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in TENSORFLOW_1.items():
            tf.compat.v1.get_variable(name, initializer=tf.constant(array))
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(write_version=version)
        return saver.save(session, str(path), write_meta_graph=False)


@pytest.mark.parametrize("version", [1, 2])
def test_tensorflow_1_checkpoint(tmp_path, version):
    save_v1(tmp_path / "model.ckpt", version)
    paths = [tmp_path / "model.ckpt", tmp_path]
    if version == 2:
        paths.append(tmp_path / "model.ckpt.index")
        paths.append(tmp_path / "model.ckpt.data-00000-of-00001")
    for path in paths:
        with open_weights(path) as weights:
            assert weights.format == "TensorFlow checkpoint"
            assert weights.path == tmp_path / "model.ckpt"
            assert_same(weights, TENSORFLOW_1)


def test_tensorflow_2_object_checkpoint_has_the_variables_names(tmp_path):
    model = make_model()
    tf.train.Checkpoint(model=model).save(str(tmp_path / "ckpt"))
    with open_weights(tmp_path) as weights:
        expected = variables(model)
        assert {n: weights[n].shape for n in expected} == {
            n: a.shape for n, a in expected.items()
        }
        for name, array in expected.items():
            np.testing.assert_array_equal(weights[name], array)
        assert not [n for n in weights if "save_counter" in n or "OBJECT_GRAPH" in n]


# === Keras ===


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_keras_file_has_the_variables_names(tmp_path, suffix):
    model = make_model()
    model.save(tmp_path / f"m.{suffix}")
    with open_weights(tmp_path / f"m.{suffix}") as weights:
        assert weights.format == {"h5": "Keras HDF5", "keras": ".keras archive"}[suffix]
        assert_same(weights, variables(model))


def test_weights_alone_have_the_names_that_are_certain(tmp_path):
    model = make_model()
    model.save_weights(tmp_path / "m.weights.h5")
    expected = variables(model)
    for old, new in {
        "bn_b/beta": "bn_b/vars/0",  # or gamma: the file does not say
        "bn_b/moving_mean": "bn_b/vars/1",
        "bn_b/moving_variance": "bn_b/vars/2",
        "norm_b/gamma": "norm_b/vars/0",
    }.items():
        expected[new] = expected.pop(old)
    with open_weights(tmp_path / "m.weights.h5") as weights:
        assert_same(weights, expected)


def test_keras_2_file(tmp_path):
    kernel, bias = ARRAYS["conv1/weights"], ARRAYS["conv1/biases"]
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["layer_names"] = [b"input_1", b"conv1", b"inner", b"renamed"]
        file.create_group("input_1").attrs["weight_names"] = []
        for layer, names in {
            "conv1": ["conv1/kernel:0", "conv1/bias:0"],
            "inner": ["conv2/kernel:0", "conv2/bias:0"],
            "renamed": ["model/renamed/kernel:0", "model/renamed/bias:0"],
        }.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in names]
            group[names[0]], group[names[1]] = kernel, bias
    with open_weights(tmp_path / "m.h5") as weights:
        layers = ["conv1", "inner/conv2", "renamed"]
        assert list(weights) == [
            f"{layer}/{leaf}" for layer in layers for leaf in ("kernel", "bias")
        ]
        for name in weights:
            expected = kernel if name.endswith("kernel") else bias
            np.testing.assert_array_equal(weights[name], expected)


# === NumPy ===


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_numpy_archive(tmp_path, save):
    arrays = ARRAYS | {
        "fortran": np.asfortranarray(ARRAYS["half"]),
        "big endian": np.arange(3, dtype=">f4").astype("<f4"),
        "empty": np.zeros((0, 3), np.float32),
    }
    save(tmp_path / "w.npz", **arrays | {"big endian": np.arange(3, dtype=">f4")})
    with open_weights(tmp_path / "w.npz") as weights:
        assert weights.format == "NumPy archive"
        assert_same(weights, arrays)


# === All ===


def test_closed_file_is_an_error(tmp_path):
    write_weights(tmp_path / "w", ARRAYS)
    with open_weights(tmp_path / "w") as weights:
        pass
    with pytest.raises(RuntimeError, match="is closed.*Received: 'step' of"):
        weights["step"]


def test_all_arrays_are_read_at_once(tmp_path):
    np.savez(tmp_path / "w.npz", **ARRAYS)
    assert read_weights(tmp_path / "w.npz").keys() == ARRAYS.keys()
