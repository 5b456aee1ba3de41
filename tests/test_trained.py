"""Testing a file of weights, and again and again; weights of any checkpoint."""

import json
import os
import shutil
import signal
import threading
import time

import pytest
import tyro

import worklab.__main__ as tools
from launchers import test as test_launcher
from worklab import Session
from worklab.checkpoints import CheckpointError, checkpoint_path, list_steps
from worklab.pretrained.files import write_weights
from worklab.watching import looks


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the run, to be changed."""
    return shutil.copytree(tiny_run, tmp_path / "run")


def results(run, folder="tests"):
    return sorted(path.name for path in (run / folder).glob("step-*.json"))


def test_word_for_a_checkpoint_is_a_name_a_step_or_a_file(tmp_path):
    def parse(word):
        words = ["--checkpoint", word]
        return tyro.cli(test_launcher.Options, args=words).checkpoint

    assert [parse("best"), parse("7")] == ["best", 7]
    assert parse("some/file.safetensors").suffix == ".safetensors"


def test_file_of_the_run_is_tested_like_its_step(run):
    step = list_steps(run / "checkpoints")[0]
    file = checkpoint_path(run / "checkpoints", step)
    by_file = test_launcher.main(test_launcher.Options(run=run, checkpoint=file))
    by_step = test_launcher.main(test_launcher.Options(run=run, checkpoint=step))
    assert by_file.step == by_step.step == step
    assert by_file.statistics == by_step.statistics
    assert f"step-{step:08d}.test.json" in results(run)


def test_exported_weights_give_the_numbers_of_their_checkpoint(run, tmp_path):
    tools.main(["export", str(run), "--output", str(tmp_path / "w.safetensors")])
    before = results(run)
    options = test_launcher.Options(
        run=run, checkpoint=tmp_path / "w.safetensors", report=False
    )
    exported = test_launcher.main(options)
    best = test_launcher.main(test_launcher.Options(run=run, report=False))
    assert exported.statistics == best.statistics
    assert exported.step == 0
    assert results(run) == before  # it overwrites no result of the run
    assert results(run, "tests/w") == ["step-00000000.test.json"]


def test_file_from_elsewhere_that_does_not_fit_is_an_error(run, tmp_path, tiny_network):
    def tested(path):
        return test_launcher.main(test_launcher.Options(run=run, checkpoint=path))

    path = tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match="and there is no such file"):
        tested(path)
    arrays = {n: v.value.numpy() for n, v in tiny_network.variables.items()}
    write_weights(path, arrays, class_names=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"other classes than.*3 \(a, b, c\).*circle"):
        tested(path)
    del arrays["logits/bias"]
    write_weights(path, arrays)
    with pytest.raises(
        ValueError, match=r"`logits/bias` should have shape \(3,\).*Non"
    ):
        tested(path)
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"not a whole weights file"):
        tested(path)


def test_newest_checkpoint_of_a_complete_run_is_tested_once(run, capsys):
    newest = list_steps(run / "checkpoints")[-1]
    options = test_launcher.Options(run=run, split="valid", every=0.01)
    result = test_launcher.main(options)
    assert result.step == newest
    lines = [n for n in capsys.readouterr().out.splitlines() if n.startswith("step")]
    assert len(lines) == 1
    assert "valid loss" in lines[0]


def test_each_newest_checkpoint_is_tested_until_the_run_is_complete(
    run, tmp_path, capsys
):
    """The run appears file by file, as if it were trained just now."""
    steps = list_steps(run / "checkpoints")
    assert len(steps) >= 3
    copy = tmp_path / "[b]copy"
    seen = copy / "tests" / f"step-{steps[0]:08d}.valid.json"

    def train():
        time.sleep(0.5)  # so that it is waited for
        (copy / "checkpoints").mkdir(parents=True)
        shutil.copy(run / "classes.json", copy)
        shutil.copy(run / "run.json", copy)
        for step in steps:
            deadline = time.monotonic() + 30
            while step != steps[0] and not seen.exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            part = copy / "part"
            shutil.copy(checkpoint_path(run / "checkpoints", step), part)
            os.replace(part, checkpoint_path(copy / "checkpoints", step))
        (copy / "result.json").write_text("{}")

    trainer = threading.Thread(target=train)
    trainer.start()
    options = test_launcher.Options(run=copy, split="valid", every=0.02)
    result = test_launcher.main(options)
    trainer.join()
    assert result.step == steps[-1]
    output = capsys.readouterr().out
    assert output.startswith(f"waiting for {copy} to begin")
    tested = [int(n.split()[1]) for n in output.splitlines() if n.startswith("step")]
    assert tested == sorted(set(tested))
    assert {steps[0], steps[-1]} <= set(tested)
    loss = json.loads((copy / f"tests/step-{steps[-1]:08d}.valid.json").read_text())
    assert loss["loss"] == result.statistics.loss


def test_damaged_newest_checkpoint_is_passed_over(run):
    steps = list_steps(run / "checkpoints")
    checkpoint_path(run / "checkpoints", steps[-1]).write_bytes(b"torn")
    options = test_launcher.Options(run=run, split="valid", every=0.01)
    assert test_launcher.main(options).step == steps[-2]
    for step in steps:
        checkpoint_path(run / "checkpoints", step).unlink()
    with pytest.raises(CheckpointError, match=r"is complete, and has no.*steps \[\]"):
        test_launcher.main(options)


def test_follow_goes_on_until_a_signal(run, monkeypatch):
    original, checks = Session.raise_if_stopped, 0

    def check(self):
        nonlocal checks
        checks += 1
        if checks == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self)

    monkeypatch.setattr(Session, "raise_if_stopped", check)
    options = test_launcher.Options(run=run, split="valid", every=0.01, follow=True)
    with pytest.raises(SystemExit) as stop:
        test_launcher.main(options)
    assert stop.value.code == 143


def test_signal_is_served_within_a_long_pause(tmp_path):
    def look_on():
        with Session(tmp_path) as session:
            for number, _ in enumerate(looks(session, 3600)):
                assert number == 0
                timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
                timer.start()

    start = time.monotonic()
    with pytest.raises(SystemExit, match="130"):
        look_on()
    assert time.monotonic() - start < 10


def test_options_that_do_not_go_with_every_are_errors(tmp_path):
    for checkpoint in (3, tmp_path / "a.safetensors"):
        options = test_launcher.Options(tmp_path, checkpoint=checkpoint, every=1)
        with pytest.raises(ValueError, match="leave `--checkpoint` out.*checkpoint="):
            test_launcher.main(options)
    with pytest.raises(ValueError, match=r"above 0 seconds\. Received: every=0"):
        test_launcher.main(test_launcher.Options(tmp_path, every=0))
    with pytest.raises(ValueError, match=r"goes with `--every`.*Received: follow=True"):
        test_launcher.main(test_launcher.Options(tmp_path, follow=True))
