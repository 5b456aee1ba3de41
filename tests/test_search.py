"""Searches: one value, a space of options, what is killed, and what fails."""

import csv
import dataclasses
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from launchers import train_with_hyper, train_with_patience
from worklab import Network, search, trial_process
from worklab.checkpoints import digest, list_steps, load_checkpoint
from worklab.cli import options_to_json
from worklab.console import make_console
from worklab.files import write_json
from worklab.locks import RunLock
from worklab.networks.digits import PlainDigitsNetwork
from worklab.options import (
    DataOptions,
    PatienceOptions,
    ReaderOptions,
    RestoreOptions,
    ScheduleOptions,
    SearchOptions,
    SessionOptions,
)
from worklab.output import JsonLines, speaking
from worklab.pretrained import import_weights
from worklab.pretrained.files import write_weights
from worklab.runs import make_run_network, read_result, read_run
from worklab.search_space import grid, read_space, with_values
from worklab.stopping import StopSignals
from worklab.study import Study
from worklab.trial_process import Outcome, run_trial

from .conftest import TinyNetwork
from .test_docs import load_script

ROOT = Path(__file__).parent.parent


class WideNetwork(Network):
    """One block whose width is `hyper`, and a layer that has always the same shape."""

    def _construct(self, images):
        with self.scope("stem"):
            x = self.conv_block(images, 4, 3)
        with self.scope("wide"):
            x = self.conv_block(x, int(self.hyper or 2), 3)
        return self.full_layer(self.global_pool(x), self.num_classes, scope="logits")


@pytest.fixture
def trained(tiny_folder, tmp_path):
    """Options of a training of a second."""
    return train_with_patience.Options(
        run=tmp_path / "run",
        network="tests.test_search:WideNetwork",
        pretrained=None,
        data=DataOptions(folder=tiny_folder),
        reader=ReaderOptions(image_size=(8, 8), batch_size=6, test_batch_size=4),
        schedule=ScheduleOptions(learning_rate=0.05),
        patience=PatienceOptions(valid_every=2, patience=1, max_decays=0),
    )


def test_hyper_is_what_the_network_reads():
    assert PlainDigitsNetwork(10, image_shape=(32, 32, 3)).hyper is None
    network = PlainDigitsNetwork(10, image_shape=(32, 32, 3), hyper=3)
    assert network.hyper == 3
    assert network.variables["block1/conv/kernel"].shape == (3, 3, 3, 3)


def test_hyper_that_nobody_reads_is_an_error():
    with pytest.raises(ValueError, match=r"not read `self.hyper`.*Received: hyper=2"):
        TinyNetwork(3, image_shape=(8, 8, 3), hyper=2)


def test_hyper_is_part_of_the_run(trained):
    options = dataclasses.replace(trained, hyper=5)
    train_with_patience.main(options)
    setup = read_run(options.run)
    assert setup.hyper == 5
    kernel = make_run_network(setup).variables["wide/conv/kernel"]
    assert kernel.shape == (3, 3, 4, 5)
    (options.run / "result.json").unlink()
    with pytest.raises(ValueError, match="with hyper=5.*Received: hyper=6"):
        train_with_patience.main(dataclasses.replace(options, hyper=6))


def test_weights_of_another_width_are_taken_where_they_fit(tmp_path):
    small, large = (WideNetwork(3, image_shape=(8, 8, 3), hyper=n) for n in (2, 3))
    fresh = large.variables["wide/conv/kernel"].value.numpy()
    small.variables["stem/conv/kernel"].assign(np.full((3, 3, 3, 4), 7))
    path = tmp_path / "small.safetensors"
    write_weights(path, {name: v.value.numpy() for name, v in small.variables.items()})
    report = import_weights(large, path, RestoreOptions(rule="names"))
    assert (large.variables["stem/conv/kernel"].value.numpy() == 7).all()
    np.testing.assert_array_equal(large.variables["wide/conv/kernel"].value, fresh)
    rows = {row.variable: row for row in report.rows}
    assert rows["stem/conv/kernel"].action == "copied"
    assert rows["wide/conv/kernel"].action == "initialised"
    assert "shape (3, 3, 4, 2) in the file, (3, 3, 4, 3)" in str(report)
    exclude = RestoreOptions(rule="names", exclude=("stem",))
    rows = {row.variable: row for row in import_weights(large, path, exclude).rows}
    assert rows["stem/conv/kernel"].action == "skipped"
    with pytest.raises(ValueError, match="`exclude` names a scope.*nearest"):
        import_weights(large, path, RestoreOptions(rule="names", exclude=("stam",)))
    other = TinyNetwork(4, image_shape=(8, 8, 3))
    with pytest.raises(ValueError, match="no variable of the network has its name"):
        import_weights(other, path, RestoreOptions(rule="names"))


@pytest.fixture
def searched(trained, tmp_path):
    """Return a function that gives the options of a search."""

    def options(name="search", **settings):
        values = {f.name: getattr(trained, f.name) for f in dataclasses.fields(trained)}
        values["run"] = tmp_path / name
        return train_with_hyper.Options(**values, search=SearchOptions(**settings))

    return options


class Trainings:
    """Stands in for trainings, which take too long here, and for their processes.

    Each has ten validations, of which `step` on disk is the checkpoint.

    Args:
        die: How one ends, by its number in the order of trainings.
    """

    def __init__(self, monkeypatch, die=None):
        self.runs = []
        self.options = []
        self.tested = []
        self.die = die or {}
        monkeypatch.setattr(search, "run_trial", self)

    def __call__(self, train, options, *, signals, on_validation=None, testing=False):
        if testing:
            self.tested.append(options.run.name)
            return Outcome("complete", TESTED | read_result(options.run))
        self.options.append(options)
        self.runs.append(options.run.name)
        kind = self.die.get(len(self.runs) - 1)
        if kind == "failed":
            return Outcome("failed", message="ValueError: no. Received: 1")
        options.run.mkdir(parents=True, exist_ok=True)
        path = options.run / "step"
        begin = int(path.read_text()) if path.exists() else 0
        for step in range(begin + 1, 11):
            if kind == "killed" and step == 4:
                raise KeyboardInterrupt
            if on_validation(step, self.loss(options, step)):
                return Outcome("pruned")
            if step % 2 == 0:
                path.write_text(str(step))
        write_json(options.run / "run.json", {"options": options_to_json(options)})
        result = {"best_valid_loss": self.loss(options, 10), "best_step": 10}
        write_json(options.run / "result.json", result)
        return Outcome("complete", result)

    def loss(self, options, step):
        rate = math.log10(options.schedule.learning_rate)
        return (options.hyper - 3) ** 2 + (rate + 2) ** 2 + 1 / step


TESTED = {
    "test": {"num_images": 1, "loss": 1.0, "accuracy": 1.0, "top_k_accuracy": {}}
    | {"recall": {"a": 1.0}, "confusion": [[1]]},
    "class_names": ["a"],
}


def table(run):
    with open(run / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_hyper_is_tried_until_the_loss_does_not_fall(searched, monkeypatch, capsys):
    trainings = Trainings(monkeypatch)
    options = searched(start=1, step=1.0, hyper_patience=2)
    result = train_with_hyper.main(options)
    rows = table(options.run)
    assert [row["hyper"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert result["best"]["values"] == {"hyper": 3.0}
    assert trainings.tested == ["hyper-3"]
    page = (options.run / "search.html").read_text()
    assert "<script src=" not in page
    assert page.count("Plotly.newPlot(") >= 1
    capsys.readouterr()
    before = {p: p.stat().st_mtime_ns for p in options.run.rglob("*")}
    assert train_with_hyper.main(options) == json.loads(json.dumps(result))
    assert before == {p: p.stat().st_mtime_ns for p in options.run.rglob("*")}
    assert "is complete" in capsys.readouterr().out
    doubled = train_with_hyper.main(searched("doubled", factor=2.0))
    assert [t["values"]["hyper"] for t in doubled["trials"]] == [1, 2, 4]


def test_hyper_is_tried_on_real_networks(searched):
    options = dataclasses.replace(
        searched(start=2, warm_start=True),
        schedule=ScheduleOptions(learning_rate=1e-9),  # then one ends soon
    )
    result = train_with_hyper.main(options)
    best = result["best"]
    assert len(result["trials"]) == best["number"] + 2
    assert result["test"]["num_images"] == 6
    tests = {p.parts[-3] for p in options.run.glob("trials/*/tests/*.test.json")}
    assert tests == {best["run"].removeprefix("trials/")}
    imported = json.loads((options.run / "trials/hyper-3/run.json").read_text())
    rows = {row["variable"]: row for row in imported["imported"]["rows"]}
    assert rows["stem/conv/kernel"]["action"] == "copied"
    assert rows["wide/conv/kernel"]["action"] == "initialised"


def test_values_that_fail_are_noted_and_not_tried_again(searched, monkeypatch):
    trainings = Trainings(monkeypatch, {0: "failed", 2: "killed"})
    options = searched(hyper_patience=2, warm_start=True)
    with pytest.raises(KeyboardInterrupt):
        train_with_hyper.main(options)
    train_with_hyper.main(options)
    assert trainings.runs[:5] == ["hyper-1", "hyper-2", "hyper-3", "hyper-2", "hyper-3"]
    row = table(options.run)[0]
    assert (row["state"], row["message"]) == ("failed", "ValueError: no. Received: 1")
    warm = {each.run.name: each.pretrained for each in trainings.options}
    assert warm["hyper-2"] is None
    first = options.run / "trials/hyper-2/checkpoints/step-00000010.safetensors"
    assert warm["hyper-3"] == first


SPACE = ("schedule.learning-rate=0.001:1:log", "optimizer.name=sgd,adam", "hyper=1:4:1")


@pytest.mark.parametrize(
    ("sampler", "pruner"), [("random", "median"), ("tpe", "hyperband")]
)
def test_killed_search_has_the_trials_of_one_that_was_not(
    searched, monkeypatch, sampler, pruner
):
    settings = {"space": SPACE, "sampler": sampler, "num_trials": 15, "pruner": pruner}
    Trainings(monkeypatch)
    whole = train_with_hyper.main(searched("whole", **settings))
    states = {trial["state"] for trial in whole["trials"]}
    assert states == {"complete", "pruned"}
    killed = searched("killed", **settings)
    deaths = {0: "killed", 2: "killed", 4: "killed", 8: "killed", 15: "killed"}
    trainings = Trainings(monkeypatch, deaths)
    kills = 0
    while True:
        try:
            result = train_with_hyper.main(killed)
            break
        except KeyboardInterrupt:
            kills += 1
            with open(killed.run / "journal.log", "a") as file:
                file.write('{"half a li')
            (killed.run / "journal.log.lock").touch()
    assert kills >= 3
    assert len(trainings.runs) == 15 + kills
    assert trainings.runs[:3] == ["0000", "0000", "0001"]
    assert result == whole
    first, second = (run / "trials.csv" for run in (killed.run, searched("whole").run))
    assert first.read_bytes() == second.read_bytes()
    assert "parallel" in (killed.run / "search.html").read_text().lower()


def test_failed_trial_does_not_end_the_search(searched, monkeypatch):
    Trainings(monkeypatch, {1: "failed"})
    options = searched(space=("hyper=1,2,3",), sampler="grid")
    result = train_with_hyper.main(options)
    assert [row["state"] for row in table(options.run)] == [
        "complete",
        "failed",
        "complete",
    ]
    assert result["trials"][1]["message"] == "ValueError: no. Received: 1"
    more = dataclasses.replace(options, search=SearchOptions(space=("hyper=1,2",)))
    (options.run / "result.json").unlink()
    with pytest.raises(ValueError, match="begun with other options.*the space is"):
        train_with_hyper.main(more)


def test_two_processes_share_the_trials(searched, tmp_path):
    """Two studies on one file, as two processes have them."""
    space = read_space(("hyper=1,2,3",), train_with_patience.Options)
    options = SearchOptions(space=("hyper=1,2,3",), sampler="grid")
    one, two = (Study(tmp_path, space, options) for _ in range(2))
    first, lock = one.take()
    second, other = two.take()
    assert [first.number, second.number] == [0, 1]
    lock.release()  # its process was killed
    again, _ = two.take()
    assert again == first
    two.finish(0, Outcome("complete", {"best_step": 2, "best_valid_loss": 0.5}))
    assert one.trials()[0].loss == 0.5
    third, _ = one.take()
    assert third.number == 2
    assert one.take() is two.take() is None


def _share(run, barrier, done):
    words = ("hyper=1:12:1",)
    space = read_space(words, train_with_patience.Options)
    study = Study(run, space, SearchOptions(space=words, sampler="grid"))
    barrier.wait()
    numbers = []
    while (taken := study.take()) is not None:
        trial, lock = taken
        with lock:
            time.sleep(0.02)  # a training
            numbers.append(trial.number)
            result = {"best_step": 1, "best_valid_loss": 1.0}
            study.finish(trial.number, Outcome("complete", result))
    done.put(numbers)


def test_processes_of_their_own_share_the_trials(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(trial_process._PRELOADED)
    settings = (tmp_path, context.Barrier(2), context.Queue())
    processes = [context.Process(target=_share, args=settings) for _ in range(2)]
    for process in processes:
        process.start()
    one, two = (settings[-1].get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert one
    assert two
    assert sorted(one + two) == list(range(12))


def test_trial_in_a_process_of_its_own(trained):
    """Its result, its validations, and its death."""
    seen = []
    signals = StopSignals()
    outcome = run_trial(
        train_with_patience.main,
        trained,
        signals=signals,
        on_validation=lambda step, loss: seen.append(step) or len(seen) == 2,
    )
    assert outcome == Outcome("pruned")
    assert seen == [2, 4]
    outcome = run_trial(_killed, trained, signals=signals)
    assert outcome.state == "failed"
    assert "ended by SIGKILL, as the system does for want of memory" in outcome.message
    assert run_trial(_disk_full, trained, signals=signals).state == "broken"
    assert "KeyError: 'x'" in run_trial(_defect, trained, signals=signals).message


def test_trials_speak_as_their_search_does(trained):
    def run(mode):
        with speaking(mode):
            return run_trial(_speak, trained, signals=StopSignals()).result

    assert run("quiet") == {"quiet": True, "events": False}
    assert run("json") == {"quiet": False, "events": True}


def _speak(options, **settings):
    console = make_console()
    return {"quiet": console.quiet, "events": isinstance(console.file, JsonLines)}


def _killed(options, **settings):
    os.kill(os.getpid(), signal.SIGKILL)


def _defect(options, **settings):
    raise KeyError("x")


def _disk_full(options, **settings):
    raise OSError("full. Received: nothing")


def test_signal_of_a_search_stops_its_trial_with_a_checkpoint(trained):
    signals = StopSignals()

    def stop(step, loss):
        signals._number = signal.SIGTERM
        return False

    outcome = run_trial(
        train_with_patience.main, trained, signals=signals, on_validation=stop
    )
    assert outcome.state == "stopped"
    assert list_steps(trained.run / "checkpoints")


@pytest.mark.stress
def test_time_limit_ends_a_search_and_the_same_command_goes_on(searched):
    settings = {"space": ("hyper=2,3",), "sampler": "grid"}
    whole = train_with_hyper.main(searched("whole", **settings))
    options = searched(**settings)
    limited = dataclasses.replace(options, session=SessionOptions(time_limit=0.5))
    with pytest.raises(SystemExit, match="143"):
        train_with_hyper.main(limited)
    assert not (options.run / "result.json").exists()
    assert train_with_hyper.main(options) == whole


def test_search_without_a_complete_trial_is_an_error(searched, monkeypatch):
    Trainings(monkeypatch, {0: "failed"})
    options = searched()
    with pytest.raises(RuntimeError, match="no trial.*Received: ValueError: no"):
        train_with_hyper.main(options)


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("optimiser.name=sgd", r"nearest are \['optimizer.name'.*optimiser.name"),
        ("optimizer.name=sdg", "one of 'sgd', .*Received: 'sdg'"),
        ("data.valid=a,b", "`data.valid` cannot be searched"),
        ("patience.patience=1.5,2", "takes int. Received: 1.5"),
        ("reader.channels=true,3", "one of .*Received: True"),
        ("optimizer.name=1:2", "a range is one of finite numbers"),
        ("hyper=null:3", "a range is one of finite numbers.*Received: .*None"),
        ("hyper=1:Infinity", "a range is one of finite numbers.*Received: .*inf"),
        ("hyper=1:2:1:9", "each word of.*Received: 'hyper=1:2:1:9'"),
        ("hyper=3:1", "`low` is below `high`"),
        ("hyper=0:1:log", "`log` wants `low` above 0"),
        ("hyper=0:1:0", "`step` is above 0"),
        ("hyper=0:1:often", "a range is one of finite numbers"),
        ("absent.json", r"wants a JSON file.*Received: 'absent.json' \(.*No such"),
    ],
)
def test_wrong_space_is_an_error_before_anything_starts(searched, word, match):
    options = searched(space=(word,))
    with pytest.raises(ValueError, match=match):
        train_with_hyper.main(options)
    assert not options.run.exists()


def test_space_is_read_from_a_file_and_set_in_the_options(tmp_path, trained):
    path = tmp_path / "space.json"
    described = {
        "reader.image-size": [[8, 8], [16, 16]],
        "layers.weight_decay": {"low": 0, "high": 1e-3, "step": 5e-4},
        "patience.patience": {"low": 1, "high": 2},
    }
    path.write_text(json.dumps(described))
    space = read_space((str(path),), train_with_patience.Options)
    points = grid(space)
    assert len(points) == 12
    options = with_values(trained, points[-1])
    assert options.reader.image_size == (16, 16)
    assert options.layers.weight_decay == pytest.approx(1e-3)
    assert options.patience.patience == 2
    assert with_values(trained, {}) == trained
    free = read_space(("layers.weight_decay=0:1",), train_with_patience.Options)
    with pytest.raises(ValueError, match="a grid wants choices"):
        grid(free)


def test_choices_of_a_file_have_the_type_of_the_option(tmp_path):
    path = tmp_path / "space.json"
    path.write_text('{"layers.lr_mult": [{"stem": 2}, {"stem": "a"}]}')
    with pytest.raises(ValueError, match=r"`layers.lr_mult` takes names.*'stem': 'a'"):
        read_space((str(path),), train_with_patience.Options)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_trials": 0}, "`num_trials` must be at least 1. Received: num_trials=0"),
        ({"sampler": "grid"}, "a grid wants choices"),
    ],
)
def test_wrong_first_command_does_not_refuse_the_mended_one(searched, settings, match):
    options = searched(space=("hyper=1:4",), **settings)
    with pytest.raises(ValueError, match=match):
        train_with_hyper.main(options)
    assert not options.run.exists()


def test_wrong_time_limit_leaves_nothing(searched):
    options = dataclasses.replace(searched(), session=SessionOptions(time_limit=0.0))
    with pytest.raises(ValueError, match="`time_limit` must be above 0"):
        train_with_hyper.main(options)
    assert not options.run.exists()


def test_network_of_a_notebook_is_refused(searched, notebook):
    notebook.run("from worklab import Network\nclass Mine(Network): pass")
    options = dataclasses.replace(searched(), network="__main__:Mine")
    with pytest.raises(ValueError, match="write it to a file. Received: .*Mine"):
        train_with_hyper.main(options)
    assert not options.run.exists()


def test_option_that_was_taken_away_is_another_option(searched, monkeypatch):
    Trainings(monkeypatch)
    options = searched()
    weighted = dataclasses.replace(options.reader, class_weights={"a": 2.0})
    train_with_hyper.main(dataclasses.replace(options, reader=weighted))
    (options.run / "result.json").unlink()
    with pytest.raises(ValueError, match=r"Received: `reader.class_weights.a` was 2.0"):
        train_with_hyper.main(options)


def test_near_values_have_folders_of_their_own(searched, monkeypatch):
    trainings = Trainings(monkeypatch)
    train_with_hyper.main(searched(start=1e6))
    assert trainings.runs == ["hyper-1000000", "hyper-1000001"]


def test_disk_error_at_the_start_of_a_trial_is_not_its_failure(trained, monkeypatch):
    trained.run.write_text("a file")
    signals = StopSignals()
    outcome = run_trial(train_with_patience.main, trained, signals=signals)
    assert outcome.state == "broken"
    monkeypatch.setattr(trial_process, "_ORPHAN_SECONDS", 0)
    run = trained.run.with_name("used")
    lock = RunLock(run)
    with pytest.raises(TimeoutError, match="still in use.*Received: "):
        trial_process._wait_for_orphan(run)
    lock.release()


def test_result_of_ray_is_shown_once(searched, monkeypatch):
    """Also where it has fewer trials than were wanted."""

    def search_on_ray(launcher, options, signals):
        calls.append(launcher)
        if options.search.workers:
            best = trials[0] | {"state": "complete", "loss": 1.0, "best_step": 1}
            write_json(
                options.run / "result.json",
                TESTED | {"best": best, "trials": [best], "num_wanted": 1},
            )

    calls = []
    trials = [{"number": 0, "run": "trials/0000", "values": {"hyper": 1}}]
    monkeypatch.setattr(train_with_hyper, "search_on_ray", search_on_ray)
    settings = {"space": ("hyper=1,2",), "engine": "ray", "num_trials": 2}
    with pytest.raises(RuntimeError, match="no worker.*search.workers=0"):
        train_with_hyper.main(searched(workers=0, **settings))
    assert train_with_hyper.main(searched(**settings))["num_wanted"] == 1
    assert len(calls) == 2


def test_grid_of_tenths_ends(tmp_path):
    words = ("hyper=0.1:0.3:0.1", "patience.patience=1:2")
    space = read_space(words, train_with_patience.Options)
    study = Study(tmp_path, space, SearchOptions(space=words, sampler="grid"))
    points = []
    while (taken := study.take()) is not None:
        trial, lock = taken
        points.append(tuple(trial.values.values()))
        study.finish(trial.number, Outcome("failed"))
        lock.release()
    assert points == [(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2), (0.3, 1), (0.3, 2)]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"step": 0.0}, "`step` is not 0"),
        ({"factor": 1.0}, "`factor` is above 0 and not 1"),
        ({"hyper_patience": 0}, "at least 1"),
        ({"engine": "ray"}, "for a space"),
    ],
)
def test_wrong_numbers_of_a_search_are_errors(searched, settings, match):
    with pytest.raises(ValueError, match=f"{match}.*Received: start="):
        train_with_hyper.main(searched(**settings))


@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("search_words", "trials"),
    [
        ("--search.space hyper=2,4,8 --search.sampler grid", ("0000", "0001")),
        ("--search.start 2 --search.factor 2", ("hyper-2", "hyper-4")),
    ],
)
def test_search_killed_twice_has_the_answer_of_one_that_was_not(
    tmp_path, figures, search_words, trials
):
    """Widths on digits, in processes of their own."""
    load_script(ROOT / "data/make_digits.py").make_digits(tmp_path / "digits")
    words = [sys.executable, str(ROOT / "launchers/train_with_hyper.py")]
    words += ["--data.folder", str(tmp_path / "digits"), "--patience.valid-every", "25"]
    words += ["--patience.patience", "2", "--patience.max-decays", "0"]
    words += [*search_words.split(), "--run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*words, str(whole)], check=True, env=environment)
    for trial, step in zip(trials, (25, 50), strict=True):
        with subprocess.Popen([*words, str(killed)], env=environment) as process:
            folder = killed / f"trials/{trial}/checkpoints"
            deadline = time.monotonic() + 200
            while not folder.exists() or max(list_steps(folder), default=0) < step:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
            figures.append(("search killed", f"trial {trial}", "the same trials"))
    subprocess.run([*words, str(killed)], check=True, env=environment)
    assert (whole / "trials.csv").read_bytes() == (killed / "trials.csv").read_bytes()
    first, second = (read_result(run) for run in (whole, killed))
    assert first == second
    losses = [trial["loss"] for trial in first["trials"]]
    assert first["best"]["loss"] == min(losses) < losses[0]
    name = f"{first['best']['run']}/checkpoints/step-{first['best']['best_step']:08d}"
    checkpoints = [run / f"{name}.safetensors" for run in (whole, killed)]
    digests = {digest(load_checkpoint(path)[0]) for path in checkpoints}
    assert len(digests) == 1


@pytest.mark.filterwarnings("ignore")  # its own
def test_ray_searches_with_two_workers(trained, searched):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    options = searched(space=("hyper=1,2,3",), sampler="grid", engine="ray")
    result = train_with_hyper.main(options)
    assert [trial["state"] for trial in result["trials"]] == ["complete"] * 3


def test_ray_that_is_not_installed_is_an_error(searched, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    options = searched(space=("hyper=1,2,3",), engine="ray")
    with pytest.raises(RuntimeError, match=r"worklab\[ray\].*Received: "):
        train_with_hyper.main(options)


def test_optuna_that_is_not_installed_is_an_error(searched, monkeypatch):
    monkeypatch.delitem(sys.modules, "worklab.study")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RuntimeError, match=r"worklab\[search\].*Received: "):
        train_with_hyper.main(searched(space=("hyper=1,2,3",)))
    assert not searched().run.exists()
