import numpy as np
import pytest
from sklearn import metrics

from worklab.curves import class_curves

from .made_tests import random_test


def curves_of(labels, scores, **settings):
    """Those of the second of two classes."""
    scores = np.asarray(scores, np.float32)
    probabilities = np.stack([1 - scores, scores], axis=1)
    return [*class_curves(np.asarray(labels), probabilities, **settings)][1]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("num_images", [2, 3, 20, 500])
def test_areas_equal_scikit_learn(num_images, ties):
    test = random_test(num_images, 4, ties=ties, hit=0.7)
    for label, found in enumerate(class_curves(test.labels, test.probabilities)):
        of_class, scores = test.labels == label, test.probabilities[:, label]
        if not of_class.any():
            assert found.roc_auc is found.average_precision is found.roc is None
            assert found.at_specificity == found.at_sensitivity == []
            continue
        expected = metrics.average_precision_score(of_class, scores)
        assert found.average_precision == pytest.approx(expected, abs=1e-12)
        if not of_class.all():
            expected = metrics.roc_auc_score(of_class, scores)
            assert found.roc_auc == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_whole_curves_equal_scikit_learn(ties):
    test = random_test(300, 3, ties=ties, hit=0.7)
    found = [*class_curves(test.labels, test.probabilities, num_points=10**6)]
    for label, curves in enumerate(found):
        of_class, scores = test.labels == label, test.probabilities[:, label]
        false, true, thresholds = metrics.roc_curve(of_class, scores)
        np.testing.assert_allclose(curves.roc.false_positive_rate, false)
        np.testing.assert_allclose(curves.roc.true_positive_rate, true)
        assert curves.roc.thresholds[0] is None
        np.testing.assert_allclose(curves.roc.thresholds[1:], thresholds[1:])
        precision, recall, _ = metrics.precision_recall_curve(of_class, scores)
        best = {r: precision[recall == r].max() for r in {*recall} - {0.0}}
        own = curves.precision_recall
        assert dict(zip(own.recall, own.precision, strict=True)) == pytest.approx(best)


def test_thinned_curves_are_near_the_whole_ones():
    test = random_test(5000, 2, hit=0.5)
    whole, thin = (
        [*class_curves(test.labels, test.probabilities, num_points=points)][1]
        for points in (10**6, 50)
    )
    assert len(whole.roc.thresholds) > 500
    assert 40 <= len(thin.roc.thresholds) <= 50
    points, known = (
        {*zip(each.roc.false_positive_rate, each.roc.true_positive_rate, strict=True)}
        for each in (thin, whole)
    )
    assert points <= known
    assert {(0.0, 0.0), (1.0, 1.0)} <= points
    off = np.interp(
        whole.roc.false_positive_rate,
        thin.roc.false_positive_rate,
        thin.roc.true_positive_rate,
    ) - np.array(whole.roc.true_positive_rate)
    assert np.abs(off).max() < 2 / 49
    assert thin.roc_auc == whole.roc_auc
    assert thin.average_precision == whole.average_precision
    assert len(thin.precision_recall.recall) <= 50
    assert np.diff([0, *thin.precision_recall.recall]).max() < 2 / 49
    assert thin.precision_recall.recall[-1] == 1


def test_precision_of_a_rare_class_is_kept_where_it_falls():
    """All of its points lie where hardly an image of another class is called it."""
    rng = np.random.default_rng(0)
    labels = np.arange(20_000) < 20
    scores = rng.random(20_000) * np.where(labels, 1, 0.999)
    found = curves_of(labels.astype(int), scores, num_points=50)
    assert len(found.precision_recall.recall) == 20


def test_order_says_nothing():
    test = random_test(200, 3, ties=True)
    order = np.random.default_rng(1).permutation(200)
    one = [*class_curves(test.labels, test.probabilities)]
    other = [*class_curves(test.labels[order], test.probabilities[order])]
    assert one == other


def test_operating_points_are_the_best_that_reach_the_target():
    labels = [0] * 10 + [1] * 10
    scores = np.concatenate([np.arange(10) / 20, 0.22 + np.arange(10) / 20])
    found = curves_of(labels, scores, operating_points=(0.9, 0.0, 1.0))
    high, zero, one = found.at_specificity
    # One of ten others may be above: 0.45 is, 0.4 is not.
    assert (high.sensitivity, high.specificity) == pytest.approx((0.6, 0.9))
    assert high.threshold == pytest.approx(0.42)
    assert (zero.sensitivity, zero.target) == (1.0, 0.0)
    assert zero.specificity == pytest.approx(0.5)  # not less than it costs
    assert (one.sensitivity, one.specificity) == pytest.approx((0.5, 1.0))
    high, zero, one = found.at_sensitivity
    assert (high.sensitivity, high.specificity) == pytest.approx((0.9, 0.6))
    assert (zero.sensitivity, zero.specificity, zero.threshold) == (0.0, 1.0, None)
    assert (one.sensitivity, one.specificity) == pytest.approx((1.0, 0.5))


@pytest.mark.parametrize("target", [0.5, 0.9, 0.95, 0.99])
def test_operating_points_equal_a_search_over_scikit_learns_curve(target):
    test = random_test(400, 3, ties=True, hit=0.7)
    curves = class_curves(test.labels, test.probabilities, operating_points=[target])
    for label, found in enumerate(curves):
        false, true, _ = metrics.roc_curve(
            test.labels == label, test.probabilities[:, label], drop_intermediate=False
        )
        best = true[1 - false >= target - 1e-9].max()
        assert found.at_specificity[0].sensitivity == pytest.approx(best)
        best = (1 - false)[true >= target - 1e-9].max()
        assert found.at_sensitivity[0].specificity == pytest.approx(best)


def test_threshold_does_what_the_point_says():
    test = random_test(300, 2, hit=0.5)
    for point in [*class_curves(test.labels, test.probabilities)][1].at_specificity:
        called = test.probabilities[:, 1] >= point.threshold
        assert called[test.labels == 1].mean() == pytest.approx(point.sensitivity)
        assert 1 - called[test.labels == 0].mean() == pytest.approx(point.specificity)


def test_only_the_class_itself():
    found = curves_of([1, 1], [0.2, 0.7])
    assert (found.roc_auc, found.average_precision) == (None, 1.0)
    assert found.roc is found.precision_recall is None


def test_all_the_same_probability():
    found = curves_of([0, 1, 1, 1], [0.5] * 4)
    assert (found.roc_auc, found.average_precision) == (0.5, 0.75)
    assert found.roc.true_positive_rate == [0.0, 1.0]
    assert found.at_specificity[0].sensitivity == 0
