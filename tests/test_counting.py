"""Counts: exact integers of published networks, and formulas done by hand."""

import json

import keras
import pytest
from rich.console import Console

from worklab.__main__ import main
from worklab.counting import count_work
from worklab.layers import BatchNormalization
from worklab.networks import resnet

from .conftest import CLASS_NAMES

# Parameters as torchvision counts them, with moving statistics, and MACs.
RESNETS = {
    "ResNet18": (11_689_512, 11_699_112, 1_814_073_344),
    "ResNet34": (21_797_672, 21_814_696, 3_663_761_408),
    "ResNet50": (25_557_032, 25_610_152, 4_089_184_256),
    "ResNet101": (44_549_160, 44_654_504, 7_801_405_440),
    "ResNet152": (60_192_808, 60_344_232, 11_513_626_624),
}
# Size, parameters with moving statistics as Keras counts them, and MACs.
APPLICATIONS = {
    "DenseNet121": (224, 8_062_504, 2_834_161_664),
    "EfficientNetB0": (224, 5_330_571, 385_814_752),
    "InceptionV3": (299, 23_851_784, 5_713_216_096),
    "MobileNet": (224, 4_253_864, 568_740_352),
    "MobileNetV2": (224, 3_538_984, 300_774_272),
    "ResNet50": (224, 25_636_712, 3_857_973_248),
    "ResNet101": (224, 44_707_176, 7_570_194_432),
    "ResNet152": (224, 60_419_944, 11_282_415_616),
    "ResNet50V2": (224, 25_613_800, 3_482_255_360),
    "VGG16": (224, 138_357_544, 15_470_264_320),
    "VGG19": (224, 143_667_240, 19_632_062_464),
}


@pytest.fixture(autouse=True)
def _no_values():
    with keras.StatelessScope(initialize_variables=False):
        yield


def one_layer(layer, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return count_work(keras.Model(inputs, layer(*inputs)))


@pytest.mark.parametrize("name", RESNETS)
def test_our_resnets(name):
    parameters, with_statistics, macs = RESNETS[name]
    work = count_work(getattr(resnet, name)(1000))
    assert work.total("parameters") == parameters
    assert work.total("parameters") + work.total("statistics") == with_statistics
    assert work.total("macs") == macs
    assert not work.not_counted


@pytest.mark.parametrize("name", APPLICATIONS)
def test_networks_of_keras(name):
    size, parameters, macs = APPLICATIONS[name]
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
    work = count_work(model)
    assert work.total("parameters") + work.total("statistics") == parameters
    assert work.total("macs") == macs
    assert not work.not_counted


CASES = [
    # layer, input shape, parameters, MACs
    (keras.layers.Conv1D(5, 3), (10, 4), 3 * 4 * 5 + 5, 8 * 5 * 3 * 4),
    (
        keras.layers.Conv2D(8, (3, 5), strides=2, padding="same", groups=2),
        (9, 8, 4),
        3 * 5 * 2 * 8 + 8,
        5 * 4 * 8 * 3 * 5 * 2,
    ),
    (
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        (8, 8, 4),
        3 * 3 * 4 * 2 + 8,
        6 * 6 * 8 * 9,
    ),
    (
        keras.layers.SeparableConv2D(7, 3, depth_multiplier=2),
        (8, 8, 4),
        3 * 3 * 4 * 2 + 8 * 7 + 7,
        6 * 6 * (8 * 9 + 8 * 7),
    ),
    (
        keras.layers.Conv2DTranspose(6, 3, strides=2, padding="same"),
        (5, 4, 3),
        3 * 3 * 3 * 6 + 6,
        5 * 4 * 3 * 6 * 9,
    ),
    (keras.layers.Dense(7), (3, 4, 5), 5 * 7 + 7, 3 * 4 * 5 * 7),
    (
        keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        (6, 5),
        5 * 2 * 3,
        6 * 5 * 2 * 3,
    ),
    (
        keras.layers.EinsumDense("...c,cd->...d", 7, bias_axes="d"),
        (3, 4, 5),
        5 * 7 + 7,
        3 * 4 * 5 * 7,
    ),
    (keras.layers.SimpleRNN(6), (12, 10), 6 * 16 + 6, 12 * 6 * 16),
    (keras.layers.LSTM(6), (12, 10), 408, 4 * 12 * 6 * 16),
    (keras.layers.GRU(6), (12, 10), 324, 3 * 12 * 6 * 16),
    (keras.layers.GRU(6, reset_after=False), (12, 10), 306, 3 * 12 * 6 * 16),
    (
        keras.layers.RNN([keras.layers.LSTMCell(6), keras.layers.GRUCell(5)]),
        (12, 10),
        408 + 3 * (5 * 11 + 10),
        12 * (4 * 6 * 16 + 3 * 5 * 11),
    ),
    (
        keras.layers.Bidirectional(keras.layers.LSTM(6)),
        (12, 10),
        2 * 408,
        2 * 4 * 12 * 6 * 16,
    ),
    (
        keras.layers.TimeDistributed(keras.layers.Conv2D(5, 3)),
        (4, 6, 6, 2),
        3 * 3 * 2 * 5 + 5,
        4 * 4 * 4 * 5 * 9 * 2,
    ),
]


@pytest.mark.parametrize(
    ("layer", "shape", "parameters", "macs"),
    CASES,
    ids=[type(case[0]).__name__ for case in CASES],
)
def test_formulas(layer, shape, parameters, macs):
    work = one_layer(layer, shape)
    assert work.total("parameters") == parameters
    assert work.total("macs") == macs


def test_products_of_gates_stand_apart():
    work = one_layer(keras.layers.Bidirectional(keras.layers.GRU(6)), (12, 10))
    assert work.total("gate_products") == 2 * 3 * 12 * 6
    assert one_layer(keras.layers.SimpleRNN(6), (12, 10)).total("gate_products") == 0


def test_attention():
    layer = keras.layers.MultiHeadAttention(num_heads=4, key_dim=16)
    queries, values, width = 10, 7, 64
    work = one_layer(layer, (queries, width), (values, width))
    projections = 2 * (queries + values) * width**2
    assert work.total("macs") == projections + 2 * queries * values * width
    assert work.total("parameters") == 4 * width**2 + 4 * width
    inputs = keras.Input((queries, width))
    layer = keras.layers.MultiHeadAttention(num_heads=4, key_dim=16)
    work = count_work(keras.Model(inputs, layer(query=inputs, value=inputs)))
    assert work.total("macs") == 4 * queries * width**2 + 2 * queries**2 * width


def test_a_shared_layer_has_its_parameters_once_and_its_macs_at_each_call():
    layer = keras.layers.Dense(5, use_bias=False, name="shared")
    inputs = keras.Input((5,))
    work = count_work(keras.Model(inputs, layer(layer(inputs))))
    assert [row.layer for row in work.rows] == ["shared", "shared"]
    assert [row.parameters for row in work.rows] == [25, 0]
    assert [row.macs for row in work.rows] == [25, 25]
    assert work.total("activations") == 10


def test_nested_models_are_walked_at_the_size_of_the_call():
    inputs = keras.Input((None, None, 2))
    outputs = keras.layers.Conv2D(3, 1, name="conv")(inputs)
    inner = keras.Model(inputs, outputs, name="inner")
    sequential = keras.Sequential([inner, keras.layers.Flatten()], name="outer")
    images = keras.Input((4, 5, 2))
    steps = keras.Input((6, 4, 5, 2))
    work = count_work(
        keras.Model(
            [images, steps],
            [sequential(images), keras.layers.TimeDistributed(inner, name="t")(steps)],
        )
    )
    rows = {row.layer: row for row in work.rows}
    assert rows["outer/inner/conv"].macs == 4 * 5 * 2 * 3
    assert rows["t"].macs == 6 * 4 * 5 * 2 * 3
    assert rows["t"].output_shape == (6, 4, 5, 3)
    assert work.total("parameters") == 2 * 3 + 3
    assert rows["outer/flatten"].activations == 4 * 5 * 3


class Doubled(keras.layers.Dense):
    def call(self, inputs):
        return super().call(inputs) * 2


class Renamed(keras.layers.Dense):
    pass


def test_what_is_unknown_is_never_zero():
    inputs = keras.Input((4,))
    x = Renamed(4)(inputs)
    x = Doubled(4, name="doubled")(x)
    x = keras.layers.Lambda(lambda x: x * x, name="lambda")(x)[:, ::2]
    x = keras.ops.cumsum(keras.ops.flip(x, axis=-1), axis=-1)
    work = count_work(keras.Model(inputs, x))
    names = [row.kind for row in work.not_counted]
    assert names == ["Doubled", "Lambda", "Cumsum"]
    assert work.total("macs") == 16
    assert work.total("parameters") == 2 * 20
    console = Console(width=150)
    with console.capture() as capture:
        work.show(console)
    text = " ".join(capture.get().split())
    assert "MACs: at least 16 " in text
    assert "lower bound: doubled (Doubled), lambda (Lambda), cumsum" in text


def test_multiplication_of_two_tensors():
    left, right = keras.Input((4, 5)), keras.Input((5, 6))
    work = count_work(keras.Model([left, right], keras.ops.matmul(left, right)))
    assert work.total("macs") == 4 * 5 * 6


def test_frozen_parameters_and_statistics(tiny_network):
    rows = {row.layer: row for row in count_work(tiny_network).rows}
    conv, norm = rows["frozen/conv"], rows["frozen/bn"]
    assert (conv.trainable, conv.frozen, conv.statistics) == (0, 3 * 3 * 3 * 4, 0)
    assert (norm.trainable, norm.frozen, norm.statistics) == (0, 8, 8)
    norm = rows["slow/a/bn"]
    assert norm.kind == BatchNormalization.__name__
    assert (norm.trainable, norm.frozen, norm.statistics) == (16, 0, 16)
    assert rows["logits"].output_shape == (3,)


def test_models_without_a_graph_or_a_size_are_refused():
    with pytest.raises(ValueError, match="graph that can be counted. Received: Seq"):
        count_work(keras.Sequential([keras.layers.Dense(3)]))
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs))
    with pytest.raises(ValueError, match=r"Received: shape=\(None, None, None, 3\)"):
        count_work(model)


def test_command(capsys):
    name = "worklab.networks.resnet:ResNet20"
    main(["flops", name, "--image-size", "32", "32", "--num-classes", "10"])
    output = capsys.readouterr().out
    assert "stage3/block3/b/conv" in output
    assert "272,474 (272,474 trainable, 0 frozen); with 1,568 statistics" in output
    assert "MACs:        40,813,184\n" in output
    assert "multiply-accumulates" in output


def test_command_of_a_run(tmp_path, tiny_folder, capsys):
    options = {
        "network": "tests.conftest:TinyNetwork",
        "data": {"folder": str(tiny_folder)},
        "reader": {"image_size": [8, 8]},
        "augment": {},
        "layers": {"lr_mult": {"slow": 0.0}},
        "session": {},
    }
    (tmp_path / "run.json").write_text(json.dumps({"options": options}))
    (tmp_path / "classes.json").write_text(json.dumps(CLASS_NAMES))
    main(["flops", str(tmp_path)])
    output = capsys.readouterr().out
    assert "(27 trainable, 1,060 frozen)" in output
    main(["flops", str(tmp_path), "--num-classes", "7", "--image-size", "16", "16"])
    output = capsys.readouterr().out
    assert "(63 trainable, 1,060 frozen)" in output
    assert "16x16x4" in output
