import json

import numpy as np
import pytest

from worklab.metrics import classification_statistics


def random_test(num_images, num_classes, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_images)
    probabilities = rng.dirichlet(np.ones(num_classes), num_images)
    return labels, probabilities, rng.exponential(size=num_images)


def names(num_classes):
    return [f"class {number}" for number in range(num_classes)]


@pytest.mark.parametrize("num_classes", [3, 7, 20])
@pytest.mark.parametrize("num_images", [1, 2, 50, 400])
def test_statistics_equal_their_definitions(num_images, num_classes):
    labels, probabilities, losses = random_test(num_images, num_classes)
    statistics = classification_statistics(
        labels, probabilities, losses, names(num_classes), top_k=(1, 2, 5)
    )
    predictions = probabilities.argmax(axis=1)
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (labels, predictions), 1)
    ranks = (probabilities > probabilities[np.arange(num_images), labels, None]).sum(1)
    assert statistics.num_images == num_images
    assert statistics.loss == pytest.approx(losses.mean(), rel=1e-12)
    assert statistics.accuracy == pytest.approx((labels == predictions).mean())
    assert statistics.confusion == confusion.tolist()
    assert statistics.top_k_accuracy == pytest.approx(
        {k: (ranks < k).mean() for k in (1, 2, 5) if k < num_classes}
    )
    for label, name in enumerate(names(num_classes)):
        count = (labels == label).sum()
        recall = statistics.recall[name]
        if count:
            assert recall == pytest.approx(confusion[label, label] / count)
        else:
            assert recall is None


def test_recall_of_an_absent_class_is_none_and_of_a_missed_one_zero():
    probabilities = np.eye(3)[[0, 2, 0]]  # class 2 is predicted though absent
    statistics = classification_statistics(
        np.array([0, 0, 1]), probabilities, np.zeros(3), ["a", "b", "c"]
    )
    assert statistics.recall == {"a": 0.5, "b": 0.0, "c": None}
    assert statistics.confusion == [[1, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_one_image():
    statistics = classification_statistics(
        np.array([1]), np.array([[0.2, 0.3, 0.5]]), np.array([1.5]), "abc", top_k=(2, 5)
    )
    assert (statistics.num_images, statistics.loss, statistics.accuracy) == (1, 1.5, 0)
    assert statistics.top_k_accuracy == {2: 1.0}
    assert statistics.recall == {"a": None, "b": 0.0, "c": None}


@pytest.mark.parametrize("labels", [[0, 1, 1], [1, 1, 1]])
def test_two_classes_have_no_top_5(labels):
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    statistics = classification_statistics(
        np.array(labels), probabilities, np.zeros(3), ["no", "yes"], top_k=(1, 2, 5)
    )
    assert statistics.top_k_accuracy == {1: statistics.accuracy}


def test_all_right():
    labels = np.arange(10) % 5
    statistics = classification_statistics(
        labels, np.eye(5)[labels], np.zeros(10), names(5), top_k=(1, 3)
    )
    assert statistics.accuracy == 1
    assert statistics.top_k_accuracy == {1: 1.0, 3: 1.0}
    assert statistics.confusion == (2 * np.eye(5, dtype=int)).tolist()


def test_mean_loss_of_many_float32_losses_is_exact_enough():
    losses = np.full(100_000, 0.1, np.float32)
    statistics = classification_statistics(
        np.zeros(100_000, int), np.tile([0.9, 0.1], (100_000, 1)), losses, "ab"
    )
    assert statistics.loss == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_statistics_are_plain_json():
    statistics = classification_statistics(*random_test(20, 7), names(7))
    numbers = statistics.to_json()
    read = json.loads(json.dumps(numbers, allow_nan=False))
    assert read == numbers
