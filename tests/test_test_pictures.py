import dataclasses

import cv2
import numpy as np
import pytest
import tensorflow as tf

from worklab import Writer
from worklab.options import ReaderOptions
from worklab.readers import ArrayReader
from worklab.test_pictures import confusion, draw_confusion, find_errors, write_test
from worklab.tester import TestResult

from .test_writer import events, scalars

NAMES = ["$cat", "\u732b", "dog"]  # no formula; not in the font


def make_test(labels, probabilities, names=NAMES, files=()):
    files = files or [f"record {number}" for number in range(len(labels))]
    return TestResult.of_probabilities(
        np.array(labels), np.array(probabilities), names, names=files, step=12
    )


TEST = make_test(
    [0, 0, 1, 1], [[0.8, 0.1, 0.1], [0.3, 0.1, 0.6], [0.1, 0.2, 0.7], [0.1, 0.9, 0]]
)


@pytest.fixture
def reader():
    images = np.full((4, 9, 9, 3), 200, np.uint8)
    options = ReaderOptions(image_size=(8, 8))
    return ArrayReader(images, [0, 0, 1, 1], NAMES, options=options)


def values(folder):
    return {
        value.tag: (event.step, value)
        for event in events(folder)
        for value in event.summary.value
    }


def test_pictures_of_a_test_are_a_run_of_their_own(tmp_path, reader):
    with Writer(tmp_path) as writer:
        write_test(writer, TEST, reader)
    found = values(tmp_path / "tensorboard/test")
    assert {tag: step for tag, (step, _) in found.items()} == dict.fromkeys(
        [
            *("loss", "accuracy", "confusion matrix", "most confident errors"),
            *("$cat", "\u732b"),
        ],
        12,
    )
    statistics = TEST.statistics
    assert scalars(tmp_path / "tensorboard/test") == [
        (12, "loss", pytest.approx(statistics.loss)),
        (12, "accuracy", 0.5),
    ]
    assert not (tmp_path / "history.csv").exists()
    for tag in ("confusion matrix", "most confident errors"):
        width, height, png = found[tag][1].tensor.string_val
        image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (int(height), int(width), 3)
        assert len(np.unique(image)) > 10
    table = tf.make_ndarray(found["$cat"][1].tensor)
    assert table[:4, 100].tolist() == [1, 0, 2, 1]  # at a probability of 0.5


def test_shares_are_of_each_class_and_errors_by_sureness():
    np.testing.assert_array_equal(
        confusion(TEST), [[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 0]]
    )
    assert find_errors(TEST).tolist() == [2, 1]


def test_test_without_errors_has_no_picture_of_them(tmp_path, reader):
    right = dataclasses.replace(TEST, labels=TEST.predictions)
    with Writer(tmp_path) as writer:
        write_test(writer, right, reader)
    assert "most confident errors" not in values(tmp_path / "tensorboard/test")


@pytest.mark.parametrize(("num_classes", "num_labels"), [(30, 30), (31, 0)])
def test_many_classes_are_a_heat_map_without_names(num_classes, num_labels):
    labels = np.arange(num_classes)
    names = [f"class {label}" for label in labels]
    axes = draw_confusion(make_test(labels, np.eye(num_classes), names)).axes[0]
    shown = [tick.get_text() for tick in axes.get_yticklabels()]
    assert sum(text in names for text in shown) == num_labels


def test_curves_are_of_the_classes_with_most_images(tmp_path):
    labels = np.repeat(np.arange(25), [1] * 5 + [2] * 20)
    names = [str(number) for number in range(25)]
    test = make_test(labels, np.eye(25)[labels], names)
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    reader = ArrayReader(images, labels, names, options=ReaderOptions((8, 8)))
    with Writer(tmp_path) as writer:
        write_test(writer, test, reader)
    found = set(values(tmp_path / "tensorboard/test"))
    assert found == {"loss", "accuracy", "confusion matrix", *names[5:]}


def test_names_that_are_no_unicode_are_escaped_and_long_ones_shortened(tmp_path):
    names = ["caf\udce9", "a" * 80 + "b" * 70]
    files = ["\udce9.png", "1.png"]
    test = make_test([0, 1], [[0.1, 0.9], [0.2, 0.8]], names, files)
    shown = ["caf\\udce9", "a" * 11 + "\N{HORIZONTAL ELLIPSIS}" + "b" * 12]
    axes = draw_confusion(test).axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [each.get_text() for each in labels] == shown
    reader = ArrayReader(np.zeros((2, 9, 9, 3), np.uint8), [0, 1], names)
    reader.name = files.__getitem__
    with Writer(tmp_path) as writer:
        write_test(writer, test, reader)
    tags = set(values(tmp_path / "tensorboard/test"))
    assert {"most confident errors", "confusion matrix", "caf\\udce9"} < tags


def test_picture_that_cannot_be_drawn_is_a_warning(tmp_path, reader, caplog):
    def load(record):
        raise ValueError(f"it was deleted. Received: record {record}")

    reader.load = load
    with caplog.at_level("WARNING"), Writer(tmp_path) as writer:
        write_test(writer, TEST, reader)
    (message,) = caplog.messages
    assert "`most confident errors` of the test could not be drawn" in message
    assert message.endswith("ValueError: it was deleted. Received: record 2")
    assert "$cat" in values(tmp_path / "tensorboard/test")


def test_silent_writer_draws_nothing(monkeypatch, reader):
    monkeypatch.setattr("worklab.test_pictures.draw_confusion", None)
    write_test(Writer(None), TEST, reader)
