"""Rules on curves whose answers are known, and a test that takes all of itself back."""

import csv
import dataclasses
import json
import os
import shlex
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
import tyro

from launchers import find_lr, train
from worklab import Session, Trainer, Writer, cli
from worklab import range_test as range_tests
from worklab.checkpoints import digest
from worklab.lr_finder import (
    RULES,
    evaluate,
    find_rates,
    has_diverged,
    minimum,
    slide,
    smooth,
    steep,
    valley,
    window,
)
from worklab.options import (
    DataOptions,
    FindOptions,
    OptimizerOptions,
    ReaderOptions,
    ScheduleOptions,
    TrainingOptions,
)
from worklab.range_test import range_test
from worklab.schedules import Schedule
from worklab.stopping import StopRequested

from .conftest import CLASS_NAMES, TinyNetwork
from .test_trainer import make_trainer

# === Curves ===

RATES = 10.0 ** np.arange(-20, 20)


def array(*values):
    return np.array(values, float)


def test_rates_rise_by_equal_factors_or_differences():
    rates = find_rates(FindOptions())
    assert len(rates) == 101
    assert rates[0] == 1e-7
    assert rates[-1] == pytest.approx(10, rel=1e-12)
    assert np.diff(np.log10(rates)) == pytest.approx(0.08)  # 8 decades in 100 steps
    linear = FindOptions(start=1, end=3, num_steps=4, spacing="linear")
    assert find_rates(linear).tolist() == [1, 1.5, 2, 2.5, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": 0.0},
        {"end": 1e-8},
        {"end": float("inf")},
        {"num_steps": 0},
        {"beta": 1.0},
        {"stop_at": 1.0},
        {"repeats": 0},
    ],
)
def test_option_out_of_range_is_an_error(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}` is out of range.*Received: {name}"):
        find_rates(FindOptions(**wrong))


def test_average_has_no_bias_towards_zero():
    assert smooth(array(3, 3, 3), 0.98) == pytest.approx([3, 3, 3])
    # (0.5 * 0.5 * 4 + 0.5 * 2) / (1 - 0.25) and so on
    assert smooth(array(4, 2, 8), 0.5) == pytest.approx([4, 8 / 3, 5 / 0.875])
    assert smooth(array(4, 2), 0.0).tolist() == [4, 2]


def test_test_ends_at_four_times_the_best_loss_or_at_nan():
    assert not has_diverged(array(2, 1, 4), 4)
    assert has_diverged(array(2, 1, 4.01), 4)
    assert has_diverged(array(2, 1, np.nan), 4)
    assert has_diverged(array(2, np.inf), 4)


def test_valley_is_half_way_down_the_longest_fall():
    # Ten points fall, to index 9: b = 9 - 10 = -1, d = 10/3, index -1 + 3 + 1.
    losses = array(10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 2, 3)
    assert valley(RATES, losses) == RATES[3]
    # With bumps between: the fall 9 8 7 6 5 4 ends at index 8, b = 2, d = 2: 2 + 2 + 1.
    losses = array(1, 2, 9, 8, 8.5, 7, 6, 5, 4, 10)
    assert valley(RATES, losses) == RATES[5]


def test_valley_of_two_of_one_length_is_the_first():
    losses = array(3, 2, 1, 9, 8, 7)  # lengths 1 2 3 1 2 3; b = -1, d = 1
    assert valley(RATES, losses) == RATES[0]


def test_slide_is_where_the_slope_becomes_steady():
    # Slope 0 up to index 28, 0.5 at 29, 1 from 30 on. The right point stops at 28;
    # one before, the left point was at 14.
    losses = np.concatenate([np.zeros(30), np.arange(1.0, 11.0)])
    assert slide(RATES, losses) == RATES[14]
    # Steady from the beginning: 15 points from the end.
    assert slide(RATES, np.arange(40.0)) == RATES[24]
    # Steady nowhere, too short.
    assert slide(RATES, np.arange(40.0) ** 2) is None
    assert slide(RATES, np.arange(16.0)) is None


def test_steep_is_the_left_point_of_the_steepest_fall():
    assert steep(RATES[:5], array(5, 4, 1, 0, 2)) == RATES[1]
    # Over the logarithm: -2 in two decades is less than -1.5 in one.
    assert steep(array(1e-3, 1e-1, 1, 10), array(5, 3, 1.5, 2)) == 1e-1
    assert steep(RATES[:3], array(1, 2, 3)) is None
    assert steep(RATES[:1], array(1)) is None


def test_minimum_is_a_tenth_of_the_rate_with_the_lowest_loss():
    assert minimum(RATES, array(5, 4, 1, 0, 2)) == RATES[3] / 10
    assert minimum(RATES, array(0, 4, 1)) is None
    assert minimum(RATES, array()) is None


def test_rules_see_no_start_no_end_and_no_nan():
    rates, losses = np.arange(101.0), np.arange(101.0)
    seen = window(rates, losses, 100)
    assert (seen[0][0], seen[0][-1]) == (10, 95)
    losses[50] = np.nan
    rates, losses = window(rates, losses, 100)
    assert rates.tolist() == losses.tolist() == list(range(10, 50))


def fall_then_explode(num=101):
    """Loss 2.3, then a valley from rate number 40 to 70, then up."""
    losses = np.full(num, 2.3)
    losses[40:70] = np.linspace(2.3, 0.5, 30)
    losses[70:] = 0.5 + 0.2 * np.arange(num - 70) ** 2
    return losses


def test_suggestions_of_a_curve_with_a_valley_lie_in_it():
    found = evaluate(FindOptions(beta=0.0), 7, fall_then_explode())
    rates = find_rates(found.options)
    # The fall has 30 points, 40 to 69, then 70 is as low: b = 69 - 30, d = 10.
    assert found.suggestion == found.suggestions["valley"] == rates[39 + 10 + 5]
    assert found.suggestions["minimum"] == rates[69] / 10
    assert 40 <= np.searchsorted(rates, found.suggestions["steep"]) < 70
    assert found.why_none() == ""
    assert found.step == 7
    by_minimum = dataclasses.replace(found.options, suggestion="minimum")
    assert dataclasses.replace(found, options=by_minimum).suggestion == rates[69] / 10


def test_nan_at_the_end_changes_no_suggestion():
    losses = fall_then_explode()
    expected = evaluate(FindOptions(), 0, losses[:96]).suggestions
    losses[95] = np.nan
    found = evaluate(FindOptions(), 0, losses[:96])
    assert found.stopped
    assert found.suggestions["valley"] == expected["valley"]
    assert found.suggestions["minimum"] == expected["minimum"]


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        (
            [2.0, np.nan],
            r"too short, 2 of 101.*lower \(`--find.start 1e-09`\), or take",
        ),
        ([2.0] * 12 + [99.0], "too short, 13 of 101"),
        ([2.3] * 101, "the loss hardly falls at any rate from 6.3e-07 to 4"),
        (list(np.linspace(1, 2, 101)), "hardly falls.*check that the labels"),
        (list(2.3 + 0.001 * np.sin(np.arange(101))), "hardly falls"),
    ],
)
def test_curve_that_says_nothing_gives_no_number_but_a_reason(losses, why):
    found = evaluate(FindOptions(beta=0.5), 0, np.array(losses))
    assert found.suggestion is None
    assert found.suggestions == dict.fromkeys(RULES)
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(found.why_none())


def test_whole_test_of_few_rates_need_not_start_lower():
    why = evaluate(FindOptions(num_steps=1), 0, array(2, 2)).why_none()
    assert "too short, 2 of 2 rates were tried: take smaller steps" in why
    assert "--find.num-steps 100" in why


def test_rule_that_finds_nothing_says_so():
    losses = (np.arange(101.0) - 30) ** 2 + 1  # its slope is never steady
    options = FindOptions(beta=0.0, suggestion="slide")
    found = evaluate(options, 0, losses)
    assert found.suggestion is None
    assert "rule `slide` finds no place on this curve" in found.why_none()


# === The test itself ===


def everything(session):
    return {name: v.value.numpy() for name, v in session._variables.items()}


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


FIND = FindOptions(start=1e-3, end=1e4, num_steps=9, repeats=2)
SETTINGS = {
    "optimizer": OptimizerOptions(name="adam", average=0.9),
    "options": TrainingOptions(log_every=2, log_histograms=2),
}


def test_range_test_takes_everything_back(tmp_path, tiny_reader):
    trainer = make_trainer(tmp_path, tiny_reader, **SETTINGS)
    trainer.train(3)
    trainer.session.save()
    trainer.session.finish()
    trainer.writer.get_state()
    before, on_disk = everything(trainer.session), files(tmp_path)
    kept = trainer.writer, trainer.schedule, trainer.options, trainer.get_state()
    found = range_test(trainer, FIND)
    assert digest(everything(trainer.session)) == digest(before)
    assert (trainer.session.step, trainer.session.is_chief) == (3, True)
    again = trainer.writer, trainer.schedule, trainer.options, trainer.get_state()
    assert kept == again
    trainer.writer.close()
    left = files(tmp_path)
    assert {path: data for path, data in left.items() if path in on_disk} == on_disk
    assert not [p for p in {*left} - {*on_disk} if "tfevents" not in p.name]
    assert found.step == 3
    assert trainer.num_traces == 1
    trainer.train(3)
    assert trainer.num_traces == 1
    keras.utils.set_random_seed(0)
    other = make_trainer(tmp_path / "other", tiny_reader, **SETTINGS)
    other.train(6)
    assert digest(everything(trainer.session)) == digest(everything(other.session))
    assert (tmp_path / "history.csv").read_bytes() == (
        tmp_path / "other/history.csv"
    ).read_bytes()


def test_test_is_stopped_by_any_of_its_repeats(monkeypatch, tmp_path, tiny_reader):
    curves = iter([[1.0] * 10, [1.0, 1.0, 5.0]])
    monkeypatch.setattr(range_tests, "_losses", lambda *_: next(curves))
    found = range_test(make_trainer(tmp_path, tiny_reader), FIND)
    assert found.losses.tolist() == [1, 1, 3]  # a mean that is not far from the best
    assert found.stopped


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("is_stopped", [False, True])
def test_range_test_takes_stages_back(tmp_path, tiny_reader, monkeypatch, is_stopped):
    options = TrainingOptions(stages={"0": {"slow": 0.0}, "3": {"slow": 0.5}})
    trainer = make_trainer(tmp_path, tiny_reader, options=options)

    def what_learns():
        network = trainer.network
        names = [v.path for v in network.model.trainable_variables]
        multipliers = {k: policy.lr_mult for k, policy in network.policies.items()}
        return names, multipliers, list(trainer.optimizer.lr_mults)

    trainer.train(2)
    before = what_learns()
    if is_stopped:
        # Not by a signal: a shell lets what runs in the background ignore it.
        stop_at_check(monkeypatch, 4, interrupt)
        with pytest.raises(KeyboardInterrupt):
            range_test(trainer, FIND)
    else:
        range_test(trainer, FIND)
    assert what_learns() == before


def test_losses_are_those_of_training_with_these_rates(tmp_path, tiny_reader):
    trainer = make_trainer(tmp_path / "a", tiny_reader, **SETTINGS)
    options = FindOptions(start=1e-3, end=1e-1, num_steps=4)
    found = range_test(trainer, options)
    assert not (tmp_path / "a/checkpoints").exists()
    assert not (tmp_path / "a/tensorboard").exists()
    other = make_trainer(tmp_path / "b", tiny_reader, **SETTINGS)
    other.schedule = Schedule(lambda step: find_rates(options)[step])
    losses = [other.train(1)["loss"] for _ in range(5)]
    assert found.losses.tolist() == losses
    assert len(set(losses)) == 5
    # The second test is on the next batches, with the same weights and rates.
    twice = range_test(trainer, dataclasses.replace(options, repeats=2))
    weights = everything(trainer.session)
    trainer.session.step = 5
    second = range_test(trainer, options).losses
    assert twice.losses.tolist() == ((found.losses + second) / 2).tolist()
    assert digest(weights) == digest(everything(trainer.session))


def test_means_of_train_are_those_of_its_steps(tmp_path, tiny_reader):
    one = make_trainer(tmp_path / "a", tiny_reader, **SETTINGS)
    singles = [one.train(1) for _ in range(3)]
    two = make_trainer(tmp_path / "b", tiny_reader, **SETTINGS)
    means = two.train(3)
    assert set(means) == {"loss", "gradient_norm", "accuracy"}
    for name, value in means.items():
        assert value == pytest.approx(np.mean([each[name] for each in singles]))
    assert two.train(0) == {}


def test_range_test_ends_where_the_loss_is_not_finite(tmp_path, tiny_reader):
    options = TrainingOptions(on_nan="rollback")
    trainer = make_trainer(tmp_path, tiny_reader, options=options)
    found = range_test(trainer, FindOptions(start=1, end=1e38, num_steps=20))
    assert 1 < len(found.rates) < 21
    assert found.stopped
    assert all(np.isfinite(v).all() for v in everything(trainer.session).values())
    assert trainer.options is options
    assert trainer.session.step == 0


def stop_at_check(monkeypatch, number, action):
    checks = 0
    original = Session.raise_if_stopped

    def check(self):
        nonlocal checks
        checks += 1
        if checks == number:
            action()
        original(self)

    monkeypatch.setattr(Session, "raise_if_stopped", check)


def test_momentum_of_a_schedule_stays_where_it_is(tmp_path, tiny_reader):
    moving = Schedule(lambda step: 0.1, momentum=lambda step: 0.5 + step / 10)
    options = FindOptions(start=0.01, end=1, num_steps=3)
    still = Schedule(lambda step: find_rates(options)[step], momentum=lambda step: 0.5)

    def trainer_with(schedule):
        trainer = Trainer(
            TinyNetwork(3, image_shape=(8, 8, 3)),
            tiny_reader,
            Session(tmp_path / "run"),
            Writer(None),
            learning_rate=schedule,
        )
        trainer.session.start(trainer.network, CLASS_NAMES)
        return trainer

    trainer = trainer_with(moving)
    found = range_test(trainer, options)
    assert trainer.schedule is moving
    trainer.session.close()
    other = trainer_with(still)
    assert found.losses.tolist() == [other.train(1)["loss"] for _ in range(4)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, StopRequested(signal.SIGINT)])
def test_ctrl_c_takes_everything_back(tmp_path, tiny_reader, monkeypatch, error):
    trainer = make_trainer(tmp_path, tiny_reader, **SETTINGS)
    trainer.train(2)
    before = everything(trainer.session)

    def interrupt():
        raise error

    stop_at_check(monkeypatch, 5, interrupt)
    with pytest.raises((KeyboardInterrupt, StopRequested)):
        range_test(trainer, FIND)
    assert digest(everything(trainer.session)) == digest(before)
    assert trainer.session.step == 2


# === The launcher ===


@pytest.fixture
def common(tiny_folder):
    return {
        "network": "tests.conftest:TinyNetwork",
        "pretrained": None,
        "data": DataOptions(folder=tiny_folder),
        "reader": ReaderOptions(image_size=(8, 8), batch_size=6),
        "training": TrainingOptions(log_every=1),
    }


def parse(options: find_lr.Options) -> find_lr.Options:
    return options


SHORT = FindOptions(start=0.01, end=1, num_steps=20)


def test_launcher_before_a_run_leaves_a_curve_and_no_run(common, tmp_path, capsys):
    run = tmp_path / "my [b]run"
    options = find_lr.Options(run=run, find=SHORT, **common)
    found = find_lr.main(options)
    assert {path.name for path in run.iterdir()} == {"find_lr"}
    result = json.loads((run / "find_lr/result.json").read_text())
    assert result["suggestions"] == found.suggestions
    assert result["suggestion"] == found.suggestion
    with open(run / "find_lr/curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == pytest.approx(found.losses)
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(found.rates)
    assert (run / "find_lr/curve.png").read_bytes().startswith(b"\x89PNG")
    (events,) = (run / "find_lr/tensorboard").iterdir()
    points = {}
    for record in tf.data.TFRecordDataset(str(events)).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(record)
        for value in event.summary.value:
            (number,) = tf.make_ndarray(value.tensor).reshape(-1)
            points.setdefault(value.tag, []).append((event.step, number))
    assert sorted(points) == [
        f"find_lr/{name}" for name in ("learning_rate", "loss", "smooth_loss")
    ]
    assert [step for step, _ in points["find_lr/loss"]] == list(range(len(rows)))
    find_lr.main(options)  # replaces what was there
    assert len(list((run / "find_lr/tensorboard").iterdir())) == 1
    # Training begins as if nothing had been, with the command that was printed.
    output = capsys.readouterr().out
    assert "valley" in output
    assert f"curve: {run / 'find_lr/curve.png'}" in output
    words = shlex.split(output.split("next: ")[1].splitlines()[0])
    assert words[:2] == ["python", "launchers/train.py"]
    train.main(tyro.cli(train.Options, args=[*words[2:], "--num-steps", "1"]))
    settings = json.loads((run / "run.json").read_text())["options"]
    rate = settings["schedule"]["learning_rate"]
    assert rate == pytest.approx(found.suggestion, rel=0.05)
    fresh = train.Options(
        run=tmp_path / "fresh",
        num_steps=1,
        schedule=ScheduleOptions(learning_rate=rate),
        **common,
    )
    train.main(fresh)
    checkpoint = "checkpoints/step-00000001.safetensors"
    assert (run / checkpoint).read_bytes() == (fresh.run / checkpoint).read_bytes()


def test_launcher_starts_from_the_run_and_changes_nothing_in_it(
    tiny_run, tmp_path, capsys
):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    before = files(run)
    words = ["--config", str(run / "run.json"), "--run", str(run)]
    words += ["--find.num-steps", "3"]

    def find(*more):
        return find_lr.main(cli.run(parse, [*words, *more]))

    newest = find()
    assert newest.step == result["step"]
    best = find("--checkpoint", "best")
    assert best.step == result["best_step"]
    first = find("--checkpoint", "0")
    assert first.step == 0
    assert first.losses[0] != newest.losses[0]
    assert "no suggestion: the curve is too short" in capsys.readouterr().out
    after = {k: v for k, v in files(run).items() if k.parts[0] != "find_lr"}
    assert after == before
    with open(run / "history.csv", newline="") as file:
        row = next(csv.DictReader(file))  # step 1, on the same batch
    assert first.losses[0] == pytest.approx(float(row["loss"]), rel=1e-6)


def test_launcher_says_where_it_is_not_as_the_run(tiny_run, caplog):
    path = tiny_run / "run.json"
    given = find_lr.Options(**{"run": tiny_run, "find": SHORT} | common_of(path))
    smaller = dataclasses.replace(given.reader, batch_size=3)
    with pytest.raises(ValueError, match=r"has no checkpoint of that step.*step=1$"):
        find_lr.main(dataclasses.replace(given, reader=smaller, checkpoint=1))
    warnings = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert warnings == [f"other than in {tiny_run}: `reader.batch_size` was 6, is 3"]
    other = dataclasses.replace(given, network="worklab.networks.resnet:ResNet20")
    with pytest.raises(ValueError, match="is a run of the network.*TinyNetwork.*20'"):
        find_lr.main(other)
    wrong = dataclasses.replace(given, find=FindOptions(start=-1))
    with pytest.raises(ValueError, match="`start` is out of range"):
        find_lr.main(wrong)
    assert not (tiny_run / "find_lr").exists()


def common_of(path):
    options = cli.run(parse, ["--config", str(path)])
    return {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if field.name not in {"run", "find"}
    }


def test_ctrl_c_ends_the_launcher_without_a_trace(
    common, tmp_path, monkeypatch, caplog
):
    stop_at_check(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
    options = find_lr.Options(run=tmp_path / "run", find=SHORT, **common)
    with pytest.raises(SystemExit) as stop:
        find_lr.main(options)
    assert stop.value.code == 130
    assert caplog.messages[-1] == "stopped by SIGINT"
    assert not (tmp_path / "run").exists()


def test_launcher_reads_a_run_that_cannot_be_read_as_training_would(common, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/step-00000004.safetensors").write_bytes(b"torn")
    options = find_lr.Options(run=run, find=SHORT, **common)
    with pytest.raises(ValueError, match=r"none of the checkpoints.*steps \[4\]"):
        find_lr.main(options)
    assert not (run / ".lock").exists()
