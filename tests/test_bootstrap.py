import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from worklab.bootstrap import bootstrap_intervals, bootstrap_mean

from .made_tests import random_test


def intervals_of(test, **settings):
    return bootstrap_intervals(test.labels, test.predictions, test.losses, **settings)


def test_intervals_equal_scikit_learn_on_the_same_resamples():
    test = random_test(80, 4, hit=0.5)
    found = intervals_of(test, num_resamples=50, seed=3)
    order = np.lexsort((test.losses, test.predictions, test.labels))
    labels, predictions, losses = (
        each[order] for each in (test.labels, test.predictions, test.losses)
    )
    rng, rows = np.random.default_rng(3), []
    for _ in range(50):
        drawn = rng.integers(80, size=80)
        rows.append(
            (
                (labels[drawn] == predictions[drawn]).mean(),
                losses[drawn].mean(),
                f1_score(labels[drawn], predictions[drawn], average="macro"),
            )
        )
    rows = np.array(rows)
    rows[:, 2] += f1_score(labels, predictions, average="macro") - rows[:, 2].mean()
    lower, upper = np.quantile(rows, [0.025, 0.975], axis=0)
    intervals = (found.accuracy, found.loss, found.macro_f1)
    np.testing.assert_allclose([each.lower for each in intervals], lower, rtol=1e-6)
    np.testing.assert_allclose([each.upper for each in intervals], upper, rtol=1e-6)


def test_interval_of_many_small_classes_is_around_their_number():
    test = random_test(2000, 200, hit=3.0)
    found = intervals_of(test, num_resamples=200).macro_f1
    macro_f1 = f1_score(test.labels, test.predictions, average="macro")
    assert found.lower < macro_f1 - 0.002
    assert macro_f1 + 0.002 < found.upper


def test_interval_of_the_accuracy_is_that_of_the_binomial():
    test = random_test(400, 3, hit=0.5)
    found = intervals_of(test, num_resamples=3000)
    expected = stats.binom(400, test.statistics.accuracy).ppf([0.025, 0.975]) / 400
    bounds = (found.accuracy.lower, found.accuracy.upper)
    np.testing.assert_allclose(bounds, expected, atol=0.005)


def test_interval_of_the_loss_is_that_of_scipy():
    test = random_test(200, 3)
    own = intervals_of(test, num_resamples=3000).loss
    peer = stats.bootstrap(
        (test.losses,), np.mean, method="percentile", n_resamples=3000, rng=0
    ).confidence_interval
    width = float(peer.high - peer.low)
    assert own.lower == pytest.approx(peer.low, abs=0.05 * width)
    assert own.upper == pytest.approx(peer.high, abs=0.05 * width)


def test_seed_decides_and_order_says_nothing():
    test = random_test(100, 3)
    order = np.random.default_rng(1).permutation(100)
    other = bootstrap_intervals(
        test.labels[order], test.predictions[order], test.losses[order]
    )
    assert intervals_of(test) == other
    assert intervals_of(test, seed=1) != other
    wide, narrow = (intervals_of(test, level=level).loss for level in (0.99, 0.5))
    assert wide.lower < narrow.lower < narrow.upper < wide.upper


def test_fewer_than_two_images_have_no_interval():
    assert intervals_of(random_test(1, 3)) is None
    assert bootstrap_mean(np.array([0.5])) is None


def test_all_wrong_and_all_right():
    test = random_test(20, 3, hit=50)
    assert test.statistics.accuracy == 1
    found = intervals_of(test, num_resamples=20)
    assert (found.accuracy.lower, found.macro_f1.upper) == (1, 1)
    wrong = bootstrap_intervals(
        test.labels, (test.labels + 1) % 3, test.losses, num_resamples=20
    )
    assert (wrong.accuracy.upper, wrong.macro_f1.upper) == (0, 0)


def test_mean_equals_scipy():
    values = np.random.default_rng(0).normal(size=150)
    own = bootstrap_mean(values, num_resamples=3000)
    peer = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=3000, rng=0
    ).confidence_interval
    assert (own.lower, own.upper) == pytest.approx((peer.low, peer.high), abs=0.02)
