"""Staged unfreezing: in force at the step, slots kept, resumed in the stage."""

import dataclasses

import numpy as np
import pytest
import tyro

from worklab import Session, Trainer, Writer
from worklab.checkpoints import digest, load_checkpoint
from worklab.options import OptimizerOptions, TrainingOptions
from worklab.stages import Stages

from .conftest import CLASS_NAMES, TinyNetwork

THAWING = {"0": {"slow": 0.0}, "3": {"slow": 0.1}, "5": {"frozen": 0.5, "slow": 1.0}}


def make_trainer(run, reader, *, stages=THAWING, optimizer=OptimizerOptions()):
    trainer = Trainer(
        TinyNetwork(3, image_shape=(8, 8, 3)),
        reader,
        Session(run),
        Writer(run),
        learning_rate=lambda step: 0.1,
        optimizer=optimizer,
        options=TrainingOptions(stages=stages),
    )
    trainer.session.start(trainer.network, CLASS_NAMES)
    return trainer


def values(network):
    return {name: v.value.numpy() for name, v in network.variables.items()}


def changed_scopes(before, after):
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    return {name.partition("/")[0] for name in changed}


def test_scopes_learn_from_their_stage_on(tmp_path, tiny_reader):
    trainer = make_trainer(tmp_path, tiny_reader)
    points = [values(trainer.network)]
    for num_steps in (3, 2, 1):
        trainer.train(num_steps)
        points.append(values(trainer.network))
        assert trainer.num_traces == 1
    # Moving statistics of a frozen scope count as changes, too.
    assert changed_scopes(points[0], points[1]) == {"logits"}
    assert changed_scopes(points[1], points[2]) == {"logits", "slow"}
    assert changed_scopes(points[2], points[3]) == {"logits", "slow", "frozen"}
    assert trainer.network.policies["slow/a/conv"].lr_mult == 1.0


def test_multiplier_alone_changes_the_update(tmp_path, tiny_reader):
    moves = []
    for number, later in enumerate((0.1, 0.2)):
        trainer = make_trainer(
            tmp_path / str(number),
            tiny_reader,
            stages={"2": {"slow": later}},
            optimizer=OptimizerOptions(momentum=0.0),
        )
        trainer.train(2)
        before = values(trainer.network)
        trainer.train(1)
        kernel = "slow/a/conv/kernel"
        moves.append(values(trainer.network)[kernel] - before[kernel])
    np.testing.assert_allclose(moves[1], 2 * moves[0], rtol=1e-3, atol=1e-7)


@pytest.mark.stress
def test_resume_in_any_stage_is_as_if_never_stopped(tmp_path, tiny_reader):
    optimizer = OptimizerOptions(name="adam")
    trainer = make_trainer(tmp_path / "whole", tiny_reader, optimizer=optimizer)
    trainer.train(7)
    trainer.session.save()
    trainer.session.finish()

    for stop in (2, 4, 6, 7):  # in the first stage, the second, the third, at the end
        again = make_trainer(tmp_path / "parts", tiny_reader, optimizer=optimizer)
        with again.session:
            before = values(again.network)
            again.train(stop - again.session.step)
            again.session.save()
        changed = changed_scopes(before, values(again.network))
        assert (
            changed
            == {
                2: {"logits"},
                4: {"logits", "slow"},
                6: {"logits", "slow", "frozen"},
                7: {"logits", "slow", "frozen"},
            }[stop]
        )
    arrays = [
        load_checkpoint(tmp_path / run / "checkpoints/step-00000007.safetensors")[0]
        for run in ("whole", "parts")
    ]
    assert digest(arrays[0]) == digest(arrays[1])


def test_optimizer_goes_on_where_a_stage_begins(tmp_path, tiny_reader):
    trainer = make_trainer(tmp_path, tiny_reader)
    trainer.train(3)
    slots = {v.path: v.value.numpy() for v in trainer.optimizer.variables}
    kernel = "sgd/logits_kernel_momentum"
    assert np.abs(slots[kernel]).max() > 0
    assert np.abs(slots["sgd/slow.a.conv_kernel_momentum"]).max() == 0
    trainer.enter_stage()
    after = {v.path: v.value.numpy() for v in trainer.optimizer.variables}
    for path, value in slots.items():
        np.testing.assert_array_equal(value, after[path])
    assert after["sgd/iteration"] == 3


def test_adam_counts_from_where_a_layer_began_to_learn(tmp_path, tiny_reader):
    trainer = make_trainer(
        tmp_path,
        tiny_reader,
        stages={"0": {"slow": 0}, "30": {"slow": 1}},
        optimizer=OptimizerOptions(name="adam", epsilon=1e-12),
    )
    trainer.train(30)
    before = values(trainer.network)["slow/a/bn/beta"]
    trainer.train(1)
    moved = np.abs(values(trainer.network)["slow/a/bn/beta"] - before)
    # Adam's first update has the size of the learning rate, whatever the gradient;
    # counted from the start of the run it would be 1.7 times as much.
    np.testing.assert_allclose(moved[moved > 0], 0.1, rtol=1e-3)


def test_adam_counts_right_after_a_skip_and_after_going_back(tmp_path, tiny_reader):
    """What it divides by is 0 for a count of 0, so a wrong count would be NaN."""
    trainer = make_trainer(
        tmp_path,
        tiny_reader,
        stages={"0": {"slow": 0}, "3": {"slow": 1}},
        optimizer=OptimizerOptions(name="adam"),
    )
    trainer._skipped = {2}
    trainer.train(2)
    trainer.session.best_step = 2
    trainer.session.save()
    trainer.train(3)
    counts = trainer.optimizer.counts
    assert {int(count.value.numpy()) for count in counts.values()} == {2}
    trainer.session.restore_best()  # as patience does; the step goes on
    trainer.train(2)
    assert {int(count.value.numpy()) for count in counts.values()} == {2}
    assert int(trainer.optimizer.iterations.value.numpy()) == 3


def test_nadam_cannot_begin_later(tmp_path, tiny_reader):
    with pytest.raises(ValueError, match="`--optimizer.name adam`.* begin later"):
        make_trainer(tmp_path, tiny_reader, optimizer=OptimizerOptions(name="nadam"))


def test_layer_frozen_by_hand_before_is_not_thawed(tmp_path, tiny_reader):
    network = TinyNetwork(3, image_shape=(8, 8, 3))
    layer = network.keras_layer("slow/a/conv")
    layer.trainable = False
    Stages(network, {"2": {"logits": 0.5}}).enter(2)
    assert not layer.trainable
    assert network.policies["logits"].lr_mult == 0.5


def test_layer_frozen_by_hand_stays_from_then_on(tmp_path, tiny_reader):
    trainer = make_trainer(tmp_path, tiny_reader, stages={})
    trainer.train(2)
    for path in trainer.network.policies:
        if path.startswith("slow/"):
            trainer.network.keras_layer(path).trainable = False
    before = values(trainer.network)
    trainer.train(2)
    assert changed_scopes(before, values(trainer.network)) == {"logits"}


def test_layer_thawed_by_hand_is_an_error(tmp_path, tiny_reader):
    trainer = make_trainer(tmp_path, tiny_reader, stages={})
    trainer.train(1)
    trainer.network.keras_layer("frozen/conv").trainable = True
    with pytest.raises(RuntimeError, match=r"stages=\{.*trainable variables at step 1"):
        trainer.train(1)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"soon": {"slow": 0.1}}, "whole number of steps: .*Received: 'soon'"),
        ({"-1": {"slow": 0.1}}, "Received: '-1'"),
        ({"3": {"slwo": 0.1}}, r"nearest are \['slow'.*Received: 'slwo'"),
        ({"3": {"slow": -0.1}}, "`--stages` of `slow` must be at least 0"),
        ({"3": {"slow": 0.1}, "03": {"slow": 0.2}}, "a step of its own.*'3', '03'"),
        (
            {"3": {"slow": 0, "logits": 0}},
            "no layer of `TinyNetwork` can learn from step 3 on",
        ),
    ],
)
def test_impossible_stage_is_an_error(tiny_network, stages, message):
    with pytest.raises(ValueError, match=message):
        Stages(tiny_network, stages)


def test_stages_and_kept_outputs_of_frozen_layers_exclude_each_other(
    tmp_path, tiny_reader
):
    with pytest.raises(ValueError, match="no stage can thaw them.*stages="):
        Trainer(
            TinyNetwork(3, image_shape=(8, 8, 3)),
            tiny_reader,
            Session(tmp_path),
            Writer(tmp_path),
            learning_rate=lambda step: 0.1,
            options=TrainingOptions(stages=THAWING, cache_features=True),
        )


@dataclasses.dataclass(frozen=True)
class Options:
    training: TrainingOptions = TrainingOptions()


def test_stages_are_words_of_the_command_line():
    words = ["--stages", "0:stem=0,stage1=0", "500:stage1=0.1"]
    options = tyro.cli(Options, args=words)
    expected = {"0": {"stem": 0.0, "stage1": 0.0}, "500": {"stage1": 0.1}}
    assert options.training.stages == expected
    again = tyro.cli(Options, args=["--training.log-every", "3"], default=options)
    assert again.training.stages == expected


@pytest.mark.parametrize(
    "word", ["500", "500:stem", "x:stem=1", "500:stem=a", "500:stem=1,stem=2"]
)
def test_misspelt_stage_is_an_error(word, capsys):
    with pytest.raises(SystemExit) as exit_info:
        tyro.cli(Options, args=["--stages", word])
    assert exit_info.value.code == 2
    assert "--stages" in capsys.readouterr().err
