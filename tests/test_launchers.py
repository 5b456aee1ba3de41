"""Every launcher for a few steps on synthetic images, as a function and a script."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest

import worklab.__main__ as tools
from launchers import ray_train, test_many, train, train_with_patience
from launchers import test as test_launcher
from worklab import Session
from worklab.checkpoints import digest, list_steps, load_checkpoint
from worklab.options import (
    DataOptions,
    PatienceOptions,
    ReaderOptions,
    ScheduleOptions,
    SessionOptions,
    TrainingOptions,
)
from worklab.packing import PackOptions, pack
from worklab.pretrained.cards import read_card
from worklab.runs import make_run_network, read_run
from worklab.saved_tests import read_test

from .conftest import CLASS_NAMES
from .test_layouts import Tensorflow1, save_tensorflow1, slim_resnet50
from .test_stress import words_of
from .test_writer import events

ROOT = Path(__file__).parent.parent


@pytest.fixture
def common(tiny_folder):
    return {
        "network": "tests.conftest:TinyNetwork",
        "pretrained": None,
        "data": DataOptions(folder=tiny_folder),
        "reader": ReaderOptions(image_size=(8, 8), batch_size=6, test_batch_size=4),
        "schedule": ScheduleOptions(learning_rate=0.05),
        "training": TrainingOptions(log_every=2),
    }


@pytest.fixture
def patience_options(common, tmp_path):
    return train_with_patience.Options(
        run=tmp_path / "patience",
        patience=PatienceOptions(valid_every=3, patience=1, max_decays=1),
        **common,
    )


def variables(run, step):
    arrays, _ = load_checkpoint(run / f"checkpoints/step-{step:08d}.safetensors")
    return arrays


def history(run):
    with open(run / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_training_with_patience_ends_with_a_test(patience_options, capsys):
    result = train_with_patience.main(patience_options)
    run = patience_options.run
    assert result == json.loads((run / "result.json").read_text())
    assert result["test"]["num_images"] == 6
    assert result["best_step"] % 3 == 0
    tested = run / f"tests/step-{result['best_step']:08d}.test.json"
    assert json.loads(tested.read_text())["loss"] == result["test"]["loss"]
    output = capsys.readouterr().out
    assert "tensorboard --logdir" in output
    assert "accuracy" in output
    assert list_steps(run / "checkpoints")[-1] == result["step"]
    tags = [
        [(e.step, value.tag) for e in events(folder) for value in e.summary.value]
        for folder in (run / "tensorboard", run / "tensorboard/test")
    ]
    assert tags[0] == [
        (0, "_hparams_/session_start_info"),
        (result["step"], "_hparams_/session_end_info"),
    ]
    assert (result["best_step"], "confusion matrix") in tags[1]
    assert {tag for _, tag in tags[1]} >= set(CLASS_NAMES)


def test_complete_run_changes_nothing(patience_options, capsys):
    result = train_with_patience.main(patience_options)
    files = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in patience_options.run.rglob("*")
        if path.is_file()
    }
    capsys.readouterr()
    assert train_with_patience.main(patience_options) == result
    assert "is complete" in capsys.readouterr().out
    assert files == {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in patience_options.run.rglob("*")
        if path.is_file()
    }


def test_best_checkpoint_equals_plain_training_of_as_many_steps(
    patience_options, common, tmp_path
):
    options = dataclasses.replace(
        patience_options,
        patience=PatienceOptions(valid_every=3, patience=2, max_decays=0),
    )
    best_step = train_with_patience.main(options)["best_step"]
    plain = train.Options(run=tmp_path / "plain", num_steps=best_step, **common)
    train.main(plain)
    assert digest(variables(patience_options.run, best_step)) == digest(
        variables(plain.run, best_step)
    )


def test_decay_goes_back_to_the_best_checkpoint(patience_options):
    result = train_with_patience.main(patience_options)
    rows = [row for row in history(patience_options.run) if row["split"] == "valid"]
    losses = [float(row["loss"]) for row in rows]
    assert min(losses) == pytest.approx(result["best_valid_loss"], rel=1e-6)
    rates = {
        int(row["step"]): float(row["learning_rate"])
        for row in history(patience_options.run)
        if row["split"] == "train"
    }
    assert rates[2] == pytest.approx(0.05)
    assert rates[max(rates)] == pytest.approx(0.005)


def test_run_that_was_stopped_ends_like_one_that_was_not(patience_options, monkeypatch):
    whole = train_with_patience.main(patience_options)
    stopped = dataclasses.replace(
        patience_options, run=patience_options.run.with_name("stopped")
    )
    checks = 0
    original = Session.raise_if_stopped

    def stop_now_and_then(self):
        nonlocal checks
        checks += 1
        if checks % 29 == 0:  # wherever that is between two validations
            os.kill(os.getpid(), signal.SIGTERM)
        original(self)

    monkeypatch.setattr(Session, "raise_if_stopped", stop_now_and_then)
    codes, steps = [], []
    while True:
        try:
            result = train_with_patience.main(stopped)
            break
        except SystemExit as stop:
            codes.append(stop.code)
            steps.append(list_steps(stopped.run / "checkpoints")[-1])
    assert codes == [143] * len(codes)
    assert len(codes) >= 2
    assert {step % 2 for step in steps} == {0, 1}  # at a row of the log, and between
    assert result == whole
    a, b = (run / "history.csv" for run in (patience_options.run, stopped.run))
    assert a.read_bytes() == b.read_bytes()
    for step in list_steps(stopped.run / "checkpoints"):
        if step in list_steps(patience_options.run / "checkpoints"):
            first, second = (
                variables(patience_options.run, step),
                variables(stopped.run, step),
            )
            assert digest(first) == digest(second)


def test_train_goes_on_to_a_larger_number_of_steps(common, tmp_path):
    options = train.Options(run=tmp_path / "a", num_steps=4, save_every=3, **common)
    train.main(options)
    assert list_steps(options.run / "checkpoints") == [0, 3, 4]
    train.main(dataclasses.replace(options, num_steps=7))
    whole = train.Options(run=tmp_path / "b", num_steps=7, **common)
    train.main(whole)
    assert digest(variables(options.run, 7)) == digest(variables(whole.run, 7))


def test_packed_images_train_the_same_weights(common, tmp_path, tiny_folder):
    for split in ("train", "valid", "test"):
        pack(tiny_folder / f"{split}.json", tmp_path / "packed", PackOptions(shards=2))
    sources = {
        "list": common["data"],
        "packed": DataOptions(
            tmp_path / "packed", train="train@2", valid="valid-*", test="test@2"
        ),
    }
    digests = []
    for name, data in sources.items():
        processes = 2 * (name == "packed")
        reader = dataclasses.replace(common["reader"], num_processes=processes)
        given = common | {"data": data, "reader": reader}
        train.main(train.Options(run=tmp_path / name, num_steps=4, **given))
        digests.append(digest(variables(tmp_path / name, 4)))
        testing = test_launcher.Options(run=tmp_path / name, checkpoint="latest")
        digests.append(test_launcher.main(testing).statistics.to_json())
    assert digests[:2] == digests[2:]
    given["data"] = dataclasses.replace(data, train="valid-*")
    with pytest.raises(ValueError, match="the train list is not the one"):
        train.main(train.Options(run=tmp_path / name, **given))


def test_test_launcher_repeats_the_numbers_of_training(patience_options, tmp_path):
    result = train_with_patience.main(patience_options)
    run = patience_options.run
    again = test_launcher.main(test_launcher.Options(run=run))
    assert again.statistics.to_json()["loss"] == result["test"]["loss"]
    assert again.step == result["best_step"]
    latest = test_launcher.main(
        test_launcher.Options(run=run, checkpoint="latest", split="valid")
    )
    assert latest.step == result["step"]
    assert (run / f"tests/step-{latest.step:08d}.valid.csv").exists()
    by_step = test_launcher.main(
        test_launcher.Options(run=run, checkpoint=result["best_step"], table="parquet")
    )
    assert by_step.statistics == again.statistics
    saved = read_test(run / f"tests/step-{by_step.step:08d}.test.parquet")
    assert saved.statistics == again.statistics


def test_checkpoint_called_best_needs_a_validation(common, tmp_path):
    options = train.Options(run=tmp_path / "a", num_steps=2, **common)
    train.main(options)
    with pytest.raises(RuntimeError, match=r"ask for `latest` or for a step"):
        test_launcher.main(test_launcher.Options(run=options.run))


def test_test_many_after_training_tests_what_is_left(patience_options, capsys):
    train_with_patience.main(patience_options)
    run = patience_options.run
    steps = list_steps(run / "checkpoints")
    options = test_many.Options(run=run, split="valid")
    capsys.readouterr()
    results = test_many.main(options)
    validated = [int(r["step"]) for r in history(run) if r["split"] == "valid"]
    missed = sorted({0, *validated} - set(steps))
    assert missed
    assert (
        f"were deleted before this tester began, so begin it before training: {missed}"
        in (capsys.readouterr().out)
    )
    # The best was tested on valid in the end of training.
    best = json.loads((run / "result.json").read_text())["best_step"]
    assert [result.step for result in results] == [s for s in steps if s != best]
    losses = {
        int(row["step"]): float(row["loss"])
        for row in history(run)
        if row["split"] == "valid"
    }
    tested = {result.step: result.statistics.loss for result in results}
    assert tested[steps[-1]] == pytest.approx(losses[steps[-1]], rel=1e-6)
    assert test_many.main(options) == []


def test_test_many_beside_training_tests_every_checkpoint_once(common, tmp_path):
    run = tmp_path / "run"
    words = [
        sys.executable,
        "-c",
        "from launchers import test_many as t; t.main("
        f"t.Options(run=t.Path({str(run)!r}), poll_seconds=0.05))",
    ]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as many:
        options = train.Options(
            run=run,
            num_steps=40,
            save_every=2,
            session=SessionOptions(keep=1),
            **common,
        )
        deadline = time.monotonic() + 60
        while not (run / "tests/queues/valid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        train.main(options)
        output, _ = many.communicate(timeout=60)
    assert many.returncode == 0
    tested = [int(step) for step in re.findall(r"step +(\d+)  valid", output)]
    assert tested == list(range(0, 41, 2))
    assert list_steps(run / "checkpoints") == [40]
    assert not (run / "tests/queues/valid").exists()
    assert len(list((run / "tests").glob("step-*.valid.json"))) == 21


def test_wrong_numbers_of_steps_are_errors(common, tmp_path):
    for wrong in ({"num_steps": 0}, {"save_every": 0}):
        with pytest.raises(ValueError, match=r"at least 1\. Received"):
            train.main(train.Options(run=tmp_path, **common, **wrong))


def test_error_of_a_person_is_one_line_without_traceback(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "launchers/train_with_patience.py",
            "--data.folder",
            str(tmp_path),
            "--run",
            str(tmp_path / "run"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: There is no file")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


# === Somebody's weights ===


def test_exported_weights_start_another_run_with_their_card(common, tmp_path):
    options = train.Options(run=tmp_path / "first", num_steps=2, **common)
    train.main(options)
    path = tmp_path / "weights.safetensors"
    words = ["export", str(options.run), "--checkpoint", "latest"]
    tools.main([*words, "--output", str(path)])
    card = read_card(path)
    assert card.network == "tests.conftest:TinyNetwork"
    assert card.class_names == CLASS_NAMES
    again = dataclasses.replace(options, run=tmp_path / "again", pretrained=path)
    train.main(again)
    imported = json.loads((again.run / "run.json").read_text())["imported"]
    actions = {row["variable"]: row["action"] for row in imported["rows"]}
    assert actions["slow/a/conv/kernel"] == "copied"
    assert actions["logits/kernel"] == "skipped"
    damaged = json.loads(path.with_suffix(".json").read_text())
    damaged["preprocessing"]["mean"] = [1.0]
    path.with_suffix(".json").write_text(json.dumps(damaged))
    other = dataclasses.replace(again, run=tmp_path / "other")
    with pytest.raises(ValueError, match="feeds images otherwise"):
        train.main(other)


@pytest.mark.stress
def test_resnet50_starts_from_keras_and_slim_with_the_same_command(common, tmp_path):
    """The README's how-to; torchvision's names are in `test_golden.py`."""
    keras_path = tmp_path / "keras.weights.h5"
    keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3)).save_weights(
        keras_path
    )
    slim_path = tmp_path / "slim.ckpt"
    tf1 = Tensorflow1(1e-5, "BatchNorm")
    save_tensorflow1(slim_path, slim_resnet50, tf1, 32, 1001)
    for layout, path in {"keras": keras_path, "slim": slim_path}.items():
        settings = common | {
            "network": "worklab.networks.resnet:ResNet50",
            "pretrained": path,
            "reader": ReaderOptions(image_size=(32, 32), batch_size=2),
        }
        run = tmp_path / layout
        options = train.Options(run=run, num_steps=1, **settings)
        train.main(options)
        content = json.loads((run / "run.json").read_text())
        assert content["options"]["restore"]["layout"] == layout
        assert content["imported"]["layout"] == layout
        assert make_run_network(read_run(run)).layout.name == layout
    keras_path.unlink()  # a run that goes on does not need it any more
    again = dataclasses.replace(options, run=tmp_path / "keras", pretrained=keras_path)
    train.main(dataclasses.replace(again, num_steps=2))


def test_ray_launcher_wants_a_launcher_that_exists(tmp_path):
    for words in ((), ("launchers/absent.py", "--run", "runs/mine")):
        with pytest.raises(
            ValueError, match="stands after `--`.*Received: .*(abs|not)"
        ):
            ray_train.main(ray_train.Options(launcher=words))
    with pytest.raises(ValueError, match="at least 1.*num_workers=0"):
        ray_train.main(ray_train.Options(num_workers=0))


def test_worker_of_ray_runs_the_launcher(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)  # is given back; `work` changes it
    words = words_of({"data.folder": tiny_folder, "run": "run", "num-steps": 2})
    path = str(ROOT / "launchers/train.py")
    ray_train.work({"launcher": (path, *words), "folder": str(tmp_path)})
    assert list_steps(tmp_path / "run/checkpoints") == [0, 2]
    with pytest.raises(RuntimeError, match="has ended.*Received: 1"):
        ray_train.work(
            {"launcher": (path, *words, "--num-steps", "0"), "folder": str(tmp_path)}
        )


@pytest.mark.filterwarnings("ignore")  # its own
def test_ray_trains_on_two_workers(tmp_path, tiny_folder):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    words = words_of(
        {"data.folder": tiny_folder, "run": tmp_path / "r", "num-steps": 4}
    )
    launcher = (str(ROOT / "launchers/train.py"), *words)
    ray_train.main(ray_train.Options(num_workers=2, launcher=launcher))
    assert list_steps(tmp_path / "r/checkpoints") == [0, 4]
