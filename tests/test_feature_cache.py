import logging
import shutil
from collections import namedtuple

import keras
import numpy as np
import pytest

from worklab import Network, Session, Trainer, Writer
from worklab.checkpoints import digest
from worklab.feature_cache import KEY, FeatureCache, cut_at_boundary
from worklab.options import AugmentOptions, ReaderOptions, TrainingOptions
from worklab.readers import ArrayReader

from .conftest import CLASS_NAMES

SHAPE = (8, 8, 3)


class Head(Network):
    """A frozen body with a branch, and a head that learns and is random."""

    def _construct(self, images):
        with self.scope("body", lr_mult=0.0):
            x = self.residual_block(images, 4, strides=2)
        x = self.dropout(self.global_pool(x), 0.2)
        return self.full_layer(x, self.num_classes, scope="logits")


@pytest.fixture
def make_reader(tiny_images):
    images, labels = tiny_images

    def make(copies=2, augment=AugmentOptions(), **settings):
        options = ReaderOptions(
            image_size=(8, 8), batch_size=5, test_batch_size=4, copies=copies
        )
        return ArrayReader(
            images, labels, CLASS_NAMES, options=options, augment=augment, **settings
        )

    return make


def make_trainer(run, reader, *, cached, network_class=Head):
    trainer = Trainer(
        network_class(3, image_shape=SHAPE),
        reader,
        Session(run),
        Writer(run),
        learning_rate=lambda step: 0.1,
        options=TrainingOptions(cache_features=cached, log_every=1),
    )
    trainer.session.start(trainer.network, CLASS_NAMES)
    return trainer


def arrays(trainer):
    return {n: v.value.numpy() for n, v in trainer.session._variables.items()}


def losses(run):
    lines = (run / "history.csv").read_text().splitlines()
    return [line.split(",")[2] for line in lines[1:]]


def test_training_on_kept_outputs_is_training_on_the_images(tmp_path, make_reader):
    plain = make_trainer(tmp_path / "plain", make_reader(), cached=False)
    cached = make_trainer(tmp_path / "cached", make_reader(), cached=True)
    for trainer in (plain, cached):
        trainer.train(20)  # more than two epochs, so that both forms come again
    np.testing.assert_allclose(
        np.float64(losses(tmp_path / "cached")),
        np.float64(losses(tmp_path / "plain")),
        rtol=1e-4,
    )
    for name, value in arrays(plain).items():
        np.testing.assert_allclose(
            arrays(cached)[name], value, rtol=1e-3, atol=1e-5, err_msg=name
        )
    outputs = np.load(tmp_path / "cached/cache/frozen_outputs.npy")
    assert outputs.shape == (2 * len(plain.reader), 4)  # behind the global pool
    assert cached.num_traces == 1


def test_it_goes_on_identically_after_a_restart(tmp_path, make_reader, caplog):
    whole = make_trainer(tmp_path / "whole", make_reader(), cached=True)
    whole.train(9)
    first = make_trainer(tmp_path / "run", make_reader(), cached=True)
    first.train(4)
    first.session.save()
    first.session.close()
    made = (tmp_path / "run/cache/frozen_outputs.npy").stat().st_mtime_ns
    second = make_trainer(tmp_path / "run", make_reader(), cached=True)
    second.train(5)
    assert digest(arrays(second)) == digest(arrays(whole))
    assert (tmp_path / "run/cache/frozen_outputs.npy").stat().st_mtime_ns == made


@pytest.mark.parametrize("change", ["weights", "seed", "augment", "images"])
def test_outputs_are_made_anew_when_what_they_depend_on_changes(
    tmp_path, make_reader, change, monkeypatch
):
    def outputs(reader, scale=1.0):
        network = Head(3, image_shape=SHAPE)
        variable = network.variables["body/a/conv/kernel"]
        variable.assign(scale * variable.value)
        return next(FeatureCache(network, reader, tmp_path).train_batches(0))[KEY]

    before = outputs(make_reader())
    np.testing.assert_array_equal(outputs(make_reader()), before)
    reader = {
        "weights": make_reader,
        "seed": lambda: make_reader(seed=1),
        "augment": lambda: make_reader(augment=AugmentOptions(preset="strong")),
        "images": make_reader,
    }[change]()
    if change == "images":
        reader._images = 255 - reader._images
    after = outputs(reader, scale=1.5 if change == "weights" else 1.0)
    assert not np.array_equal(after, before)


def test_size_is_said_before_and_must_fit_on_the_disk(
    tmp_path, make_reader, caplog, monkeypatch
):
    monkeypatch.setattr("worklab.feature_cache._logger.parent.propagate", True)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 0, 100))
    trainer = make_trainer(tmp_path, make_reader(), cached=True)
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(
            ValueError, match=r"need 0 MB in .*0 MB free.*images of shape \(4,\)"
        ),
    ):
        trainer.train(1)
    assert "2 forms each" in caplog.text


def test_images_must_come_again_as_they_were(tmp_path, make_reader):
    trainer = make_trainer(tmp_path, make_reader(copies=0), cached=True)
    with pytest.raises(ValueError, match=r"--reader.copies K.*Received: copies=0"):
        trainer.train(1)


def test_network_whose_first_layer_learns_has_nothing_to_keep(tmp_path, make_reader):
    class Learning(Network):
        def _construct(self, images):
            x = self.global_pool(self.conv_block(images, 4, 3))
            return self.full_layer(x, self.num_classes, scope="logits", lr_mult=0.0)

    trainer = make_trainer(tmp_path, make_reader(), cached=True, network_class=Learning)
    with pytest.raises(ValueError, match="`Learning` has nothing to keep"):
        trainer.train(1)


def two_branches(network, x):
    branch = network.conv_layer(x, 2, 3, scope="branch")
    return network.add([network.conv_layer(x, 2, 1), branch])


def random_in_the_middle(network, x):
    x = network.dropout(network.conv_layer(x, 2, 1, scope="a"), 0.5)
    return network.conv_layer(x, 2, 1)


@pytest.mark.parametrize(
    ("build", "boundary"),
    [
        (two_branches, "flat"),  # they meet only in the sum
        (random_in_the_middle, "body.a"),  # which ends what can be kept
    ],
)
def test_boundary_is_where_all_comes_through_and_nothing_changes(build, boundary):
    class Made(Network):
        def _construct(self, images):
            with self.scope("body", lr_mult=0.0):
                x = build(self, images)
            x = self.layer(keras.layers.Flatten, x, scope="flat")
            return self.full_layer(x, 3, scope="logits")

    layer, front, back = cut_at_boundary(Made(3, image_shape=SHAPE).model)
    assert layer.name == boundary
    assert not front.trainable_variables
    assert back.trainable_variables


def test_fixed_forms_of_an_image_come_by_turns(make_reader):
    reader = make_reader(copies=2)
    size = len(reader)
    seen = {}
    for step in range(4 * size // 5):
        batch, copies = reader.train_order(step)
        whole = reader.train_batch(step)
        for row, key in enumerate(zip(batch["index"], copies, strict=True)):
            image = whole["images"][row]
            np.testing.assert_array_equal(seen.setdefault(key, image), image)
    assert len(seen) == 2 * size
    assert not np.array_equal(seen[0, 0], seen[0, 1])


def test_statistics_that_follow_the_batches_are_not_kept():
    class Following(Network):
        def _construct(self, images):
            with self.scope("body", lr_mult=0.0):
                x = self.conv_layer(images, 4, 3)
            x = self.layer(
                keras.layers.BatchNormalization,
                x,
                scope="bn",
                center=False,
                scale=False,
            )
            return self.full_layer(self.global_pool(x), 3, scope="logits")

    layer, front, _ = cut_at_boundary(Following(3, image_shape=SHAPE).model)
    assert layer.name == "body.conv"


def test_outputs_are_made_anew_for_other_preprocessing(tmp_path, make_reader):
    class Other(Head):
        mean, std = (9.0,), (7.0,)

    found = []
    for network_class in (Head, Other, Other):
        network = network_class(3, image_shape=SHAPE)
        cache = FeatureCache(network, make_reader(), tmp_path)
        found.append(next(cache.train_batches(0))[KEY])
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[1], found[2])
