import json

import pytest

from launchers import train_and_test, train_with_hyper, train_with_patience
from worklab.checkpoints import digest, load_checkpoint
from worklab.options import AugmentOptions, DataOptions, ReaderOptions
from worklab.sequences import TrainingSequence, hyper_rule


@pytest.mark.parametrize(
    ("num_images", "ends", "warmup", "mixup"),
    [
        (10, (200, 300, 400, 500), 100, 0.0),
        (19_999, (200, 300, 400, 500), 100, 0.0),
        (20_000, (3000, 6000, 9000, 10_000), 500, 0.1),
        (499_999, (3000, 6000, 9000, 10_000), 500, 0.1),
        (500_000, (6000, 12_000, 18_000, 20_000), 500, 0.1),
    ],
)
def test_hyper_rule_is_that_of_bit(num_images, ends, warmup, mixup):
    rule = hyper_rule(num_images)
    sequence = TrainingSequence(rule.segments, warmup_steps=rule.warmup_steps)
    assert sequence.ends == list(ends)
    assert (rule.warmup_steps, rule.mixup) == (warmup, mixup)
    # `get_lr` of the authors' code, which counts from 0 and falls one step later.
    for step in range(0, ends[-1] - 1, 7):
        if step < warmup:
            expected = 0.003 * (step + 1) / warmup
        else:
            expected = 0.003 / 10 ** sum(end <= step for end in ends[:-1])
        assert sequence.learning_rate(step) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("segments", "warmup"),
    [
        ([], 0),
        ([(0, 0.1)], 0),
        ([(5, 0.0)], 0),
        ([(5, float("nan"))], 0),
        ([(5, 1)], -1),
    ],
)
def test_impossible_sequence_is_an_error(segments, warmup):
    with pytest.raises(ValueError, match="at least one pair of steps.*Received: "):
        TrainingSequence(segments, warmup_steps=warmup)


def options_for(run, folder, **settings):
    return train_and_test.Options(
        run=run,
        network="tests.conftest:TinyNetwork",
        pretrained=None,
        data=DataOptions(folder=folder),
        reader=ReaderOptions(image_size=(8, 8), batch_size=6, test_batch_size=4),
        **settings,
    )


def test_each_part_is_tested_and_a_resume_is_as_if_never_stopped(
    tmp_path, tiny_folder, capsys
):
    parts = ((3, 0.1), (2, 0.01))
    whole = options_for(tmp_path / "whole", tiny_folder, sequence=parts)
    result = train_and_test.main(whole)
    assert [part["step"] for part in result["sequence"]] == [3, 5]
    assert result["test"]["num_images"] == 6
    assert "test of the last checkpoint" in capsys.readouterr().out
    assert train_and_test.main(whole) == result  # complete: shown again

    # Stopped before the second part was tested; the first is not tested again.
    killed = options_for(tmp_path / "killed", tiny_folder, sequence=parts)
    train_and_test.main(killed)
    (killed.run / "result.json").unlink()
    (killed.run / "checkpoints/step-00000005.safetensors").unlink()
    assert train_and_test.main(killed) == result
    arrays = [
        load_checkpoint(run / "checkpoints/step-00000005.safetensors")[0]
        for run in (whole.run, killed.run)
    ]
    assert digest(arrays[0]) == digest(arrays[1])


def test_rule_chooses_the_sequence_and_mixup(tmp_path, tiny_folder, monkeypatch):
    seen = []

    def small_rule(num_images, learning_rate):
        seen.append((num_images, learning_rate))
        rule = hyper_rule(20_000, learning_rate)
        return type(rule)(((1, learning_rate), (1, 1e-4)), 1, rule.mixup)

    monkeypatch.setattr(train_and_test, "hyper_rule", small_rule)
    options = options_for(tmp_path, tiny_folder, rule_learning_rate=0.01)
    result = train_and_test.main(options)
    assert seen == [(18, 0.01)]
    assert [part["learning_rate"] for part in result["sequence"]] == [0.01, 1e-4]
    saved = json.loads((tmp_path / "run.json").read_text())["options"]
    assert saved["augment"]["mixup"] == 0.1
    off = options_for(tmp_path / "off", tiny_folder, rule_mixup=False)
    train_and_test.main(off)
    saved = json.loads((off.run / "run.json").read_text())["options"]
    assert saved["augment"]["mixup"] == AugmentOptions().mixup


def test_number_of_the_rule_beside_a_sequence_is_an_error(tmp_path, tiny_folder):
    options = options_for(
        tmp_path, tiny_folder, sequence=((1, 0.1),), rule_learning_rate=0.1
    )
    with pytest.raises(ValueError, match="`rule_learning_rate` is of the rule"):
        train_and_test.main(options)
    options = options_for(tmp_path, tiny_folder, rule_learning_rate=-1.0)
    with pytest.raises(ValueError, match="`rule_learning_rate` must be above 0"):
        train_and_test.main(options)


def test_loss_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match="at step 2 is not finite.*loss=nan"):
        TrainingSequence([(2, 0.1)]).add(2, loss=float("nan"), accuracy=0.1)


def test_run_of_another_launcher_is_an_error(tmp_path, tiny_folder):
    tested = {"step": 3, "test": {}}
    (tmp_path / "result.json").write_text(json.dumps(tested))
    for call in (
        lambda: train_and_test.main(options_for(tmp_path, tiny_folder)),
        lambda: train_with_patience.main(train_with_patience.Options(run=tmp_path)),
        lambda: train_with_hyper.main(train_with_hyper.Options(run=tmp_path)),
    ):
        with pytest.raises(ValueError, match="completed by another launcher"):
            call()
