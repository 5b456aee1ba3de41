import dataclasses
import json

import numpy as np
import pytest
import tyro
from sklearn.utils.class_weight import compute_class_weight

from launchers import train
from worklab import Session, Writer
from worklab.cli import options_from_json, options_to_json
from worklab.options import AugmentOptions, DataOptions, ReaderOptions
from worklab.reader import Share
from worklab.readers import ArrayReader, JsonListReader, MixedReader
from worklab.runs import make_network, make_reader, resolve, write_run
from worklab.sampling import class_balanced, draw_epoch, weights_of_classes

from .conftest import CLASS_NAMES

NUM_DRAWS = 10_000
OPTIONS = ReaderOptions(image_size=(8, 8), batch_size=10, num_threads=0)
OFF = AugmentOptions(preset="off")


@pytest.fixture(autouse=True)
def _seeds():
    """Nothing here is Keras's: clearing it after each test would take seconds."""


def reader_of(labels, *, weights=None, seed=0, **options):
    return ArrayReader(
        np.zeros((len(labels), 8, 8, 3), np.uint8),
        labels,
        CLASS_NAMES,
        options=dataclasses.replace(OPTIONS, **options),
        augment=OFF,
        seed=seed,
        weights=weights,
    )


def drawn(reader, count=NUM_DRAWS):
    """Return the records of the first draws."""
    size = reader.options.batch_size
    batches = [reader.train_order(n)[0]["index"] for n in range(-(-count // size))]
    return np.concatenate(batches)[:count]


UNEVEN = np.repeat([0, 1, 2], [150, 40, 10])


# What is drawn


def test_each_image_comes_once_an_epoch_by_default():
    counts = np.bincount(drawn(reader_of(UNEVEN), 1000))
    assert (counts == 5).all()


def test_balanced_classes_come_equally_often():
    index = drawn(reader_of(UNEVEN, sampling="balanced"))
    counts = np.bincount(UNEVEN[index])
    # Each epoch of 200 has 66 or 67 of a class, so 50 epochs stray by 50 / 3 at most.
    assert np.abs(counts - NUM_DRAWS / 3).max() <= 50 * 2 / 3
    each = np.bincount(index, minlength=200)
    for label, share in enumerate([150, 40, 10]):
        expected = NUM_DRAWS / 3 / share
        # An image strays by less than one in an epoch, at random: a few times sqrt(50).
        assert np.abs(each[label == UNEVEN] - expected).max() < 4 * np.sqrt(50)


def test_weighted_images_come_by_their_weights():
    weights = np.random.default_rng(0).uniform(0.1, 3, 200)
    index = drawn(reader_of(UNEVEN, weights=weights, sampling="weighted"))
    counts = np.bincount(index, minlength=200)
    expected = NUM_DRAWS * weights / weights.sum()
    assert np.abs(counts - expected).max() < 4 * np.sqrt(50 / 4)  # at most 1/4 an epoch


def test_every_epoch_is_near_the_rates():
    probabilities = class_balanced(UNEVEN, 3)
    rng = np.random.default_rng(0)
    for _ in range(50):
        epoch = draw_epoch(probabilities, UNEVEN, rng)
        assert np.abs(np.bincount(UNEVEN[epoch]) - 200 / 3).max() < 1
        counts = np.bincount(epoch, minlength=200)
        assert np.abs(counts - 200 * probabilities).max() < 1


def test_class_without_images_is_no_class_to_balance():
    labels = np.repeat([0, 2], [30, 10])
    assert class_balanced(labels, 3)[[0, 39]] == pytest.approx([1 / 60, 1 / 20])
    counts = np.bincount(labels[drawn(reader_of(labels, sampling="balanced"), 400)])
    assert np.abs(counts - [200, 0, 200]).max() == 0


@pytest.mark.parametrize("sampling", ["balanced", "weighted"])
def test_order_is_a_function_of_seed_and_step(sampling):
    weights = np.linspace(1, 3, 200)

    def make(seed=0, **options):
        options = {"sampling": sampling} | options
        return reader_of(UNEVEN, weights=weights, seed=seed, **options)

    reader = make()
    forward = [reader.train_order(step)[0]["index"] for step in range(50)]
    other = make()
    backward = [other.train_order(step)[0]["index"] for step in reversed(range(50))]
    assert np.array_equal(forward, backward[::-1])
    assert np.array_equal(np.concatenate(forward), drawn(make(batch_size=7), 500))
    assert not np.array_equal(np.concatenate(forward), drawn(make(seed=1), 500))
    epochs = np.concatenate(forward)[:400].reshape(2, 200)
    assert not np.array_equal(epochs[0], epochs[1])
    parts = [reader.train_batch(3, Share(n, 2))["index"] for n in range(2)]
    assert np.array_equal(np.concatenate(parts), forward[3])


def test_order_within_an_epoch_is_random():
    labels = UNEVEN[drawn(reader_of(UNEVEN, sampling="balanced"), 200 * 20)]
    first = np.bincount(labels.reshape(20, 200)[:, :50].ravel(), minlength=3)
    # 1,000 draws, a third each: five standard deviations of a binomial.
    assert np.abs(first - 1000 / 3).max() < 5 * np.sqrt(1000 * 2 / 9)


def test_batch_may_exceed_the_split_where_images_come_again():
    reader = reader_of([0, 1, 2], sampling="balanced", batch_size=9)
    assert np.bincount(reader.train_batch(0)["labels"]).tolist() == [3, 3, 3]


# What counts in the loss


def test_balanced_weights_are_those_of_scikit_learn():
    weights = weights_of_classes("balanced", UNEVEN, CLASS_NAMES)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=UNEVEN)
    assert weights == pytest.approx(expected)
    assert weights == pytest.approx([200 / 450, 200 / 120, 200 / 30])
    labels = np.repeat([0, 2], [30, 10])  # two classes are there
    assert weights_of_classes("balanced", labels, CLASS_NAMES) == pytest.approx(
        [40 / 60, 1.0, 40 / 20]
    )


def test_weights_of_classes_and_images_are_multiplied():
    each = np.linspace(1, 2, 200)
    reader = reader_of(UNEVEN, weights=each, class_weights={"cross": 3.0})
    batch = reader.train_batch(0)
    expected = each[batch["index"]] * np.array([1, 1, 3.0])[batch["labels"]]
    assert batch["weights"].dtype == np.float32
    np.testing.assert_allclose(batch["weights"], expected, rtol=1e-6)
    assert batch["weights"].std() > 0


def test_weights_that_decide_how_often_do_not_count_twice():
    weights = np.linspace(1, 2, 200)
    reader = reader_of(UNEVEN, weights=weights, sampling="weighted")
    assert (reader.train_batch(0)["weights"] == 1).all()


def test_test_batches_have_no_weights_but_those_of_padding():
    reader = reader_of(UNEVEN, weights=np.linspace(1, 2, 200), class_weights="balanced")
    for batch in reader.test_batches():
        assert np.array_equal(batch["weights"], batch["index"] >= 0)


def test_weight_of_a_list_is_read(tiny_folder):
    records = [{"image": f"{n}.png", "label": CLASS_NAMES[n % 3]} for n in range(6)]
    records[4]["weight"] = 2.5
    path = tiny_folder / "weighted.json"
    path.write_text(json.dumps(records))
    reader = JsonListReader(path, CLASS_NAMES, options=OPTIONS)
    assert reader.weights.tolist() == [1, 1, 1, 1, 2.5, 1]


# Mistakes


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"squares": 2.0}, r"unknown class; the nearest are \['square',.*'squares'"),
        ({"square": 0.0}, r"must be above 0.*Received: square=0\.0"),
        ({"square": float("nan")}, r"must be above 0.*Received: square=nan"),
        ("even", r"numbers by class name, or 'balanced'\. Received: class_weights='ev"),
    ],
)
def test_wrong_weights_of_classes(given, match):
    with pytest.raises(ValueError, match=match):
        reader_of(UNEVEN, class_weights=given)


@pytest.mark.parametrize("weight", [0, -1.0, float("inf"), None, "2", True])
def test_wrong_weight_of_an_image_names_it(tiny_folder, weight):
    records = [{"image": f"{n}.png", "label": "cross", "weight": 1} for n in range(3)]
    records[1]["weight"] = weight
    path = tiny_folder / "wrong.json"
    path.write_text(json.dumps(records))
    match = r"`weight` of `1\.png` must be a number above 0; .* Received: weight="
    with pytest.raises(ValueError, match=match):
        JsonListReader(path, CLASS_NAMES, options=OPTIONS)


def test_weights_of_another_number():
    with pytest.raises(ValueError, match=r"Received: 2 weights for 200 records"):
        reader_of(UNEVEN, weights=[1.0, 2.0])


def test_weighted_without_weights():
    reader = reader_of(UNEVEN, sampling="weighted")
    with pytest.raises(ValueError, match=r"needs a `weight`.*sampling='weighted' and"):
        reader.train_batch(0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sampling": "even"}, r"`sampling` must be .*Received: sampling='even'"),
        (
            {"sampling": "balanced", "class_weights": "balanced"},
            r"would correct twice.*sampling='balanced', class_weights='balanced'",
        ),
    ],
)
def test_wrong_sampling(options, match):
    with pytest.raises(ValueError, match=match):
        reader_of(UNEVEN, **options)


# Several lists


def sources():
    few = reader_of(np.repeat([0, 1], [3, 2]))
    many = reader_of(np.repeat([0, 1, 2], [100, 60, 35]))
    return few, many


def mixed(rates=(0.25, 0.75), **options):
    settings = {"options": dataclasses.replace(OPTIONS, **options), "augment": OFF}
    return MixedReader(sources(), rates, **settings)


def test_lists_are_mixed_at_their_rates():
    index = drawn(mixed())
    # Of 200 an epoch exactly 50 are of the first list; 10,000 are 50 epochs.
    assert np.count_nonzero(index < 5) == NUM_DRAWS / 4
    counts = np.bincount(index, minlength=200)
    assert (counts[:5] == NUM_DRAWS / 4 / 5).all()
    # Images of the second are expected 0.77 times an epoch: sqrt(50 x 0.77 x 0.23) = 3.
    assert np.abs(counts[5:] - NUM_DRAWS * 0.75 / 195).max() < 5 * 3


def test_mixed_lists_may_be_balanced_each():
    few, many = (reader_of(each.labels, sampling="balanced") for each in sources())
    reader = MixedReader([few, many], [0.4, 0.6], options=OPTIONS, augment=OFF)
    labels, index = reader.labels, drawn(reader)
    of_few = np.bincount(labels[index[index < 5]], minlength=3)
    of_many = np.bincount(labels[index[index >= 5]], minlength=3)
    # 40 of each of two classes, and 40 of each of three, in every epoch of 200.
    assert of_few.tolist() == [2000, 2000, 0]
    assert of_many.tolist() == [2000, 2000, 2000]


def test_mixed_reader_reads_the_records_of_its_readers(tiny_images, tiny_folder):
    images, labels = tiny_images
    arrays = ArrayReader(images, labels, CLASS_NAMES, options=OPTIONS, augment=OFF)
    path = tiny_folder / "valid.json"
    files = JsonListReader(path, CLASS_NAMES, options=OPTIONS)
    reader = MixedReader([arrays, files], [0.5, 0.5], options=OPTIONS, augment=OFF)
    assert len(reader) == 36
    batch = next(reader.test_batches())
    assert np.array_equal(batch["images"][:30], images)
    assert np.array_equal(batch["images"][30:36], images[18:24])
    assert np.array_equal(batch["labels"][30:36], labels[18:24])
    assert reader.name(29) == "record 29"
    assert reader.name(31) == "19.png"
    assert reader.version(31) == files.version(1)


@pytest.mark.parametrize(
    ("rates", "match"),
    [
        ([0.5], r"each reader needs its rate\. Received: 2 readers and 1 rates"),
        ([0.5, 0.6], r"all together 1\. Received: rates=\[0\.5, 0\.6\]"),
        ([0.0, 1.0], r"each above 0.*Received: rates=\[0\.0, 1\.0\]"),
    ],
)
def test_wrong_rates(rates, match):
    with pytest.raises(ValueError, match=match):
        mixed(rates)


def test_mixed_readers_must_agree():
    few, many = sources()
    other = ArrayReader(many._images, many.labels, ["a", "b", "c"], options=OPTIONS)
    with pytest.raises(ValueError, match=r"same class names.*\['a', 'b', 'c'\]"):
        MixedReader([few, other], [0.5, 0.5], options=OPTIONS)
    few.features = np.zeros((5, 2), np.float32)
    with pytest.raises(ValueError, match=r"have features, or none.*features in 1 of 2"):
        MixedReader([few, many], [0.5, 0.5], options=OPTIONS)


# From the command line


def test_lists_of_a_launcher_are_mixed_and_part_of_the_run(tmp_path, tiny_folder):
    (tiny_folder / "more.json").write_text('{"0.png": "circle", "1.png": "square"}')
    options = launcher_options(tiny_folder, mix={"more.json": 0.25})
    reader = make_reader("train", CLASS_NAMES, options)
    assert len(reader) == 20
    assert np.count_nonzero(drawn(reader, 200) >= 18) == 50
    assert len(make_reader("valid", CLASS_NAMES, options)) == 6
    network = make_network(reader, options)
    write_run(Session(tmp_path), Writer(None), options, network, reader)
    write_run(
        Session(tmp_path), Writer(None), options, network, reader
    )  # as at a restart
    (tiny_folder / "more.json").write_text('{"0.png": "circle"}')
    match = r"the mix list is not the one .*Received: data\.mix=\{'more\.json': 0\.25"
    with pytest.raises(ValueError, match=match):
        write_run(Session(tmp_path), Writer(None), options, network, reader)


@pytest.mark.parametrize("mix", [{"valid.json": 1.0}, {"valid.json": 0.0}])
def test_wrong_shares_of_lists(tiny_folder, mix):
    with pytest.raises(ValueError, match=r"its share .*Received: mix=\{'valid\.json'"):
        make_reader("train", CLASS_NAMES, launcher_options(tiny_folder, mix=mix))


def launcher_options(tiny_folder, **data):
    return train.Options(
        network="tests.conftest:TinyNetwork",
        data=DataOptions(folder=tiny_folder, **data),
        reader=OPTIONS,
        augment=OFF,
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["--reader.class-weights", "balanced"], "balanced"),
        (["--reader.class-weights", "cat", "1", "dog", "3.5"], {"cat": 1, "dog": 3.5}),
    ],
)
def test_class_weights_on_the_command_line(words, expected):
    found = tyro.cli(train.Options, args=words)
    assert found.reader.class_weights == expected
    again = options_from_json(train.Options, options_to_json(found))
    assert again == found
    words = ["--data.mix", "a.json", "0.25", "--augment.area", "0.08", "1"]
    found = tyro.cli(train.Options, default=again, args=words)
    assert found.reader.class_weights == expected
    assert found.data.mix == {"a.json": 0.25}
    assert found.augment.area == (0.08, 1.0)
    assert options_from_json(train.Options, options_to_json(found)) == found


def test_presets_decide_the_test_form_of_a_run(tmp_path):
    options = train.Options(run=tmp_path, augment=AugmentOptions(preset="inception"))
    resolved = resolve(options).reader
    assert (resolved.crop_fraction, resolved.stretch) == (0.875, True)
    assert resolve(train.Options(run=tmp_path)).reader.crop_fraction == 1.0
