import dataclasses
import json

import numpy as np
import pytest
from sklearn import metrics

from worklab.report_statistics import (
    cohen_kappa,
    detailed_statistics,
    group_statistics,
)

from .made_tests import make_test, random_test


@pytest.mark.parametrize("hit", [-3.0, 0.0, 1.0, 50.0])
@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("num_images", [1, 2, 5, 60])
def test_numbers_equal_scikit_learn(num_images, num_classes, hit):
    """Over tests that lack classes, are all right or all wrong, or of one image."""
    test = random_test(num_images, num_classes, hit=hit, ties=hit == 1)
    found = detailed_statistics(test, num_resamples=5)
    labels, predictions = test.labels, test.predictions
    report = metrics.classification_report(
        labels,
        predictions,
        labels=range(num_classes),
        target_names=test.class_names,
        output_dict=True,
        zero_division=np.nan,
    )
    for each in found.classes:
        expected = report[each.name]
        assert each.support == expected["support"]
        assert each.num_predicted == (predictions == int(each.name.split()[1])).sum()
        for name, key in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score")):
            share = getattr(each, name)
            if np.isnan(expected[key]):
                assert share is None
            else:
                assert share == pytest.approx(expected[key], abs=1e-12)
    for name, average in found.averages.items():
        for key, score in (
            ("precision", metrics.precision_score),
            ("recall", metrics.recall_score),
            ("f1", metrics.f1_score),
        ):
            expected = score(labels, predictions, average=name, zero_division=0)
            assert getattr(average, key) == pytest.approx(expected, abs=1e-12)
    present = np.unique(labels)
    expected = metrics.recall_score(
        labels, predictions, labels=present, average="macro"
    )
    assert found.balanced_accuracy == pytest.approx(expected, abs=1e-12)
    if len({*labels, *predictions}) > 1:
        expected = metrics.cohen_kappa_score(labels, predictions)
        assert found.cohen_kappa == pytest.approx(expected, abs=1e-12)
    else:
        assert found.cohen_kappa is None
    json.dumps(found.to_json(), allow_nan=False)


def test_mean_area_is_that_of_scikit_learn():
    test = random_test(300, 4, hit=0.5)
    probabilities = test.probabilities.astype(float)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = metrics.roc_auc_score(test.labels, probabilities, multi_class="ovr")
    found = detailed_statistics(test, num_resamples=5)
    assert found.roc_auc == pytest.approx(expected, abs=1e-6)
    expected = metrics.average_precision_score(
        np.eye(4)[test.labels], test.probabilities, average="macro"
    )
    assert found.average_precision == pytest.approx(expected, abs=1e-6)
    expected = metrics.balanced_accuracy_score(test.labels, test.predictions)
    assert found.balanced_accuracy == pytest.approx(expected, abs=1e-12)


def test_absent_class():
    test = make_test([0, 0, 1], [[0.5, 0.2, 0.3], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1]])
    *_, absent = detailed_statistics(test).classes
    assert (absent.support, absent.num_predicted) == (0, 1)
    assert (absent.precision, absent.recall, absent.f1) == (0.0, None, 0.0)
    assert absent.curves.roc_auc is absent.curves.roc is None


def test_one_image():
    found = detailed_statistics(
        make_test([1], [[0.2, 0.8]]), groups={"all": ["class 0", "class 1"]}
    )
    assert (found.intervals, found.cohen_kappa, found.roc_auc) == (None, None, None)
    assert found.average_precision == 1.0
    assert found.balanced_accuracy == 1.0
    assert found.groups.confusion == [[1]]
    assert found.calibration.equal_width.expected_calibration_error == pytest.approx(
        0.2
    )
    assert len(found.calibration.equal_mass.bins) == 1


def test_all_is_independent_of_the_order_of_images():
    test = random_test(200, 4, ties=True)
    order = np.random.default_rng(1).permutation(200)
    other = dataclasses.replace(
        test,
        names=[test.names[place] for place in order],
        labels=test.labels[order],
        logits=test.logits[order],
        probabilities=test.probabilities[order],
        losses=test.losses[order],
    )
    one, two = (
        json.dumps(detailed_statistics(each, valid=each, num_resamples=20).to_json())
        for each in (test, other)
    )
    assert _rounded(json.loads(one)) == _rounded(json.loads(two))


def _rounded(content):
    if isinstance(content, dict):
        return {name: _rounded(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    return round(content, 6) if isinstance(content, float) else content


def test_json_keeps_what_every_test_has():
    test = random_test(30, 6)
    content = detailed_statistics(test, valid=test, num_resamples=5).to_json()
    known = test.statistics.to_json()
    assert {name: content[name] for name in known} == known
    assert content["classes"][2]["curves"]["roc"]["thresholds"][0] is None
    assert content["temperature"]["temperature"] > 0


def test_temperature_is_fitted_on_the_valid_test():
    valid = random_test(500, 4, seed=1, hit=1.0, split="valid", step=9)
    test = random_test(300, 4, seed=2, hit=1.0)
    found = detailed_statistics(test, valid=valid, num_resamples=5)
    assert (found.temperature.split, found.temperature.step) == ("valid", 9)
    assert found.temperature.temperature > 1.5  # the logits were doubled
    assert found.temperature.after.log_loss < found.calibration.log_loss
    assert (
        found.temperature.after.equal_width.expected_calibration_error
        < found.calibration.equal_width.expected_calibration_error
    )
    assert detailed_statistics(test, num_resamples=5).temperature is None


def test_temperature_of_a_perfect_valid_test_is_none():
    test = random_test(50, 3)
    valid = random_test(50, 3, hit=50)
    found = detailed_statistics(test, valid=valid, num_resamples=5).temperature
    assert (found.temperature, found.after) == (None, None)


def test_valid_test_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"same network.*Received: \['class 0', 'cl"):
        detailed_statistics(random_test(9, 3), valid=random_test(9, 2))


def test_groups_are_blocks_of_the_confusion():
    test = random_test(200, 5, hit=0.5)
    groups = {"odd": ["class 1", "class 3"], "even": ["class 4", "class 0", "class 2"]}
    found = group_statistics(test, groups)
    confusion = np.array(test.statistics.confusion)
    blocks = [[1, 3], [0, 2, 4]]
    expected = [[confusion[np.ix_(a, b)].sum() for b in blocks] for a in blocks]
    assert found.confusion == expected
    assert found.names == ["odd", "even"]
    assert found.accuracy == pytest.approx(np.trace(expected) / 200)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": ["class 0"]}, r"Received: no group for \['class 1', 'class 2'\]"),
        ({"a": ["class 0", "cat"]}, r"Received: 'cat' in 'a'$"),
        (
            {"a": ["class 0", "class 1"], "b": ["class 1"]},
            r"Received: 'class 1' in 'b' and in 'a'",
        ),
        ({}, r"no group for"),
    ],
)
def test_groups_that_are_none(groups, message):
    with pytest.raises(ValueError, match=message):
        group_statistics(random_test(5, 3), groups)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_points": 1}, r"at least 2 points.*num_points=1"),
        ({"num_resamples": 0}, r"num_resamples=0"),
        ({"operating_points": [95]}, r"shares in 0..1.*operating_points=\[95\]"),
    ],
)
def test_numbers_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        detailed_statistics(random_test(5, 3), **settings)


@pytest.mark.parametrize("num_classes", [2, 9])
def test_answer_that_is_not_finite_names_the_image(num_classes):
    message = r"for 1 images are not finite.*Received: `3.png` ->"
    fine = random_test(5, num_classes)
    probabilities = fine.probabilities.copy()
    probabilities[3, 1] = np.nan
    with pytest.raises(ValueError, match=message):
        make_test(fine.labels, probabilities)
    test = dataclasses.replace(fine, probabilities=probabilities)
    with pytest.raises(ValueError, match=message):
        detailed_statistics(test)
    with pytest.raises(ValueError, match=message):
        detailed_statistics(fine, valid=test)


def test_test_without_images_is_refused():
    with pytest.raises(ValueError, match="Received: 0 images"):
        make_test([], np.zeros((0, 3)))


def test_kappa_of_chance_is_zero():
    labels = np.repeat([0, 1], 50)
    assert cohen_kappa(labels, np.tile([0, 1], 50)) == pytest.approx(0)
    assert cohen_kappa(labels, 1 - labels) == pytest.approx(-1)
