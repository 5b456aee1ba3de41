"""Several workers, each a process of its own on this machine."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from worklab.checkpoints import list_steps, load_checkpoint
from worklab.cluster import Cluster, read_cluster

from . import faults
from .test_stress import Child, assert_equal_outcomes, outcome, stress, words_of

LONG = {"patience.valid-every": 4, "patience.patience": 2, "session.keep": 50}


def config_of(addresses, index):
    return json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    )


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def start_workers(tmp_path, tiny_folder):
    """Return a function that starts a launcher on two workers."""
    children = []

    def start(run, settings=(), *, hold=None, second=()):
        addresses = [f"localhost:{port}" for port in free_ports(2)]
        pair = []
        for index in range(2):
            folder = tmp_path / f"child{len(children)}"
            folder.mkdir()
            own = dict(settings) | (dict(second) if index else {})
            words = words_of({"run": run, "data.folder": tiny_folder, **own})
            config = config_of(addresses, index)
            arguments = (
                config,
                "train_with_patience",
                words,
                folder,
                (hold or {}).get(index),
            )
            children.append(Child(folder, faults.launch_worker, *arguments))
            pair.append(children[-1])
        return pair

    yield start
    for child in children:
        child.process.kill()


def losses(run):
    with open(run / "history.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_workers_have_the_losses_of_one_process(
    tmp_path, tiny_folder, start_workers
):
    settings = {
        "network": "tests.test_devices:Plain",
        "patience.max-decays": 1,
        "patience.patience": 1,
        "patience.valid-every": 4,
        "optimizer.clip-norm": 0.5,
    }
    pair = start_workers(tmp_path / "two", settings)
    folder = tmp_path / "alone"
    folder.mkdir()
    words = words_of({"run": tmp_path / "one", "data.folder": tiny_folder, **settings})
    alone = Child(folder, faults.launch, "train_with_patience", words, folder, None)
    assert [child.join() for child in [*pair, alone]] == [0, 0, 0], pair[1].stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = (
        json.loads((tmp_path / name / "result.json").read_text())
        for name in ("one", "two")
    )
    assert one["best_step"] == two["best_step"]
    assert one["test"]["num_images"] == two["test"]["num_images"] == 6
    assert "worker 1 of 2" in pair[1].stderr
    assert (pair[1].folder / "stdout").read_text() == ""


def test_frozen_layers_stay_as_they_were_on_three_devices(tmp_path, tiny_folder):
    # Of three copies the mean is not always the number itself. In another process, as
    # TensorFlow lets one choose its devices once.
    settings = {
        "run": tmp_path / "run",
        "data.folder": tiny_folder,
        "session.num-devices": 3,
        "reader.test-batch-size": 6,
        "patience.valid-every": 6,
        "patience.max-decays": 0,
        "patience.patience": 1,
    }
    words = words_of(settings)
    arguments = "train_with_patience", words, tmp_path, None
    child = Child(tmp_path, faults.launch, *arguments)
    assert child.join() == 0, child.stderr
    steps = list_steps(tmp_path / "run/checkpoints")
    first, last = (
        load_checkpoint(tmp_path / f"run/checkpoints/step-{step:08d}.safetensors")[0]
        for step in (steps[0], steps[-1])
    )
    frozen = [name for name in first if name.startswith("frozen/")]
    assert len(frozen) >= 5
    for name in frozen:
        np.testing.assert_array_equal(first[name], last[name], err_msg=name)
    assert (first["logits/kernel"] != last["logits/kernel"]).any()


def test_workers_with_other_options_are_refused(tmp_path, start_workers):
    pair = start_workers(tmp_path / "run", second={"optimizer.momentum": 0})
    assert [child.join() for child in pair] == [1, 1]
    assert "others on another worker" in pair[0].stderr
    assert "worker 1 `optimizer.momentum` was None, is 0.0" in pair[1].stderr


def test_workers_with_another_list_are_refused(tmp_path, tiny_folder, start_workers):
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    records = json.loads((other / "train.json").read_text())
    records.pop(next(iter(records)))
    (other / "train.json").write_text(json.dumps(records))
    pair = start_workers(tmp_path / "run", second={"data.folder": other})
    assert [child.join() for child in pair] == [1, 1]
    assert "`content of.train` was" in pair[1].stderr


def test_signal_to_one_worker_stops_all_at_the_same_step(tmp_path, start_workers):
    settings = LONG | {"network": "tests.test_devices:Plain"}
    pair = start_workers(tmp_path / "run", settings, hold={1: ("step", 3)})
    pair[1].wait_until_held()
    pair[1].send(signal.SIGTERM)
    pair[1].release()
    codes = [child.join() for child in pair]
    assert codes == [143, 143], [child.stderr for child in pair]
    lines = [child.stderr.splitlines()[-1] for child in pair]
    assert lines[0] == lines[1]
    assert "stopped by SIGTERM at step" in lines[0]


@stress
@pytest.mark.parametrize("victim", [0, 1])
def test_workers_go_on_after_one_was_killed(tmp_path, start_workers, victim, figures):
    whole = start_workers(tmp_path / "whole/run", LONG)
    assert [child.join() for child in whole] == [0, 0]
    run = tmp_path / "run"
    (run / "tests/queues").mkdir(parents=True)
    for phase in (("step", 6), ("validating", 2), ("step", 9)):
        pair = start_workers(run, LONG, hold={victim: phase})
        pair[victim].wait_until_held()
        pair[victim].send(signal.SIGKILL)
        began = time.monotonic()
        assert pair[1 - victim].join(60) == 1
        assert "another worker has ended" in pair[1 - victim].stderr
        figures.append(
            ("worker killed", f"{time.monotonic() - began:.0f} s", "the others stop")
        )
    assert [child.join() for child in start_workers(run, LONG)] == [0, 0]
    assert_equal_outcomes(outcome(run), outcome(tmp_path / "whole/run"))


def test_port_that_is_taken_is_an_error():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = config_of([f"localhost:{port}", "localhost:1"], 0)
        code = "from worklab import Session; Session('run')"
        process = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"TF_CONFIG": config},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert f"cannot listen on port {port}" in process.stderr


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ('{"cluster":', "it is no JSON"),
        ('{"cluster": {"worker": ["a:1"]}}', "a part is missing"),
        ("[]", "a part is missing"),
        (config_of(["a:1", "b"], 0), "'b' is no `host:port`"),
        (config_of(["a:1", "a:1"], 0), "the same address"),
        (config_of(["a:1", "b:1"], 2), "no worker 2"),
        (config_of(["a:1", "b:1"], -1), "no worker -1"),
        (config_of(["a:1"], 0).replace('"worker":', '"ps":', 1), "jobs must be"),
    ],
)
def test_malformed_description_of_the_cluster_is_an_error(monkeypatch, config, match):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=f"{match}.*Received: TF_CONFIG="):
        read_cluster()


def test_chief_comes_before_the_workers(monkeypatch):
    cluster = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
    task = {"type": "worker", "index": 1}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    assert read_cluster() == Cluster(("a:1", "b:1", "c:1"), 2)


@pytest.mark.parametrize("config", ["", config_of(["a:1"], 0)])
def test_one_process_is_no_cluster(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    assert read_cluster() is None
