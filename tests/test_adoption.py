"""A Keras model taken in whole answers as before, under this project's policies."""

import keras
import numpy as np
import pytest

from worklab import Network
from worklab.layers import AdaptedNormalization, BatchNormalization
from worklab.pretrained import import_weights
from worklab.serving import plain_model

from .comparing import randomise, relative_error
from .test_layouts import TOLERANCE, images

SIZE = 32


def adopting(model, **rules):
    """Return a network class whose body is a Keras model."""

    class Adopting(Network):
        mean, std = (0.0,), (1.0,)

        def _construct(self, images):
            x = self.adopt(model, images, **rules)
            if len(x.shape) > 2:
                x = self.global_pool(x)
            return self.full_layer(x, self.num_classes, scope="logits")

    return Adopting


def network_of(model, *, size=SIZE, **settings):
    rules = settings.pop("rules", {})
    return adopting(model, **rules)(5, image_shape=(size, size, 3), **settings)


def with_head(body):
    """Return a Keras model with the head of `adopting`, random throughout."""
    x = body.outputs[0]
    if len(x.shape) > 2:
        x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(body.inputs[0], keras.layers.Dense(5, name="logits")(x))
    randomise(model)
    return model


def small_model():
    """Return a functional model with a nested one and two names that Keras gave."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 255, name="scale")(inputs)
    x = keras.layers.Conv2D(4, 3, name="first")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    block = keras.Sequential(
        [keras.Input((30, 30, 4)), keras.layers.Conv2D(6, 3, name="inner")],
        name="block",
    )
    x = keras.layers.Conv2D(6, 3)(block(x))
    x = keras.layers.Conv2D(6, 3)(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("ResNet50", ".weights.h5"),
        ("MobileNetV2", ".keras"),
        ("EfficientNetV2B0", ".h5"),
        pytest.param("ConvNeXtTiny", ".h5", marks=pytest.mark.stress),
        pytest.param("DenseNet121", ".weights.h5", marks=pytest.mark.stress),
    ],
)
def test_adopted_network_gives_the_logits_of_keras(name, suffix, tmp_path):
    make = getattr(keras.applications, name)
    keras.backend.clear_session(free_memory=False)
    body = make(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    model = with_head(body)
    path = tmp_path / f"model{suffix}"
    if suffix == ".weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    network = network_of(body)
    report = import_weights(network, path)
    logits = network({"images": images(SIZE)}, training=False).numpy()
    expected = model(images(SIZE).astype("float32"), training=False).numpy()
    assert report.unused == ()
    assert relative_error(logits, expected) < TOLERANCE


def test_restored_normalisation_has_an_effect():
    inputs = keras.Input((SIZE, SIZE, 3))
    network = network_of(
        keras.Model(inputs, keras.layers.Normalization(name="norm")(inputs))
    )
    assert isinstance(network.keras_layer("norm"), AdaptedNormalization)
    before = network({"images": images(SIZE)}, training=False).numpy()
    network.variables["norm/mean"].assign([100.0, 110.0, 120.0])
    network.variables["norm/variance"].assign([25.0, 36.0, 49.0])
    logits = network({"images": images(SIZE)}, training=False).numpy()
    pooled = (images(SIZE).mean((1, 2)) - [100, 110, 120]) / [5, 6, 7]
    expected = pooled @ network.variables["logits/kernel"].numpy()
    assert relative_error(logits, expected) < TOLERANCE
    assert relative_error(logits, before) > 0.1


def test_normalisation_leaves_as_one_of_keras():
    inputs = keras.Input((SIZE, SIZE, 3))
    network = network_of(
        keras.Model(inputs, keras.layers.Normalization(name="norm")(inputs))
    )
    network.variables["norm/mean"].assign([100.0, 110.0, 120.0])
    plain = plain_model(network)
    assert type(plain.get_layer("norm")) is keras.layers.Normalization
    expected = network({"images": images(SIZE)}, training=False).numpy()
    logits = plain({"images": images(SIZE)}, training=False).numpy()
    assert relative_error(logits, expected) < TOLERANCE


def test_patterns_give_the_policies():
    network = network_of(
        small_model(),
        rules={
            "restore": [("(fir)(st)", r"file/\2"), ("inner", False)],
            "lr_mult": [("first|norm", 0.0), ("inner", 0.1)],
            "weight_decay": [("conv2d.*", 0.25)],
        },
    )
    policies = network.policies
    assert policies["first"].restore == "file/st"
    assert network.source("first/kernel") == "file/st/kernel"
    assert policies["block/inner"].restore is False
    assert policies["conv2d"].restore is True
    multipliers = {layer: policies[layer].lr_mult for layer in ("norm", "block/inner")}
    assert multipliers == {"norm": 0.0, "block/inner": 0.1}
    assert policies["conv2d"].lr_mult == 1.0
    assert network.decay("conv2d_1/kernel") == 0.25
    assert network.decay("block/inner/kernel") == 5e-4


def test_first_pattern_that_fits_holds_and_scopes_hand_down():
    model = small_model()

    class Scoped(Network):
        def _construct(self, images):
            with self.scope("body", lr_mult=0.5, restore="theirs"):
                x = self.adopt(model, images, lr_mult=[("first", 0.1), (".*t", 0.2)])
            return self.full_layer(self.global_pool(x), self.num_classes)

    network = Scoped(5, image_shape=(SIZE, SIZE, 3))
    assert network.policies["body/first"].lr_mult == 0.1
    assert network.policies["body/conv2d"].lr_mult == 0.5
    assert network.source("body/block/inner/kernel") == "theirs/block/inner/kernel"


@pytest.mark.parametrize("what", ["restore", "lr_mult", "weight_decay"])
def test_pattern_that_fits_no_layer_is_refused(what):
    message = rf"`{what}` has a pattern that fits no layer.*Received: 'fir'"
    with pytest.raises(ValueError, match=message):
        network_of(small_model(), rules={what: [("first", 0.0), ("fir", 0.0)]})


def test_frozen_layers_stay_with_their_statistics():
    network = network_of(small_model(), rules={"lr_mult": [("first|norm", 0.0)]})
    norm = network.keras_layer("norm")
    assert type(norm) is BatchNormalization
    before = {name: v.numpy() for name, v in network.variables.items()}
    network({"images": images(SIZE)}, training=True)
    for name in before:
        assert (network.variables[name].numpy() == before[name]).all()
    trained = {v.path for v in network.model.trainable_variables}
    assert "first/kernel" not in trained
    assert "block.inner/kernel" in trained


def test_learning_batch_norm_learns_its_statistics():
    network = network_of(small_model())
    network({"images": images(SIZE)}, training=True)
    assert (network.variables["norm/moving_mean"].numpy() != 0).all()


def test_layer_and_model_called_twice_share_their_variables():
    shared = keras.layers.Dense(4, name="shared")
    norm = keras.layers.BatchNormalization(name="norm")
    nested = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="inner")], name="nested"
    )
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    x = keras.layers.Dense(4, name="first")(x)
    x = norm(shared(nested(norm(nested(shared(x))))))
    model = keras.Model(inputs, x)
    network = network_of(model)
    assert sum("/kernel" in name for name in network.variables) == 4
    for name in ("first", "shared"):
        layer = model.get_layer(name)
        network.keras_layer(name).set_weights(layer.get_weights())
    network.keras_layer("nested/inner").set_weights(nested.get_weights())
    features = model(images(SIZE).astype("float32")).numpy()
    expected = features @ network.variables["logits/kernel"].numpy()
    logits = network({"images": images(SIZE)}, training=False).numpy()
    assert relative_error(logits, expected) < TOLERANCE


def test_layers_of_several_inputs_and_functions_are_taken():
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Reshape((SIZE, -1))(inputs)
    attention = keras.layers.MultiHeadAttention(2, 3, name="attention")
    x = attention(x, 2.0 * x, use_causal_mask=True)
    x = keras.layers.Subtract()([x, keras.ops.relu(x)])
    model = keras.Model(inputs, keras.ops.mean(x, axis=1))
    network = network_of(model)
    network.keras_layer("attention").set_weights(attention.get_weights())
    features = model(images(SIZE).astype("float32")).numpy()
    expected = features @ network.variables["logits/kernel"].numpy()
    logits = network({"images": images(SIZE)}, training=False).numpy()
    assert relative_error(logits, expected) < TOLERANCE


def test_sequential_model_is_taken():
    model = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), keras.layers.Conv2D(4, 3, name="only")]
    )
    assert "only/kernel" in network_of(model).variables


class OwnCall(keras.Model):
    def call(self, inputs):
        return 2 * super().call(inputs)


def no_graph(kind):
    if kind == "unbuilt":
        return keras.Sequential([keras.layers.Conv2D(4, 3)])
    if kind == "subclassed":
        return keras.Model()
    inputs = keras.Input((SIZE, SIZE, 3))
    return OwnCall(inputs, keras.layers.Conv2D(4, 3)(inputs))


@pytest.mark.parametrize("kind", ["unbuilt", "subclassed", "own call"])
def test_model_without_a_graph_is_refused(kind):
    with pytest.raises(ValueError, match=r"functional and built.*Received: \w+ '"):
        network_of(no_graph(kind))


@keras.saving.register_keras_serializable()
class Nameless(keras.layers.Layer):
    """Has a variable that Keras numbers, as ConvNeXt's scales have."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, inputs):
        return inputs * self.factor


def test_names_do_not_depend_on_what_was_made_before():
    keras.backend.clear_session(free_memory=False)
    names = []
    for _ in range(2):
        model = small_model()
        model = keras.Model(model.inputs[0], Nameless()(model.outputs[0]))
        names.append(list(network_of(model).variables))
    assert names[0] == names[1]
    assert {"conv2d/kernel", "conv2d_1/kernel", "nameless/vars/0"} < set(names[0])


def test_initial_values_depend_on_seed_and_name_alone():
    values = []
    for seed in (0, 0, 1):
        network = network_of(small_model(), seed=seed)
        values.append(network.variables["block/inner/kernel"].numpy())
    assert (values[0] == values[1]).all()
    assert (values[0] != values[2]).any()


def test_bfloat16_is_near_float32_and_sees_every_pixel_value():
    logits = []
    for precision in ("float32", "bfloat16"):
        network = network_of(small_model(), precision=precision)
        assert network.keras_layer("scale").compute_dtype == "float32"
        logits.append(network({"images": images(SIZE)}, training=False).numpy())
    assert network.keras_layer("first").compute_dtype == "bfloat16"
    assert network.keras_layer("first").variable_dtype == "float32"
    assert logits[1].dtype == np.float32
    assert relative_error(logits[1], logits[0]) < 0.05
