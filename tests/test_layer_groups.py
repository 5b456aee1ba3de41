import csv
from pathlib import Path

import numpy as np
import pytest

from worklab import Network
from worklab.layer_groups import LayerGroups, group_layers
from worklab.options import (
    AugmentOptions,
    OptimizerOptions,
    ReaderOptions,
    TrainingOptions,
)
from worklab.readers import ArrayReader
from worklab.stages import Stages

from .conftest import TinyNetwork
from .test_devices import train as train_on
from .test_trainer import make_trainer, values

STAGES = {"0": {"slow": 0.0}, "3": {"slow/a": 0.1, "slow/b": 0.2}}


def rows(run: Path):
    with open(run / "layers.csv", newline="") as file:
        return [
            (
                int(row["step"]),
                row["group"],
                float(row["learning_rate"]),
                row["update_to_weight"],
            )
            for row in csv.DictReader(file)
        ]


def test_scope_of_several_multipliers_is_divided_and_named_by_them():
    groups = group_layers(
        {
            "stem/conv": ((0, 0.0), (9, 0.1)),
            "stage1/a": ((0, 0.1),),
            "stage1/b": ((0, 0.5),),
            "logits": ((0, 1.0),),
            "stem/bn": ((0, 0.0), (9, 0.1)),
        }
    )
    assert groups == {
        "stem": ["stem/conv", "stem/bn"],
        "stage1 x0.1": ["stage1/a"],
        "stage1 x0.5": ["stage1/b"],
        "logits": ["logits"],
    }


@pytest.mark.parametrize(("count", "expected"), [(16, 16), (17, 2)])
def test_many_groups_are_those_of_the_multipliers_alone(count, expected):
    layers = {f"conv{n}": ((0, 0.1),) for n in range(count - 1)}
    groups = group_layers(layers | {"top": ((0, 0.0), (7, 1.0))})
    assert len(groups) == expected
    if expected == 2:
        assert list(groups) == ["x0.1", "x0 then x1 from 7"]
        assert len(groups["x0.1"]) == count - 1


@pytest.mark.parametrize("num_scopes", [1, 17])
def test_different_histories_are_never_one_group(num_scopes):
    histories = [
        ((0, 0.0), (2, 1.0)),
        ((0, 0.0), (4, 1.0)),
        ((0, 0.1234567),),
        ((0, 0.1234568),),
    ]
    layers = {
        f"scope{scope}/{place}": history
        for place, history in enumerate(histories)
        for scope in range(num_scopes)
    }
    groups = group_layers(layers)
    prefix = "scope0 " if num_scopes == 1 else ""
    assert list(groups) == [
        f"{prefix}{name}"
        for name in (
            "x0 then x1 from 2",
            "x0 then x1 from 4",
            "x0.1234567",
            "x0.1234568",
        )
    ]
    assert sum(map(len, groups.values())) == len(layers)


def test_sixteen_multipliers_stand_for_many():
    layers = {f"layer{n}": ((0, 0.9 ** (50 - n)),) for n in range(51)}
    groups = group_layers(layers)
    assert len(groups) == 16
    shown = [paths[0] for paths in groups.values()]
    assert (shown[0], shown[1], shown[-1]) == ("layer0", "layer3", "layer50")
    assert all(len(paths) == 1 for paths in groups.values())


def test_layers_of_no_group_are_not_measured(tmp_path, tiny_reader, monkeypatch):
    monkeypatch.setattr("worklab.layer_groups._MOST_GROUPS", 2)
    options = TrainingOptions(log_every=1)
    make_trainer(tmp_path, tiny_reader, options=options, rate=0.5).train(1)
    assert [(group, rate) for _, group, rate, _ in rows(tmp_path)] == [
        ("x0", 0.0),
        ("x1", 0.5),
    ]


def test_parts_of_a_scope_that_thaw_at_different_steps(tmp_path, tiny_reader):
    stages = {"0": {"slow": 0}, "2": {"slow/b": 0.1}, "4": {"slow/a": 0.1}}
    options = TrainingOptions(stages=stages, log_every=1)
    make_trainer(tmp_path, tiny_reader, options=options, rate=1.0).train(6)
    found = {(step, group): rate for step, group, rate, _ in rows(tmp_path)}
    for part, begin in (("b", 2), ("a", 4)):
        name = f"slow x0 then x0.1 from {begin}"
        rates = [found[step, name] for step in range(1, 7)]
        assert rates == [0.0] * begin + [0.1] * (6 - begin), part


def test_ratio_is_the_length_of_the_change_by_that_of_the_weights(
    tmp_path, tiny_reader
):
    trainer = make_trainer(
        tmp_path, tiny_reader, options=TrainingOptions(log_every=2), rate=0.5
    )
    trainer.train(1)
    before = values(trainer.network)
    trainer.train(1)
    after = values(trainer.network)
    learning = [
        v.path.replace(".", "/") for v in trainer.network.model.trainable_variables
    ]
    found = {group: (rate, ratio) for _, group, rate, ratio in rows(tmp_path)}
    assert list(found) == ["frozen", "slow", "logits"]
    assert found["frozen"] == (0.0, "")
    assert [rate for rate, _ in found.values()] == [0.0, 0.05, 0.5]
    for group in ("slow", "logits"):
        names = [name for name in learning if name.split("/")[0] == group]
        change, length = (
            np.sqrt(sum(np.sum(np.square(array, dtype=float)) for array in arrays))
            for arrays in (
                [after[name] - before[name] for name in names],
                [before[name] for name in names],
            )
        )
        assert float(found[group][1]) == pytest.approx(change / length, rel=1e-4)
    assert trainer.num_traces == 1


@pytest.mark.parametrize("average", [None, 0.9])
def test_measuring_changes_no_bit_of_training(tmp_path, tiny_reader, average):
    settings = {
        "options": TrainingOptions(stages=STAGES, micro_batches=2, log_every=1),
        "optimizer": OptimizerOptions(name="adam", average=average),
        "rate": 0.01,
    }
    found = []
    for number in range(2):
        trainer = make_trainer(tmp_path / str(number), tiny_reader, **settings)
        trainer.writer.silent = number == 1
        trainer.train(5)
        found.append(
            {n: v.value.numpy() for n, v in trainer.session._variables.items()}
        )
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name], err_msg=name)
    assert not (tmp_path / "1/layers.csv").exists()
    groups = {
        step: [r[1:] for r in rows(tmp_path / "0") if r[0] == step] for step in (3, 4)
    }
    assert [(group, rate) for group, rate, _ in groups[3]] == [
        ("frozen", 0.0),
        ("slow x0 then x0.1 from 3", 0.0),
        ("slow x0 then x0.2 from 3", 0.0),
        ("slow x0", 0.0),
        ("logits", 0.01),
    ]
    ratios = {group: ratio for group, _, ratio in groups[4]}
    assert [bool(ratio) for ratio in ratios.values()] == [
        False,
        True,
        True,
        False,
        True,
    ]


def test_two_devices_measure_what_one_does(tmp_path, tiny_reader):
    found = []
    for count in (1, 2):
        train_on(tmp_path / str(count), tiny_reader, count, steps=2)
        found.append([float(row[3]) for row in rows(tmp_path / str(count))])
    assert len(found[0]) == 4
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_cut_log_of_layers_goes_on_as_if_nothing_had_been(tmp_path, tiny_reader):
    options = TrainingOptions(log_every=2)
    whole = make_trainer(tmp_path / "a", tiny_reader, options=options)
    whole.train(8)
    first = make_trainer(tmp_path / "b", tiny_reader, options=options)
    first.train(3)
    first.session.save()
    first.session.close()
    first.train(4)  # written to the log, but lost with the process
    make_trainer(tmp_path / "b", tiny_reader, options=options).train(5)
    a, b = ((tmp_path / name / "layers.csv").read_bytes() for name in "ab")
    assert a == b


def test_cached_features_leave_groups_that_learn(tmp_path, tiny_images):
    images, labels = tiny_images
    reader = ArrayReader(
        images,
        labels,
        ["a", "b", "c"],
        options=ReaderOptions(image_size=(8, 8), batch_size=6, copies=1),
        augment=AugmentOptions(preset="off"),
    )
    options = TrainingOptions(cache_features=True, log_every=1)
    network = TinyNetwork(3, image_shape=(8, 8, 3))
    trainer = make_trainer(tmp_path, reader, network=network, options=options)
    trainer.train(1)
    assert [bool(ratio) for *_, ratio in rows(tmp_path)] == [False, True, True]


class Zero(Network):
    """Its only layer begins at zero."""

    def _construct(self, images):
        return self.full_layer(
            self.global_pool(images), self.num_classes, scope="logits"
        )


def test_weights_of_zero_have_no_ratio():
    network = Zero(3, image_shape=(8, 8, 3))
    for variable in network.variables.values():
        variable.assign(np.zeros(variable.shape))
    groups = LayerGroups(network, Stages(network, {}))
    groups.follow()
    before = groups.weights()
    network.variables["logits/kernel"].assign(np.ones((3, 3)))
    assert groups.ratios(groups.norms(before)) == {}
    assert groups.rates(0.5) == {"logits": 0.5}
    assert groups.ratios(groups.norms(groups.weights())) == {"logits": 0.0}
