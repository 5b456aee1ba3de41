import dataclasses
import json

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from launchers import test_ensemble as launcher
from launchers import train
from worklab import Session, Tester
from worklab.checkpoints import (
    Checkpoints,
    checkpoint_path,
    load_checkpoint,
    with_averages,
)
from worklab.ensembles import (
    METHODS,
    WeightAverage,
    combine,
    combine_tests,
    find_members,
)
from worklab.exporting import export_weights
from worklab.metrics import classification_statistics
from worklab.options import (
    DataOptions,
    OptimizerOptions,
    ReaderOptions,
    ScheduleOptions,
    SessionOptions,
)
from worklab.pretrained.cards import read_card
from worklab.runs import load_network_class, read_run
from worklab.tester import TestResult, softmax

from .conftest import CLASS_NAMES, TinyNetwork


class OtherNetwork(TinyNetwork):
    def _construct(self, images):
        with self.scope("other"):
            x = self.global_pool(self.conv_block(images, 5, 3))
        return self.full_layer(x, self.num_classes, scope="logits")


def random_logits(members=3, images=40, classes=6, scale=3.0):
    rng = np.random.default_rng(0)
    return (scale * rng.normal(size=(members, images, classes))).astype(np.float32)


def result_of(logits, labels, names=None):
    probabilities = softmax(logits)
    losses = -np.log(probabilities[np.arange(len(labels)), labels])
    class_names = [str(n) for n in range(logits.shape[1])]
    return TestResult(
        step=7,
        split="test",
        statistics=classification_statistics(
            labels, probabilities, losses, class_names
        ),
        names=names or [f"{n}.png" for n in range(len(labels))],
        labels=labels,
        logits=logits,
        probabilities=probabilities,
        losses=losses,
        class_names=class_names,
    )


# === How answers are combined ===


def test_mean_is_that_of_the_probabilities():
    logits = random_logits(classes=2)  # of two classes: a logistic function
    expected = expit(logits[..., 1].astype(np.float64) - logits[..., 0]).mean(axis=0)
    np.testing.assert_allclose(combine(logits, "mean")[:, 1], expected, rtol=1e-5)


def test_geometric_mean_is_that_of_the_probabilities_made_to_add_up_to_one():
    logits = random_logits()
    expected = stats.gmean(softmax(logits.reshape(-1, 6)).reshape(logits.shape), axis=0)
    expected /= expected.sum(axis=1, keepdims=True)
    found = combine(logits, "geometric")
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # A number that all classes of a member share changes nothing.
    shifted = logits + np.float32([5, -3, 1])[:, None, None]
    np.testing.assert_allclose(combine(shifted, "geometric"), found, rtol=1e-4)


def test_vote_is_the_majority():
    logits = random_logits(members=5, images=200, classes=3)
    predictions = logits.argmax(axis=-1)
    counts = (predictions[..., None] == np.arange(3)).sum(axis=0)
    clear = np.sort(counts, axis=1)[:, -1] > np.sort(counts, axis=1)[:, -2]
    assert 50 < clear.sum() < 200
    modes = stats.mode(predictions, axis=0).mode
    found = combine(logits, "vote")
    np.testing.assert_array_equal(found.argmax(axis=1)[clear], modes[clear])
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    # Where two classes have as many votes, the mean decides between these two.
    mean = combine(logits, "mean")
    for row in np.flatnonzero(~clear):
        tied = np.flatnonzero(counts[row] == counts[row].max())
        assert found[row].argmax() == tied[mean[row, tied].argmax()]


def test_tie_is_decided_by_the_mean_and_never_a_majority():
    sure, unsure = np.log([0.98, 0.01, 0.01]), np.log([0.3, 0.4, 0.3])
    tie = np.float32([[sure], [unsure]])
    assert combine(tie, "vote").argmax() == 0
    majority = np.float32([[[50, 0, 0]], [unsure], [unsure]])
    assert combine(majority, "mean").argmax() == 0
    assert combine(majority, "vote").argmax() == 1


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_ensemble_of_one_and_the_same_is_that_one(count):
    labels = np.arange(40) % 6
    one = result_of(random_logits(1)[0], labels)
    for method in METHODS:
        found = combine_tests([one] * count, method)
        assert found.statistics.accuracy == one.statistics.accuracy
        assert found.statistics.confusion == one.statistics.confusion
        if method != "vote":
            np.testing.assert_array_equal(found.probabilities, one.probabilities)
            np.testing.assert_allclose(found.losses, one.losses, rtol=1e-5)


def test_loss_is_the_log_loss_of_the_combined_answers():
    logits, labels = random_logits(), np.arange(40) % 6
    tests = [result_of(each, labels) for each in logits]
    for method in METHODS:
        found = combine_tests(tests, method)
        expected = -np.log(combine(logits, method)[np.arange(40), labels])
        np.testing.assert_allclose(found.losses, expected, rtol=1e-4)
        assert found.statistics.loss == pytest.approx(expected.mean(), rel=1e-5)
    # Also where a probability is smaller than any number of float32.
    far = np.float32([[[0, 300]]])
    tests = [result_of(each, np.array([1])) for each in (far[0], far[0])]
    labels = np.array([0])
    hopeless = [dataclasses.replace(test, labels=labels) for test in tests]
    for method in ("mean", "geometric"):
        assert combine_tests(hopeless, method).losses == pytest.approx(300)
    assert np.isfinite(combine_tests(hopeless, "vote").losses).all()


def test_members_must_have_seen_the_same_images():
    logits, labels = random_logits()[0], np.arange(40) % 6
    one = result_of(logits, labels)
    other = result_of(logits[1:], labels[1:], one.names[1:])
    with pytest.raises(ValueError, match=r"same images.*Received: \[40, 39\]"):
        combine_tests([one, other], "mean")


# === Weights ===


def test_mean_of_weights_is_the_mean(tiny_network):
    other = TinyNetwork(3, image_shape=(8, 8, 3), seed=1)
    third = TinyNetwork(3, image_shape=(8, 8, 3), seed=2)
    networks = (tiny_network, other, third)
    average = WeightAverage()
    with pytest.raises(RuntimeError, match="`add` a network first"):
        average.assign_to(other)
    for network in networks:
        average.add(network)
    values = [
        {name: v.value.numpy() for name, v in network.variables.items()}
        for network in networks
    ]
    average.assign_to(third)
    for name, variable in third.variables.items():
        expected = np.mean([each[name] for each in values], axis=0)
        np.testing.assert_allclose(variable.value.numpy(), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"only weights of one network.*Received: `"):
        average.add(OtherNetwork(3, image_shape=(8, 8, 3)))


# === The launcher ===


@pytest.fixture(scope="module")
def runs(tiny_folder, tmp_path_factory):
    """Two runs of one network with an average of weights, and one of another."""
    folder = tmp_path_factory.mktemp("runs")
    for name, network, seed in (
        ("a", "TinyNetwork", 0),
        ("b", "TinyNetwork", 1),
        ("c", "OtherNetwork", 0),
    ):
        where = "tests.conftest" if network == "TinyNetwork" else "tests.test_ensembles"
        average = 0.5 if name == "a" else None
        train.main(
            train.Options(
                run=folder / name,
                num_steps=6,
                save_every=2,
                network=f"{where}:{network}",
                pretrained=None,
                data=DataOptions(folder=tiny_folder),
                reader=ReaderOptions(
                    image_size=(8, 8), batch_size=6, test_batch_size=4
                ),
                schedule=ScheduleOptions(learning_rate=0.05),
                optimizer=OptimizerOptions(average=average),
                session=SessionOptions(seed=seed, keep=9),
            )
        )
    return folder


def answers(run, step):
    """Test a checkpoint with nothing of the ensemble's code."""
    setup = read_run(run)
    arrays, state = load_checkpoint(checkpoint_path(run / "checkpoints", step))
    network = load_network_class(setup.network)(3, image_shape=(8, 8, 3))
    for name, array in with_averages(arrays, state).items():
        if name in network.variables:
            network.variables[name].assign(array)
    reader = launcher.make_reader("test", CLASS_NAMES, setup)
    return Tester(network, reader, Session(run), split="test").test()


def test_members_are_tested_and_combined(runs, capsys):
    options = launcher.Options(
        run=runs / "a",
        members=(f"{runs}/a@4", f"{runs}/a@latest", f"{runs}/b@6", f"{runs}/c@latest"),
        method="geometric",
    )
    result = launcher.main(options)
    names = ["step 4", "step 6", f"{runs}/b step 6", f"{runs}/c step 6"]
    assert list(result.members) == names
    expected = [
        answers(runs / run, step) for run, step in (("a", 4), ("a", 6), ("b", 6))
    ]
    for name, each in zip(names, expected, strict=False):
        np.testing.assert_array_equal(
            result.members[name].probabilities, each.probabilities
        )
    output = capsys.readouterr().out
    assert "4 members" in output
    for row in (*names, *METHODS):
        assert row.split("/")[-1] in output
    saved = json.loads((runs / "a/tests/ensemble.test.json").read_text())
    assert saved["method"] == "geometric"
    assert saved["loss"] == result.test.statistics.loss
    assert saved["ensembles"]["vote"]["num_images"] == 6
    assert saved["members"]["step 4"]["step"] == 4
    assert saved["step"] == 6
    rows = (runs / "a/tests/ensemble.test.csv").read_text().splitlines()
    assert len(rows) == 7
    assert "average weights" not in saved["ensembles"]


def test_snapshots_of_the_run_are_the_members(runs, tmp_path, tiny_folder):
    with pytest.raises(ValueError, match=r"has no snapshots.*\[0, 2, 4, 6\]"):
        launcher.main(launcher.Options(run=runs / "a"))
    options = train.Options(
        run=tmp_path / "cycles",
        num_steps=8,
        network="tests.conftest:TinyNetwork",
        pretrained=None,
        data=DataOptions(folder=tiny_folder),
        reader=ReaderOptions(image_size=(8, 8), batch_size=6, test_batch_size=4),
        schedule=ScheduleOptions(name="triangular", learning_rate=0.1, stepsize=1),
        session=SessionOptions(keep=1),
    )
    train.main(options)
    found = launcher.main(launcher.Options(run=options.run)).members
    assert list(found) == ["step 2", "step 4", "step 6", "step 8"]
    last = launcher.main(launcher.Options(run=options.run, last=2)).members
    assert list(last) == ["step 6", "step 8"]
    for name, test in last.items():
        np.testing.assert_array_equal(test.logits, found[name].logits)
    setup = read_run(options.run)
    named = find_members(options.run, setup, steps=(2, 6))
    assert [member.name for member in named] == ["step 2", "step 6"]


def test_mean_of_the_weights_is_tested_and_kept(runs, tmp_path, tiny_folder):
    output = runs / "b/export/average.safetensors"
    options = launcher.Options(
        run=runs / "b",
        steps=(2, 4, 6),
        average_weights=True,
        statistics_batches=0,
        output=output,
    )
    result = launcher.main(options)
    means = [
        load_checkpoint(checkpoint_path(runs / "b/checkpoints", n))[0]
        for n in (2, 4, 6)
    ]
    arrays, state = load_checkpoint(output)
    assert state["step"] == 6
    for name, array in arrays.items():
        if not name.endswith("seed_generator_state"):
            expected = np.mean([each[name] for each in means], axis=0)
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-7)
    assert read_card(output).class_names == CLASS_NAMES
    with pytest.raises(ValueError, match=r"is there already.*`--overwrite`"):
        launcher.main(options)

    estimated = launcher.main(
        dataclasses.replace(options, statistics_batches=2, overwrite=True)
    )
    again, _ = load_checkpoint(output)
    moved = {name for name in arrays if not np.array_equal(arrays[name], again[name])}
    assert moved == {
        name for name in arrays if "/moving_" in name and not name.startswith("frozen")
    }
    average = estimated.ensembles["average weights"]
    assert (
        average.statistics.loss != result.ensembles["average weights"].statistics.loss
    )

    # It is a member, a pretrained file, and can be exported like any checkpoint.
    member = launcher.main(launcher.Options(run=runs / "a", members=(str(output),)))
    np.testing.assert_array_equal(
        member.members[str(output)].probabilities, average.probabilities
    )
    assert export_weights(output, tmp_path / "w.safetensors") == len(again)
    setup = read_run(runs / "b")
    train.main(
        train.Options(
            run=tmp_path / "next",
            num_steps=1,
            network=setup.network,
            pretrained=output,
            data=setup.data,
            reader=setup.reader,
        )
    )
    begun, _ = load_checkpoint(checkpoint_path(tmp_path / "next/checkpoints", 0))
    np.testing.assert_array_equal(
        begun["slow/a/conv/kernel"], again["slow/a/conv/kernel"]
    )


def test_what_cannot_be_an_ensemble_is_refused(runs, tmp_path):
    def refused(message, **options):
        with pytest.raises(ValueError, match=message):
            launcher.main(launcher.Options(run=runs / "a", **options))

    a = str(runs / "a")
    refused("`--steps` of the run's own checkpoints or", steps=(2,), members=(a,))
    refused(r"`last` must be at least 1.*last=0", steps=(2,), last=0)
    refused(r"takes part once.*twice", steps=(2, 2))
    refused(r"no checkpoint of that step.*step=3", steps=(3,))
    refused("no checkpoint of .* is the best", members=(a,))
    for wrong in ("absent", f"{a}@newest", f"{tmp_path}/absent@3"):
        refused(r"a member is a run.*Received: `", members=(wrong,))
    refused("at least 0.*batches=-1", steps=(2,), statistics_batches=-1)
    output = tmp_path / "mean.safetensors"
    refused("`--average-weights` must be given, too", steps=(2,), output=output)
    average = {"steps": (2,), "average_weights": True}
    refused(r"is a file `\.\.\.safetensors`", output=tmp_path / "mean.h5", **average)
    mixed = (f"{a}@2", f"{runs}/c@2")
    refused("only weights of one network", members=mixed, average_weights=True)


def test_members_have_the_classes_of_the_run(runs, tmp_path):
    arrays, state = load_checkpoint(checkpoint_path(runs / "b/checkpoints", 2))
    other = Checkpoints(tmp_path).save(
        2, arrays, state | {"class_names": ["circle", "cross", "square"]}
    )
    with pytest.raises(
        ValueError, match=r"same classes in the same order.*cross', 'squ"
    ):
        launcher.main(launcher.Options(run=runs / "a", members=(str(other),)))
