"""Cycles in training: snapshots, cool-down and momentum, resumed exactly."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from worklab import Session, Trainer, Writer
from worklab.checkpoints import digest, load_checkpoint
from worklab.options import (
    OptimizerOptions,
    ScheduleOptions,
    SessionOptions,
    TrainingOptions,
)
from worklab.schedules import make_schedule

from .conftest import CLASS_NAMES, TinyNetwork

CYCLES = ScheduleOptions(name="triangular", learning_rate=0.1, stepsize=2)


def make_trainer(run, reader, schedule, optimizer=OptimizerOptions()):
    return Trainer(
        TinyNetwork(3, image_shape=(8, 8, 3)),
        reader,
        Session(run, SessionOptions(keep=1)),
        Writer(run),
        learning_rate=schedule,
        optimizer=optimizer,
    )


def train(run, reader, schedule, num_steps, **settings):
    """Train up to a step, save, and return the checkpoint's digest and state."""
    trainer = make_trainer(run, reader, schedule, **settings)
    with trainer.session:
        trainer.session.start(trainer.network, CLASS_NAMES)
        trainer.train(num_steps - trainer.session.step)
        trainer.session.save()
    arrays, state = load_checkpoint(
        trainer.session.checkpoints.path(trainer.session.step)
    )
    return digest(arrays), state


def test_lowest_points_are_kept(tmp_path, tiny_reader):
    _, state = train(tmp_path, tiny_reader, make_schedule(CYCLES), 7)
    assert state["snapshots"] == [4]
    _, state = train(tmp_path, tiny_reader, make_schedule(CYCLES), 10)
    assert state["snapshots"] == [4, 8]
    session = Session(tmp_path)
    assert session.checkpoints.steps() == [4, 8, 10]
    arrays, state = session.checkpoints.load(4)
    assert state["step"] == 4


@pytest.mark.parametrize(
    ("options", "optimizer"),
    [
        (CYCLES, "sgd"),
        (ScheduleOptions(name="one-cycle", num_steps=9, learning_rate=0.01), "adam"),
    ],
    ids=["cycles", "one-cycle"],
)
def test_resume_within_a_cycle_is_as_if_never_stopped(
    tmp_path, tiny_reader, options, optimizer
):
    def run(name, *stops):
        found = None
        for stop in stops:
            found = train(
                tmp_path / name,
                tiny_reader,
                make_schedule(options),
                stop,
                optimizer=OptimizerOptions(name=optimizer),
            )
        return found

    whole, halves = run("whole", 7), run("halves", 3, 7)
    assert whole == halves


def test_moved_momentum_changes_training(tmp_path, tiny_reader):
    digests = {
        train(
            tmp_path / str(momentum),
            tiny_reader,
            make_schedule(
                ScheduleOptions(name="one-cycle", num_steps=9, momentum=momentum)
            ),
            3,
        )[0]
        for momentum in (None, (0.5, 0.9), (0.9, 0.9))
    }
    # At 0.9 throughout it is the optimizer's own; only the middle one differs.
    assert len(digests) == 2


def test_momentum_that_the_optimizer_has_not_is_an_error(tmp_path, tiny_reader):
    schedule = make_schedule(ScheduleOptions(name="one-cycle", num_steps=9))
    with pytest.raises(ValueError, match="`--schedule.momentum None`"):
        make_trainer(tmp_path, tiny_reader, schedule, OptimizerOptions(name="adagrad"))


@pytest.mark.parametrize("mode", ["log", "plateau"])
def test_cool_down_comes_when_asked_for_and_survives_a_kill(
    tmp_path, tiny_reader, mode
):
    options = ScheduleOptions(
        name="triangular",
        learning_rate=0.1,
        stepsize=2,
        cool_down=mode,
        **({"cool_down_patience": 1} if mode == "plateau" else {}),
    )

    found = {}
    for name in ("whole", "killed"):
        run = tmp_path / name
        train(run, tiny_reader, make_schedule(options), 5)
        (run / "cool-down").touch()
        if name == "killed":
            train(run, tiny_reader, make_schedule(options), 9)
            for step in (8, 9):  # as if nothing had been saved since step 4
                (run / f"checkpoints/step-{step:08d}.safetensors").unlink()
            for stop in (10, 11, 12):  # within the cool-down
                train(run, tiny_reader, make_schedule(options), stop)
        found[name] = train(run, tiny_reader, make_schedule(options), 60)
        assert (run / "cool-down").read_text() == "8\n"
    assert found["whole"] == found["killed"]
    _, state = found["whole"]
    assert state["states"]["schedule"]["first_step"] == 8
    assert state["snapshots"] == [4, 8]
    assert state["step"] == 10 if mode == "log" else 10 < state["step"] < 60
    if mode == "plateau":
        assert state["states"]["schedule"]["num_drops"] == 10


def test_cool_down_that_is_over_does_not_govern_another_schedule(tmp_path, tiny_reader):
    schedule = make_schedule(dataclasses.replace(CYCLES, cool_down="log"), 6)
    train(tmp_path, tiny_reader, schedule, 6)
    fixed = make_schedule(ScheduleOptions(learning_rate=0.05))
    _, state = train(tmp_path, tiny_reader, fixed, 8)
    assert state["step"] == 8
    assert fixed(8) == 0.05


class NanAtFourth(TinyNetwork):
    """The loss of the fourth batch is not finite."""

    def losses(self, batch, logits, *, training):
        losses = super().losses(batch, logits, training=training)
        bad = tf.reduce_any(batch["index"][:, None] == self.bad[None])
        return tf.where(training & bad, np.nan, losses)


def test_snapshot_of_a_step_that_is_not_finite_is_rolled_back(tmp_path, tiny_reader):
    NanAtFourth.bad = tiny_reader.train_batch(3)["index"][:1]
    trainer = Trainer(
        NanAtFourth(3, image_shape=(8, 8, 3)),
        tiny_reader,
        Session(tmp_path),
        Writer(tmp_path),
        learning_rate=make_schedule(CYCLES),
        options=TrainingOptions(on_nan="rollback"),
    )
    with trainer.session:
        trainer.session.start(trainer.network, CLASS_NAMES)
        trainer.train(5)
    # The step was skipped; its weights, those of step 3, are what is kept of it.
    assert trainer.session.step == 5
    assert trainer.session.snapshots == [4]


def test_planned_cool_down_ends_the_run(tmp_path, tiny_reader):
    schedule = make_schedule(dataclasses.replace(CYCLES, cool_down="step"), 11)
    trainer = make_trainer(tmp_path, tiny_reader, schedule)
    with trainer.session:
        trainer.session.start(trainer.network, CLASS_NAMES)
        trainer.train(11)
        assert trainer.session.step == 10
        assert not trainer._started_steps  # the last step's loss has been seen, too
    assert schedule.get_state()["first_step"] == 8
