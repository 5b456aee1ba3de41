import json

import pytest

from launchers import train
from tests.conftest import CLASS_NAMES
from worklab import Network, Session, runtime
from worklab.options import DataOptions, LayerOptions, ReaderOptions, SessionOptions
from worklab.readers import JsonListReader
from worklab.runs import (
    load_network_class,
    make_network,
    make_reader,
    read_result,
    read_run,
    resolve,
    write_result,
    write_run,
)

SOURCE = """
from worklab import Network
from helper_of_my_network import WIDTH

class MyNetwork(Network):
    def _construct(self, images):
        x = self.conv_block(images, WIDTH, 3)
        x = self.global_pool(x)
        return self.full_layer(x, self.num_classes, scope="logits")

class NotANetwork:
    pass
"""


@pytest.fixture
def network_file(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "helper_of_my_network.py").write_text("WIDTH = 4\n")
    (folder / "my_network.py").write_text(SOURCE)
    return folder / "my_network.py"


def options(tiny_folder, network="tests.conftest:TinyNetwork", **settings):
    return train.Options(
        network=network,
        data=DataOptions(folder=tiny_folder),
        reader=ReaderOptions(image_size=(8, 8)),
        **settings,
    )


def test_network_comes_from_a_file_or_a_module(network_file):
    found = load_network_class(f"{network_file}:MyNetwork")
    assert issubclass(found, Network)
    assert load_network_class("worklab.networks.resnet:ResNet20").blocks == 3


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("my_network.py", r"named `file\.py:Class`.*Received: 'my_network\.py'"),
        ("missing.py:Net", r"file does not exist.*Received: `missing\.py`"),
        ("no.such.module:Net", r"no module `no\.such\.module`.*Received"),
        (
            "worklab.networks.resnet:ResNet21",
            r"no Network called `ResNet21`; it has \[.*'ResNet20'.*Received",
        ),
    ],
)
def test_network_that_is_not_there_is_an_error(name, match):
    with pytest.raises(ValueError, match=match):
        load_network_class(name)


def test_class_that_is_no_network_is_an_error(network_file):
    with pytest.raises(ValueError, match=r"it has \['MyNetwork'\]"):
        load_network_class(f"{network_file}:NotANetwork")


def test_run_folder_opens_again_with_its_own_copy(tmp_path, tiny_folder, network_file):
    given = options(
        tiny_folder, f"{network_file}:MyNetwork", layers=LayerOptions({"conv": 0.5})
    )
    reader = make_reader("train", CLASS_NAMES, given)
    network = make_network(reader, given)
    run = tmp_path / "run"
    write_run(Session(run), given, network, reader)
    network_file.write_text("raise RuntimeError('changed since')")

    setup = read_run(run)
    assert setup.class_names == CLASS_NAMES
    assert setup.network == f"{run / 'network.py'}:MyNetwork"
    again = make_network(make_reader("valid", setup.class_names, setup), setup)
    assert again.policies == network.policies
    content = json.loads((run / "run.json").read_text())
    assert content["versions"]["tensorflow"].startswith("2.")
    assert (run / "notes.md").read_text() == "# run\n\n"


def test_lists_may_have_moved(tmp_path, tiny_folder):
    given = options(tmp_path / "gone")
    reader = JsonListReader(
        tiny_folder / "train.json", CLASS_NAMES, options=given.reader
    )
    write_run(Session(tmp_path / "run"), given, make_network(reader, given), reader)
    setup = read_run(tmp_path / "run", data_folder=tiny_folder)
    assert len(make_reader("test", setup.class_names, setup)) == 6


def test_changed_options_are_logged(tmp_path, tiny_folder, caplog, monkeypatch):
    monkeypatch.setattr("worklab.runs._logger.parent.propagate", True)
    first = options(tiny_folder)
    reader = make_reader("train", CLASS_NAMES, first)
    network = make_network(reader, first)
    write_run(Session(tmp_path), first, network, reader)
    assert caplog.text == ""
    second = options(tiny_folder, save_every=7)
    write_run(Session(tmp_path), second, network, reader)
    assert "`save_every` was 500, is 7" in caplog.text


def test_folder_of_no_run_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"is not the folder of a run"):
        read_run(tmp_path)


def test_result_says_that_a_run_is_complete(tmp_path):
    assert read_result(tmp_path) is None
    write_result(Session(tmp_path), {"step": 3})
    assert read_result(tmp_path) == {"step": 3}


def test_another_network_or_other_images_are_refused(tmp_path, tiny_folder):
    first = options(tiny_folder)
    reader = make_reader("train", CLASS_NAMES, first)
    network = make_network(reader, first)
    write_run(Session(tmp_path), first, network, reader)
    other = options(tiny_folder, "worklab.networks.resnet:ResNet20")
    match = r"a run of the network `tests\.conftest:TinyNetwork`.*:ResNet20'"
    with pytest.raises(ValueError, match=match):
        write_run(Session(tmp_path), other, network, reader)
    valid = make_reader("valid", CLASS_NAMES, first)
    with pytest.raises(ValueError, match=r"the train list is not the one"):
        write_run(Session(tmp_path), first, network, valid)


def test_precision_auto_is_what_the_run_began_with(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(runtime, "bfloat16_hardware", lambda: "amx_bf16")
    given = options(
        tiny_folder, run=tmp_path / "run", session=SessionOptions(precision="auto")
    )
    begun = resolve(given)
    assert begun.session.precision == "bfloat16"
    reader = make_reader("train", CLASS_NAMES, begun)
    network = make_network(reader, begun)
    assert network.precision == "bfloat16"
    write_run(Session(begun.run), begun, network, reader)
    monkeypatch.setattr(runtime, "bfloat16_hardware", lambda: "")  # another machine
    assert resolve(given) == begun
