import dataclasses
import json
import os
import re
import subprocess
import time

import pytest

from launchers import train
from tests.conftest import CLASS_NAMES
from tests.test_writer import events
from worklab import Network, Session, Writer, provenance, runtime
from worklab.options import DataOptions, LayerOptions, ReaderOptions, SessionOptions
from worklab.provenance import describe_code, describe_machine, package_versions
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
    write_run(Session(run), Writer(None), given, network, reader)
    network_file.write_text("raise RuntimeError('changed since')")

    setup = read_run(run)
    assert setup.class_names == CLASS_NAMES
    assert setup.network == f"{run / 'network.py'}:MyNetwork"
    again = make_network(make_reader("valid", setup.class_names, setup), setup)
    assert again.policies == network.policies
    content = json.loads((run / "run.json").read_text())
    assert content["versions"]["tensorflow"].startswith("2.")
    assert (run / "notes.md").read_text() == "# run\n\n"


def test_options_are_a_table_and_hyper_parameters_once(tmp_path, tiny_folder):
    given = options(tiny_folder, save_every=7, layers=LayerOptions({"slow": 0.5}))
    reader = make_reader("train", CLASS_NAMES, given)
    network = make_network(reader, given)
    session, taken = Session(tmp_path), {}
    writer = Writer(tmp_path)
    writer.write_hparams = taken.update
    write_run(session, writer, given, network, reader)
    (text,) = [
        value.tensor.string_val[0].decode()
        for event in events(tmp_path / "tensorboard/train")
        for value in event.summary.value
        if value.tag == "options"
    ]
    lines = text.splitlines()
    assert lines[:2] == ["| option | value | |", "|---|---|---|"]
    assert "| save_every | 7 | changed |" in lines
    assert "| layers.lr_mult | slow 0.5 | changed |" in lines
    assert "| reader.channels | 3 |  |" in lines
    assert taken["save_every"] == 7
    assert taken["layers.lr_mult"] == "slow 0.5"
    assert taken["optimizer.name"] == "sgd"
    assert isinstance(taken["schedule.learning_rate"], float)
    assert "run" not in taken
    taken.clear()
    session._saved_step = 3  # as after a restart
    write_run(session, writer, given, network, reader)
    assert taken == {}


def test_lists_may_have_moved(tmp_path, tiny_folder):
    given = options(tmp_path / "gone")
    reader = JsonListReader(
        tiny_folder / "train.json", CLASS_NAMES, options=given.reader
    )
    write_run(
        Session(tmp_path / "run"),
        Writer(None),
        given,
        make_network(reader, given),
        reader,
    )
    setup = read_run(tmp_path / "run", data_folder=tiny_folder)
    assert len(make_reader("test", setup.class_names, setup)) == 6


def test_changed_options_are_logged(tmp_path, tiny_folder, caplog, monkeypatch):
    monkeypatch.setattr("worklab.runs._logger.parent.propagate", True)
    first = options(tiny_folder)
    reader = make_reader("train", CLASS_NAMES, first)
    network = make_network(reader, first)
    write_run(Session(tmp_path), Writer(None), first, network, reader)
    assert caplog.text == ""
    second = options(tiny_folder, save_every=7)
    write_run(Session(tmp_path), Writer(None), second, network, reader)
    assert "`save_every` was 500, is 7" in caplog.text


# === Where a run comes from ===


@pytest.fixture
def project(network_file):
    """A committed project with a network."""
    (network_file.parent / "table.bin").write_bytes(b"\0\1")
    git(network_file.parent, "init", "--quiet")
    commit(network_file.parent)
    return network_file


def git(folder, *words):
    names = {"GIT_CONFIG_GLOBAL": os.devnull}
    for role in ("AUTHOR", "COMMITTER"):
        names |= {f"GIT_{role}_NAME": "a", f"GIT_{role}_EMAIL": "a@b"}
    done = subprocess.run(
        ["git", "-C", folder, *words],
        env=os.environ | names,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def commit(folder):
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "a")


def test_record_says_what_a_run_was_started_with(tmp_path, tiny_folder, project):
    name = f"{project}:MyNetwork"
    given = options(tiny_folder, name, session=SessionOptions(seed=3), save_every=7)
    given = resolve(dataclasses.replace(given, pretrained=None))
    reader = make_reader("train", CLASS_NAMES, given)
    network = make_network(reader, given)
    run = tmp_path / "run"
    write_run(Session(run), Writer(None), given, network, reader)
    content = json.loads((run / "run.json").read_text())
    assert content["changed"] == {
        "save_every": 7,
        "network": name,
        "pretrained": None,
        "data.folder": str(tiny_folder),
        "reader.image_size": [8, 8],
        "session.seed": 3,
    }
    assert content["seed"] == 3
    head = git(project.parent, "rev-parse", "HEAD")
    assert content["revisions"]["network"] == head
    assert "worklab" in content["revisions"]
    assert content["data"]["test"] is not None
    assert {"processor", "cores", "memory_gigabytes", "gpus"} < {*content["machine"]}
    (project.parent / "helper_of_my_network.py").write_text("WIDTH = 5\n")
    (project.parent / "table.bin").write_bytes(b"\0\2")
    write_run(Session(run), Writer(None), given, network, reader)
    again = json.loads((run / "run.json").read_text())
    assert again["started"] == content["started"]
    assert again["revisions"]["network"] == f"{head}-dirty"
    changes = (run / "changes.diff").read_text()
    assert "-WIDTH = 4\n+WIDTH = 5\n" in changes
    git(project.parent, "checkout", ".")
    (tmp_path / "own.diff").write_text(changes.split("# worklab:")[0])
    git(project.parent, "apply", tmp_path / "own.diff")
    assert "5" in (project.parent / "helper_of_my_network.py").read_text()
    assert (project.parent / "table.bin").read_bytes() == b"\0\2"


def test_changes_are_only_there_where_something_is_changed(project):
    revisions, changes = describe_code({"network": project})
    assert (len(revisions["network"]), changes) == (40, "")
    git(project.parent, "tag", "-a", "v1", "-m", "a")
    tagged, _ = describe_code({"network": project})
    assert tagged["network"] == f"v1-0-g{revisions['network']}"
    project.write_text("x\n" * provenance.CHANGES_BYTES)
    revisions, changes = describe_code({"network": project})
    assert revisions["network"].endswith("-dirty")
    assert len(changes) < provenance.CHANGES_BYTES + 1000
    assert changes.endswith("\n+x\n# cut, as there is more than 1000000 bytes\n")


def test_project_that_two_files_are_in_is_named_once(project):
    neighbour = project.parent / "helper_of_my_network.py"
    revisions, _ = describe_code({"network": project, "worklab": neighbour})
    assert list(revisions) == ["network"]


def test_file_that_a_project_ignores_has_no_revision(project, tmp_path):
    (project.parent / ".gitignore").write_text("env/\n")
    installed = project.parent / "env" / "network.py"
    installed.parent.mkdir()
    installed.write_text("")
    files = {"installed": installed, "outside": tmp_path / "x.py", "unknown": None}
    assert describe_code(files) == (dict.fromkeys(files), "")


@pytest.mark.parametrize("hangs", [True, False])
def test_start_does_not_wait_for_git(hangs, project, tmp_path, monkeypatch):
    if hangs:
        (tmp_path / "git").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
        (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))  # else without git
    monkeypatch.setattr(provenance, "_GIT_SECONDS", 0.1)
    begun = time.monotonic()
    assert describe_code({"network": project}) == ({"network": None}, "")
    assert time.monotonic() - begun < 10


def test_versions_are_those_of_what_the_project_asks_for():
    versions = package_versions()
    assert {"worklab", "keras", "opencv-python-headless"} <= {*versions}
    assert "ruff" not in versions
    assert all(re.match(r"\d", version) for version in versions.values())
    assert describe_machine(["A"])["gpus"] == ["A"]


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
    write_run(Session(tmp_path), Writer(None), first, network, reader)
    other = options(tiny_folder, "worklab.networks.resnet:ResNet20")
    match = r"a run of the network `tests\.conftest:TinyNetwork`.*:ResNet20'"
    with pytest.raises(ValueError, match=match):
        write_run(Session(tmp_path), Writer(None), other, network, reader)
    valid = make_reader("valid", CLASS_NAMES, first)
    with pytest.raises(ValueError, match=r"the train list is not the one"):
        write_run(Session(tmp_path), Writer(None), first, network, valid)


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
    write_run(Session(begun.run), Writer(None), begun, network, reader)
    monkeypatch.setattr(runtime, "bfloat16_hardware", lambda: "")  # another machine
    assert resolve(given) == begun
