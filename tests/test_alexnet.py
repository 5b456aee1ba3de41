import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.comparing import check_slim_names, counts
from worklab.networks import alexnet
from worklab.options import LayerOptions

# Parameters and multiply-accumulates at the size of the layout.
COUNTS = {
    "AlexNet": (224, (61_100_840, 0, 714_188_480)),
    "SlimAlexNet": (224, (50_303_912, 0, 736_555_776)),
    "CaffeAlexNet": (227, (60_965_224, 0, 724_406_816)),
}
NAMES = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("name", COUNTS)
def test_alexnet_has_its_parameters_and_macs(name):
    size, expected = COUNTS[name]
    assert counts(getattr(alexnet, name), size) == expected


def test_alexnet_of_slim_is_restored_by_its_names(tmp_path):
    names = [f"alexnet_v2/{name}" for name in NAMES]
    check_slim_names(alexnet.SlimAlexNet, names, tmp_path / "alexnet.npz", 99)


def test_alexnet_of_caffe_is_restored_by_its_names(tmp_path):
    path = tmp_path / "alexnet.npz"
    check_slim_names(alexnet.CaffeAlexNet, NAMES, path, 99, layout="caffe")


def test_caffe_normalises_before_it_pools_and_sees_bgr():
    network = alexnet.CaffeAlexNet(5, image_shape=(99, 99, 3))
    assert network.channel_order == "BGR"
    names = [layer.name for layer in network.model.layers]
    for conv in ("conv1", "conv2"):
        place = names.index(f"{conv}.conv")
        expected = [f"{conv}.{part}" for part in ("conv", "relu", "norm", "pool")]
        assert names[place : place + 4] == expected
    kernels = [network.variables[f"conv{n}/conv/kernel"].shape for n in (1, 2, 3, 4, 5)]
    assert [shape[2] for shape in kernels] == [3, 48, 256, 192, 192]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_caffe_alexnet_learns_and_is_saved(precision, tmp_path):
    network = alexnet.CaffeAlexNet(
        5,
        image_shape=(67, 67, 3),
        precision=precision,
        options=LayerOptions(lr_mult={"full1": 0.0, "full2": 0.0}),
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 67, 67, 3), np.uint8)
    batch = {"images": images, "labels": np.array([0, 1])}
    with tf.GradientTape() as tape:
        logits = network(batch, training=True)
        loss = tf.reduce_sum(network.losses(batch, logits, training=True))
    gradients = tape.gradient(loss, network.model.trainable_variables)
    assert all(np.isfinite(g).all() and np.any(g) for g in gradients)
    network.model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = network(batch, training=False).numpy()
    np.testing.assert_array_equal(loaded({"images": images}), expected)
