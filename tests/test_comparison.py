import dataclasses
import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, precision_score, recall_score

from worklab import cli
from worklab.bootstrap import bootstrap_mean
from worklab.comparison import compare, mcnemar
from worklab.comparison_tool import compare_tests

from .made_tests import make_test, random_test


def permuted(test, order):
    return dataclasses.replace(
        test,
        names=[test.names[place] for place in order],
        labels=test.labels[order],
        logits=test.logits[order],
        probabilities=test.probabilities[order],
        losses=test.losses[order],
    )


@pytest.fixture
def tests():
    return [random_test(200, 4, seed=seed, hit=0.5 + seed / 2) for seed in (0, 1)]


def test_numbers_equal_their_definitions(tests):
    first, second = tests
    found = compare(first, second)
    right = [test.predictions == test.labels for test in tests]
    accuracies = [each.mean() for each in right]
    assert found.accuracy == pytest.approx(tuple(accuracies))
    assert found.accuracy_difference == pytest.approx(accuracies[1] - accuracies[0])
    assert found.loss_difference == pytest.approx(
        second.losses.mean() - first.losses.mean(), rel=1e-5
    )
    assert found.num_both_right == (right[0] & right[1]).sum()
    assert found.num_both_wrong == (~right[0] & ~right[1]).sum()
    gained, lost = (right[1] & ~right[0]).sum(), (right[0] & ~right[1]).sum()
    assert (len(found.gained), len(found.lost)) == (gained, lost)
    binomial = stats.binom(gained + lost, 0.5)
    tail = min(binomial.cdf(min(gained, lost)), binomial.sf(max(gained, lost) - 1))
    assert found.p_value == pytest.approx(min(1, 2 * tail))
    for label, each in enumerate(found.classes):
        for test, scores in ((first, each.first), (second, each.second)):
            for name, score in (
                ("precision", precision_score),
                ("recall", recall_score),
                ("f1", f1_score),
            ):
                expected = score(
                    test.labels, test.predictions, labels=[label], average="macro"
                )
                assert getattr(scores, name) == pytest.approx(expected)
        of_class = first.labels == label
        assert each.num_gained == (right[1] & ~right[0] & of_class).sum()
        assert each.num_lost == (right[0] & ~right[1] & of_class).sum()


def test_images_that_changed_are_named(tests):
    first, second = tests
    found = compare(first, second)
    places = {name: place for place, name in enumerate(first.names)}
    for changes, worse, better in (
        (found.gained, first, second),
        (found.lost, second, first),
    ):
        assert changes
        for change in changes:
            place = places[change.image]
            label = first.labels[place]
            assert change.label == first.class_names[label]
            assert worse.predictions[place] != label == better.predictions[place]
            assert change.predictions == tuple(
                test.class_names[test.predictions[place]] for test in tests
            )
            shares = [test.probabilities[place, label] for test in tests]
            assert change.probabilities == pytest.approx(shares)
        sizes = [abs(np.subtract(*change.probabilities)) for change in changes]
        assert sizes == sorted(sizes, reverse=True)


def test_pairs_make_the_interval_narrow():
    """Two tests that differ in few images, though accuracy itself is uncertain."""
    labels = np.zeros(400, int)
    answers = np.where(np.arange(400)[:, None] < 200, [0.9, 0.1], [0.1, 0.9])
    better = answers.copy()
    better[200:210] = [0.9, 0.1]
    found = compare(make_test(labels, answers), make_test(labels, better))
    assert found.accuracy_difference == pytest.approx(0.025)
    assert 0.005 < found.accuracy_interval.lower < 0.025
    assert found.accuracy_interval.upper < 0.045
    assert found.p_value == pytest.approx(2 * 0.5**10)
    unpaired = bootstrap_mean(np.arange(400) < 200)
    assert unpaired.upper - unpaired.lower > 0.08


def test_exchanged_tests_have_exchanged_numbers(tests):
    one, other = compare(*tests), compare(*tests[::-1])
    assert one.p_value == other.p_value
    assert one.accuracy_difference == -other.accuracy_difference
    assert [each.image for each in one.gained] == [each.image for each in other.lost]


def test_a_test_and_itself(tests):
    found = compare(tests[0], tests[0])
    assert (found.p_value, found.gained, found.lost) == (1.0, [], [])
    assert (found.accuracy_interval.lower, found.loss_interval.upper) == (0, 0)


def test_one_image_has_no_interval():
    found = compare(make_test([0], [[0.6, 0.4]]), make_test([0], [[0.4, 0.6]]))
    assert (found.accuracy_interval, found.loss_interval) == (None, None)
    assert (found.p_value, found.accuracy_difference) == (1.0, -1.0)
    assert found.classes[1].first.recall is None
    assert found.classes[1].second.precision == 0.0


def test_order_of_images_says_nothing(tests):
    first, second = tests
    order = np.random.default_rng(0).permutation(200)
    assert compare(first, permuted(second, order)) == compare(first, second)


def test_other_images_are_named(tests):
    first, second = tests
    other = dataclasses.replace(second, names=["z.png", *second.names[1:]])
    with pytest.raises(ValueError, match=r"in the first: 1 \['0.png'\]; .*'z.png'"):
        compare(first, other)
    with pytest.raises(ValueError, match=r"second: 0 \[\]$"):
        compare(first, permuted(second, np.arange(199)))
    doubled = dataclasses.replace(second, names=["1.png", *second.names[1:]])
    with pytest.raises(ValueError, match=r"in the second: 0"):
        compare(first, doubled)
    both = [
        permuted(doubled, order) for order in (np.arange(200), np.arange(200)[::-1])
    ]
    with pytest.raises(
        ValueError, match="199 names in another order or another number"
    ):
        compare(*both)


def test_other_classes_are_named(tests):
    first, second = tests
    names = ["cat", *second.class_names[1:]]
    with pytest.raises(
        ValueError, match=r"class by class.*first: 1 \['class 0'\]; .*cat"
    ):
        compare(first, dataclasses.replace(second, class_names=names))
    with pytest.raises(ValueError, match="the same 4 names in another order"):
        compare(first, dataclasses.replace(second, class_names=first.class_names[::-1]))


def test_other_labels_are_named(tests):
    first, second = tests
    labels = second.labels.copy()
    labels[3] = (labels[3] + 1) % 4
    with pytest.raises(
        ValueError, match=r"`3.png` is 'class \d' in the first.*1 images"
    ):
        compare(first, dataclasses.replace(second, labels=labels))


def test_answer_that_is_not_finite_names_the_image(tests):
    first, second = tests
    probabilities = second.probabilities.copy()
    probabilities[5] = np.nan
    with pytest.raises(ValueError, match=r"not finite.*Received: `5.png`"):
        compare(first, dataclasses.replace(second, probabilities=probabilities))


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (3, 12)])
def test_mcnemar_is_the_sum_of_the_binomials_tails(gained, lost):
    binomial = stats.binom(gained + lost, 0.5)
    expected = min(1.0, 2 * binomial.cdf(min(gained, lost)))
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == pytest.approx(expected)


def run_tool(*words):
    cli.run_commands(
        {"compare-tests": compare_tests, "other": compare},
        ["compare-tests", *map(str, words)],
    )


def test_tool_on_two_runs(tests, tmp_path, capsys):
    for name, test in zip(("a", "b"), tests, strict=True):
        test.save(tmp_path / name / "tests")
    path = tmp_path / "comparison.json"
    run_tool(tmp_path / "a", tmp_path / "b", "--json", path, "--num-shown", 2)
    output = capsys.readouterr().out
    found = compare(*tests)
    assert f"both have right: {found.num_both_right}" in output
    assert f"{found.accuracy_difference:+.2%}" in output
    assert "the second is better, by more than chance" in output
    assert output.count("only the second has right: ") == 3
    assert f"only the second has right: {len(found.gained) - 2} more" in output
    assert "2 more classes changed" in output
    content = json.loads(path.read_text())
    assert content["first"].endswith("a/tests/step-00000007.test.json")
    assert content["p_value"] == found.p_value
    assert len(content["lost"]) == len(found.lost)
    tests[1].save(tmp_path / "c/tests")  # with the answers of b
    files = [tmp_path / name / "tests/step-00000007.test.csv" for name in ("b", "c")]
    run_tool(*files)
    output = capsys.readouterr().out
    assert "p = 1, chance among images may explain" in output
    assert "has right:" not in output


def test_tool_names_what_is_missing(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    test = make_test([0, 1], [[0.9, 0.1], [0.2, 0.8]]).save(tmp_path / "c")
    with pytest.raises(SystemExit):
        run_tool(test, test.with_suffix(".csv"))
    assert "no better than itself" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        run_tool(tmp_path / "a", tmp_path / "b")
    assert error.value.code == 1
    assert "has no test of `test`" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_tool(tmp_path / "none", tmp_path / "a")
    assert "Received: no `" + str(tmp_path / "none") + "`" in capsys.readouterr().err
