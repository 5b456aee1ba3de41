"""Numbers that another framework laid out give the same answers here."""

import keras
import numpy as np
import pytest

from worklab import Network
from worklab.layouts import Layout, Preprocessing
from worklab.options import RestoreOptions
from worklab.pretrained import import_weights
from worklab.pretrained.dialects import recognise_dialect
from worklab.pretrained.files import write_weights

SHAPE = (6, 5, 3)
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def network_of(build, num_classes=4, shape=SHAPE, **attributes):
    """Return a network without preprocessing whose layers `build` makes."""

    class Made(Network):
        mean, std = (0.0,), (1.0,)

        def _construct(self, images):
            return build(self, images)

    made = type("Made", (Made,), attributes)
    return made(num_classes, image_shape=shape)


def save(tmp_path, arrays):
    path = tmp_path / "weights.safetensors"
    write_weights(path, arrays)
    return path


def run(network, images):
    return network({"images": images}, training=False).numpy()


def some_images(shape=SHAPE):
    return RNG.integers(0, 9, (2, *shape)).astype(np.uint8)


def conv_torch(x, kernel, groups=1):
    """Convolve (batch, channels, height, width) as PyTorch defines it, without pads."""
    _, _, height, width = kernel.shape
    windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), (2, 3))
    parts = zip(
        np.split(windows, groups, axis=1), np.split(kernel, groups), strict=True
    )
    return np.concatenate(
        [np.einsum("bchwij,ocij->bohw", w, k) for w, k in parts], axis=1
    )


def to_torch(images):
    return images.astype(np.float32).transpose(0, 3, 1, 2)


def flat_head(network, x):
    return network.full_layer(x, network.num_classes, scope="fc")


# === PyTorch ===


@pytest.mark.parametrize("groups", [1, 2])
def test_torch_convolution_and_linear_layer_after_flatten(tmp_path, groups):
    def build(network, x):
        x = network.conv_layer(x, 4, 1, padding="valid", scope="first")
        x = network.layer(
            keras.layers.Conv2D,
            x,
            scope="grouped",
            filters=6,
            kernel_size=(3, 2),
            groups=groups,
        )
        x = network.dropout(network.activation(x), 0.5)
        return flat_head(network, x)

    arrays = {
        "first.weight": normal(4, 3, 1, 1),
        "first.bias": normal(4),
        "grouped.weight": normal(6, 4 // groups, 3, 2),
        "grouped.bias": normal(6),
        "fc.weight": normal(4, 6 * 4 * 4),
        "fc.bias": normal(4),
    }
    images = some_images()
    x = conv_torch(to_torch(images), arrays["first.weight"])
    x = x + arrays["first.bias"][:, None, None]
    x = conv_torch(x, arrays["grouped.weight"], groups)
    x = np.maximum(x + arrays["grouped.bias"][:, None, None], 0)
    expected = x.reshape(2, -1) @ arrays["fc.weight"].T + arrays["fc.bias"]
    network = network_of(build)
    report = import_weights(network, save(tmp_path, arrays))
    np.testing.assert_allclose(run(network, images), expected, rtol=1e-4, atol=1e-3)
    assert (report.dialect, report.unused) == ("torch", ())
    assert report.count("transposed", "copied") == 6


@pytest.mark.parametrize("multiplier", [1, 2])
def test_torch_depthwise_convolution(tmp_path, multiplier):
    def build(network, x):
        x = network.layer(
            keras.layers.DepthwiseConv2D,
            x,
            scope="depthwise",
            kernel_size=3,
            depth_multiplier=multiplier,
            use_bias=False,
        )
        return flat_head(network, network.global_pool(x))

    arrays = {
        "depthwise.weight": normal(3 * multiplier, 1, 3, 3),
        "fc.weight": normal(4, 3 * multiplier),
        "fc.bias": normal(4),
    }
    images = some_images()
    x = conv_torch(to_torch(images), arrays["depthwise.weight"], groups=3)
    expected = x.mean((2, 3)) @ arrays["fc.weight"].T + arrays["fc.bias"]
    network = network_of(build)
    import_weights(network, save(tmp_path, arrays))
    np.testing.assert_allclose(run(network, images), expected, rtol=1e-4, atol=1e-4)


def test_torch_convolution_as_head_and_the_reverse(tmp_path):
    def build(network, x):
        x = network.full_layer(x, 5, scope="head/conv")  # of the whole image
        x = network.layer(keras.layers.Reshape, x, scope="as", target_shape=(1, 1, 5))
        x = network.conv_layer(x, 4, 1, scope="fc")
        return network.layer(keras.layers.Flatten, x, scope="flat")

    arrays = {
        "head.conv.weight": normal(5, 3, 6, 5),
        "head.conv.bias": normal(5),
        "fc.weight": normal(4, 5),
        "fc.bias": normal(4),
    }
    images = some_images()
    x = conv_torch(to_torch(images), arrays["head.conv.weight"])[:, :, 0, 0]
    x = x + arrays["head.conv.bias"]
    expected = x @ arrays["fc.weight"].T + arrays["fc.bias"]
    network = network_of(build)
    import_weights(network, save(tmp_path, arrays))
    np.testing.assert_allclose(run(network, images), expected, rtol=1e-4, atol=1e-3)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_torch(x, arrays, suffix=""):
    """Source: torch.nn.LSTM, gates i, f, g, o."""
    w, u, b, c = (
        arrays[f"rnn.{n}_l0{suffix}"]
        for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h = state = np.zeros((len(x), u.shape[1]))
    for step in x.transpose(1, 0, 2):
        i, f, g, o = np.split(step @ w.T + b + h @ u.T + c, 4, axis=1)
        state = sigmoid(f) * state + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(state)
    return h


def gru_torch(x, arrays):
    """Source: torch.nn.GRU, gates r, z, n."""
    w, u, b, c = (
        arrays[f"rnn.{n}_l0"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h = np.zeros((len(x), u.shape[1]))
    for step in x.transpose(1, 0, 2):
        from_input = np.split(step @ w.T + b, 3, axis=1)
        from_state = np.split(h @ u.T + c, 3, axis=1)
        r = sigmoid(from_input[0] + from_state[0])
        z = sigmoid(from_input[1] + from_state[1])
        n = np.tanh(from_input[2] + r * from_state[2])
        h = (1 - z) * n + z * h
    return h


@pytest.mark.parametrize("kind", ["lstm", "gru", "bidirectional"])
def test_torch_recurrent_layers(tmp_path, kind):
    def build(network, x):
        x = network.layer(keras.layers.Reshape, x, scope="rows", target_shape=(6, 15))
        layer = {
            "lstm": lambda **s: keras.layers.LSTM(5, **s),
            "gru": lambda **s: keras.layers.GRU(5, **s),
            "bidirectional": lambda **s: keras.layers.Bidirectional(
                keras.layers.LSTM(5), **s
            ),
        }[kind]
        return flat_head(network, network.layer(layer, x, scope="rnn"))

    gates = 3 if kind == "gru" else 4
    arrays = {}
    for suffix in ("", "_reverse") if kind == "bidirectional" else ("",):
        arrays |= {
            f"rnn.weight_ih_l0{suffix}": 0.1 * normal(gates * 5, 15),
            f"rnn.weight_hh_l0{suffix}": normal(gates * 5, 5),
            f"rnn.bias_ih_l0{suffix}": normal(gates * 5),
            f"rnn.bias_hh_l0{suffix}": normal(gates * 5),
        }
    width = 10 if kind == "bidirectional" else 5
    arrays |= {"fc.weight": normal(4, width), "fc.bias": normal(4)}
    images = some_images()
    x = images.reshape(2, 6, 15).astype(np.float32)
    hidden = gru_torch(x, arrays) if kind == "gru" else lstm_torch(x, arrays)
    if kind == "bidirectional":
        hidden = np.concatenate(
            [hidden, lstm_torch(x[:, ::-1], arrays, "_reverse")], axis=1
        )
    expected = hidden @ arrays["fc.weight"].T + arrays["fc.bias"]
    network = network_of(build)
    report = import_weights(network, save(tmp_path, arrays))
    np.testing.assert_allclose(run(network, images), expected, rtol=1e-4, atol=1e-5)
    assert report.unused == ()


# === Batch normalisation ===


def block(network, x):
    with network.scope("block"):
        x = network.conv_block(x, 4, 1, activation=None)
    return flat_head(network, network.global_pool(x))


def block_arrays(**more):
    return {
        "block/weights": normal(1, 1, 3, 4),
        "block/BatchNorm/beta": normal(4),
        "block/BatchNorm/moving_mean": normal(4),
        "block/BatchNorm/moving_variance": RNG.uniform(0.5, 2, 4).astype(np.float32),
        "fc/weights": normal(4, 4),
        "fc/biases": normal(4),
    } | more


def expected_of_block(images, arrays, *, gamma=1.0, bias=0.0, epsilon=1e-5):
    x = images @ arrays["block/weights"][0, 0] + bias
    x = x - arrays["block/BatchNorm/moving_mean"]
    x = x * gamma / np.sqrt(arrays["block/BatchNorm/moving_variance"] + epsilon)
    x = (x + arrays["block/BatchNorm/beta"]).mean((1, 2))
    return x @ arrays["fc/weights"] + arrays["fc/biases"]


def test_gamma_is_one_where_the_file_has_none(tmp_path):
    arrays, images = block_arrays(), some_images()
    network = network_of(block)
    network.variables["block/bn/gamma"].assign(np.full(4, 7.0))
    report = import_weights(network, save(tmp_path, arrays))
    expected = expected_of_block(images, arrays)
    np.testing.assert_allclose(run(network, images), expected, rtol=1e-4, atol=1e-4)
    assert (report.dialect, report.count("filled")) == ("tensorflow", 1)


def test_bias_before_a_batch_norm_is_folded_into_its_mean(tmp_path):
    bias, gamma = normal(4), normal(4)
    more = {"block/biases": bias, "block/BatchNorm/gamma": gamma}
    arrays, images = block_arrays(**more), some_images()
    network = network_of(block)
    report = import_weights(network, save(tmp_path, arrays))
    expected = expected_of_block(images, arrays, gamma=gamma, bias=bias)
    np.testing.assert_allclose(run(network, images), expected, rtol=1e-4, atol=1e-4)
    (row,) = [row for row in report.rows if row.action == "folded"]
    assert row.variable == "block/bn/moving_mean"
    assert row.detail == "less the bias `block/biases`"


def test_bias_without_a_batch_norm_to_take_it_is_half_a_layer(tmp_path):
    def build(network, x):
        x = network.conv_layer(x, 4, 1, use_bias=False, scope="conv1")
        return flat_head(network, network.global_pool(x))

    arrays = {
        "conv1/weights": normal(1, 1, 3, 4),
        "conv1/biases": normal(4),
        "fc/weights": normal(4, 4),
        "fc/biases": normal(4),
    }
    with pytest.raises(ValueError, match="conv1/biases in the file: nothing in the"):
        import_weights(network_of(build), save(tmp_path, arrays))


def test_epsilon_of_the_layout_is_moved_to_that_of_the_layer(tmp_path):
    layout = Layout(
        "wide",
        "block/weights",
        lambda layer: layer.replace("block/conv", "block").replace(
            "block/bn", "block/BatchNorm"
        ),
        Preprocessing((0.0,), (1.0,)),
        epsilon=0.3,
    )

    def build(network, x):
        with network.scope("block"):
            x = network.conv_layer(x, 4, 1, use_bias=False)
            x = network.batch_norm(x, epsilon=1e-5)
        return flat_head(network, network.global_pool(x))

    arrays, images = block_arrays(), some_images()
    network = network_of(build, layouts=(layout,))
    report = import_weights(network, save(tmp_path, arrays))
    expected = expected_of_block(images, arrays, epsilon=0.3)
    np.testing.assert_allclose(run(network, images), expected, rtol=1e-4, atol=1e-4)
    rows = {row.variable: row for row in report.rows}
    assert rows["block/bn/moving_variance"].detail == "moved from epsilon 0.3 to 1e-05"
    assert network.layout is layout


# === Which dialect ===


@pytest.mark.parametrize(
    ("names", "dialect"),
    [
        (["conv1.weight", "bn1.running_var", "fc.bias"], "torch"),
        (["scale1/weights", "scale1/gamma", "fc/biases"], "tensorflow"),
        (["conv1/kernel", "bn/moving_variance", "fc/bias"], "keras"),
        (["stem/conv/kernel", "optimizer/sgd/momentum"], "keras"),
    ],
)
def test_dialect_is_recognised_by_the_names(names, dialect):
    assert recognise_dialect(names).name == dialect


def test_names_of_no_dialect_are_an_error_that_names_the_dialects(tmp_path):
    path = save(tmp_path, {"a": normal(2), "b": normal(3)})
    message = r"of no dialect.*--restore.dialect.*'torch'\].*Received: \['a', 'b'\]"
    with pytest.raises(ValueError, match=message):
        import_weights(network_of(block), path)


def test_dialect_can_be_named(tmp_path):
    def build(network, x):
        return flat_head(network, x)

    arrays = {"fc/weight": normal(4, 90), "fc/bias": normal(4)}  # torch, but slashes
    path = save(tmp_path, arrays)
    network = network_of(build)
    with pytest.raises(ValueError, match="of no dialect"):
        import_weights(network, path)
    renamed = {name.replace("/", "."): array for name, array in arrays.items()}
    options = RestoreOptions(dialect="torch")
    report = import_weights(network, save(tmp_path, renamed), options)
    assert report.dialect == "torch"
    with pytest.raises(ValueError, match=r"must be one of.*Received: dialect='caffe'"):
        import_weights(network, path, RestoreOptions(dialect="caffe"))


def relu_layer(network, x):
    return network.layer(keras.layers.ReLU, x, scope="relu_layer")


def relu_function(network, x):
    return keras.ops.relu(x)


def normalise(network, x):
    return network.layer(keras.layers.LayerNormalization, x, scope="ln")


@pytest.mark.parametrize("between", [relu_layer, relu_function])
@pytest.mark.parametrize("flatten", ["Flatten", "Reshape"])
def test_torch_order_is_known_through_what_changes_no_place(tmp_path, between, flatten):
    def build(network, x):
        settings = {"target_shape": (-1,)} if flatten == "Reshape" else {}
        layer = getattr(keras.layers, flatten)
        x = network.layer(layer, x, scope="flat", **settings)
        return flat_head(network, network.dropout(between(network, x), 0.1))

    arrays = {"fc.weight": normal(4, 90), "fc.bias": normal(4)}
    images = some_images()
    x = to_torch(images).reshape(2, -1)
    network = network_of(build)
    import_weights(network, save(tmp_path, arrays))
    expected = x @ arrays["fc.weight"].T + arrays["fc.bias"]
    np.testing.assert_allclose(run(network, images), expected, rtol=1e-4, atol=1e-3)


def test_torch_order_that_is_not_known_is_an_error(tmp_path):
    def build(network, x):
        x = network.layer(keras.layers.Flatten, x, scope="flat")
        return flat_head(network, normalise(network, x))

    arrays = {"fc.weight": normal(4, 90), "fc.bias": normal(4)}
    arrays |= {"ln.weight": normal(90), "ln.bias": normal(90)}
    with pytest.raises(ValueError, match="order of the numbers between the flattened"):
        import_weights(network_of(build), save(tmp_path, arrays))


def test_torch_batch_norm_that_lost_its_scale_is_an_error(tmp_path):
    arrays = {
        "block.conv.weight": normal(4, 3, 1, 1),
        "block.bn.bias": normal(4),
        "block.bn.running_mean": normal(4),
        "block.bn.running_var": np.ones(4, np.float32),
        "fc.weight": normal(4, 4),
        "fc.bias": normal(4),
    }
    with pytest.raises(ValueError, match=r"block/bn/gamma <- block\.bn\.weight: not"):
        import_weights(network_of(block), save(tmp_path, arrays))
