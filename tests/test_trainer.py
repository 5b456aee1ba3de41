import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

from worklab import Network, Session, Trainer, Writer
from worklab.checkpoints import digest
from worklab.layouts import Layout, Preprocessing
from worklab.moving_statistics import estimate_statistics
from worklab.networks.resnet import ResNet50
from worklab.options import (
    AugmentOptions,
    OptimizerOptions,
    ReaderOptions,
    SessionOptions,
    TrainingOptions,
)
from worklab.pretrained.files import write_weights
from worklab.readers import ArrayReader

from .conftest import CLASS_NAMES, TinyNetwork


def make_trainer(run, reader, *, network=None, rate=0.1, **settings):
    trainer = Trainer(
        network or TinyNetwork(3, image_shape=(8, 8, 3)),
        reader,
        Session(run),
        Writer(run),
        learning_rate=lambda step: rate,
        **settings,
    )
    trainer.session.start(trainer.network, CLASS_NAMES)
    return trainer


def values(network):
    return {name: v.value.numpy() for name, v in network.variables.items()}


def read_events(folder):
    (path,) = folder.iterdir()
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [tf.compat.v1.Event.FromString(record) for record in records]


def history(run):
    with open(run / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_loss_falls_on_images_that_can_be_learnt(tmp_path, tiny_reader):
    options = TrainingOptions(log_every=10)
    trainer = make_trainer(tmp_path, tiny_reader, rate=0.2, options=options)
    trainer.train(80)
    losses = [float(row["loss"]) for row in history(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]


def test_step_is_traced_once_for_any_batch_size(tmp_path, tiny_images):
    images, labels = tiny_images
    trainer = make_trainer(
        tmp_path,
        ArrayReader(
            images,
            labels,
            CLASS_NAMES,
            options=ReaderOptions(image_size=(8, 8), batch_size=6),
        ),
    )
    trainer.train(3)
    smaller = ReaderOptions(image_size=(8, 8), batch_size=4)
    trainer.reader = ArrayReader(images, labels, CLASS_NAMES, options=smaller)
    trainer._next_step = -1
    trainer.train(3)
    assert trainer.num_traces == 1


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_layers_keep_weights_and_statistics(tmp_path, tiny_reader, name):
    trainer = make_trainer(
        tmp_path, tiny_reader, optimizer=OptimizerOptions(name=name), rate=0.01
    )
    before = values(trainer.network)
    trainer.train(3)
    after = values(trainer.network)
    for variable, array in before.items():
        same = np.array_equal(array, after[variable])
        assert same == variable.startswith("frozen/"), variable


def test_loss_counts_weights_of_images(tmp_path, tiny_reader):
    trainer = make_trainer(tmp_path, tiny_reader, rate=0.0)
    batch = dict(tiny_reader.train_batch(0))
    whole = trainer._train_step(batch, np.float32(0), np.float32(0))[0]["loss"].numpy()
    batch["weights"] = np.array([1, 1, 1, 0, 0, 0], np.float32)
    half = trainer._train_step(batch, np.float32(0), np.float32(0))[0]["loss"].numpy()
    batch["weights"] = 1 - batch["weights"]
    other = trainer._train_step(batch, np.float32(0), np.float32(0))[0]["loss"].numpy()
    np.testing.assert_allclose((half + other) / 2, whole, rtol=1e-5)
    assert abs(half - other) > 1e-4


class NanNetwork(TinyNetwork):
    """Its loss is not finite for an image whose first pixel is 255."""

    def losses(self, batch, logits, *, training):
        is_white = tf.equal(batch["images"][:, 0, 0, 0], 255)
        losses = super().losses(batch, logits, training=training)
        return tf.where(is_white, np.inf, losses)


def test_loss_that_is_not_finite_names_step_and_images(tmp_path, tiny_images):
    images, labels = tiny_images
    images = images.copy()
    images[17, 0, 0, 0] = 255
    reader = ArrayReader(
        images,
        labels,
        CLASS_NAMES,
        options=ReaderOptions(image_size=(8, 8), batch_size=5),
        augment=AugmentOptions(preset="off"),
    )
    step = next(n for n in range(6) if 17 in reader.train_batch(n)["index"])
    trainer = make_trainer(
        tmp_path, reader, network=NanNetwork(3, image_shape=(8, 8, 3))
    )
    trainer.train(step)
    trainer.session.save()
    with pytest.raises(FloatingPointError) as error:
        trainer.train(6)
    message = str(error.value)
    assert f"not finite at step {step + 1}; " in message
    assert "1 of its 5 images may be the cause: `record 17`. " in message
    assert "Received: loss=inf" in message
    trainer.session.finish()
    assert trainer.session.checkpoints.steps() == sorted({0, step})


def test_rollback_skips_the_batch_and_goes_on(tmp_path, tiny_images):
    images, labels = tiny_images
    images = images.copy()
    images[17, 0, 0, 0] = 255
    reader = ArrayReader(
        images,
        labels,
        CLASS_NAMES,
        options=ReaderOptions(image_size=(8, 8), batch_size=5),
        augment=AugmentOptions(preset="off"),
    )
    bad = [n + 1 for n in range(12) if 17 in reader.train_batch(n)["index"]]
    digests = []
    for name, save_after in (("once", 12), ("often", 1)):
        run = tmp_path / name
        network = NanNetwork(3, image_shape=(8, 8, 3))
        options = TrainingOptions(on_nan="rollback", log_every=3)
        trainer = make_trainer(run, reader, network=network, options=options)
        for _ in range(0, 12, save_after):
            trainer.train(save_after)
            trainer.session.save()
        trainer.session.close()
        assert trainer.session.step == 12
        assert trainer.get_state()["skipped"] == bad
        digests.append(digest(values(network)))
    assert digests[0] == digests[1]
    steps = [row["step"] for row in history(tmp_path / "once")]
    assert steps == ["3", "6", "9", "12"]


class NanGradientNetwork(TinyNetwork):
    """Its gradient is not finite where the loss of `NanNetwork` is not."""

    def losses(self, batch, logits, *, training):
        is_white = tf.equal(batch["images"][:, 0, 0, 0], 255)
        losses = super().losses(batch, logits, training=training)
        root = tf.sqrt(tf.reduce_sum(logits, axis=1) * 0.0)  # 0, with gradient inf * 0
        return losses + tf.where(is_white, root, 0.0)


def test_rollback_finds_a_gradient_that_is_not_finite(tmp_path, tiny_images):
    images, labels = tiny_images
    images = images.copy()
    images[17, 0, 0, 0] = 255
    reader = ArrayReader(
        images,
        labels,
        CLASS_NAMES,
        options=ReaderOptions(image_size=(8, 8), batch_size=10),
        augment=AugmentOptions(preset="off"),
    )
    bad = next(n + 1 for n in range(3) if 17 in reader.train_batch(n)["index"])
    network = NanGradientNetwork(3, image_shape=(8, 8, 3))
    options = TrainingOptions(on_nan="rollback")
    trainer = make_trainer(tmp_path, reader, network=network, options=options)
    trainer.train(3)
    assert trainer.get_state()["skipped"] == [bad]
    for name, array in values(network).items():
        assert np.isfinite(array).all(), name


def test_rollback_gives_up_where_every_batch_is_bad(tmp_path, tiny_images):
    images, labels = tiny_images
    images = images.copy()
    images[:, 0, 0, 0] = 255
    reader = ArrayReader(
        images,
        labels,
        CLASS_NAMES,
        options=ReaderOptions(image_size=(8, 8), batch_size=5),
        augment=AugmentOptions(preset="off"),
    )
    network = NanNetwork(3, image_shape=(8, 8, 3))
    options = TrainingOptions(on_nan="rollback")
    trainer = make_trainer(tmp_path, reader, network=network, options=options)
    with pytest.raises(FloatingPointError, match=r"at step 21; .* 5 of its 5"):
        trainer.train(30)


def test_rows_of_the_log_are_means_since_the_last(tmp_path, tiny_reader):
    every = make_trainer(
        tmp_path / "every", tiny_reader, options=TrainingOptions(log_every=1)
    )
    every.train(8)
    third = make_trainer(
        tmp_path / "third", tiny_reader, options=TrainingOptions(log_every=4)
    )
    third.train(8)
    each = [float(row["loss"]) for row in history(tmp_path / "every")]
    means = [float(row["loss"]) for row in history(tmp_path / "third")]
    np.testing.assert_allclose(means, [np.mean(each[:4]), np.mean(each[4:])], rtol=1e-5)


def test_history_does_not_depend_on_where_a_run_was_stopped(tmp_path, tiny_reader):
    options = TrainingOptions(log_every=3)
    whole = make_trainer(tmp_path / "a", tiny_reader, options=options)
    whole.train(10)
    first = make_trainer(tmp_path / "b", tiny_reader, options=options)
    first.train(5)
    first.session.save()
    first.session.close()
    first.train(4)  # written to the log, but lost with the process
    second = make_trainer(tmp_path / "b", tiny_reader, options=options)
    second.train(5)
    a, b = ((tmp_path / name / "history.csv").read_bytes() for name in "ab")
    assert a == b


def test_estimated_statistics_are_the_mean_over_batches(tmp_path, tiny_reader):
    trainer = make_trainer(tmp_path, tiny_reader)
    network = trainer.network
    before = values(network)
    estimate_statistics(network, tiny_reader, trainer.session, 3)
    after = values(network)
    for name, array in before.items():
        moved = not np.array_equal(array, after[name])
        is_statistic = "moving" in name and not name.startswith("frozen/")
        assert moved == is_statistic, name
    # Against NumPy on the activations, batch by batch.
    layer = network.model.get_layer("slow.a.conv")
    inner = keras.Model(network.model.inputs, layer.output)
    means, variances = [], []
    for number in range(3):
        batch = tiny_reader.train_batch(number)
        outputs = inner({"images": batch["images"]}, training=True).numpy()
        means.append(outputs.mean(axis=(0, 1, 2)))
        variances.append(outputs.reshape(-1, outputs.shape[-1]).var(axis=0, ddof=1))
    np.testing.assert_allclose(
        after["slow/a/bn/moving_mean"], np.mean(means, axis=0), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        after["slow/a/bn/moving_variance"], np.mean(variances, axis=0), rtol=1e-4
    )


def test_statistics_need_a_batch(tmp_path, tiny_reader, tiny_network):
    with pytest.raises(ValueError, match=r"at least 1 batch.*num_batches=0"):
        estimate_statistics(tiny_network, tiny_reader, Session(tmp_path), 0)


def test_cold_start_estimates_statistics_once(tmp_path, tiny_reader, monkeypatch):
    options = TrainingOptions(estimate_statistics=2)
    counted = []
    monkeypatch.setattr(
        "worklab.trainer.estimate_statistics",
        lambda network, reader, session, number: counted.append(number),
    )
    trainer = make_trainer(tmp_path, tiny_reader, options=options)
    trainer.train(1)
    trainer.train(1)
    assert counted == [2]


def test_graph_images_and_histograms_are_written(tmp_path, tiny_reader):
    options = TrainingOptions(log_every=2, log_images=True, log_histograms=2)
    trainer = make_trainer(tmp_path, tiny_reader, options=options)
    trainer.train(5)
    trainer.writer.close()
    tags = [
        (event.step, value.tag)
        for event in read_events(tmp_path / "tensorboard/train")
        for value in event.summary.value
    ]
    assert (0, "training batch") in tags
    for kind, variable in (
        ("weights", "slow/a/conv/kernel"),
        ("gradients", "slow/a/conv/kernel"),
        ("weights", "frozen/conv/kernel"),
    ):
        tag = f"{kind}/{variable}"
        assert [step for step, found in tags if found == tag] == [2, 4], tag
    assert all(tag != "gradients/frozen/conv/kernel" for _, tag in tags)
    graphs = [e for e in read_events(tmp_path / "tensorboard/train") if e.graph_def]
    assert len(graphs) == 1


def test_wrong_numbers_are_errors(tmp_path, tiny_reader):
    with pytest.raises(ValueError, match=r"Received: log_every=0"):
        make_trainer(tmp_path, tiny_reader, options=TrainingOptions(log_every=0))
    trainer = make_trainer(tmp_path, tiny_reader)
    with pytest.raises(ValueError, match=r"at least 0\. Received: -1"):
        trainer.train(-1)


def test_batch_larger_than_the_split_is_an_error(tmp_path, tiny_images):
    images, labels = tiny_images
    options = ReaderOptions(image_size=(8, 8), batch_size=31)
    reader = ArrayReader(images, labels, CLASS_NAMES, options=options)
    with pytest.raises(ValueError, match=r"training images \(30\).*batch_size=31"):
        make_trainer(tmp_path, reader).train(1)


# === Batches in parts ===


class Plain(Network):
    """A network without batch normalisation, which would see the parts."""

    def _construct(self, images):
        x = self.conv_layer(images, 4, 3, strides=2)
        x = self.activation(x)
        return self.full_layer(x, self.num_classes, scope="logits")


def trained_plain(run, reader, micro_batches, num_steps=4):
    options = TrainingOptions(micro_batches=micro_batches, log_every=1)
    network = Plain(3, image_shape=(8, 8, 3))
    trainer = make_trainer(run, reader, network=network, options=options)
    trainer.train(num_steps)
    assert trainer.num_traces == 1
    rows = [(float(row["loss"]), float(row["accuracy"])) for row in history(run)]
    return values(network), rows


@pytest.mark.parametrize("micro_batches", [2, 3, 6])
def test_parts_of_a_batch_train_as_the_whole(tmp_path, tiny_reader, micro_batches):
    assert tiny_reader.options.batch_size == 6
    whole, whole_rows = trained_plain(tmp_path / "whole", tiny_reader, 1)
    parts, rows = trained_plain(tmp_path / "parts", tiny_reader, micro_batches)
    np.testing.assert_allclose(rows, whole_rows, rtol=1e-5)
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-4, atol=1e-6)


def test_image_of_a_later_part_is_named_where_it_is_not_finite(tmp_path, tiny_reader):
    class Bad(Plain):
        def losses(self, batch, logits, *, training):
            losses = super().losses(batch, logits, training=training)
            is_bad = tf.equal(batch["index"], bad)
            return tf.where(is_bad, tf.constant(np.nan), losses)

    bad = int(tiny_reader.train_batch(0)["index"][-1])
    trainer = make_trainer(
        tmp_path,
        tiny_reader,
        network=Bad(3, image_shape=(8, 8, 3)),
        options=TrainingOptions(micro_batches=3),
    )
    with pytest.raises(FloatingPointError, match=f"1 of its 6 images.*`record {bad}`"):
        trainer.train(1)


def test_parts_must_divide_the_batch(tmp_path, tiny_reader):
    with pytest.raises(ValueError, match="micro_batches=4, 6 images"):
        make_trainer(tmp_path, tiny_reader, options=TrainingOptions(micro_batches=4))


# === Averages of weights ===


def test_average_follows_the_weights_and_is_what_is_tested(tmp_path, tiny_reader):
    momentum, weight = 0.8, "slow/a/conv/kernel"
    trainer = make_trainer(
        tmp_path, tiny_reader, optimizer=OptimizerOptions(average=momentum)
    )
    average = None
    for _ in range(4):
        trainer.train(1)
        value = values(trainer.network)[weight]
        average = (
            value if average is None else momentum * average + (1 - momentum) * value
        )
    before = values(trainer.network)
    with trainer.averaged_weights():
        inside = values(trainer.network)
    np.testing.assert_allclose(inside[weight], average, rtol=1e-5, atol=1e-7)
    assert not np.allclose(inside[weight], before[weight])
    after = values(trainer.network)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
        if name.startswith("frozen/") or "moving" in name:
            np.testing.assert_array_equal(inside[name], value)


def test_session_without_an_optimizer_restores_the_averages(tmp_path, tiny_reader):
    trainer = make_trainer(
        tmp_path, tiny_reader, optimizer=OptimizerOptions(average=0.8)
    )
    trainer.train(3)
    trainer.session.save()
    trainer.session.close()
    with trainer.averaged_weights():
        expected = values(trainer.network)
    network = TinyNetwork(3, image_shape=(8, 8, 3))
    session = Session(tmp_path)
    session.track_variables(network.variables)
    session.restore_latest()
    for name, value in expected.items():
        np.testing.assert_array_equal(values(network)[name], value)


def test_averages_and_parts_go_on_identically_after_a_restart(tmp_path, tiny_reader):
    settings = {
        "optimizer": OptimizerOptions(name="adamw", average=0.9),
        "options": TrainingOptions(micro_batches=2),
        "rate": 0.01,
    }
    whole = make_trainer(tmp_path / "whole", tiny_reader, **settings)
    whole.train(6)
    first = make_trainer(tmp_path / "run", tiny_reader, **settings)
    first.train(2)
    first.session.save()
    first.session.close()
    second = make_trainer(tmp_path / "run", tiny_reader, **settings)
    second.train(4)
    arrays = [
        {name: v.value.numpy() for name, v in each.session._variables.items()}
        for each in (whole, second)
    ]
    assert digest(arrays[0]) == digest(arrays[1])


@pytest.mark.parametrize("average", [0.0, 1.0, -0.1])
def test_momentum_of_the_average_out_of_range(tmp_path, tiny_reader, average):
    with pytest.raises(ValueError, match=f"`average` must be in.*average={average}"):
        make_trainer(tmp_path, tiny_reader, optimizer=OptimizerOptions(average=average))


# === Speed ===


def test_speed_waiting_and_share_of_the_limit_are_logged(tmp_path, tiny_reader):
    trainer = make_trainer(tmp_path, tiny_reader, options=TrainingOptions(log_every=2))
    trainer.train(4)
    trainer.writer.close()
    found = {
        value.tag: tf.make_ndarray(value.tensor)
        for event in read_events(tmp_path / "tensorboard/train")
        for value in event.summary.value
        if value.tag.startswith("speed/")
    }
    assert found["speed/images_per_second"] > 0
    assert 0 <= found["speed/waiting_for_data"] < 1
    assert 0 < found["speed/share_of_matmul_limit"] < 1


def test_profile_of_some_steps_is_written(tmp_path, tiny_reader):
    trainer = make_trainer(
        tmp_path, tiny_reader, options=TrainingOptions(profile=(2, 3))
    )
    trainer.train(5)
    (path,) = (tmp_path / "tensorboard/plugins/profile").rglob("*.xplane.pb")
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("profile", [(0, 3), (4, 3)])
def test_profile_out_of_range(tmp_path, tiny_reader, profile):
    with pytest.raises(ValueError, match="`profile` is a first and a last step"):
        make_trainer(tmp_path, tiny_reader, options=TrainingOptions(profile=profile))


def test_averages_begin_as_the_weights(tmp_path, tiny_reader):
    settings = {"optimizer": OptimizerOptions(average=0.9)}
    trainer = make_trainer(tmp_path, tiny_reader, **settings)
    before = values(trainer.network)
    with trainer.averaged_weights():
        for name, value in values(trainer.network).items():
            np.testing.assert_array_equal(value, before[name])


def test_averages_may_begin_in_a_run_that_goes_on(tmp_path, tiny_reader):
    first = make_trainer(tmp_path, tiny_reader)
    first.train(2)
    first.session.save()
    first.session.close()
    second = make_trainer(
        tmp_path, tiny_reader, optimizer=OptimizerOptions(average=0.9)
    )
    with second.averaged_weights():
        for name, value in values(second.network).items():
            np.testing.assert_array_equal(value, values(first.network)[name])


def test_weight_that_nothing_uses_does_not_stop_training_in_parts(
    tmp_path, tiny_reader
):
    class Unused(Plain):
        def _construct(self, images):
            logits = super()._construct(images)
            aside = self.full_layer(images, self.num_classes, scope="aside")
            return keras.ops.add(logits, keras.ops.stop_gradient(aside))

    trainer = make_trainer(
        tmp_path,
        tiny_reader,
        network=Unused(3, image_shape=(8, 8, 3)),
        options=TrainingOptions(micro_batches=2),
    )
    trainer.train(2)


def test_profile_ends_with_training(tmp_path, tiny_reader):
    trainer = make_trainer(
        tmp_path, tiny_reader, options=TrainingOptions(profile=(2, 30))
    )
    trainer.train(3)
    trainer.writer.close()
    assert list((tmp_path / "tensorboard/plugins/profile").rglob("*.xplane.pb"))


def test_averages_begin_anew_when_other_weights_come_in(tmp_path, tiny_reader):
    settings = {"optimizer": OptimizerOptions(average=0.9)}
    first = make_trainer(tmp_path / "run", tiny_reader, **settings)
    first.train(2)
    first.session.save()
    first.session.close()
    other = TinyNetwork(3, image_shape=(8, 8, 3), seed=9)
    path = tmp_path / "other.safetensors"
    write_weights(path, values(other))
    second = Trainer(
        TinyNetwork(3, image_shape=(8, 8, 3)),
        tiny_reader,
        Session(tmp_path / "run", SessionOptions(restore_anyway=True)),
        Writer(tmp_path / "run"),
        learning_rate=lambda step: 0.1,
        **settings,
    )
    second.session.start(second.network, CLASS_NAMES, pretrained=path)
    name = "slow/a/conv/kernel"
    with second.averaged_weights():
        np.testing.assert_array_equal(values(second.network)[name], values(other)[name])


def test_another_layout_is_refused_on_a_restart(tmp_path, tiny_reader):
    class Forms(TinyNetwork):
        layouts = tuple(
            Layout(name, f"{name}/weights", lambda layer: layer, Preprocessing())
            for name in ("first", "second")
        )

    def start(layout):
        network = Forms(3, image_shape=(8, 8, 3), layout=layout)
        return make_trainer(tmp_path, tiny_reader, network=network)

    trainer = start("first")
    trainer.train(1)
    trainer.session.save()
    trainer.session.close()
    with pytest.raises(ValueError, match="layout 'first'.*--restore.layout first"):
        start("second")


def test_memory_limit_below_what_the_weights_need_is_an_error(
    tmp_path, tiny_reader, monkeypatch
):
    monkeypatch.setattr("worklab.trainer.sees_gpu", lambda: True)
    network = ResNet50(3, image_shape=(32, 32, 3))
    with pytest.raises(ValueError, match="`ResNet50` need 269 MB.*megabytes=200"):
        Trainer(
            network,
            tiny_reader,
            Session(tmp_path, SessionOptions(gpu_megabytes=200)),
            Writer(tmp_path),
            learning_rate=lambda step: 0.1,
        )
