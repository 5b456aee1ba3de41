import csv
import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score

from worklab import Session, Tester
from worklab.options import LayerOptions, ReaderOptions
from worklab.readers import ArrayReader
from worklab.tester import TestResult

from .conftest import CLASS_NAMES, TinyNetwork


def make_tester(tmp_path, images, labels, *, test_batch_size=8, network=None):
    options = ReaderOptions(image_size=(8, 8), test_batch_size=test_batch_size)
    reader = ArrayReader(images, labels, CLASS_NAMES, options=options)
    network = network or TinyNetwork(3, image_shape=(8, 8, 3))
    return Tester(network, reader, Session(tmp_path), split="valid")


def test_numbers_equal_scikit_learn(tmp_path, tiny_images):
    result = make_tester(tmp_path, *tiny_images).test()
    _, labels = tiny_images
    found, predictions = result.statistics, result.probabilities.argmax(axis=1)
    assert found.num_images == 30
    assert found.accuracy == pytest.approx(accuracy_score(labels, predictions))
    assert found.loss == pytest.approx(log_loss(labels, result.probabilities), rel=1e-6)
    assert found.confusion == confusion_matrix(labels, predictions).tolist()
    recalls = recall_score(labels, predictions, average=None)
    np.testing.assert_allclose(list(found.recall.values()), recalls)


def test_labels_are_not_smoothed(tmp_path, tiny_images):
    smoothed = TinyNetwork(
        3, image_shape=(8, 8, 3), options=LayerOptions(label_smoothing=0.5)
    )
    plain = make_tester(tmp_path, *tiny_images).test()
    result = make_tester(tmp_path, *tiny_images, network=smoothed).test()
    assert result.statistics.loss == plain.statistics.loss


@pytest.mark.parametrize("size", [1, 7, 8, 30, 64])
def test_each_image_counts_once_for_any_batch_size(tmp_path, tiny_images, size):
    one = make_tester(tmp_path, *tiny_images, test_batch_size=30).test()
    other = make_tester(tmp_path, *tiny_images, test_batch_size=size).test()
    assert other.names == [f"record {n}" for n in range(30)]
    assert other.statistics.confusion == one.statistics.confusion
    # Only the order of float32 additions inside the convolutions may differ.
    np.testing.assert_allclose(other.probabilities, one.probabilities, rtol=1e-5)
    assert other.statistics.loss == pytest.approx(one.statistics.loss, rel=1e-6)


def test_testing_changes_no_variable(tmp_path, tiny_images):
    tester = make_tester(tmp_path, *tiny_images)
    before = {n: v.value.numpy() for n, v in tester.network.variables.items()}
    tester.test()
    for name, variable in tester.network.variables.items():
        np.testing.assert_array_equal(variable.value.numpy(), before[name])


def test_result_is_written_as_json_and_csv(tmp_path, tiny_images):
    result = make_tester(tmp_path, *tiny_images).test(step=12)
    path = result.save(tmp_path / "tests")
    assert path.name == "step-00000012.valid.json"
    numbers = json.loads(path.read_text())
    assert numbers["accuracy"] == result.statistics.accuracy
    assert numbers["step"] == 12
    with open(path.with_suffix(".csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    assert rows[4]["image"] == "record 4"
    assert rows[4]["label"] == CLASS_NAMES[tiny_images[1][4]]
    probabilities = [float(rows[4][f"p({name})"]) for name in CLASS_NAMES]
    np.testing.assert_allclose(probabilities, result.probabilities[4], rtol=1e-4)
    assert rows[4]["prediction"] == CLASS_NAMES[int(np.argmax(probabilities))]
    losses = [float(row["loss"]) for row in rows]
    assert np.mean(losses) == pytest.approx(result.statistics.loss, rel=1e-4)


def test_class_missing_from_the_split_has_no_recall(tmp_path, tiny_images):
    images, labels = tiny_images
    found = make_tester(tmp_path, images[labels != 1], labels[labels != 1]).test()
    assert found.statistics.recall["square"] is None
    assert np.shape(found.statistics.confusion) == (3, 3)


def test_answer_that_is_not_finite_names_the_image(tmp_path, tiny_images):
    tester = make_tester(tmp_path, *tiny_images)
    kernel = tester.network.variables["logits/kernel"]
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match=r"30 images is not finite.*`record 0`"):
        tester.test()


def test_result_of_any_models_probabilities():
    labels, probabilities = [1, 0], [[0.2, 0.8], [0.4, 0.6]]
    result = TestResult.of_probabilities(
        labels, probabilities, ["no", "yes"], names=["a", "b"]
    )
    assert result.statistics.accuracy == 0.5
    assert result.statistics.loss == pytest.approx(log_loss(labels, probabilities))
    np.testing.assert_allclose(np.exp(result.logits), probabilities, rtol=1e-6)
    assert result.predictions.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("labels", "probabilities", "names"),
    [
        ([0, 2], [[1, 0]] * 2, "ab"),
        ([0, -1], [[1, 0]] * 2, "ab"),
        ([0], [[1, 0]] * 2, "ab"),
        ([0, 1], [[1, 0]] * 2, "abc"),
        ([0, 1], [[1, 0, 0]] * 2, "ab"),
    ],
)
def test_shapes_that_do_not_fit(labels, probabilities, names):
    with pytest.raises(
        ValueError, match=r"and 2 classes has.*Received: labels -?\d\.\."
    ):
        TestResult.of_probabilities(labels, probabilities, ["no", "yes"], names=names)
