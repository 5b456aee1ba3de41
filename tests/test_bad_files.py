"""Images that cannot be read: a run stops at them, or goes on without them."""

import dataclasses
import itertools
import json
import re

import cv2
import numpy as np
import pytest

from launchers import test as test_launcher
from launchers import train, train_with_patience
from worklab import Reader, Session, Tester
from worklab.feature_cache import FeatureCache
from worklab.options import (
    AugmentOptions,
    DataOptions,
    PatienceOptions,
    ReaderOptions,
    ScheduleOptions,
    SessionOptions,
)
from worklab.reader import Share
from worklab.readers import JsonListReader

from .conftest import CLASS_NAMES, TinyNetwork

NUM_IMAGES = 220
BAD = (3, 77)


class Holed(Reader):
    """Grey images whose level is their number; some cannot be read."""

    def __init__(self, bad=BAD, num_records=NUM_IMAGES, **settings):
        options = {"image_size": (8, 8), "batch_size": 20, "num_threads": 0}
        options |= settings.pop("options", {})
        super().__init__(
            np.arange(num_records) % 3,
            CLASS_NAMES,
            options=ReaderOptions(test_batch_size=64, **options),
            features=np.arange(num_records)[:, None],
            on_bad_file=settings.pop("on_bad_file", "skip"),
            **settings,
        )
        self.bad = set(bad)

    def _load(self, index):
        if index in self.bad:
            raise ValueError(f"`{self.name(index)}` is bad. Received: {index}")
        return np.full((8, 8, 3), index, np.uint8)


OFF = AugmentOptions(preset="off")
EPOCH = NUM_IMAGES // 20


def batches_of(reader, count=2 * EPOCH):
    return [reader.train_batch(step) for step in range(count)]


def assert_equal(some, others):
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


# Training


def test_another_record_stands_in_with_all_that_belongs_to_it():
    whole = batches_of(Holed(bad=(), augment=OFF))
    reader = Holed(augment=OFF)
    replaced = 0
    for expected, batch in zip(whole, batches_of(reader), strict=True):
        index = batch["index"]
        assert not set(index) & set(BAD)
        same = index == expected["index"]
        assert set(expected["index"][~same]) <= set(BAD)
        replaced += (~same).sum()
        assert (batch["images"] == index[:, None, None, None]).all()
        assert (batch["labels"] == index % 3).all()
        assert (batch["features"][:, 0] == index).all()
        assert (batch["weights"] == 1).all()
    assert replaced == 4  # two images in two epochs
    assert list(reader.skipped) == [f"record {index}" for index in BAD]
    assert reader.skipped["record 3"].endswith("Received: 3")


@pytest.mark.parametrize("copies", [0, 2])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_are_a_function_of_the_step(threads, copies):
    expected = batches_of(Holed(options={"copies": copies}))
    reader = Holed(options={"num_threads": threads, "copies": copies})
    run = list(itertools.islice(reader.train_batches(0), 2 * EPOCH))
    assert_equal(run, expected)
    resumed = Holed(options={"num_threads": threads, "copies": copies})
    run = list(itertools.islice(resumed.train_batches(7), EPOCH))
    assert_equal(run, expected[7 : 7 + EPOCH])
    backwards = Holed(options={"copies": copies})
    steps = range(2 * EPOCH)
    assert_equal([backwards.train_batch(s) for s in steps[::-1]], expected[::-1])


def test_labels_of_a_mix_are_those_of_the_images_that_were_read():
    mixing = AugmentOptions(preset="off", mixup=1.0)
    expected = batches_of(Holed(augment=mixing, options={"class_weights": "balanced"}))
    plain = batches_of(Holed(augment=OFF))
    for batch, unmixed in zip(expected, plain, strict=True):
        partners = np.arange(20) ^ 1
        np.testing.assert_array_equal(batch["index"], unmixed["index"])
        np.testing.assert_array_equal(batch["labels"], unmixed["labels"])
        np.testing.assert_array_equal(
            batch["mixed_labels"], unmixed["labels"][partners]
        )
    halves = [
        [
            Holed(augment=mixing, options={"class_weights": "balanced"}).train_batch(
                step, s
            )
            for step in range(EPOCH)
        ]
        for s in (Share(0, 2), Share(1, 2))
    ]
    for batch, first, second in zip(expected, *halves, strict=False):
        both = {name: np.concatenate([first[name], second[name]]) for name in batch}
        assert_equal([both], [batch])


def test_replacement_that_is_bad_is_replaced_again():
    # Half of the list is bad; the limit is lifted to see the order of the draws.
    bad = range(0, NUM_IMAGES, 2)
    readers = [Holed(bad=bad), Holed(bad=bad)]
    for reader in readers:
        reader._bad._num_records = 10**6
    expected = batches_of(readers[0])
    assert all((batch["index"] % 2 == 1).all() for batch in expected)
    assert_equal([readers[0].train_batch(s) for s in range(2 * EPOCH)], expected)
    steps = range(2 * EPOCH)
    assert_equal([readers[1].train_batch(s) for s in steps[::-1]], expected[::-1])


def test_shares_of_a_batch_are_the_whole():
    whole = batches_of(Holed())
    parts = [Holed() for _ in range(3)]
    for step, batch in enumerate(whole):
        shares = [p.train_batch(step, Share(n, 3)) for n, p in enumerate(parts)]
        for name, values in batch.items():
            joined = np.concatenate([share[name] for share in shares])
            np.testing.assert_array_equal(joined, values)


def test_order_names_what_was_read():
    reader = Holed()
    for step, batch in enumerate(batches_of(reader)):
        order, _ = reader.train_order(step)
        np.testing.assert_array_equal(order["index"], batch["index"])


def test_stop_raises_the_first_one():
    match = r"`record (3|77)` is bad\. Received"
    with pytest.raises(ValueError, match=match):
        batches_of(Holed(on_bad_file="stop"))
    with pytest.raises(ValueError, match=r"`record 3` is bad\. Received: 3"):
        list(Holed(on_bad_file="stop").test_batches())


@pytest.mark.parametrize(("num_bad", "num_records"), [(3, 220), (2, 30), (1, 1)])
def test_too_many_are_an_error(num_bad, num_records):
    reader = Holed(bad=range(num_bad), num_records=num_records)
    match = rf"{num_bad} of {num_records} images cannot .*disk missing.*Received: "
    with pytest.raises(ValueError, match=match):
        list(reader.test_batches())


def test_one_of_a_short_list_may_be_skipped():
    reader = Holed(bad=[4], num_records=30)
    list(reader.test_batches())
    assert list(reader.skipped) == ["record 4"]


@pytest.mark.parametrize("error", [ValueError, ZeroDivisionError])
def test_an_error_of_augmentation_is_never_skipped(error):
    def fail(image, rng):
        raise error("own words")

    with pytest.raises(error, match="own words"):
        batches_of(Holed(augment=fail))


def test_a_defect_of_load_is_never_skipped():
    class Defect(Holed):
        def _load(self, index):
            return self.no_such_name

    with pytest.raises(AttributeError, match="no_such_name"):
        batches_of(Defect())


def test_each_is_logged_once(monkeypatch):
    messages = []
    monkeypatch.setattr(
        "worklab.bad_files._logger.warning", lambda *words: messages.append(words)
    )
    reader = Holed(options={"num_threads": 3})
    for _ in range(2):
        list(itertools.islice(reader.train_batches(0), 2 * EPOCH))
        list(reader.test_batches())
    texts = sorted(text % error for text, error in messages)
    assert len(texts) == 2
    assert texts[0].startswith("skipped, as it cannot be read: `record 3` is bad")


def test_number_of_threads_is_found_without_the_first_record():
    reader = Holed(bad=[0, 1])
    assert reader._suitable_threads >= 1
    assert list(reader.skipped) == ["record 0", "record 1"]


def test_kept_features_and_skipping_do_not_go_together(tmp_path):
    reader = Holed(options={"copies": 1})
    match = r"none can be skipped.*Received: on_bad_file='skip'"
    with pytest.raises(ValueError, match=match):
        FeatureCache(TinyNetwork(3, image_shape=(8, 8, 3)), reader, tmp_path)


# Testing


def test_skipped_image_of_a_test_batch_has_weight_0():
    batches = list(Holed().test_batches())
    weights = np.concatenate([batch["weights"] for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])
    images = np.concatenate([batch["images"] for batch in batches])
    assert index[:NUM_IMAGES].tolist() == list(range(NUM_IMAGES))
    assert np.flatnonzero(weights[:NUM_IMAGES] == 0).tolist() == list(BAD)
    assert not images[list(BAD)].any()
    assert not weights[NUM_IMAGES:].any()


@pytest.mark.parametrize("test_batch_size", [1, 20, 64, 500])
def test_result_counts_skipped_images_and_nothing_of_them(tmp_path, test_batch_size):
    network = TinyNetwork(3, image_shape=(8, 8, 3))
    kept = [index for index in range(NUM_IMAGES) if index not in BAD]

    def result_of(reader):
        reader.options = dataclasses.replace(
            reader.options, test_batch_size=test_batch_size
        )
        return Tester(network, reader, Session(tmp_path), split="test").test()

    result, whole = result_of(Holed()), result_of(Holed(bad=()))
    assert result.statistics.num_images == NUM_IMAGES - 2
    assert result.statistics.num_skipped == 2
    assert result.skipped == ["record 3", "record 77"]
    assert result.names == [f"record {index}" for index in kept]
    assert np.array_equal(result.labels, whole.labels[kept])
    np.testing.assert_allclose(
        result.probabilities, whole.probabilities[kept], rtol=1e-5
    )
    assert result.statistics.loss == pytest.approx(whole.losses[kept].mean(), rel=1e-5)
    assert np.sum(result.statistics.confusion) == NUM_IMAGES - 2
    saved = json.loads(result.save(tmp_path).read_text())
    assert saved["num_skipped"] == 2
    assert saved["skipped"] == ["record 3", "record 77"]
    assert (whole.statistics.num_skipped, whole.skipped) == (0, [])


# Runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Lists of 230 small images, of which train and test have two broken ones each."""
    folder = tmp_path_factory.mktemp("broken")
    rng = np.random.default_rng(0)
    for split, count in (("train", 230), ("valid", 30), ("test", 220)):
        records = {}
        for number in range(count):
            name = f"{split}-{number}.png"
            records[name] = CLASS_NAMES[number % 3]
            image = rng.integers(0, 256, (8, 8, 3), np.uint8)
            cv2.imwrite(str(folder / name), image)
        (folder / f"{split}.json").write_text(json.dumps(records))
    for split in ("train", "test"):
        (folder / f"{split}-5.png").write_bytes(b"")
        (folder / f"{split}-100.png").unlink()
    return folder


def options_of(launcher, folder, run, on_bad_file, **settings):
    return launcher.Options(
        run=run,
        network="tests.conftest:TinyNetwork",
        pretrained=None,
        data=DataOptions(folder=folder, on_bad_file=on_bad_file),
        reader=ReaderOptions(image_size=(8, 8), batch_size=46),
        schedule=ScheduleOptions(learning_rate=0.01),
        session=SessionOptions(num_threads=1),
        **settings,
    )


def test_run_that_skips_ends_and_reports(folder, tmp_path, capsys):
    patience = PatienceOptions(valid_every=5, patience=1, max_decays=0)
    options = options_of(
        train_with_patience, folder, tmp_path / "run", "skip", patience=patience
    )
    result = train_with_patience.main(options)
    assert list(result["skipped"]) == ["train", "test"]
    for split, reasons in result["skipped"].items():
        assert list(reasons) == [f"{split}-5.png", f"{split}-100.png"]
        assert "is not a readable image" in reasons[f"{split}-5.png"]
        assert "cannot be read (No such file" in reasons[f"{split}-100.png"]
    assert result["test"]["num_images"] == 218
    assert result["test"]["num_skipped"] == 2
    output = capsys.readouterr().out
    assert (
        "skipped in train, as they cannot be read: 2 (train-5.png, train-100.png)"
        in output
    )
    assert "test-5.png, test-100.png" in output
    assert re.search(r"skipped, unreadable\W+2\b", output)
    test_launcher.main(test_launcher.Options(run=tmp_path / "run", split="test"))
    assert "test-5.png, test-100.png" in capsys.readouterr().out


def test_run_that_stops_names_the_first(folder, tmp_path):
    options = options_of(train, folder, tmp_path / "run", "stop", num_steps=6)
    with pytest.raises(ValueError, match=r"train-(5|100)\.png.*Received: "):
        train.main(options)


def test_stopped_and_resumed_run_skips_to_the_same_weights(folder, tmp_path):
    def run(name, *numbers):
        for number in numbers:
            session = SessionOptions(num_threads=1)
            options = options_of(
                train, folder, tmp_path / name, "skip", num_steps=number, save_every=3
            )
            train.main(dataclasses.replace(options, session=session))
        path = tmp_path / name / "checkpoints" / "step-00000012.safetensors"
        return path.read_bytes()

    assert run("whole", 12) == run("parts", 3, 6, 12)


def test_list_reader_skips_a_missing_and_an_empty_file(folder):
    reader = JsonListReader(
        folder / "train.json",
        CLASS_NAMES,
        options=ReaderOptions(image_size=(8, 8), batch_size=23),
        on_bad_file="skip",
    )
    list(reader.test_batches())
    assert list(reader.skipped) == ["train-5.png", "train-100.png"]
