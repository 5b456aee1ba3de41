"""Two logical CPU devices in this process; conftest.py divides the CPU."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from worklab import Network, Session, Tester, Trainer, Writer
from worklab.checkpoints import digest
from worklab.devices import Devices
from worklab.moving_statistics import estimate_statistics
from worklab.options import (
    AugmentOptions,
    OptimizerOptions,
    ReaderOptions,
    ScheduleOptions,
    SessionOptions,
    TrainingOptions,
)
from worklab.readers import ArrayReader
from worklab.schedules import make_schedule

from .conftest import CLASS_NAMES, TinyNetwork


class Plain(Network):
    """Without batch norm, which would take the statistics of each device's rows."""

    def _construct(self, images):
        x = self.activation(self.conv_layer(images, 4, 3, scope="conv"))
        return self.full_layer(self.global_pool(x), self.num_classes, scope="logits")


class Noisy(Network):
    """Its logits say which pixels the dropout has left."""

    def _construct(self, images):
        return self.dropout(self.layer(keras.layers.Flatten, images, scope="flat"), 0.5)


class Branched(Plain):
    """One layer learns nothing, and the loss does not depend on another."""

    def _construct(self, images):
        with self.scope("frozen", lr_mult=0):
            images = self.conv_layer(images, 3, 1)
        side = self.conv_layer(images, 2, 3, scope="side")
        images = self.add([images, 0 * keras.ops.stop_gradient(side)[..., :1]])
        return super()._construct(images)


def train(run, reader, num_devices, network=Plain, *, steps=6, start=True, **settings):
    """Train some steps; return the trainer and the loss of each step."""
    session = Session(run, SessionOptions(num_devices=num_devices))
    with session, Writer(run) as writer:
        trainer = Trainer(
            network(3, image_shape=(8, 8, 3)),
            reader,
            session,
            writer,
            **{
                "learning_rate": lambda step: 0.1,
                "options": TrainingOptions(log_every=1),
            }
            | settings,
        )
        session.start(trainer.network, CLASS_NAMES)
        trainer.train(steps - session.step)
        session.save()
    lines = (run / "history.csv").read_text().splitlines()[1:]
    return trainer, [float(line.split(",")[2]) for line in lines]


def values(trainer):
    return {n: v.value.numpy() for n, v in trainer.network.variables.items()}


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": OptimizerOptions(clip_norm=0.01)},
        {"optimizer": OptimizerOptions(name="adamw", average=0.9)},
        {"options": TrainingOptions(log_every=1, micro_batches=3)},
        {
            "optimizer": OptimizerOptions(name="nadam", clip_value=0.1),
            "learning_rate": make_schedule(
                ScheduleOptions(name="one-cycle", num_steps=6, learning_rate=0.01)
            ),
        },
    ],
    ids=["clipped", "adamw", "micro-batches", "moved beta_1"],
)
def test_two_devices_have_the_losses_of_one(tmp_path, tiny_reader, settings):
    one, losses = train(tmp_path / "one", tiny_reader, 1, **settings)
    two, losses_of_two = train(tmp_path / "two", tiny_reader, 2, **settings)
    np.testing.assert_allclose(losses_of_two, losses, rtol=1e-5)
    for name, value in values(one).items():
        np.testing.assert_allclose(values(two)[name], value, atol=1e-5, err_msg=name)
    assert two.num_traces == 1


def test_stages_and_moved_momentum_on_two_devices_are_those_of_one(
    tmp_path, tiny_reader
):
    schedule = make_schedule(ScheduleOptions(name="one-cycle", num_steps=6))
    stages = {"0": {"slow": 0.0}, "3": {"slow": 0.1}}
    found = [
        train(
            tmp_path / str(devices),
            tiny_reader,
            devices,
            TinyNetwork,
            learning_rate=schedule,
            options=TrainingOptions(log_every=1, stages=stages),
        )
        for devices in (1, 2)
    ]
    start = TinyNetwork(3, image_shape=(8, 8, 3)).variables["slow/a/conv/kernel"]
    for trainer, losses in found:
        assert len(losses) == 6
        moved = values(trainer)["slow/a/conv/kernel"] - start.value.numpy()
        assert np.abs(moved).max() > 0
    # Until the layer is thawed, nothing sees the parts of a batch.
    np.testing.assert_allclose(found[0][1][:3], found[1][1][:3], rtol=1e-5)


def test_what_does_not_learn_stays_as_it_was(tmp_path, tiny_reader):
    fresh = Branched(3, image_shape=(8, 8, 3)).variables
    start = {name: variable.value.numpy() for name, variable in fresh.items()}
    trainer, _ = train(tmp_path, tiny_reader, 2, Branched)
    for name in ("frozen/conv/kernel", "side/kernel", "frozen/conv/bias"):
        assert (values(trainer)[name] == start[name]).all(), name


def test_statistics_estimated_on_two_devices_are_means_over_both(tmp_path, tiny_reader):
    session = Session(tmp_path, SessionOptions(num_devices=2))
    with session:
        network = TinyNetwork(3, image_shape=(8, 8, 3))
        estimate_statistics(network, tiny_reader, session, 2)
    plain = TinyNetwork(3, image_shape=(8, 8, 3))
    moving = next(n for n in plain.variables if "slow" in n and "moving_mean" in n)
    layer = plain.keras_layer(plain.split(moving)[0])
    layer.momentum = 0.0
    means = []
    for number, rows in (
        (0, slice(0, 3)),
        (0, slice(3, 6)),
        (1, slice(0, 3)),
        (1, slice(3, 6)),
    ):
        batch = tiny_reader.train_batch(number)
        plain({name: each[rows] for name, each in batch.items()}, training=True)
        means.append(plain.variables[moving].value.numpy())
    np.testing.assert_allclose(
        network.variables[moving].value.numpy(), np.mean(means, axis=0), rtol=1e-5
    )


def test_batch_norm_on_two_devices_follows_the_mean_of_both(tmp_path, tiny_reader):
    trainer, _ = train(tmp_path, tiny_reader, 2, TinyNetwork, steps=1)
    start = TinyNetwork(3, image_shape=(8, 8, 3))
    expected = 0
    batch = tiny_reader.train_batch(0)
    moving = next(n for n in start.variables if "slow" in n and "moving_mean" in n)
    for rows in (slice(0, 3), slice(3, 6)):
        network = TinyNetwork(3, image_shape=(8, 8, 3))
        network({name: each[rows] for name, each in batch.items()}, training=True)
        expected = expected + network.variables[moving].value.numpy() / 2
    copies = trainer.network.variables[moving].value.values
    np.testing.assert_allclose(copies[0], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(copies[0], copies[1])


def test_run_on_two_devices_resumes_identically(tmp_path, tiny_reader):
    whole, losses = train(tmp_path / "whole", tiny_reader, 2, TinyNetwork)
    train(tmp_path / "cut", tiny_reader, 2, TinyNetwork, steps=4)
    resumed, losses_of_cut = train(tmp_path / "cut", tiny_reader, 2, TinyNetwork)
    assert losses_of_cut == losses
    assert digest(values(resumed)) == digest(values(whole))


def test_dropout_differs_between_devices_and_its_state_does_not(tmp_path, tiny_reader):
    with Session(tmp_path, SessionOptions(num_devices=2)) as session:
        network = Noisy(192, image_shape=(8, 8, 3))
        (generator,) = (v for v in network.variables.values() if "seed" in v.path)
        batch = {"images": np.full((2, 8, 8, 3), 255, np.uint8)}

        def step(batch):
            with session.devices.own_randomness([generator]):
                return network(batch, training=True)

        devices = session.devices
        function = devices.function(step, None)
        first, second = devices.gather(function(devices.split(batch))).numpy()
        assert 0.3 < np.mean(first == second) < 0.7
        copies = [copy.numpy().tolist() for copy in generator.value.values]
        assert copies[0] == copies[1]
        assert copies[0][1] > 0


def test_test_on_two_devices_is_that_of_one(tmp_path, tiny_reader):
    results = []
    for num_devices in (1, 2):
        with Session(tmp_path, SessionOptions(num_devices=num_devices)) as session:
            network = TinyNetwork(3, image_shape=(8, 8, 3))
            results.append(Tester(network, tiny_reader, session, split="x").test())
    one, two = results
    assert two.names == one.names
    np.testing.assert_allclose(two.losses, one.losses, rtol=1e-6)
    assert two.statistics.num_images == 30


def test_loss_that_is_not_finite_names_its_images_on_any_device(tmp_path, tiny_images):
    class Broken(Plain):
        def losses(self, batch, logits, *, training):
            losses = super().losses(batch, logits, training=training)
            return tf.where(tf.equal(batch["index"], bad), np.nan, losses)

    reader = ArrayReader(
        *tiny_images,
        CLASS_NAMES,
        options=ReaderOptions(image_size=(8, 8), batch_size=6, test_batch_size=8),
        augment=AugmentOptions(preset="off"),
    )
    bad = int(reader.train_batch(2)["index"][4])  # a row of the second device
    match = f"step 3;.* 1 of its 6 images .*: `record {bad}`"
    with pytest.raises(FloatingPointError, match=match):
        train(tmp_path, reader, 2, Broken)


def test_batch_must_be_a_multiple_of_the_devices(tmp_path, tiny_images):
    options = ReaderOptions(image_size=(8, 8), batch_size=5, test_batch_size=7)
    reader = ArrayReader(*tiny_images, CLASS_NAMES, options=options)
    with pytest.raises(ValueError, match="multiple of 2: .*batch-size 6.*batch_size=5"):
        train(tmp_path, reader, 2)
    with (
        Session(tmp_path, SessionOptions(num_devices=2)) as session,
        pytest.raises(
            ValueError, match="multiple of 2: .*batch-size 8.*test_batch_size=7"
        ),
    ):
        Tester(Plain(3, image_shape=(8, 8, 3)), reader, session, split="x")


def test_network_made_outside_the_session_is_refused(tmp_path, tiny_reader):
    network = Plain(3, image_shape=(8, 8, 3))
    with pytest.raises(ValueError, match="inside `with session:`"):
        train(tmp_path, tiny_reader, 2, lambda *_, **__: network)


@pytest.mark.parametrize(("count", "match"), [(-1, "at least 0"), (99, "before Tens")])
def test_number_of_devices_must_be_possible(count, match):
    tf.zeros(1)  # TensorFlow has begun
    with pytest.raises(ValueError, match=match):
        Devices(SessionOptions(num_devices=count))
