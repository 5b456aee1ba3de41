"""`python -m worklab runs`: each command, on runs that launchers have made."""

import csv
import dataclasses
import fcntl
import io
import json
import os
import re
import shutil
import subprocess
import sys

import cv2
import pytest
from rich import filesize

from launchers import test as test_launcher
from launchers import train, train_with_patience
from worklab.__main__ import main
from worklab.checkpoints import Checkpoints, checkpoint_path, deleted_steps, list_steps
from worklab.locks import RunLock, is_locked
from worklab.options import (
    DataOptions,
    PatienceOptions,
    ReaderOptions,
    ScheduleOptions,
    SessionOptions,
    TrainingOptions,
)
from worklab.run_summaries import differing_options, read_curves, summarise
from worklab.session import COOL_DOWN_FILE

SOURCE = """
from worklab import Network

class MyNetwork(Network):
    def _construct(self, images):
        with self.scope("frozen"):
            x = self.conv_block(images, 4, 3)
        x = self.global_pool(x)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)
"""


@pytest.fixture(scope="module")
def made(tiny_folder, tmp_path_factory):
    """Runs `patience`, `group/fast` with another rate, `group/own` with a file."""
    folder = tmp_path_factory.mktemp("runs")
    common = {
        "network": "tests.conftest:TinyNetwork",
        "pretrained": None,
        "data": DataOptions(folder=tiny_folder),
        "reader": ReaderOptions(image_size=(8, 8), batch_size=6, test_batch_size=6),
        "training": TrainingOptions(log_every=2),
    }
    patience = train_with_patience.Options(
        run=folder / "patience",
        patience=PatienceOptions(valid_every=6, patience=1, max_decays=0),
        schedule=ScheduleOptions(learning_rate=0.5),
        **common,
    )
    train_with_patience.main(patience)
    fast = train.Options(
        run=folder / "group" / "fast",
        num_steps=6,
        save_every=1,
        schedule=ScheduleOptions(learning_rate=0.25),
        session=SessionOptions(keep=5),
        **common,
    )
    train.main(fast)
    source = folder / "my_network.py"
    source.write_text(SOURCE)
    step = list_steps(fast.run / "checkpoints")[-1]
    weights = checkpoint_path(fast.run / "checkpoints", step)
    settings = common | {"network": f"{source}:MyNetwork", "pretrained": weights}
    own = train.Options(
        run=folder / "group" / "own",
        num_steps=2,
        schedule=ScheduleOptions(learning_rate=0.25),
        **settings,
    )
    train.main(own)
    with open(own.run / "notes.md", "a") as file:
        file.write("Wider is [red]not[/] better.\n")
    return folder


@pytest.fixture
def runs(made, tmp_path):
    """A copy, for tests that change something."""
    return shutil.copytree(made, tmp_path / "copied")


@pytest.fixture
def tools(capsys):
    def called(*words):
        capsys.readouterr()
        main(["runs", *map(str, words)])
        return capsys.readouterr().out

    return called


@pytest.fixture
def error_of(capsys):
    def called(*words):
        with pytest.raises(SystemExit) as error:
            main(["runs", *map(str, words)])
        assert error.value.code == 1
        return capsys.readouterr().err

    return called


def result_of(run):
    return json.loads((run / "result.json").read_text())


# === list ===


def test_list_shows_how_runs_end_and_differ(made, tools):
    output = tools("list", made)
    test = result_of(made / "patience")["test"]
    assert f"{test['accuracy']:.2%}" in output
    assert output.count("complete") == 3
    assert output.index("group/fast") < output.index("group/own")
    assert "schedule." in output
    assert "0.25" in output
    assert "batch_size" not in output  # the same in all of them
    assert "reader." in tools("list", made, "--options", "reader.batch-size")


def test_options_that_somebody_changed_come_first(runs):
    summaries = [summarise(runs / name) for name in ("patience", "group/fast")]
    assert "schedule.learning_rate" in differing_options(summaries)
    for each in summaries:
        each.options["augment.flip"] = each.path  # as of another version
    order = list(summaries[0].options)
    assert order.index("augment.flip") < order.index("session.keep")
    assert differing_options(summaries)[-1] == "augment.flip"


def test_list_for_machines_has_all_numbers(made, tools):
    rows = {row["name"]: row for row in json.loads(tools("list", made, "--json"))}
    assert set(rows) == {"patience", "group/fast", "group/own"}
    result = result_of(made / "patience")
    row = rows["patience"]
    assert row["state"] == "complete"
    assert row["step"] == result["step"]
    assert row["best_step"] == result["best_step"]
    assert row["valid_loss"] == pytest.approx(result["best_valid_loss"], rel=1e-6)
    assert row["test_accuracy"] == result["test"]["accuracy"]
    assert row["options"]["reader.batch_size"] == 6
    assert rows["group/fast"]["valid_loss"] is None
    words = ("list", made, "--csv", "--options", "schedule.learning_rate")
    table = list(csv.DictReader(io.StringIO(tools(*words))))
    assert {row["name"]: row["schedule.learning_rate"] for row in table} == {
        "patience": "0.5",
        "group/fast": "0.25",
        "group/own": "0.25",
    }


def test_list_puts_the_best_last(runs, tools):
    test_launcher.main(
        test_launcher.Options(run=runs / "group/fast", checkpoint="latest")
    )
    for sort, number in {
        "test-accuracy": "test_accuracy",
        "valid-loss": "valid_loss",
        "name": "name",
        "started": "started",
    }.items():
        words = ("list", runs, "--json", "--sort", sort)
        found = [row[number] for row in json.loads(tools(*words))]
        known = [value for value in found if value is not None]
        assert found == [None] * (len(found) - len(known)) + known
        assert known == sorted(known, reverse=sort == "valid-loss")


def test_state_of_a_run_follows_from_its_folder(runs):
    run = runs / "patience"
    step = list_steps(run / "checkpoints")[-1]
    assert summarise(run).state == "complete"
    (run / "result.json").unlink()
    assert summarise(run).state == f"stopped at step {step}"
    lock = RunLock(run)
    assert summarise(run).state == "running"
    lock.release()
    assert not is_locked(run)
    shutil.rmtree(run / "checkpoints")
    assert summarise(run).state == "stopped before a checkpoint"


def test_looking_at_a_run_does_not_keep_a_trainer_out(runs, monkeypatch):
    looked = []

    def look_meanwhile(seconds):
        looked.append(seconds)
        os.close(descriptor)

    monkeypatch.setattr("worklab.locks.time.sleep", look_meanwhile)
    descriptor = os.open(runs / "patience/.lock", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    RunLock(runs / "patience").release()
    assert len(looked) == 1


def test_run_that_cannot_be_read_is_left_out(runs, capsys):
    (runs / "patience/run.json").write_text('{"options": 3}')
    main(["runs", "list", str(runs)])
    captured = capsys.readouterr()
    assert "patience" not in captured.out
    assert "group/own" in captured.out
    assert f"left out: {runs / 'patience'}: `" in captured.err
    assert "is not the folder of a run" in captured.err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("result.json", "{"),
        ("result.json", "[]"),
        ("history.csv", "step,split,loss\nx,valid,1\n"),
        ("history.csv", "step,split,loss\n1,valid,low\n"),
        ("tests/step-00000001.test.json", "3"),
        ("tests/step-00000001.test.json", "{}"),
    ],
)
def test_file_that_cannot_be_read_is_named(name, text, runs, capsys, error_of):
    run = runs / "group/fast"
    (run / "tests").mkdir(exist_ok=True)
    (run / name).write_text(text)
    main(["runs", "list", str(runs)])
    captured = capsys.readouterr()
    assert "patience" in captured.out
    match = f"`{run / name}` is not what a launcher wrote there; mend or delete it"
    assert f"left out: {run}: {match}. Received: " in captured.err
    assert f"error: {match}. Received: " in error_of("show", run)
    if name == "result.json":  # of two runs neither is cleaned
        before = files(runs)
        assert match in error_of("clean", runs / "patience", run, "--yes")
        assert files(runs) == before


def test_runs_on_another_disk_are_found(made, tmp_path, tools):
    (tmp_path / "link").symlink_to(made / "group")
    (tmp_path / "loop").symlink_to(tmp_path)
    rows = json.loads(tools("list", tmp_path, "--json"))
    assert [row["name"] for row in rows] == ["link/fast", "link/own"]


def test_wrong_words_of_list_are_errors(made, tmp_path, error_of):
    match = "there is no run: a launcher that trains makes a folder"
    assert match in error_of("list", tmp_path)
    found = error_of("list", made, "--options", "reader.batchsize")
    assert "the nearest are ['reader.batch_size'" in found
    assert "Received: options='reader.batchsize'" in found


# === show ===


def test_show_has_everything_of_a_run(made, tools):
    run = made / "patience"
    output, result = tools("show", run), result_of(run)
    best = checkpoint_path(run / "checkpoints", result["best_step"]).name
    assert f"best step {result['best_step']}" not in output
    for line in output.splitlines():
        if best in line:
            assert "best" in line.split("safetensors")[1]
    assert f"valid loss {result['best_valid_loss']:.4f}" in output
    assert f"test loss {result['test']['loss']:.4f}" in output
    assert "tensorflow 2." in output
    assert "patience.valid_every" in output
    assert "patience.factor" not in output  # is the launcher's default
    own = tools("show", made / "group/own")
    assert "variables 5 copied" in own
    assert "Wider is [red]not[/] better." in own


def test_notes_cannot_command_the_terminal(runs, tools):
    (runs / "patience/notes.md").write_text("caf\u00e9 \x1b[2J\n\tx\n")
    assert "caf\u00e9 \ufffd[2J\n    x" in tools("show", runs / "patience")


def test_runs_are_listed_without_tensorflow(made):
    code = (
        "import sys, worklab.__main__ as m; m.main(); sys.exit('keras' in sys.modules)"
    )
    words = [sys.executable, "-c", code, "runs", "list", made]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "group/own" in done.stdout


def test_show_of_a_run_of_an_earlier_version(runs, tools):
    path = runs / "patience/run.json"
    content = json.loads(path.read_text())
    for name in ("changed", "started", "revisions", "num_workers", "seed"):
        del content[name]
    path.write_text(json.dumps(content | {"machine": "Linux", "revision": "abc"}))
    output = tools("show", runs / "patience")
    assert "worklab abc" in output
    assert "patience.factor" in output
    assert "Linux" in tools("diff", runs / "patience", runs / "group/fast")
    assert "patience" in tools("list", runs)


@pytest.mark.parametrize(
    "words",
    [["show"], ["diff", "."], ["compare"], ["clean"], ["cool-down"]],
    ids=lambda words: words[0],
)
def test_run_that_is_not_there_is_an_error(words, made, error_of):
    found = error_of(*words, made / "absent")
    assert "is not the folder of a run" in found
    if words != ["diff", "."]:
        assert "there are: patience. Received: FileNotFoundError" in found


# === diff ===


def test_diff_has_what_differs_alone(made, tools):
    output = tools("diff", made / "group/fast", made / "group/own")
    assert "schedule.learning_rate" not in output
    assert "num_steps" in output
    sources = output[output.index("network.py of") :]
    assert "class TinyNetwork(Network):" in sources
    assert "class MyNetwork(Network):" in sources
    assert re.search(r"the same: data, (code, )?machine, versions$", output.rstrip())
    same = tools("diff", made / "patience", made / "patience")
    assert same == (
        "the same: options, data, code, machine, versions, results, network.py\n"
    )


def test_diff_shows_sources_side_by_side(runs, tools, monkeypatch):
    run, other = runs / "group/own", runs / "group/other"
    shutil.copytree(run, other)
    source = (run / "network.py").read_text()
    changed = source.replace("4, 3)", "8, 3)  # [b]wide[/b]") + "\nWIDTH = 8\n"
    (other / "network.py").write_text(changed)
    (other / "changes.diff").write_text("+x\n")
    monkeypatch.setenv("COLUMNS", "200")
    lines = tools("diff", run, other).splitlines()
    (pair,) = (line for line in lines if "[b]wide[/b]" in line)
    cells = [cell.strip() for cell in pair.strip("│").split("│")]
    assert cells[0] == cells[3] == "7"
    assert cells[1:3] == ["x = self.conv_block(images, 4, 3)", "|"]
    assert cells[4] == "x = self.conv_block(images, 8, 3)  # [b]wide[/b]"
    (added,) = (line for line in lines if "WIDTH = 8" in line)
    assert [cell.strip() for cell in added.split("│")][3] == ">"
    assert any("changes.diff" in line for line in lines)
    assert not any("\x1b" in line for line in lines)  # colours are for terminals


# === compare ===


def test_compare_draws_a_picture(made, tmp_path, tools):
    path = tmp_path / "new" / "curves.png"
    runs = [made / "patience", made / "group/fast"]
    output = tools("compare", *runs, "--output", path)
    assert f"{result_of(runs[0])['test']['loss']:.4f}" in output
    image = cv2.imread(str(path))
    blue = (0xB2, 0x72, 0x00)  # of the first run; OpenCV has blue first
    assert (image == blue).all(axis=2).sum() > 100
    assert list(path.parent.iterdir()) == [path]


def test_compare_makes_a_page_that_needs_no_network(made, runs, tmp_path, tools):
    path = tmp_path / "curves.html"
    odd = runs / "group" / "<b>_$1"
    (runs / "group" / "own").rename(odd)
    tools("compare", made / "patience", runs / "patience", odd, "--output", path)
    page = path.read_text()
    assert "<script src=" not in page
    assert "Plotly.newPlot" in page
    names = set(re.findall(r'"name":"([^"]*), train"', page))
    assert names == {
        f"{made.name}\\u002fpatience",
        f"{runs.name}\\u002fpatience",
        "&lt;b&gt;_$1",
    }
    tools("compare", odd, "--output", tmp_path / "odd.png")


def test_curves_are_those_of_the_history(made):
    curves = read_curves(made / "patience")
    result = result_of(made / "patience")
    valid = curves["valid"]["loss"]
    assert min(valid, key=valid.get) == result["best_step"]
    assert list(curves["train"]["learning_rate"].values())[0] == pytest.approx(0.5)


def test_row_that_is_being_written_is_passed_over(runs):
    before = read_curves(runs / "patience")
    with open(runs / "patience/history.csv", "a") as file:
        file.write("99,train,0.")
    assert read_curves(runs / "patience") == before
    (runs / "patience/history.csv").unlink()
    assert "train" not in read_curves(runs / "patience")


def test_tests_beside_training_are_a_curve_of_validation(runs):
    run = runs / "group/fast"
    assert "valid" not in read_curves(run)
    options = test_launcher.Options(run=run, checkpoint=6, split="valid")
    loss = test_launcher.main(options).statistics.loss
    assert read_curves(run)["valid"]["loss"] == {6: loss}
    assert summarise(run).best_step == 6


def test_wrong_words_of_compare_are_errors(runs, tmp_path, error_of):
    run = runs / "patience"
    assert "give the folders of runs" in error_of("compare")
    found = error_of("compare", run, "--output", tmp_path / "x.pdf")
    assert "`--output` ends with .png or .html. Received: `" in found
    (run / "history.csv").unlink()
    shutil.rmtree(run / "tests")
    assert "nothing to draw yet" in error_of("compare", run)


# === clean ===


def files(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def sizes_of(run, *steps):
    paths = [checkpoint_path(run / "checkpoints", step) for step in steps]
    return filesize.decimal(sum(path.stat().st_size for path in paths))


def test_clean_first_says_what_it_would_delete(runs, tools):
    before = files(runs)
    run = runs / "group/fast"
    output = tools("clean", run)
    assert f"{run}: keeps the checkpoints of step 6 (newest)" in output
    assert "step-00000005.safetensors" in output
    assert "would be deleted; `--yes` does it" in output
    assert files(runs) == before


def test_cleaned_run_keeps_best_and_newest_and_goes_on(runs, tools, made):
    run = runs / "patience"
    best, newest = (result_of(run)[name] for name in ("best_step", "step"))
    assert "deleted" in tools("clean", run, "--yes")
    assert list_steps(run / "checkpoints") == sorted({best, newest})
    fast = runs / "group/fast"
    sizes = sizes_of(fast, 2, 3, 4, 5)
    assert f"{sizes} deleted" in tools("clean", fast, "--yes")
    assert list_steps(fast / "checkpoints") == [6]
    assert deleted_steps(fast / "checkpoints")[-4:] == [2, 3, 4, 5]  # for testers
    assert "0 bytes deleted" in tools("clean", fast, "--yes")
    content = json.loads((fast / "run.json").read_text())["options"]
    options = train.cli.options_from_json(train.Options, content)
    train.main(dataclasses.replace(options, run=fast, num_steps=7, save_every=9))
    assert list_steps(fast / "checkpoints") == [6, 7]


def test_clean_keeps_snapshots_and_what_follows_a_damaged_checkpoint(runs, tools):
    folder = runs / "group/fast/checkpoints"
    checkpoints = Checkpoints(folder, keep=9)
    arrays, state = checkpoints.load(6)
    checkpoints.save(7, arrays, state | {"step": 7, "snapshots": [3, 4]})
    (folder / "step-00000008.safetensors").write_bytes(b"damaged")
    output = tools("clean", runs / "group/fast", "--yes")
    assert "3 (snapshot), 4 (snapshot), 7 (newest), 8 (damaged)" in output
    assert list_steps(folder) == [3, 4, 7, 8]
    for step in (3, 4, 7):
        checkpoint_path(folder, step).write_bytes(b"damaged")
    tools("clean", runs / "group/fast", "--yes")
    assert list_steps(folder) == [3, 4, 7, 8]


def test_clean_leaves_what_a_tester_wants(runs, tools):
    run = runs / "group/fast"
    queue = run / "tests/queues/valid"
    queue.mkdir(parents=True)
    queued = queue / "step-00000003.safetensors"
    os.link(checkpoint_path(run / "checkpoints", 3), queued)
    output = tools("clean", run)
    assert "step-00000003.safetensors, as a queue has it, too" in output
    assert f"{sizes_of(run, 2, 4, 5)} would be deleted" in output
    output = tools("clean", run, "--queues")
    assert f"{sizes_of(run, 2, 3, 4, 5)} would be deleted" in output
    tools("clean", run, "--yes")
    assert queued.exists()
    tools("clean", run, "--queues", "--yes")
    assert not (run / "tests/queues").exists()


def test_clean_deletes_folders_that_are_asked_for(runs, tools):
    run = runs / "patience"
    places = {"cache": "cache", "profiles": "tensorboard/plugins/profile"}
    for option, place in places.items():
        (run / place).mkdir(parents=True)
        (run / place / "x").write_bytes(b"x" * 5000)
        assert place not in tools("clean", run)
        assert "5.0 kB" in tools("clean", run, f"--{option}")
        tools("clean", run, f"--{option}", "--yes")
        assert not (run / place).exists()
    assert list((run / "tensorboard").glob("*/events*"))


def test_clean_leaves_a_folder_on_another_disk(runs, tools, tmp_path):
    run, disk = runs / "patience", tmp_path / "disk"
    disk.mkdir()
    (disk / "x").write_bytes(b"x" * 5000)
    (run / "cache").symlink_to(disk)
    assert "5.0 kB" not in tools("clean", run, "--cache", "--yes")
    assert (run / "cache/x").exists()


def test_run_in_training_is_left_alone(runs, tools):
    before = files(runs)
    lock = RunLock(runs / "group/fast")
    output = tools("clean", runs / "group/fast", "--yes")
    lock.release()
    assert "left alone, as it is being trained" in output
    assert files(runs) == before


def test_clean_wants_runs(made, error_of):
    assert "give the folders of runs to clean" in error_of("clean")
    before = files(made)
    error_of("clean", made / "group/fast", made / "absent", "--yes")
    assert files(made) == before


# === cool-down ===


def test_cool_down_is_signalled_by_a_file(runs, tools, error_of):
    run = runs / "patience"
    assert "Received: schedule.cool_down='off'" in error_of("cool-down", run)
    content = json.loads((run / "run.json").read_text())
    content["options"]["schedule"]["cool_down"] = "log"
    (run / "run.json").write_text(json.dumps(content))
    assert "is complete, so there is nothing to cool" in error_of("cool-down", run)
    assert not (run / COOL_DOWN_FILE).exists()
    (run / "result.json").unlink()
    assert "when it has been started again" in tools("cool-down", run)
    assert (run / COOL_DOWN_FILE).read_bytes() == b""
    (run / COOL_DOWN_FILE).write_text("12\n")  # as training notes the step
    assert "has been asked to cool down already" in tools("cool-down", run)
    assert (run / COOL_DOWN_FILE).read_text() == "12\n"
    (run / COOL_DOWN_FILE).unlink()
    lock = RunLock(run)
    assert "will cool down at the end of this cycle" in tools("cool-down", run)
    lock.release()
