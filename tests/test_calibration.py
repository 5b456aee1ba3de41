import numpy as np
import pytest
from sklearn.metrics import log_loss

from worklab.calibration import (
    apply_temperature,
    calibration,
    fit_temperature,
    reliability,
)

from .made_tests import make_test, random_test


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def error_by_definition(test, num_bins):
    confidences = test.probabilities.max(axis=1).astype(float)
    right = test.predictions == test.labels
    total = 0.0
    for number in range(num_bins):
        inside = (confidences > number / num_bins) & (
            confidences <= (number + 1) / num_bins
        )
        if inside.any():
            total += inside.sum() * abs(
                right[inside].mean() - confidences[inside].mean()
            )
    return total / len(right)


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("num_images", [1, 7, 400])
def test_error_equals_its_definition(num_images, num_classes):
    test = random_test(num_images, num_classes)
    found = calibration(test.labels, test.probabilities)
    expected = error_by_definition(test, 15)
    assert found.equal_width.expected_calibration_error == pytest.approx(expected)
    exact = test.probabilities.astype(float)
    exact /= exact.sum(axis=1, keepdims=True)
    expected = log_loss(test.labels, exact, labels=range(num_classes))
    assert found.log_loss == pytest.approx(expected, abs=1e-6)


def test_numbers_of_the_diagram():
    confidences = np.array([0.2, 0.4, 0.5, 0.9, 1.0])
    right = np.array([False, True, False, True, True])
    found = reliability(confidences, right, np.array([0.25, 0.5, 0.75, 1.0]))
    lowest, low, high, highest = found.bins
    assert (lowest.num_images, lowest.confidence, lowest.accuracy) == (1, 0.2, 0.0)
    assert (low.lower, low.upper, low.num_images) == (0.25, 0.5, 2)
    assert (low.confidence, low.accuracy) == pytest.approx((0.45, 0.5))
    assert (high.num_images, high.confidence, high.accuracy) == (0, None, None)
    assert (highest.confidence, highest.accuracy) == pytest.approx((0.95, 1.0))
    distances = 0.2 + 2 * 0.05 + 2 * 0.05
    assert found.expected_calibration_error == pytest.approx(distances / 5)
    assert found.maximum_calibration_error == pytest.approx(0.2)


def test_equally_full_bins_are_so_and_equal_confidences_stay_together():
    test = random_test(450, 3)
    found = calibration(test.labels, test.probabilities).equal_mass
    assert [each.num_images for each in found.bins] == [30] * 15
    confidences = np.sort(test.probabilities.max(axis=1)).reshape(15, 30)
    for each, expected in zip(found.bins, confidences, strict=True):
        assert each.confidence == pytest.approx(expected.mean(), rel=1e-6)
    sure = make_test([0] * 100, [[1.0, 0.0]] * 90 + [[0.6, 0.4]] * 10)
    found = calibration(sure.labels, sure.probabilities).equal_mass
    assert [each.num_images for each in found.bins] == [10, 90]


def test_order_says_nothing():
    test = random_test(300, 3, ties=True)
    order = np.random.default_rng(1).permutation(300)
    one = calibration(test.labels, test.probabilities)
    other = calibration(test.labels[order], test.probabilities[order])
    for name in ("equal_width", "equal_mass"):
        first, second = getattr(one, name).bins, getattr(other, name).bins
        assert [each.num_images for each in first] == [e.num_images for e in second]
        assert [e.accuracy for e in first] == [e.accuracy for e in second]


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_of_the_sample_is_found(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(5000, 4))
    labels = np.array([rng.choice(4, p=row) for row in softmax(logits)])
    probabilities = softmax(logits * temperature).astype(np.float32)
    found = fit_temperature(labels, logits * temperature)
    assert found == pytest.approx(temperature, rel=0.05)
    before = calibration(labels, probabilities)
    after = calibration(labels, apply_temperature(logits * temperature, found))
    assert after.log_loss <= before.log_loss
    if temperature != 1:
        assert (
            after.equal_width.expected_calibration_error
            < before.equal_width.expected_calibration_error / 2
        )


def test_temperature_has_the_least_loss():
    test = random_test(300, 5, hit=1.0)
    found = fit_temperature(test.labels, test.logits)

    def loss(temperature):
        changed = softmax(np.log(test.probabilities.astype(float)) / temperature)
        return log_loss(test.labels, changed, labels=range(5))

    assert loss(found) < min(loss(0.999 * found), loss(1.001 * found))


def test_temperature_is_that_of_scikit_learn():
    module = pytest.importorskip("sklearn.calibration")
    if not hasattr(module, "_TemperatureScaling"):
        pytest.skip("of scikit-learn 1.8")
    test = random_test(300, 5, hit=1.0)
    logits = np.log(test.probabilities.astype(float))
    peer = module._TemperatureScaling().fit(logits, test.labels)
    found = fit_temperature(test.labels, test.logits)
    assert found == pytest.approx(1 / peer.beta_, rel=1e-4)


def test_temperature_that_does_not_exist_is_none():
    right = make_test([0, 1], [[0.9, 0.1], [0.2, 0.8]])
    assert fit_temperature(right.labels, right.logits) is None
    wrong = make_test([1, 0], [[0.9, 0.1], [0.2, 0.8]])
    assert fit_temperature(wrong.labels, wrong.logits) is None


def test_temperature_of_probabilities_that_are_zero():
    test = make_test([0, 1, 1], [[1, 0], [0, 1], [1, 0]])
    found = fit_temperature(test.labels, test.logits)
    assert found > 10  # as sure and wrong as a float32 can be
    changed = apply_temperature(test.logits, found)
    np.testing.assert_allclose(changed.max(axis=1), 2 / 3, rtol=1e-4)
    assert (changed.argmax(axis=1) == test.predictions).all()


def test_temperature_of_one_changes_nothing():
    test = random_test(3000, 4)
    np.testing.assert_allclose(
        apply_temperature(test.logits, 1.0), test.probabilities, rtol=1e-5
    )
