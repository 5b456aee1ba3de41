import keras
import numpy as np
import pytest

from tests.comparing import (
    check_answers_of_keras,
    check_slim_names,
    counts,
    relative_error,
    whole,
)
from tests.golden.values import make_images, make_value
from worklab.networks import vgg
from worklab.pretrained import import_weights
from worklab.pretrained.files import write_weights

# Parameters of torchvision's models, without batch normalisation.
PARAMETERS = {"VGG11": 132_863_336, "VGG13": 133_047_848}
# The same with multiply-accumulates at 224x224.
COUNTS = {
    "VGG16": (138_357_544, 0, 15_470_264_320),
    "VGG19": (143_667_240, 0, 19_632_062_464),
}
SLIM_VGG16 = """
    conv1/conv1_1 conv1/conv1_2 conv2/conv2_1 conv2/conv2_2
    conv3/conv3_1 conv3/conv3_2 conv3/conv3_3 conv4/conv4_1 conv4/conv4_2 conv4/conv4_3
    conv5/conv5_1 conv5/conv5_2 conv5/conv5_3 fc6 fc7 fc8
"""


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("name", COUNTS)
def test_vgg_has_its_parameters_and_macs(name):
    assert counts(getattr(vgg, name), 224) == COUNTS[name]


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("name", PARAMETERS)
def test_vgg_of_fewer_layers_has_the_parameters_of_torchvision(name):
    parameters, _, _ = counts(getattr(vgg, name), 32)
    # At 32x32 the first full layer sees one pixel instead of 7x7.
    assert parameters + 48 * 512 * 4096 == PARAMETERS[name]


def test_vgg16_of_keras_gives_its_logits(tmp_path):
    model = keras.applications.VGG16(
        weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
    )
    preprocess = keras.applications.vgg16.preprocess_input
    path = tmp_path / "vgg16.weights.h5"
    check_answers_of_keras(vgg.VGG16, model, preprocess, path, 64)


def test_vgg16_of_slim_is_restored_by_its_names(tmp_path):
    names = [f"vgg_16/{name}" for name in SLIM_VGG16.split()]
    check_slim_names(vgg.VGG16, names, tmp_path / "vgg_16.npz", 64)


def test_vgg_of_timm_gives_the_answers_of_torchvision(tmp_path):
    """The same numbers; timm's full layers are convolutions (7x7, here 2x2)."""
    shapes = {}
    for index, inputs, filters in [
        (0, 3, 64),
        (3, 64, 128),
        (6, 128, 256),
        (8, 256, 256),
        (11, 256, 512),
        (13, 512, 512),
        (16, 512, 512),
        (18, 512, 512),
    ]:
        shapes[f"features.{index}.weight"] = (filters, inputs, 3, 3)
        shapes[f"features.{index}.bias"] = (filters,)
    full = {
        "classifier.0": ("pre_logits.fc1", (4096, 512, 2, 2)),
        "classifier.3": ("pre_logits.fc2", (4096, 4096, 1, 1)),
        "classifier.6": ("head.fc", (10, 4096)),
    }
    torchvision = {name: make_value(name, shape) for name, shape in shapes.items()}
    timm = dict(torchvision)
    for name, (other, shape) in full.items():
        kernel = make_value(name, shape)
        torchvision[f"{name}.weight"] = kernel.reshape(shape[0], -1)
        timm[f"{other}.weight"] = kernel
        torchvision[f"{name}.bias"] = timm[f"{other}.bias"] = kernel[:, 0].ravel()[
            : shape[0]
        ]
    answers = []
    for layout, arrays in (("torchvision", torchvision), ("timm", timm)):
        path = tmp_path / f"{layout}.safetensors"
        write_weights(path, arrays)
        network = whole(vgg.VGG11)(10, image_shape=(64, 64, 3), layout=layout)
        report = import_weights(network, path)
        assert (report.layout, report.unused) == (layout, ())
        answers.append(network({"images": make_images(64)}, training=False).numpy())
    np.testing.assert_array_equal(*answers)
    assert relative_error(answers[0][0], answers[0][1]) > 0.01


@pytest.mark.usefixtures("without_values")
def test_multipliers_are_those_of_the_class():
    class Slow(vgg.VGG11):
        lr_mults = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)

    network = Slow(3, image_shape=(32, 32, 3))
    layers = ["stage1/conv1", "stage2/conv1", "stage3/conv2", "stage4/conv2"]
    layers += ["stage5/conv1", "full2/full"]
    assert tuple(network.policies[layer].lr_mult for layer in layers) == Slow.lr_mults
    assert network.policies["logits"].lr_mult == 1
    assert network.policies["logits"].restore is False
