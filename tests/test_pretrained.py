import keras
import numpy as np
import pytest

from worklab import Network
from worklab.layouts import Layout, Preprocessing
from worklab.options import RestoreOptions
from worklab.pretrained import import_weights, open_weights, recognise_layout
from worklab.pretrained.files import write_weights
from worklab.pretrained.mapping import ImportPlan

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


# === What is unexplained ===


def test_name_in_the_file_beside_those_of_a_used_layer_is_an_error(source, tmp_path):
    source["slow/a/conv/scale"] = np.zeros(4, np.float32)
    write_weights(tmp_path / "w.safetensors", source)
    network = TinyNetwork(3, image_shape=SHAPE)
    fresh = values(network)
    with pytest.raises(
        ValueError,
        match=r"(?s)0 variables and 1 names.*slow/a/conv/scale in the file: n",
    ):
        import_weights(network, tmp_path / "w.safetensors")
    assert_equal(values(network), fresh)
    options = RestoreOptions(unused="ignore")
    report = import_weights(network, tmp_path / "w.safetensors", options)
    assert report.unused == ("slow/a/conv/scale",)


def test_layer_inserted_among_used_ones_is_an_error(source, tmp_path):
    source["slow/a/extra/kernel"] = np.zeros((1, 1, 4, 4), np.float32)
    write_weights(tmp_path / "w.safetensors", source)
    with pytest.raises(ValueError, match="slow/a/extra/kernel in the file"):
        import_weights(TinyNetwork(3, image_shape=SHAPE), tmp_path / "w.safetensors")


def test_layer_elsewhere_in_the_file_is_only_listed(source, tmp_path):
    source["decoder/conv/kernel"] = np.zeros((1, 1, 4, 4), np.float32)
    write_weights(tmp_path / "w.safetensors", source)
    report = import_weights(
        TinyNetwork(3, image_shape=SHAPE), tmp_path / "w.safetensors"
    )
    assert report.unused == ("decoder/conv/kernel",)


def test_missing_variables_are_initialised_by_name_if_asked_for(source, tmp_path):
    missing = ["slow/b/bn/beta", "slow/b/conv/kernel"]
    for name in missing:
        del source[name]
    write_weights(tmp_path / "w.safetensors", source)
    network = TinyNetwork(3, image_shape=SHAPE)
    fresh = values(network)
    options = RestoreOptions(missing="initialise")
    report = import_weights(network, tmp_path / "w.safetensors", options)
    rows = {row.variable: row for row in report.rows}
    for name in missing:
        assert rows[name].action == "initialised"
        assert f"  initialised: {name}" in str(report)
        np.testing.assert_array_equal(values(network)[name], fresh[name])
    kernel = values(network)["slow/a/conv/kernel"]
    np.testing.assert_array_equal(kernel, source["slow/a/conv/kernel"])


def test_excluded_scopes_are_initialised(path, source):
    network = TinyNetwork(3, image_shape=SHAPE)
    fresh = values(network)
    report = import_weights(network, path, RestoreOptions(exclude=("slow/a",)))
    for row in report.rows:
        inside = row.variable.startswith(("slow/a/", "logits/"))
        assert (row.action == "skipped") == inside, row
        expected = fresh if inside else source
        np.testing.assert_array_equal(
            values(network)[row.variable], expected[row.variable]
        )
    assert report.unused == ()
    options = RestoreOptions(exclude=("slows",))
    with pytest.raises(ValueError, match=r"`exclude` names a scope.*nearest.*'slow'"):
        import_weights(network, path, options)


def test_wrong_shape_is_an_error_also_when_missing_is_not(path):
    network = make_entry(entry_restore="frozen", filters=5)
    with pytest.raises(ValueError, match=r"\(3, 3, 3, 4\) in the file"):
        import_weights(network, path, RestoreOptions(missing="initialise"))


def test_names_may_be_given_by_path(path, source):
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    names = {"conv": "frozen/conv"} | {f"bn/{n}": f"frozen/bn/{n}" for n in leaves}
    network = make_entry(entry_restore=names)
    report = import_weights(network, path)
    rows = {row.variable: row for row in report.rows}
    assert rows["entry/conv/kernel"].sources == ("frozen/conv/kernel",)
    assert rows["entry/bn/beta"].sources == ("frozen/bn/beta",)
    np.testing.assert_array_equal(
        values(network)["entry/bn/beta"], source["frozen/bn/beta"]
    )


# === The last layer by class names ===


class ClassesHead(TinyNetwork):
    """A TinyNetwork that keeps what its last layer knows of the classes."""

    def full_layer(self, *arguments, **settings):
        return super().full_layer(*arguments, **settings | {"restore": "classes"})


def import_head(path, class_names):
    network = ClassesHead(len(class_names), image_shape=SHAPE, seed=3)
    fresh = values(network)
    report = import_weights(network, path, class_names=class_names)
    return values(network), fresh, report


def test_rows_of_known_classes_are_kept(source, tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, source, class_names=["circle", "square", "cross"])
    found, fresh, report = import_head(path, ["star", "cross", "circle", "moon"])
    for name in ("logits/kernel", "logits/bias"):
        np.testing.assert_array_equal(found[name][..., 1], source[name][..., 2])
        np.testing.assert_array_equal(found[name][..., 2], source[name][..., 0])
        np.testing.assert_array_equal(
            found[name][..., [0, 3]], fresh[name][..., [0, 3]]
        )
    (row,) = [row for row in report.rows if row.variable == "logits/kernel"]
    assert (row.action, row.detail) == ("sliced", "2 of 4 classes: cross, circle")


@pytest.mark.parametrize(
    ("class_names", "reason"),
    [([], "the file names no class"), (["a", "b", "c"], "no class in common")],
)
def test_head_is_fresh_where_no_class_is_known(source, tmp_path, class_names, reason):
    path = tmp_path / "w.safetensors"
    write_weights(path, source, class_names=class_names)
    found, fresh, report = import_head(path, ["star", "moon"])
    np.testing.assert_array_equal(found["logits/kernel"], fresh["logits/kernel"])
    (row,) = [row for row in report.rows if row.variable == "logits/bias"]
    assert (row.action, row.detail) == ("initialised", reason)


# === Own files of a canonical network ===


def layout(name):
    return Layout(name, rf"{name}/weights", lambda layer: name, Preprocessing())


class TwoForms(TinyNetwork):
    """A network that others have in two forms."""

    layouts = (layout("first"), layout("second"))


@pytest.mark.parametrize("name", ["first", "second"])
def test_own_file_says_of_which_layout_it_is(source, tmp_path, name):
    path = tmp_path / "w.safetensors"
    write_weights(path, source, layout=name)
    with open_weights(path) as weights:
        assert recognise_layout(TwoForms.layouts, weights).name == name
    network = TwoForms(3, image_shape=SHAPE, layout=name)
    report = import_weights(network, path)
    assert report.count("copied") == 20  # under its own names
    other = {"first": "second", "second": "first"}[name]
    with pytest.raises(ValueError, match=f"of the layout `{name}`, but the network"):
        import_weights(TwoForms(3, image_shape=SHAPE, layout=other), path)


def test_unknown_layout_is_an_error():
    with pytest.raises(ValueError, match=r"one of \['first', 'second'\].*'third'"):
        TwoForms(3, image_shape=SHAPE, layout="third")


def test_two_layouts_with_the_same_names_are_told_apart_in_our_files(source, tmp_path):
    class Twins(TinyNetwork):
        layouts = (
            Layout("one", "a/weights", lambda layer: layer, Preprocessing()),
            Layout("other", "a/weights", lambda layer: layer, Preprocessing()),
        )

    path = tmp_path / "w.safetensors"
    write_weights(path, source, layout="other")
    with open_weights(path) as weights:
        assert recognise_layout(Twins.layouts, weights).name == "other"
    with pytest.raises(
        ValueError, match="of the layout `other`.*--restore.layout other"
    ):
        import_weights(Twins(3, image_shape=SHAPE, layout="one"), path)


def test_network_takes_its_own_export_whatever_its_layers_name(path, source, tmp_path):
    network = make_entry(entry_restore="frozen")
    import_weights(network, path)
    own = tmp_path / "own.safetensors"
    write_weights(own, values(network))
    again = make_entry(entry_restore="frozen")
    report = import_weights(again, own)
    assert {row.rule for row in report.rows if row.action == "copied"} == {"own name"}
    np.testing.assert_array_equal(
        values(again)["entry/conv/kernel"], source["frozen/conv/kernel"]
    )


def test_name_that_a_layer_gives_goes_before_its_own(tmp_path):
    class Crossed(TinyNetwork):
        def conv_layer(self, inputs, filters, kernel_size, **settings):
            if inputs.shape[-1] == 8:  # the second convolution of the block
                settings["restore"] = "elsewhere"
            return super().conv_layer(inputs, filters, kernel_size, **settings)

    network = Crossed(3, image_shape=SHAPE)
    arrays = values(network)
    crossed = "slow/b/conv/kernel"
    arrays["elsewhere/kernel"] = arrays[crossed] + np.float32(1)
    write_weights(tmp_path / "w.safetensors", arrays)
    options = RestoreOptions(unused="ignore")
    import_weights(network, tmp_path / "w.safetensors", options)
    np.testing.assert_array_equal(values(network)[crossed], arrays["elsewhere/kernel"])


def test_rows_of_another_width_are_an_error_before_anything_is_loaded(source, tmp_path):
    path = tmp_path / "w.safetensors"
    source["logits/kernel"] = source["logits/kernel"][:1]
    write_weights(path, source, class_names=["circle", "square", "cross"])
    network = ClassesHead(3, image_shape=SHAPE, seed=3)
    fresh = values(network)
    with pytest.raises(ValueError, match="logits/kernel.*for its classes"):
        import_weights(network, path, class_names=["circle", "square", "star"])
    assert_equal(values(network), fresh)


def test_report_counts_what_is_unexplained(path):
    network = make_entry(entry_restore="nowhere")
    with open_weights(path) as weights:
        report = ImportPlan(network, weights, RestoreOptions(), []).report()
    assert "0 variables restored, 3 initialised, 5 unexplained" in str(report)


def test_file_without_anything_that_is_asked_for_says_so(path):
    network = make_entry(entry_restore="nowhere")
    with pytest.raises(ValueError, match="no name in the file was asked for"):
        import_weights(network, path, RestoreOptions(missing="initialise"))
