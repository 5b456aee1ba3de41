import keras
import pytest

from tests.comparing import check_answers_of_keras, check_slim_names, counts
from worklab.networks import mobilenet

KERAS = {
    "MobileNetV1": keras.applications.mobilenet,
    "MobileNetV2": keras.applications.mobilenet_v2,
}
KERAS_NAMES = {"MobileNetV1": "MobileNet", "MobileNetV2": "MobileNetV2"}
SLIM_V1 = ["Conv2d_0"]
for number in range(1, 14):
    SLIM_V1 += [f"Conv2d_{number}_depthwise", f"Conv2d_{number}_pointwise"]
SLIM_V1.append("Logits/Conv2d_1c_1x1")
SLIM_V2 = ["Conv", "expanded_conv/depthwise", "expanded_conv/project"]
for number in range(1, 17):
    parts = ("expand", "depthwise", "project")
    SLIM_V2 += [f"expanded_conv_{number}/{part}" for part in parts]
SLIM_V2 += ["Conv_1", "Logits/Conv2d_1c_1x1"]


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MobileNetV1", (4_231_976, 21_888, 568_740_352)),
        ("MobileNetV2", (3_504_872, 34_112, 300_774_272)),
    ],
)
def test_mobilenet_has_its_parameters_and_macs(name, expected):
    assert counts(getattr(mobilenet, name), 224) == expected


@pytest.mark.parametrize("name", KERAS)
def test_mobilenet_of_keras_gives_its_logits(name, tmp_path):
    model = getattr(KERAS[name], KERAS_NAMES[name])(
        weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
    )
    check_answers_of_keras(
        getattr(mobilenet, name),
        model,
        KERAS[name].preprocess_input,
        tmp_path / "mobilenet.weights.h5",
        64,
    )


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("MobileNetV1", 0.25),
        ("MobileNetV2", 0.35),
        ("MobileNetV2", 0.5),
        ("MobileNetV2", 1.4),
    ],
)
def test_width_gives_the_filters_of_keras(name, width):
    make = getattr(KERAS[name], KERAS_NAMES[name])
    model = make(weights=None, input_shape=(32, 32, 3), alpha=width)
    scaled = type("Scaled", (getattr(mobilenet, name),), {"width": width})
    parameters, statistics, _ = counts(scaled, 32)
    assert parameters + statistics == model.count_params()


@pytest.mark.parametrize(
    ("name", "root", "names"),
    [
        ("MobileNetV1", "MobilenetV1", SLIM_V1),
        ("MobileNetV2", "MobilenetV2", SLIM_V2),
    ],
)
def test_mobilenet_of_slim_is_restored_by_its_names(name, root, names, tmp_path):
    layers = [f"{root}/{layer}" for layer in names]
    path = tmp_path / "mobilenet.npz"
    check_slim_names(getattr(mobilenet, name), layers, path, 32)


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("name", KERAS)
def test_multipliers_are_those_of_the_class(name):
    base = getattr(mobilenet, name)
    mults = tuple(n / 10 for n in range(len(base.lr_mults)))
    network = type("Slow", (base,), {"lr_mults": mults})(3, image_shape=(32, 32, 3))
    found = {}
    for layer, policy in network.policies.items():
        found.setdefault(layer.partition("/")[0], set()).add(policy.lr_mult)
    scopes = ["stem", *(f"stage{n}" for n in range(1, 8)), "head"]
    scopes = [scope for scope in scopes if scope in found]
    assert [found[scope] for scope in scopes] == [{mult} for mult in mults]
    assert network.policies["logits"].restore is False
