import numpy as np
import pytest

from tests.comparing import counts
from worklab.networks import squeezenet

COUNTS = {
    "SqueezeNet10": (1_248_424, 0, 818_924_576),
    "SqueezeNet11": (1_235_496, 0, 349_151_936),
}


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("name", COUNTS)
def test_squeezenet_has_its_parameters_and_macs(name):
    assert counts(getattr(squeezenet, name), 224) == COUNTS[name]


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize(
    ("name", "sizes"),
    [("SqueezeNet10", [54, 27, 13]), ("SqueezeNet11", [55, 27, 13])],
)
def test_stages_have_the_sizes_of_ceil_mode(name, sizes):
    network = getattr(squeezenet, name)(7, image_shape=(224, 224, 3))
    outputs = [network.keras_layer(f"stage{n}/pool").output for n in (1, 2, 3)]
    assert [output.shape[1] for output in outputs] == sizes
    assert network.model.output.shape == (None, 7)


def test_no_logit_is_negative():
    network = squeezenet.SqueezeNet11(40, image_shape=(35, 35, 3))
    images = np.random.default_rng(0).integers(0, 256, (2, 35, 35, 3), np.uint8)
    logits = network({"images": images}, training=False).numpy()
    assert logits.min() >= 0
    assert logits.max() > 0


@pytest.mark.usefixtures("without_values")
def test_multipliers_are_those_of_the_class():
    class Slow(squeezenet.SqueezeNet11):
        lr_mults = (0.0, 0.1, 0.2, 0.3)

    network = Slow(3, image_shape=(64, 64, 3))
    layers = ["stem/conv", *(f"stage{n}/fire1/expand3x3" for n in (1, 2, 3))]
    assert tuple(network.policies[layer].lr_mult for layer in layers) == Slow.lr_mults
    assert network.policies["logits"].restore is False
