import os
import signal
import threading

import numpy as np
import pytest

from worklab import Session, Trainer, Writer
from worklab.checkpoints import CheckpointError
from worklab.options import LayerOptions, OptimizerOptions, SessionOptions
from worklab.pretrained.files import write_weights
from worklab.schedules import Schedule

from .conftest import CLASS_NAMES, TinyNetwork

SHAPE = (8, 8, 3)


def make_trainer(run, reader, *, options=None, optimizer=None, network=None):
    session = Session(run, options or SessionOptions())
    trainer = Trainer(
        network or TinyNetwork(3, image_shape=SHAPE),
        reader,
        session,
        Writer(run),
        learning_rate=lambda step: 0.1,
        optimizer=optimizer or OptimizerOptions(),
    )
    return trainer, session


def all_arrays(session):
    return {n: v.value.numpy() for n, v in session._variables.items()}


def start(trainer, **settings):
    return trainer.session.start(trainer.network, CLASS_NAMES, **settings)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, tiny_reader, optimizer):
    options = OptimizerOptions(name=optimizer)
    whole, session = make_trainer(tmp_path / "a", tiny_reader, optimizer=options)
    start(whole)
    whole.train(11)

    first, first_session = make_trainer(tmp_path / "b", tiny_reader, optimizer=options)
    start(first)
    first.train(7)
    first_session.save()
    first_session.close()
    second, second_session = make_trainer(
        tmp_path / "b", tiny_reader, optimizer=options
    )
    start(second)
    assert second_session.step == 7
    second.train(4)

    expected, resumed = all_arrays(session), all_arrays(second_session)
    assert expected.keys() == resumed.keys()
    for name, array in expected.items():
        assert array.tobytes() == resumed[name].tobytes(), name


def test_checkpoint_is_preferred_to_pretrained_file(tmp_path, tiny_reader, caplog):
    trainer, session = make_trainer(tmp_path / "run", tiny_reader)
    start(trainer)
    trainer.train(2)
    session.save()
    session.close()
    trained = all_arrays(session)
    weights = {k: np.zeros(v.shape, np.float32) for k, v in trained.items()}
    path = tmp_path / "zeros.safetensors"
    write_weights(path, weights)

    again, session = make_trainer(tmp_path / "run", tiny_reader)
    assert start(again, pretrained=path) is None
    kernel = "slow/a/conv/kernel"
    np.testing.assert_array_equal(all_arrays(session)[kernel], trained[kernel])
    session.close()

    anyway, session = make_trainer(
        tmp_path / "run", tiny_reader, options=SessionOptions(restore_anyway=True)
    )
    report = start(anyway, pretrained=path)
    assert report is not None
    assert session.step == 2
    assert not all_arrays(session)[kernel].any()
    assert all_arrays(session)["logits/kernel"].any()  # restore=False
    slots = [k for k in trained if "momentum" in k and "logits" in k]
    assert slots
    for name in slots:
        np.testing.assert_array_equal(all_arrays(session)[name], trained[name])


def test_pretrained_file_is_used_at_the_start(tmp_path, tiny_reader):
    other = TinyNetwork(3, image_shape=SHAPE, seed=5)
    path = tmp_path / "weights.safetensors"
    write_weights(path, {n: v.value.numpy() for n, v in other.variables.items()})
    trainer, session = make_trainer(tmp_path / "run", tiny_reader)
    report = start(trainer, pretrained=path)
    assert report is not None
    assert report.count("copied") == len(other.variables) - 2
    values = all_arrays(session)
    expected = other.variables["slow/a/conv/kernel"].value.numpy()
    np.testing.assert_array_equal(values["slow/a/conv/kernel"], expected)
    fresh = TinyNetwork(3, image_shape=SHAPE).variables["logits/kernel"]
    np.testing.assert_array_equal(values["logits/kernel"], fresh.value.numpy())


def test_from_scratch_is_the_same_for_the_same_seed(tmp_path, tiny_reader):
    values = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        network = TinyNetwork(3, image_shape=SHAPE, seed=seed)
        trainer, session = make_trainer(tmp_path / name, tiny_reader, network=network)
        assert start(trainer) is None
        values.append(all_arrays(session)["logits/kernel"])
    np.testing.assert_array_equal(values[0], values[1])
    assert (values[0] != values[2]).any()


def test_best_checkpoint_comes_back_without_the_step(tmp_path, tiny_reader):
    trainer, session = make_trainer(tmp_path, tiny_reader)
    start(trainer)
    trainer.train(2)
    session.best_step = 2
    session.save()
    best = all_arrays(session)
    trainer.train(3)
    session.save()
    assert session.restore_best() == 2
    assert session.step == 5
    for name, array in all_arrays(session).items():
        np.testing.assert_array_equal(array, best[name])


def test_unknown_step_names_those_there_are(tmp_path, tiny_reader):
    trainer, session = make_trainer(tmp_path, tiny_reader)
    start(trainer)
    trainer.train(1)
    session.save()
    with pytest.raises(CheckpointError, match=r"it has \[0, 1\]\. Received: step=9"):
        session.restore_step(9)


def test_other_classes_are_refused(tmp_path, tiny_reader):
    trainer, session = make_trainer(tmp_path, tiny_reader)
    start(trainer)
    session.save()
    session.close()
    again, session = make_trainer(tmp_path, tiny_reader)
    match = r"other classes.*3 classes \(circle.*Received: 3 classes \(a, b, c\)"
    with pytest.raises(ValueError, match=match):
        session.start(again.network, ["a", "b", "c"])


def test_other_network_is_refused_and_nothing_is_assigned(tmp_path, tiny_reader):
    class Wider(TinyNetwork):
        def _construct(self, images):
            with self.scope("frozen", lr_mult=0.0):
                x = self.conv_block(images, 4, 3)
            with self.scope("slow", lr_mult=0.1):
                x = self.residual_block(x, 16, strides=2)
            return self.full_layer(
                self.global_pool(x), 3, scope="logits", restore=False
            )

    trainer, session = make_trainer(tmp_path, tiny_reader)
    start(trainer)
    session.save()
    session.close()
    network = Wider(3, image_shape=SHAPE)
    again, session = make_trainer(tmp_path, tiny_reader, network=network)
    before = all_arrays(session)
    with pytest.raises(
        ValueError, match=r"`slow/a/conv/kernel` should have shape \(3, 3, 4, 16\)"
    ):
        start(again)
    for name, array in all_arrays(session).items():
        np.testing.assert_array_equal(array, before.get(name, array))


def test_layer_that_the_network_lost_is_refused(tmp_path, tiny_reader):
    class Longer(TinyNetwork):
        def _construct(self, images):
            with self.scope("frozen", lr_mult=0.0):
                x = self.conv_block(images, 4, 3)
            with self.scope("slow", lr_mult=0.1):
                x = self.residual_block(x, 8, strides=2)
            x = self.full_layer(self.global_pool(x), 8, scope="extra")
            return self.full_layer(x, 3, scope="logits", restore=False)

    network = Longer(3, image_shape=SHAPE)
    trainer, session = make_trainer(tmp_path, tiny_reader, network=network)
    start(trainer)
    session.save()
    session.close()
    again, _ = make_trainer(tmp_path, tiny_reader)
    with pytest.raises(ValueError, match=r"`extra/.*should have shape None"):
        start(again)


def test_save_before_start_is_an_error(tmp_path, tiny_reader):
    _, session = make_trainer(tmp_path, tiny_reader)
    with pytest.raises(RuntimeError, match="Call `start` first"):
        session.save()


def test_options_out_of_range(tmp_path):
    with pytest.raises(ValueError, match=r"Received: seed=-1"):
        Session(tmp_path, SessionOptions(seed=-1))
    with pytest.raises(ValueError, match=r"Received: num_threads=-1"):
        Session(tmp_path, SessionOptions(num_threads=-1))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_signal_ends_the_step_and_saves(tmp_path, tiny_reader, number, code):
    trainer, session = make_trainer(tmp_path, tiny_reader)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    rates = []

    def learning_rate(step):
        rates.append(step)
        if step == 3:
            os.kill(os.getpid(), number)
        return 0.1

    trainer.schedule = Schedule(learning_rate)

    def run():
        with session:
            start(trainer)
            trainer.train(10)

    with pytest.raises(SystemExit) as exit_info:
        run()
    assert exit_info.value.code == code
    assert rates == [0, 1, 2, 3]
    assert session.checkpoints.steps() == [0, 4]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == (
        handlers
    )
    again, session = make_trainer(tmp_path, tiny_reader)
    start(again)
    assert session.step == 4


def test_checkpoint_holds_its_state_as_text(tmp_path, tiny_reader):
    trainer, session = make_trainer(tmp_path, tiny_reader)
    start(trainer)
    trainer.train(3)
    session.save()
    session.finish()
    _, state = session.checkpoints.load(3)
    assert state["step"] == 3
    assert state["class_names"] == CLASS_NAMES
    assert state["states"]["trainer"]["sums"]["steps"] == 3


def test_frozen_layers_have_no_slots(tmp_path, tiny_reader):
    network = TinyNetwork(3, image_shape=SHAPE, options=LayerOptions())
    _, session = make_trainer(tmp_path, tiny_reader, network=network)
    slots = [name for name in session._variables if name.startswith("optimizer/")]
    assert any("logits" in name for name in slots)
    assert not any("frozen" in name for name in slots)


def test_training_does_not_change_what_is_being_saved(tmp_path, tiny_reader):
    trainer, session = make_trainer(tmp_path, tiny_reader)
    start(trainer)
    trainer.train(1)
    before = all_arrays(session)
    write = session._write
    gate = threading.Event()

    def slow_write(*arguments):
        gate.wait(30)
        return write(*arguments)

    session._write = slow_write
    session.save()
    trainer.train(3)
    assert 1 not in session.checkpoints.steps()
    gate.set()
    session.finish()
    saved, state = session.checkpoints.load(1)
    assert state["step"] == 1
    for name, array in before.items():
        np.testing.assert_array_equal(saved[name], array)


def test_failure_beside_training_is_raised_at_the_next_save(
    tmp_path, tiny_reader, monkeypatch
):
    trainer, session = make_trainer(tmp_path, tiny_reader)
    start(trainer)
    trainer.train(1)
    session.save()
    session.finish()

    def replace(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    trainer.train(1)
    session.save()
    match = r"step-00000002.*could not be written.*Received: .*No space left"
    with pytest.raises(OSError, match=match):
        session.save()
    assert session.checkpoints.steps() == [0, 1]


def test_second_trainer_in_a_run_folder_is_refused(tmp_path, tiny_reader):
    first, session = make_trainer(tmp_path, tiny_reader)
    start(first)
    second, _ = make_trainer(tmp_path, tiny_reader)
    match = rf"another trainer is at work in .*held by process {os.getpid()}"
    with pytest.raises(RuntimeError, match=match):
        start(second)
    session.close()
    start(second)


def test_half_written_files_are_deleted_at_the_start(tmp_path, tiny_reader):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / ".step-00000003.safetensors.123").write_bytes(b"half")
    (folder / ".tmpHa1f00").write_bytes(b"half")  # by safetensors
    trainer, _ = make_trainer(tmp_path, tiny_reader)
    start(trainer)
    assert list(folder.iterdir()) == []


def test_time_limit_saves_and_ends(tmp_path, tiny_reader):
    options = SessionOptions(time_limit=0.5)
    trainer, session = make_trainer(tmp_path, tiny_reader, options=options)

    def run():
        with session:
            start(trainer)
            trainer.train(10**6)

    with pytest.raises(SystemExit) as exit_info:
        run()
    assert exit_info.value.code == 143
    assert session.checkpoints.steps()[-1] == session.step
    with pytest.raises(ValueError, match=r"Received: time_limit=0"):
        Session(tmp_path, SessionOptions(time_limit=0))
