import numpy as np
import pytest

from worklab import Network, inspecting
from worklab.__main__ import main
from worklab.options import RestoreOptions
from worklab.pretrained import import_weights, open_weights
from worklab.pretrained.files import write_weights

from .conftest import TinyNetwork

SHAPE = (8, 8, 3)


def arrays_of(network):
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=variable.shape).astype(np.float32)
        for name, variable in network.variables.items()
    }


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tiny.safetensors"
    write_weights(path, arrays_of(TinyNetwork(3, image_shape=SHAPE)))
    return path


def inspect(capsys, *words):
    main(["inspect", *map(str, words)])
    return capsys.readouterr().out


def test_arrays_are_listed_with_shape_type_mean_and_spread(path, capsys, tmp_path):
    array = np.array([[1, 2], [3, 6]], np.float16)
    write_weights(
        tmp_path / "a.safetensors", {"a/kernel": array, "b/step": np.int64(7)}
    )
    output = inspect(capsys, tmp_path / "a.safetensors")
    lines = [line.split("│")[1:-1] for line in output.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert ["a/kernel", "(2, 2)", "float16", "3", "1.871"] in cells
    assert ["b/step", "()", "int64", "7", "0"] in cells
    assert ["all", "2", "5"] in cells


def test_pattern_selects_names(path, capsys):
    output = inspect(capsys, path, "--pattern", "bn/gamma$")
    assert "slow/a/bn/gamma" in output
    assert "slow/a/bn/beta" not in output
    with pytest.raises(SystemExit):
        inspect(capsys, path, "--pattern", "nowhere")
    assert "no name in" in capsys.readouterr().err


def test_two_files_are_compared_by_name(path, tmp_path, capsys):
    with open_weights(path) as weights:
        arrays = dict(weights)
    gone = arrays.pop("slow/a/bn/beta")
    arrays["frozen/bn/gamma"] = arrays["frozen/bn/gamma"] + np.float32(0.25)
    arrays["new"] = gone
    write_weights(tmp_path / "other.safetensors", arrays)
    output = inspect(capsys, path, "--against", tmp_path / "other.safetensors")
    assert f"{len(arrays) - 2} arrays are equal" in output
    rows = {line.split("│")[1].strip() for line in output.splitlines() if "│" in line}
    assert rows >= {"frozen/bn/gamma", "slow/a/bn/beta", "new"}
    assert not rows & {"slow/a/bn/gamma", "logits/kernel"}
    assert "0.25" in output


class Renamed(Network):
    """A TinyNetwork under other names, with what `names` says beside its scopes."""

    names: dict[str, str] = {}

    def _construct(self, images):
        with self.scope("entry", restore=self.names.get("entry", True)):
            x = self.conv_block(images, 4, 3)
        with self.scope("body/unit", restore=self.names.get("body/unit", True)):
            x = self.residual_block(x, 8, strides=2)
        x = self.global_pool(x)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)


def test_names_are_proposed_that_work_when_they_are_pasted(path):
    network = Renamed(3, image_shape=SHAPE)
    with open_weights(path) as weights:
        text = "\n".join(inspecting.explain(network, weights, RestoreOptions()))
    proposals = dict(
        line.strip().replace('"', "").split(": restore=")
        for line in text.splitlines()
        if ": restore=" in line
    )
    assert proposals == {"entry": "frozen", "body/unit": "slow"}
    assert "nothing is loaded" in text
    pasted = type("Pasted", (Renamed,), {"names": proposals})(3, image_shape=SHAPE)
    report = import_weights(pasted, path)
    assert report.count("copied") == len(pasted.variables) - 2
    assert report.unused == ()


def test_what_nothing_can_be_meant_by_is_named(tmp_path, capsys):
    arrays = arrays_of(TinyNetwork(3, image_shape=SHAPE))
    del arrays["frozen/conv/kernel"]
    write_weights(tmp_path / "w.safetensors", arrays)
    words = ("--network", "tests.test_inspecting:Renamed", "--image-size", "8", "8")
    output = inspect(capsys, tmp_path / "w.safetensors", *words, "--num-classes", "3")
    assert "Nothing in the file can be meant by these" in output
    assert output.splitlines()[-1].strip() == "entry/conv/kernel"


def test_mapping_of_a_network_that_fits_is_shown(path, capsys):
    output = inspect(
        capsys,
        path,
        "--network",
        "tests.conftest:TinyNetwork",
        "--image-size",
        "8",
        "8",
        "--num-classes",
        "3",
    )
    assert "20 variables restored, 2 initialised" in output
    assert "slow/a/bn/beta <- slow/a/bn/beta: copied (own name)" in output
    assert 'restore="' not in output


def test_normalisation_is_proposed_beside_its_convolution(tmp_path):
    """Shortcut and last convolution have one shape, so only names tell their norms."""

    class Theirs(Network):
        def _construct(self, images):
            x = self.conv_layer(images, 8, 1, scope="conv_0", use_bias=False)
            shortcut = self.batch_norm(x, scope="bn_0")
            x = self.conv_layer(images, 8, 1, scope="conv_3", use_bias=False)
            x = self.add([self.batch_norm(x, scope="bn_3"), shortcut])
            return self.full_layer(self.global_pool(x), 3, scope="logits")

    class Ours(Network):
        def _construct(self, images):
            with self.scope("c"):
                x = self.conv_block(images, 8, 1, activation=None)
            with self.scope("shortcut"):
                shortcut = self.conv_block(images, 8, 1, activation=None)
            x = self.add([x, shortcut])
            return self.full_layer(
                self.global_pool(x), 3, scope="logits", restore=False
            )

    path = tmp_path / "w.safetensors"
    write_weights(path, arrays_of(Theirs(3, image_shape=SHAPE)))
    with open_weights(path) as weights:
        ours = Ours(3, image_shape=SHAPE)
        text = "\n".join(inspecting.explain(ours, weights, RestoreOptions()))
    proposals = dict(
        line.strip().replace('"', "").split(": restore=")
        for line in text.splitlines()
        if ": restore=" in line
    )
    for scope in ("c", "shortcut"):
        number = proposals[f"{scope}/conv"][-1]
        assert proposals[f"{scope}/bn"] == f"bn_{number}"
