import keras
import numpy as np
import pytest

from worklab import Network
from worklab.pretrained import import_weights, open_weights
from worklab.pretrained.files import write_weights

from .conftest import TinyNetwork

SHAPE = (8, 8, 3)


class Entry(Network):
    """A network of which the file has one layer under another name."""

    entry_restore: bool | str = True
    filters = 4

    def _construct(self, images):
        with self.scope("entry", restore=self.entry_restore):
            x = self.conv_block(images, self.filters, 3)
        x = self.dropout(self.global_pool(x), 0.5)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)


def make_entry(**attributes):
    return type("Made", (Entry,), attributes)(3, image_shape=SHAPE, seed=1)


def values(network):
    return {name: v.value.numpy() for name, v in network.variables.items()}


@pytest.fixture
def source():
    """Arrays as a trained TinyNetwork would save them."""
    arrays = values(TinyNetwork(3, image_shape=SHAPE))
    rng = np.random.default_rng(0)
    return {k: rng.normal(size=v.shape).astype(np.float32) for k, v in arrays.items()}


@pytest.fixture
def path(source, tmp_path):
    path = tmp_path / "source.safetensors"
    write_weights(path, source)
    return path


def assert_equal(values, expected):
    assert values.keys() == expected.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


# === Files ===


def test_arrays_are_read_as_they_were_written(tmp_path):
    arrays = {
        "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "b": np.array([1.5], np.float16),
        "c/count": np.array(3, np.int64),
    }
    write_weights(tmp_path / "w.safetensors", arrays)
    with open_weights(tmp_path / "w.safetensors") as weights:
        read = dict(weights)
    assert_equal(read, arrays)
    assert {k: v.dtype for k, v in read.items()} == {
        k: v.dtype for k, v in arrays.items()
    }


def test_missing_file_is_an_error_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match="does not exist.*--pretrained None.*no.file`"):
        open_weights(tmp_path / "no.file")


# === Import ===


def test_every_layer_that_says_so_is_restored(path, source):
    network = TinyNetwork(3, image_shape=SHAPE, seed=1)
    fresh = values(network)
    report = import_weights(network, path)
    expected = source | {name: fresh[name] for name in fresh if "logits" in name}
    assert_equal(values(network), expected)
    assert {row.variable: (row.sources, row.action) for row in report.rows} == {
        name: ((name,), "skipped" if "logits" in name else "copied") for name in fresh
    }
    assert report.unused == ()


def test_string_maps_names_and_the_rest_is_listed_as_unused(path, source):
    network = make_entry(entry_restore="frozen")
    fresh = values(network)
    report = import_weights(network, path)
    restored = {
        f"entry/{layer}": source[f"frozen/{layer}"]
        for layer in (
            "conv/kernel",
            "bn/gamma",
            "bn/beta",
            "bn/moving_mean",
            "bn/moving_variance",
        )
    }
    assert_equal(values(network), fresh | restored)
    assert report.count("copied") == 5
    assert report.count("skipped") == 2  # logits
    assert report.count("initialised") == 1  # the state of dropout
    others = {n for n in source if not n.startswith(("frozen/", "logits/"))}
    assert set(report.unused) == others
    assert list(report.unused) == sorted(report.unused)


def test_network_that_restores_nothing_has_no_use_for_a_file(path):
    network = make_entry(entry_restore=False)
    fresh = values(network)
    with pytest.raises(ValueError, match="no layer of the network says that it is to"):
        import_weights(network, path)
    assert_equal(values(network), fresh)


def test_renamed_layer_is_an_error_with_near_names_and_nothing_is_loaded(path):
    network = make_entry(entry_restore="frozem")
    fresh = values(network)
    with pytest.raises(
        ValueError, match="5 variables and 0 names unexplained"
    ) as error:
        import_weights(network, path)
    assert_equal(values(network), fresh)
    expected = (
        "  entry/bn/gamma <- frozem/bn/gamma: not there; near names: ['frozen/bn/gamma'"
    )
    assert expected in str(error.value)


def test_one_missing_variable_of_many_loads_nothing(source, tmp_path):
    del source["slow/b/bn/beta"]
    write_weights(tmp_path / "w.safetensors", source)
    network = TinyNetwork(3, image_shape=SHAPE)
    fresh = values(network)
    with pytest.raises(
        ValueError, match="1 variables and 0 names un.*explained:\n  slow/b/bn/beta"
    ):
        import_weights(network, tmp_path / "w.safetensors")
    assert_equal(values(network), fresh)


def test_other_shape_is_an_error_with_both_shapes_and_nothing_is_loaded(path):
    network = make_entry(entry_restore="frozen", filters=5)
    fresh = values(network)
    message = (
        r"entry/conv/kernel <- frozen/conv/kernel: shape \(3, 3, 3, 4\) in the file, "
        r"\(3, 3, 3, 5\) in the network"
    )
    with pytest.raises(ValueError, match=message):
        import_weights(network, path)
    assert_equal(values(network), fresh)


def test_optimizer_entries_of_a_checkpoint_are_ignored(source, tmp_path):
    write_weights(
        tmp_path / "step.safetensors",
        source | {"optimizer/sgd/iteration": np.array(3)},
    )
    network = TinyNetwork(3, image_shape=SHAPE)
    report = import_weights(network, tmp_path / "step.safetensors")
    assert report.unused == ()


def test_half_precision_file_is_restored_in_float32(source, tmp_path):
    half = {name: array.astype(np.float16) for name, array in source.items()}
    write_weights(tmp_path / "half.safetensors", half)
    network = TinyNetwork(3, image_shape=SHAPE)
    import_weights(network, tmp_path / "half.safetensors")
    kernel = network.variables["frozen/conv/kernel"]
    assert kernel.dtype == "float32"
    np.testing.assert_array_equal(kernel.value, half["frozen/conv/kernel"])


def test_variables_of_a_layer_in_a_layer_are_restored(tmp_path):
    class Nested(Network):
        def _construct(self, images):
            x = self.layer(
                keras.layers.Reshape, images, scope="rows", target_shape=(8, 24)
            )
            x = self.layer(
                keras.layers.LSTM, x, scope="new", policy={"restore": "old"}, units=2
            )
            return self.full_layer(x, 3, scope="logits", restore=False)

    network = Nested(3, image_shape=SHAPE)
    arrays = {
        f"old/lstm_cell/{name}": np.full(shape, number, np.float32)
        for number, (name, shape) in enumerate(
            {"kernel": (24, 8), "recurrent_kernel": (2, 8), "bias": (8,)}.items()
        )
    }
    write_weights(tmp_path / "w.safetensors", arrays)
    import_weights(network, tmp_path / "w.safetensors")
    for name, array in arrays.items():
        variable = network.variables[name.replace("old", "new")]
        np.testing.assert_array_equal(variable.value, array)


def test_report_accounts_for_everything_in_text(path):
    network = make_entry(entry_restore="frozen")
    lines = str(import_weights(network, path)).splitlines()
    first, rest = lines[0], lines[1:]
    assert first == (
        f"{path} (safetensors): 5 variables restored, 3 initialised, 15 names in the "
        "file unused"
    )
    assert "  initialised: logits/kernel" in rest
    assert "  unused: slow/a/conv/kernel" in rest
    assert len(rest) == 3 + 15
