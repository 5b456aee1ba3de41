import dataclasses
import itertools
import os
import time

import numpy as np
import pytest

from worklab import Reader, augmentation
from worklab.images import warp
from worklab.options import AUGMENT_PRESETS, AugmentOptions, ReaderOptions
from worklab.readers import ArrayReader

from .conftest import CLASS_NAMES

AMOUNTS = ["zoom", "shift", "rotation", "brightness", "contrast", "saturation"]
EVERYTHING = AugmentOptions(
    preset="strong", flip=True, flip_vertical=True, quarter_turns=True
)


@pytest.fixture(autouse=True)
def _seeds():
    """Nothing here is Keras's: clearing it after each test would take a minute."""


@pytest.fixture
def make(tiny_images):
    """Return a function that makes a reader of the 30 tiny images."""

    def make_reader(augment=EVERYTHING, *, seed=0, features=None, **options):
        options = {"image_size": (8, 8), "batch_size": 8, "num_threads": 0} | options
        return ArrayReader(
            *tiny_images,
            CLASS_NAMES,
            options=ReaderOptions(**options),
            augment=augment,
            seed=seed,
            features=features,
        )

    return make_reader


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_equal(one, other):
    assert len(one) == len(other)
    for batch, expected in zip(one, other, strict=True):
        assert batch.keys() == expected.keys()
        for key, value in batch.items():
            assert value.dtype == expected[key].dtype
            np.testing.assert_array_equal(value, expected[key])


# Training batches are a function of the step


@pytest.mark.parametrize("threads", [0, 1, 2, 7, None])
def test_batches_are_equal_for_any_number_of_threads(make, threads):
    features = np.random.default_rng(0).normal(size=(30, 2))
    reader = make(num_threads=threads, features=features)
    alone = make(features=features)
    steps = range(3, 15)  # three epochs, which 8 does not divide
    expected = [alone.train_batch(step) for step in steps]
    assert_equal(take(reader.train_batches(3), len(steps)), expected)
    assert_equal(list(reader.test_batches()), list(alone.test_batches()))


@pytest.mark.parametrize("step", [1, 4, 11])
def test_starting_at_a_step_equals_running_to_it(make, step):
    reader = make(num_threads=2)
    run = take(reader.train_batches(0), step + 3)
    assert_equal(take(reader.train_batches(step), 3), run[step:])


def test_batches_in_any_order_are_equal(make):
    reader, other = make(), make()
    forward = [reader.train_batch(step) for step in range(12)]
    backward = [other.train_batch(step) for step in reversed(range(12))]
    assert_equal(forward, backward[::-1])


def test_testing_between_changes_no_training_batch(make):
    reader = make()
    expected = [reader.train_batch(step) for step in range(6)]
    other = make()
    batches = other.train_batches(0)
    first = take(batches, 3)
    list(other.test_batches())
    assert_equal(first + take(batches, 3), expected)


def test_batch_has_the_form_that_is_promised(make):
    batch = make(batch_size=5, image_size=(9, 7)).train_batch(0)
    forms = {name: (value.dtype, value.shape) for name, value in batch.items()}
    assert forms == {
        "images": (np.uint8, (5, 9, 7, 3)),
        "labels": (np.int64, (5,)),
        "weights": (np.float32, (5,)),
        "index": (np.int64, (5,)),
    }
    assert (batch["weights"] == 1).all()


# Order


def epochs(reader, count):
    """Return the record numbers of the first epochs, (count, num_records)."""
    num_batches = -(-count * len(reader) // reader.options.batch_size)
    batches = [reader.train_batch(step) for step in range(num_batches)]
    index = np.concatenate([batch["index"] for batch in batches])
    return index[: count * len(reader)].reshape(count, len(reader))


@pytest.mark.parametrize("batch_size", [1, 7, 8, 15, 30])
def test_every_epoch_has_each_image_once(make, batch_size):
    for epoch in epochs(make(batch_size=batch_size), 5):
        assert sorted(epoch) == list(range(30))


def test_epochs_differ_in_order(make):
    orders = epochs(make(), 6)
    assert len({tuple(order) for order in orders}) == 6
    assert not (orders == np.arange(30)).all(axis=1).any()


def test_order_does_not_depend_on_the_batch_size(make):
    orders = [epochs(make(batch_size=size), 3).tolist() for size in (1, 8, 30)]
    assert orders[0] == orders[1] == orders[2]


def test_seeds_differ_in_order(make):
    orders = {tuple(epochs(make(seed=seed), 1)[0]) for seed in range(6)}
    assert len(orders) == 6


def test_seeds_and_epochs_differ_in_augmentation(tiny_images):
    one_image = tiny_images[0][:1]
    options = ReaderOptions(image_size=(8, 8), batch_size=1, num_threads=0)
    seen = set()
    for seed in range(3):
        reader = ArrayReader(
            one_image, [0], ["x"], options=options, augment=EVERYTHING, seed=seed
        )
        seen |= {reader.train_batch(step)["images"].tobytes() for step in range(3)}
    assert len(seen) == 9


def test_images_and_labels_belong_to_the_index(make, tiny_images):
    images, labels = tiny_images
    reader = make(AugmentOptions(preset="off"))
    for batch in [reader.train_batch(4), *reader.test_batches()]:
        real = batch["index"] >= 0
        assert np.array_equal(batch["images"][real], images[batch["index"][real]])
        assert np.array_equal(batch["labels"][real], labels[batch["index"][real]])


# Testing


@pytest.mark.parametrize("size", [1, 7, 8, 30, 64])
def test_test_pass_has_each_image_once_and_padding_weighs_nothing(
    make, tiny_images, size
):
    reader = make(test_batch_size=size, num_threads=2)
    batches = list(reader.test_batches())
    assert all(len(batch["index"]) == size for batch in batches)
    whole = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
    padding = np.full(-30 % size, -1)
    assert whole["index"].tolist() == [*range(30), *padding]
    assert whole["weights"].tolist() == [1.0] * 30 + [0.0] * len(padding)
    assert np.array_equal(whole["labels"][:30], tiny_images[1])
    assert np.array_equal(whole["images"][:30], tiny_images[0])
    assert not whole["images"][30:].any()
    assert not whole["labels"][30:].any()


def test_test_pass_can_be_repeated(make):
    reader = make(test_batch_size=7)
    assert_equal(list(reader.test_batches()), list(reader.test_batches()))


def test_test_images_are_the_centre(make, tiny_images):
    reader = make(image_size=(6, 5), crop_fraction=0.75)
    expected = [warp(image, (6, 5), crop_fraction=0.75) for image in tiny_images[0]]
    found = np.concatenate([batch["images"] for batch in reader.test_batches()])
    assert np.array_equal(found[:30], expected)
    assert np.array_equal(reader.centre(tiny_images[0][3]), expected[3])


# Augmentation


def of_step(reader, step=0):
    """Return the augmented images of one step and the centres of the same records."""
    batch = reader.train_batch(step)
    whole = np.concatenate([batch["images"] for batch in reader.test_batches()])
    return batch["images"], whole[batch["index"]]


@pytest.mark.parametrize(
    "augment",
    [
        AugmentOptions(preset="off"),
        AugmentOptions(preset="strong", **dict.fromkeys(AMOUNTS, 0.0)),
    ],
)
@pytest.mark.parametrize("crop_fraction", [1.0, 0.8])
def test_training_without_amounts_sees_the_centre(make, augment, crop_fraction):
    reader = make(augment, image_size=(7, 9), crop_fraction=crop_fraction)
    assert np.array_equal(*of_step(reader))


@pytest.mark.parametrize(
    "change",
    [
        *({name: 0.3} for name in ("zoom", "shift")),
        *({name: 0.3} for name in ("brightness", "contrast", "saturation")),
        {"rotation": 20.0},
        {"flip": True},
        {"flip_vertical": True},
        {"quarter_turns": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_option_alone_changes_the_images(make, change):
    images, centres = of_step(make(AugmentOptions(preset="off", **change)))
    assert not np.array_equal(images, centres)


TURNS = [lambda image, k=k: np.rot90(image, k) for k in range(4)]
MIRRORS = {
    "flip": [lambda image: image, lambda image: image[:, ::-1]],
    "flip_vertical": [lambda image: image, lambda image: image[::-1]],
}


@pytest.mark.parametrize(
    ("options", "forms"),
    [
        (["flip"], MIRRORS["flip"]),
        (["flip_vertical"], MIRRORS["flip_vertical"]),
        (["quarter_turns"], TURNS),
        (["flip", "flip_vertical"], [*MIRRORS["flip"], TURNS[2], lambda i: i[::-1]]),
        (
            ["flip", "quarter_turns"],
            [*TURNS, *(lambda i, k=k: np.rot90(i, k)[:, ::-1] for k in range(4))],
        ),
    ],
)
def test_flips_and_quarter_turns_are_exact_and_equally_frequent(make, options, forms):
    augment = AugmentOptions(preset="off", **dict.fromkeys(options, True))
    reader = make(augment, batch_size=30)
    counts = np.zeros(len(forms))
    for step in range(10):
        for image, centre in zip(*of_step(reader, step), strict=True):
            matches = [np.array_equal(image, form(centre)) for form in forms]
            assert sum(matches) == 1
            counts += matches
    expected = 300 / len(forms)
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()


@pytest.mark.parametrize("preset", ["off", "light", "strong"])
def test_presets_keep_every_change_in_its_range_and_use_it(make, monkeypatch, preset):
    calls = []

    def recording(function):
        def record(image, *size, **settings):
            calls.append(settings)
            return function(image, *size, **settings)

        return record

    for name in ("warp", "adjust_colour"):
        function = recording(getattr(augmentation, name))
        monkeypatch.setattr(augmentation, name, function)
    reader = make(AugmentOptions(preset=preset), batch_size=30)
    for step in range(10):
        reader.train_batch(step)
    amounts = dict.fromkeys(AMOUNTS, 0.0) | AUGMENT_PRESETS[preset]
    if preset == "off":  # nothing is drawn, and images are those of a test
        assert not calls
        return
    warps = [call for call in calls if "zoom" in call]
    colours = [call for call in calls if "contrast" in call]
    seen = {
        "zoom": np.log([call["zoom"] for call in warps]),
        "rotation": np.array([call["angle"] for call in warps]),
        "down": np.array([call["shift"][0] for call in warps]),
        "right": np.array([call["shift"][1] for call in warps]),
    }
    for name in ("brightness", "contrast", "saturation"):
        seen[name] = np.array([call[name] - 1 for call in colours] or [0.0] * 300)
    for name, values in seen.items():
        limit = amounts["shift" if name in {"down", "right"} else name]
        limit = np.log1p(limit) if name == "zoom" else limit
        assert values.min() == pytest.approx(-limit, rel=0.1)
        assert values.max() == pytest.approx(limit, rel=0.1)
        assert np.abs(values).max() <= limit
    drawn = [values for values in seen.values() if values.any()]
    if drawn:  # each apart from the others: 300 draws correlate by 0.06 or so
        correlations = np.corrcoef(drawn) - np.eye(len(drawn))
        assert np.abs(correlations).max() < 0.2


def test_given_amount_wins_over_the_preset(make):
    strong = make(AugmentOptions(preset="strong"))
    same = make(AugmentOptions(preset="off", **AUGMENT_PRESETS["strong"]))
    other = make(AugmentOptions(preset="strong", rotation=0.0))
    assert_equal([strong.train_batch(0)], [same.train_batch(0)])
    assert not np.array_equal(
        strong.train_batch(0)["images"], other.train_batch(0)["images"]
    )


def darken(image, rng):
    return image // rng.integers(2, 5).astype(np.uint8)


def test_own_function_replaces_augmentation(make):
    images, centres = of_step(make(darken, batch_size=30))
    divisors = [
        next((d for d in (2, 3, 4) if np.array_equal(image, centre // d)), None)
        for image, centre in zip(images, centres, strict=True)
    ]
    assert set(divisors) == {2, 3, 4}


def test_own_function_is_reproducible_for_any_number_of_threads(make):
    expected = [make(darken).train_batch(step) for step in range(5)]
    assert_equal(take(make(darken, num_threads=3).train_batches(0), 5), expected)


def test_own_function_gets_the_image_as_loaded(make):
    shapes = []

    def centre(image, _):
        shapes.append(image.shape)
        return warp(image, (4, 4))

    make(centre, image_size=(4, 4)).train_batch(0)
    assert shapes == [(8, 8, 3)] * 8


def test_subclass_may_override_augment_and_centre(tiny_images):
    class Inverted(ArrayReader):
        def augment(self, image, rng):
            return 255 - super().augment(image, rng)

        def centre(self, image):
            return super().centre(image) // 2

    options = ReaderOptions(image_size=(8, 8), batch_size=8, num_threads=0)
    plain = ArrayReader(*tiny_images, CLASS_NAMES, options=options)
    other = Inverted(*tiny_images, CLASS_NAMES, options=options)
    images = plain.train_batch(0)["images"]
    assert np.array_equal(other.train_batch(0)["images"], 255 - images)
    halved = next(plain.test_batches())["images"] // 2
    assert np.array_equal(next(other.test_batches())["images"], halved)


@pytest.mark.parametrize(
    ("result", "received"),
    [
        (np.zeros((8, 7, 3), np.uint8), r"uint8 \(8, 7, 3\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
        (np.zeros((8, 8, 3)), r"float64 \(8, 8, 3\)"),
        (None, r"NoneType \(\)"),
    ],
)
@pytest.mark.parametrize("threads", [0, 2])
def test_wrong_form_from_augment_names_the_record(make, result, received, threads):
    reader = make(lambda image, rng: result, num_threads=threads)
    match = (
        r"`record \d+` came out of augmentation .* expected uint8 \(8, 8, 3\)\. .*"
        rf"Received: {received}"
    )
    with pytest.raises(ValueError, match=match):
        next(reader.train_batches(0))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_errors_in_threads_reach_the_caller_with_the_record(make, threads):
    def fail(image, rng):
        raise ZeroDivisionError("own words")

    reader = make(fail, num_threads=threads)
    with pytest.raises(ZeroDivisionError, match="own words") as info:
        next(reader.train_batches(0))
    first = make().train_batch(0)["index"]
    notes = {f"while reading `record {index}`" for index in first}
    assert notes & set(info.value.__notes__)


def test_change_in_place_is_an_error_not_a_change_of_later_epochs(make, tiny_images):
    def erase(image, rng):
        image[:4] = 0
        return image

    before = tiny_images[0].copy()
    with pytest.raises(ValueError, match="read-only"):
        make(erase).train_batch(0)
    assert np.array_equal(tiny_images[0], before)


# Features, labels and options


def test_features_follow_their_records(make):
    features = np.arange(60.0).reshape(30, 2)
    reader = make(features=features, test_batch_size=8)
    batch = reader.train_batch(5)
    assert batch["features"].dtype == np.float32
    assert np.array_equal(batch["features"], features[batch["index"]])
    *_, last = reader.test_batches()
    assert np.array_equal(last["features"][:6], features[24:])
    assert np.array_equal(last["features"][6:], np.zeros((2, 2)))


@pytest.mark.parametrize("shape", [(29, 2), (30,), (30, 2, 1)])
def test_features_of_another_shape(make, shape):
    received = str(shape).replace("(", r"\(").replace(")", r"\)")
    match = rf"one row of numbers for each record\. Received: shape {received} for 30"
    with pytest.raises(ValueError, match=match):
        make(features=np.zeros(shape))


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (
            [0, 1, 3],
            r"must be in 0\.\.2, .* 3 class names\. Received: label 3 of rec.*2",
        ),
        ([0, -1, 1], r"must be in 0\.\.2.*Received: label -1 of record 1$"),
        ([0.0, 1.5, 2.0], r"one integer for each record.*Received: float64 \(3,\)$"),
        ([[0], [1], [2]], r"one integer for each record.*Received: int64 \(3, 1\)$"),
        (["circle"] * 3, r"one integer for each record.*Received: <U6 \(3,\)$"),
        ([], r"at least one record.*Received: 0 records$"),
        ([0, 1], r"must be equally many\. Received: 3 images and 2 labels$"),
    ],
)
def test_wrong_labels(labels, match):
    with pytest.raises(ValueError, match=match):
        ArrayReader(np.zeros((3, 8, 8, 3), np.uint8), labels, CLASS_NAMES)


@pytest.mark.parametrize("kind", [list, tuple, np.uint8, np.int32])
def test_labels_of_any_integer_type(kind):
    labels = kind([2, 0, 1])
    options = ReaderOptions(image_size=(8, 8), test_batch_size=3)
    images = np.zeros((3, 8, 8, 3), np.uint8)
    reader = ArrayReader(images, labels, CLASS_NAMES, options=options)
    batch = next(reader.test_batches())
    assert batch["labels"].dtype == np.int64
    assert batch["labels"].tolist() == [2, 0, 1]


@pytest.mark.parametrize("threads", [0, 2])
def test_batch_larger_than_the_split_is_an_error_in_training_alone(make, threads):
    reader = make(batch_size=31, num_threads=threads)
    assert len(list(reader.test_batches())) == 1
    match = r"`batch_size`.*\(30\).*`--reader.batch-size 30`.*Received: batch_size=31"
    with pytest.raises(ValueError, match=match):
        next(reader.train_batches(0))


@pytest.mark.parametrize(
    "option",
    [
        {"batch_size": 0},
        {"test_batch_size": -1},
        {"image_size": (8, 0)},
        {"channels": 4},
        {"crop_fraction": 0.0},
        {"crop_fraction": 1.01},
        {"crop_fraction": float("nan")},
        {"num_threads": -1},
        {"cache_megabytes": -1},
        {"seed": -1},
    ],
)
def test_options_out_of_range(make, option):
    ((name, value),) = option.items()
    received = str(value).replace("(", r"\(").replace(")", r"\)")
    match = rf"`{name}` is out of range: .*Received: {name}={received}$"
    with pytest.raises(ValueError, match=match):
        make(**option)


def test_unknown_preset_is_an_error(make):
    with pytest.raises(ValueError, match=r"one of \['off', .*Received: preset='wild'"):
        make(AugmentOptions(preset="wild"))


@pytest.mark.parametrize("name", AMOUNTS)
def test_negative_amounts_are_out_of_range(make, name):
    augment = dataclasses.replace(EVERYTHING, **{name: -0.5})
    match = rf"`{name}` is out of range: .*Received: {name}=-0\.5$"
    with pytest.raises(ValueError, match=match):
        make(augment)


# Cache, threads and subclasses


class CountingReader(Reader):
    """Makes grey images of one megabyte and counts how often each is loaded."""

    def __init__(self, num_records=5, seconds=0.0, **settings):
        options = {"image_size": (8, 8), "channels": 1, "num_threads": 0} | settings
        super().__init__(
            [0] * num_records,
            ["x"],
            options=ReaderOptions(batch_size=num_records, **options),
        )
        self.loads = []
        self._seconds = seconds

    def _load(self, index):
        self.loads.append(index)
        time.sleep(self._seconds)
        return np.full((1024, 1024, 1), 50 * index, np.uint8)


def test_results_are_equal_with_and_without_cache(make):
    cached, uncached = CountingReader(), CountingReader(cache_megabytes=0)
    for reader in (cached, uncached):
        reader.batches = [reader.train_batch(step) for step in range(3)]
        reader.batches += list(reader.test_batches())
    assert_equal(cached.batches, uncached.batches)
    assert sorted(cached.loads) == [0, 1, 2, 3, 4]
    assert sorted(uncached.loads) == sorted([0, 1, 2, 3, 4] * 4)


@pytest.mark.parametrize("threads", [0, 3])
def test_cache_takes_no_more_than_its_megabytes(threads):
    reader = CountingReader(cache_megabytes=2, test_batch_size=1, num_threads=threads)
    first = list(reader.test_batches())
    reader.loads.clear()
    assert_equal(list(reader.test_batches()), first)
    assert len(reader.loads) == 3  # two of the five fit
    assert sum(image.nbytes for image in reader._cache.values()) <= 2 * 2**20


def test_image_larger_than_the_cache_leaves_room_for_smaller_ones(tiny_images):
    class Mixed(Reader):
        def _load(self, index):
            loads.append(index)
            side = 2048 if index == 0 else 16
            return np.zeros((side, side, 1), np.uint8)

    loads = []
    options = ReaderOptions((8, 8), channels=1, cache_megabytes=1, num_threads=0)
    reader = Mixed([0] * 4, ["x"], options=options)
    list(reader.test_batches()), list(reader.test_batches())
    assert loads == [0, 1, 2, 3, 0]


def test_cheap_records_get_one_thread_and_costly_ones_every_core(make):
    assert make()._suitable_threads == 1
    slow = CountingReader(seconds=0.002)
    assert slow._suitable_threads == min(16, os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("loaded", "received"),
    [
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
        (np.zeros((8, 8, 3), np.float32), r"float32 \(8, 8, 3\)"),
    ],
)
def test_wrong_form_from_load_names_the_record(loaded, received):
    class Wrong(Reader):
        def _load(self, index):
            return loaded

    reader = Wrong([0, 1], CLASS_NAMES)
    match = rf"`record 0` was loaded .*`_load` must return.*Received: {received}$"
    with pytest.raises(ValueError, match=match):
        next(reader.test_batches())


# ArrayReader


def test_arrays_of_different_sizes_are_read():
    rng = np.random.default_rng(0)
    shapes = [(8, 8, 3), (20, 9, 3), (5, 30, 3)]
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    options = ReaderOptions(image_size=(8, 8), test_batch_size=3)
    reader = ArrayReader(images, [0, 1, 2], CLASS_NAMES, options=options)
    batch = next(reader.test_batches())
    assert np.array_equal(batch["images"], [warp(image, (8, 8)) for image in images])
    assert all(image.flags.writeable for image in images)


@pytest.mark.parametrize(
    ("images", "received"),
    [
        (np.zeros((3, 8, 8, 3)), r"float64 \(8, 8, 3\)"),
        (np.zeros((3, 8, 8, 1), np.uint8), r"uint8 \(8, 8, 1\)"),
        (np.zeros((3, 8, 8), np.uint8), r"uint8 \(8, 8\)"),
        ([np.zeros((8, 8, 3), np.uint8)] * 2 + [np.zeros((8, 8, 3))], r"float64 \(8"),
    ],
)
def test_wrong_arrays(images, received):
    match = rf"`images` must be uint8 .*\(height, width, 3\).*Received: {received}"
    with pytest.raises(ValueError, match=match):
        ArrayReader(images, [0, 1, 2], CLASS_NAMES)
