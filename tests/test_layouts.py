"""Other projects' weights give other projects' answers."""

import keras
import numpy as np
import pytest

from worklab.networks import resnet
from worklab.pretrained import import_weights

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


def relative_error(logits, expected):
    return np.abs(logits - expected).max() / np.abs(expected).max()


def with_head(network_class):
    """Return the class with a last layer that is restored, too."""

    class Whole(network_class):
        def full_layer(self, *args, **settings):
            return super().full_layer(*args, **settings | {"restore": True})

    return Whole


def answers(network_class, path, size, *, layout=None, num_classes=1000):
    network = with_head(network_class)(
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
