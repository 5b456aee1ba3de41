import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from worklab import Session, Trainer, Writer
from worklab.feature_cache import FeatureCache
from worklab.mixing import draw_mix, mix_images, partners
from worklab.options import (
    AugmentOptions,
    LayerOptions,
    ReaderOptions,
    TrainingOptions,
)
from worklab.reader import WHOLE, Share
from worklab.readers import ArrayReader

from .conftest import CLASS_NAMES, TinyNetwork
from .test_images import noise

OFF = AugmentOptions(preset="off")
MIXUP = dataclasses.replace(OFF, mixup=0.4)
CUTMIX = dataclasses.replace(OFF, cutmix=1.0)
BOTH = dataclasses.replace(OFF, mixup=1.0, cutmix=1.0, mix_probability=0.8)


@pytest.fixture(autouse=True)
def _seeds():
    """Few networks are made here: clearing after each test would take a minute."""


@pytest.fixture
def make(tiny_images):
    def make_reader(augment, *, features=None, weights=None, seed=0, **options):
        options = {"image_size": (8, 8), "batch_size": 8, "num_threads": 0} | options
        return ArrayReader(
            *tiny_images,
            CLASS_NAMES,
            options=ReaderOptions(**options),
            augment=augment,
            seed=seed,
            features=features,
            weights=weights,
        )

    return make_reader


def test_partners_are_neighbours():
    for size in range(2, 20):
        others = partners(size)
        assert (np.abs(others - np.arange(size)) == 1).all()
    assert partners(1).tolist() == [0]


# What is drawn


def draws(options, size=10000, image_size=(32, 48)):
    return draw_mix(options, size, image_size, np.random.default_rng(0))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_mixup_draws_shares_from_beta(alpha):
    mix = draws(dataclasses.replace(OFF, mixup=alpha))
    assert not mix.boxes.any()
    variance = 1 / (4 * (2 * alpha + 1))
    # Five standard deviations of a mean of 10,000; of their variance 5 % is as much.
    assert mix.shares.mean() == pytest.approx(0.5, abs=5 * np.sqrt(variance / 10000))
    assert mix.shares.var() == pytest.approx(variance, rel=0.05)


def test_cutmix_draws_boxes_of_a_uniform_area_that_are_cut_off_at_the_border():
    mix = draws(dataclasses.replace(OFF, cutmix=1.0))
    height, width = (mix.boxes[:, 2:] - mix.boxes[:, :2]).T
    assert np.allclose(mix.shares, 1 - height * width / (32 * 48))
    assert (mix.boxes >= 0).all()
    assert (mix.boxes[:, 2] <= 32).all()
    assert (mix.boxes[:, 3] <= 48).all()
    # A side s = sqrt(1 - share) about a uniform centre keeps s - s^2 / 4 of its length,
    # so the area has the mean E[(s - s^2/4)^2] = 1/2 - 1/5 + 1/48 for s^2 uniform.
    pasted = 1 - mix.shares
    assert pasted.mean() == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.01)
    inside = (mix.boxes[:, 0] > 0) & (mix.boxes[:, 2] < 32)
    inside &= (mix.boxes[:, 1] > 0) & (mix.boxes[:, 3] < 48)
    inside &= height > 6
    ratio = width[inside] / height[inside]
    assert ratio.mean() == pytest.approx(48 / 32, abs=0.03)  # shaped as the image is


def test_both_are_drawn_equally_often_and_as_often_as_said():
    mix = draws(BOTH)
    cut = mix.boxes.any(axis=1)
    mixed = mix.shares < 1
    # Four standard deviations of a binomial of 10,000; a tiny box may round to nothing.
    assert mixed.mean() == pytest.approx(0.8, abs=0.02)
    assert cut.mean() == pytest.approx(0.4, abs=0.02)
    assert (cut <= mixed).all()


def test_images_are_blended_or_pasted():
    images, others = (
        noise(2, 12).reshape(2, 2, 6, 3),
        255 - noise(2, 12).reshape(2, 2, 6, 3),
    )
    mix = draws(OFF, 2)
    mix = dataclasses.replace(
        mix,
        shares=np.array([0.25, 0.75], np.float32),
        boxes=np.array([[0, 0, 0, 0], [0, 1, 1, 4]]),
    )
    mixed = mix_images(images, others, mix)
    blended = 0.25 * images[0].astype(float) + 0.75 * others[0]
    assert np.abs(mixed[0] - blended).max() <= 0.5
    expected = images[1].copy()
    expected[0, 1:4] = others[1, 0, 1:4]
    assert np.array_equal(mixed[1], expected)


# Batches


def test_batch_is_a_mixture_of_itself(make, tiny_images):
    images, labels = tiny_images
    batch = make(MIXUP).train_batch(3)
    plain = make(OFF).train_batch(3)
    others = partners(8)
    share = batch["mix"].reshape(-1, 1, 1, 1)
    expected = share * plain["images"] + (1 - share) * plain["images"][others]
    assert np.abs(batch["images"] - expected).max() <= 0.51
    assert np.array_equal(batch["labels"], plain["labels"])
    assert np.array_equal(batch["mixed_labels"], plain["labels"][others])
    assert np.array_equal(batch["index"], plain["index"])
    assert (batch["weights"] == 1).all()
    forms = {name: (v.dtype, v.shape) for name, v in batch.items()}
    assert forms["mixed_labels"] == (np.int64, (8,))
    assert forms["mix"] == (np.float32, (8,))
    assert len(set(batch["mix"])) == 8


@pytest.mark.parametrize("augment", [MIXUP, CUTMIX, BOTH])
@pytest.mark.parametrize(("size", "count"), [(8, 2), (8, 4), (9, 2), (7, 3), (5, 5)])
@pytest.mark.parametrize("copies", [0, 2])
def test_shares_together_are_the_whole_batch(make, augment, size, count, copies):
    strong = dataclasses.replace(augment, preset="strong", flip=True)
    features = np.random.default_rng(0).normal(size=(30, 2))
    weights = np.random.default_rng(1).uniform(0.5, 2, 30)
    settings = {"features": features, "weights": weights, "copies": copies}
    reader = make(strong, batch_size=size, **settings)
    for step in (0, 7):
        whole = reader.train_batch(step)
        parts = [reader.train_batch(step, Share(n, count)) for n in range(count)]
        for name, values in whole.items():
            joined = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(joined, values, err_msg=name)
            assert joined.dtype == values.dtype


@pytest.mark.parametrize(("size", "count", "most"), [(8, 2, 4), (8, 4, 2), (9, 3, 4)])
def test_share_reads_at_most_one_image_more_at_each_end(make, size, count, most):
    reader, read = make(MIXUP, batch_size=size), []
    load = reader._load
    reader._load = lambda index: read.append(index) or load(index)
    reader._cache_room = 0
    for number in range(count):
        read.clear()
        reader.train_batch(0, Share(number, count))
        assert len(read) <= most + (size % 2)


def test_mixed_batches_are_a_function_of_seed_and_step(make):
    expected = [make(BOTH).train_batch(step) for step in range(2, 6)]
    for threads in (1, 3):
        reader = make(BOTH, num_threads=threads)
        found = list(itertools.islice(reader.train_batches(2, WHOLE), 4))
        for batch, other in zip(found, expected, strict=True):
            for name, values in batch.items():
                np.testing.assert_array_equal(values, other[name])
    other_seed = make(BOTH, seed=1).train_batch(2)
    assert not np.array_equal(other_seed["mix"], expected[0]["mix"])
    assert not np.array_equal(expected[0]["mix"], expected[1]["mix"])


def test_test_batches_are_never_mixed(make):
    for batch, plain in zip(
        make(BOTH).test_batches(), make(OFF).test_batches(), strict=True
    ):
        assert "mix" not in batch
        assert np.array_equal(batch["images"], plain["images"])


def test_probability_of_zero_is_off(make):
    assert "mix" not in make(
        dataclasses.replace(BOTH, mix_probability=0.0)
    ).train_batch(0)


def test_features_are_mixed_as_the_images_are(make):
    features = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    batch = make(MIXUP, features=features).train_batch(0)
    own = features[batch["index"]]
    share = batch["mix"][:, None]
    expected = share * own + (1 - share) * own[partners(8)]
    np.testing.assert_allclose(batch["features"], expected, rtol=1e-6)


# Loss and accuracy


def soft_losses(batch, logits, smoothing=0.0):
    """Return the losses of the two labels, by NumPy in float64."""
    logits = np.asarray(logits, np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    result = []
    for name in ("labels", "mixed_labels"):
        targets = np.eye(3)[batch[name]] * (1 - smoothing) + smoothing / 3
        result.append(-(targets * logs).sum(axis=1))
    return result


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_a_mix_counts_both_labels(make, smoothing):
    options = LayerOptions(label_smoothing=smoothing)
    network = TinyNetwork(3, image_shape=(8, 8, 3), options=options)
    batch = make(BOTH).train_batch(0)
    logits = network(batch, training=True)
    own, other = soft_losses(batch, logits, smoothing)
    expected = batch["mix"] * own + (1 - batch["mix"]) * other
    found = network.losses(batch, logits, training=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("class_weights", ["balanced", {"circle": 4.0, "cross": 0.5}])
def test_both_labels_of_a_mix_keep_their_weight(make, tiny_images, class_weights):
    """The minority half of a mix counts with its own weight (field.md, F12)."""
    weights = np.random.default_rng(0).uniform(0.5, 2, 30)
    reader = make(BOTH, weights=weights, class_weights=class_weights)
    batch = reader.train_batch(0)
    logits = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    network = TinyNetwork(3, image_shape=(8, 8, 3))
    found = network.losses(batch, tf.constant(logits), training=True)
    own, other = soft_losses(batch, logits)
    by_class = np.ones(3)
    if class_weights != "balanced":  # balanced are 1: each class has ten images
        by_class = np.array([4.0, 1.0, 0.5])
    each = (weights * by_class[tiny_images[1]])[batch["index"]]
    shares = draw_of(reader, 0)
    expected = shares * each * own + (1 - shares) * each[partners(8)] * other
    np.testing.assert_allclose(found * batch["weights"], expected, rtol=1e-5)


def draw_of(reader, step):
    """Return the shares of a batch, from batches whose images all weigh the same."""
    plain = ArrayReader(
        reader._images,
        reader.labels,
        CLASS_NAMES,
        options=dataclasses.replace(reader.options, class_weights={}),
        augment=reader.augment_options,
        seed=reader.seed,
    )
    return plain.train_batch(step)["mix"]


def test_accuracy_of_a_mix_is_the_part_of_the_label_that_is_answered(tiny_network):
    logits = tf.constant(np.eye(3, dtype=np.float32))
    batch = {
        "labels": np.array([0, 0, 0]),
        "mixed_labels": np.array([1, 1, 1]),
        "mix": np.array([0.7, 0.7, 0.7], np.float32),
    }
    found = tiny_network.scores(batch, logits)["accuracy"]
    np.testing.assert_allclose(found, [0.7, 0.3, 0.0], rtol=1e-6)
    batch["mixed_labels"] = np.array([0, 0, 0])  # two images of one class
    found = tiny_network.scores(batch, logits)["accuracy"]
    np.testing.assert_allclose(found, [1.0, 0.0, 0.0], rtol=1e-6)


def test_network_learns_from_mixed_batches_also_in_parts(tmp_path, make):
    losses = {}
    for parts in (1, 2):
        run = tmp_path / str(parts)
        session = Session(run)
        trainer = Trainer(
            TinyNetwork(3, image_shape=(8, 8, 3)),
            make(BOTH),
            session,
            Writer(run),
            learning_rate=lambda step: 0.1,
            options=TrainingOptions(log_every=1, micro_batches=parts),
        )
        session.start(trainer.network, CLASS_NAMES)
        trainer.train(30 if parts == 1 else 1)
        assert trainer.num_traces == 1
        rows = (run / "history.csv").read_text().splitlines()[1:]
        losses[parts] = [float(row.split(",")[2]) for row in rows]
    assert np.mean(losses[1][-5:]) < 0.95 * np.mean(losses[1][:5])
    assert np.isfinite(losses[2]).all()


def test_kept_outputs_and_mixing_exclude_each_other(make, tmp_path, tiny_network):
    match = r"cannot be kept for images that are mixed.*Received: mixup=0\.4, cutmix=0"
    with pytest.raises(ValueError, match=match):
        FeatureCache(tiny_network, make(MIXUP, copies=2), tmp_path)


def test_loss_that_is_not_finite_names_both_images_of_the_mix(tmp_path, make):
    class NanNetwork(TinyNetwork):
        def losses(self, batch, logits, *, training):
            losses = super().losses(batch, logits, training=training)
            return tf.where(tf.range(8) == 4, np.inf, losses)

    session = Session(tmp_path)
    trainer = Trainer(
        NanNetwork(3, image_shape=(8, 8, 3)),
        make(MIXUP),
        session,
        Writer(tmp_path),
        learning_rate=lambda step: 0.1,
    )
    session.start(trainer.network, CLASS_NAMES)
    index = trainer.reader.train_order(0)[0]["index"]
    match = rf"2 of its 8 .* cause: `record {index[4]}`, `record {index[5]}`\."
    with pytest.raises(FloatingPointError, match=match):
        trainer.train(1)
