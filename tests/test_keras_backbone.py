"""The networks of Keras, with the images and the files of Keras."""

import inspect

import keras
import numpy as np
import pytest

from worklab.counting import count_work
from worklab.networks import keras_backbone
from worklab.networks.keras_backbone import KerasBackbone
from worklab.pretrained import import_weights
from worklab.runs import load_network_class

from .comparing import randomise, relative_error
from .golden.values import make_images as images
from .test_layouts import TOLERANCE

APPLICATIONS = [
    name
    for name, value in vars(keras.applications).items()
    if inspect.isfunction(value)
]
SIZE = 32


def prepared(name, pixels):
    """Return pixels as Keras prepares them for an application."""
    module = inspect.getmodule(getattr(keras.applications, name))
    return module.preprocess_input(pixels.astype("float32"))


def restorable(name):
    """Return a backbone whose logits restore from Keras's head."""

    class Restorable(getattr(keras_backbone, name)):
        def full_layer(self, *args, **settings):
            settings["restore"] = "predictions"
            return super().full_layer(*args, **settings)

    return Restorable


def logits_of(network, size=SIZE):
    return network({"images": images(size)}, training=False).numpy()


@pytest.mark.parametrize("name", APPLICATIONS)
def test_each_application_is_a_network_with_the_images_of_keras(name):
    network_class = load_network_class(f"worklab.networks.keras_backbone:{name}")
    assert issubclass(network_class, KerasBackbone)
    assert network_class.__module__ == keras_backbone.__name__
    form = keras_backbone.probe_preprocessing(name)
    pixels = images(4).astype("float64")
    ours = (pixels - form.mean) / form.std
    if form.channel_order == "BGR":
        ours = ours[..., ::-1]
    np.testing.assert_allclose(ours, prepared(name, pixels), atol=1e-4)


def test_no_network_is_without_its_application():
    names = [
        name
        for name, value in vars(keras_backbone).items()
        if inspect.isclass(value) and issubclass(value, KerasBackbone)
    ]
    assert sorted(names) == sorted([*APPLICATIONS, "KerasBackbone"])


@pytest.mark.parametrize(
    ("name", "mean", "order"),
    [
        ("VGG16", (123.68, 116.779, 103.939), "BGR"),
        ("Xception", (127.5,), "RGB"),
        ("DenseNet121", (123.675, 116.28, 103.53), "RGB"),
        ("MobileNetV3Small", (0.0,), "RGB"),
    ],
)
def test_layout_has_the_preprocessing(name, mean, order):
    form = getattr(keras_backbone, name).layouts[0].preprocessing
    assert (form.mean, form.channel_order) == (mean, order)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("VGG16", 32),
        ("MobileNet", 32),
        ("ConvNeXtTiny", 32),
        ("InceptionV3", 75),
        ("MobileNetV3Small", 32),
    ],
)
def test_backbone_answers_as_keras_does(name, size, tmp_path):
    make = getattr(keras.applications, name)
    body = make(
        weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3)
    )
    model = keras.Model(
        body.inputs[0], keras.layers.Dense(5, name="predictions")(body.outputs[0])
    )
    randomise(model)
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    network = restorable(name)(5, image_shape=(size, size, 3))
    report = import_weights(network, path)
    assert report.unused == ()
    expected = model(prepared(name, images(size)), training=False).numpy()
    assert relative_error(logits_of(network, size), expected) < TOLERANCE
    assert relative_error(expected[:1], expected[1:]) > 100 * TOLERANCE


def test_numbers_that_keras_counted_over_a_process_are_found(tmp_path):
    """The file's `conv2d_7` may be our `conv2d_3`; see `Layout.counted`."""
    keras.layers.Conv2D(1, 1)  # which shifts the numbers of one kind only
    model = keras.applications.Xception(
        weights=None, classes=5, classifier_activation=None, input_shape=(71, 71, 3)
    )
    names = [layer.name for layer in model.layers]
    assert "conv2d" not in names
    randomise(model)
    path = tmp_path / "model.keras"
    model.save(path)
    network = restorable("Xception")(5, image_shape=(71, 71, 3))
    report = import_weights(network, path)
    rows = {row.variable: row.sources for row in report.rows}
    first = int(next(n for n in names if n.startswith("conv2d_")).rpartition("_")[2])
    assert rows["conv2d_3/kernel"] == (f"conv2d_{first + 3}/kernel",)
    expected = model(prepared("Xception", images(71)), training=False).numpy()
    assert relative_error(logits_of(network, 71), expected) < TOLERANCE


def test_file_with_a_gap_in_its_numbers_is_refused(tmp_path):
    network = keras_backbone.Xception(5, image_shape=(71, 71, 3))
    arrays = {name: v.numpy() for name, v in network.variables.items()}
    moved = {name.replace("conv2d_3/", "conv2d_4/"): v for name, v in arrays.items()}
    np.savez(tmp_path / "moved.npz", **moved)
    with pytest.raises(ValueError, match=r"1 variables and 1 names unexplained"):
        import_weights(network, tmp_path / "moved.npz")


def test_own_names_restore(tmp_path):
    network = keras_backbone.Xception(5, image_shape=(71, 71, 3))
    kernel = network.variables["conv2d_2/kernel"]
    arrays = {name: v.numpy() for name, v in network.variables.items()}
    np.savez(tmp_path / "own.npz", **arrays)
    kernel.assign(keras.ops.zeros_like(kernel))
    report = import_weights(network, tmp_path / "own.npz")
    assert report.unused == ()
    assert report.count("skipped") == 2
    assert (kernel.numpy() == arrays["conv2d_2/kernel"]).all()


def test_convnext_restores_with_its_top(tmp_path):
    shape = (SIZE, SIZE, 3)
    model = keras.applications.ConvNeXtTiny(
        weights=None, classes=5, classifier_activation=None, input_shape=shape
    )
    randomise(model)
    model.save_weights(tmp_path / "top.weights.h5")

    class Restorable(keras_backbone.ConvNeXtTiny):
        def full_layer(self, *args, **settings):
            settings["restore"] = "convnext_tiny_head_dense"
            return super().full_layer(*args, **settings)

    network = Restorable(5, image_shape=shape, layout="keras-top")
    report = import_weights(network, tmp_path / "top.weights.h5")
    assert report.unused == ()
    expected = model(images(SIZE).astype("float32"), training=False).numpy()
    assert relative_error(logits_of(network), expected) < TOLERANCE


def test_efficientnet_answers_as_keras_with_the_published_weights(
    tmp_path, monkeypatch
):
    """There Keras divides the images once more, by the root of the deviation."""
    shape = (SIZE, SIZE, 3)
    untrained = keras.applications.EfficientNetB0(
        weights=None, include_top=False, pooling="avg", input_shape=shape
    )
    randomise(untrained)
    values = {"mean": [0.485, 0.456, 0.406], "variance": [0.229, 0.224, 0.225]}
    layer = next(
        layer
        for layer in untrained.layers
        if isinstance(layer, keras.layers.Normalization)
    )
    for variable in layer.variables:
        variable.assign(values.get(variable.name, 0))
    layer.finalize_state()
    path = tmp_path / "model.weights.h5"
    untrained.save_weights(path)
    module = inspect.getmodule(keras.applications.EfficientNetB0)
    monkeypatch.setattr(module.file_utils, "get_file", lambda *args, **_: str(path))
    published = keras.applications.EfficientNetB0(
        include_top=False, pooling="avg", input_shape=shape
    )
    network = keras_backbone.EfficientNetB0(5, image_shape=shape)
    report = import_weights(network, path)
    assert (report.layout, report.unused) == ("keras", ())
    # Random weights tell the images apart in the first layers only.
    stem = network.keras_layer("stem_conv").output
    features = keras.Model(network.model.input, stem)({"images": images(SIZE)})
    raw, expected = (
        keras.Model(model.inputs[0], model.get_layer("stem_conv").output)(
            images(SIZE).astype("float32")
        ).numpy()
        for model in (untrained, published)
    )
    assert relative_error(features.numpy(), expected) < TOLERANCE
    assert relative_error(raw, expected) > 0.01
    names = [layout.name for layout in keras_backbone.EfficientNetB0.layouts]
    assert names == ["keras", "keras-raw"]
    assert keras_backbone.EfficientNetB0.layouts[1].preprocessing.std == (1.0,)


@pytest.mark.usefixtures("without_values")
def test_multipliers_are_those_of_the_class():
    class Mine(KerasBackbone):
        application = "MobileNetV2"
        lr_mults = (("block_1[3-6]_.*|Conv_1.*", 0.1), (".*", 0.0))

    policies = Mine(5, image_shape=(SIZE, SIZE, 3)).policies
    multipliers = [
        policies[layer].lr_mult for layer in ("Conv1", "block_14_expand", "logits")
    ]
    assert multipliers == [0.0, 0.1, 1.0]
    assert policies["logits"].restore is False


def test_unknown_application_is_refused():
    message = r"`application` must be one of .*ResNet50, .*Received: .*'ResNet51'"
    with pytest.raises(ValueError, match=message):

        class _Mine(KerasBackbone):
            application = "ResNet51"


@pytest.mark.usefixtures("without_values")
def test_every_layer_is_counted():
    network = keras_backbone.EfficientNetB0(1000, image_shape=(224, 224, 3))
    work = count_work(network)
    assert work.not_counted == ()
    assert work.total("parameters") == 5_288_548
    assert work.total("macs") == 385_814_752
