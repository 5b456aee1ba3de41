import logging
import os

import numpy as np
import pytest

from worklab.checkpoints import (
    CheckpointError,
    Checkpoints,
    deleted_steps,
    digest,
    list_steps,
    load_checkpoint,
)


def arrays(value: float = 1.0) -> dict[str, np.ndarray]:
    return {
        "a/kernel": np.full((3, 2), value, np.float32),
        "iterations": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }


def test_what_is_saved_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, arrays(), {"step": 5, "names": ["ä"]})
    loaded, state = checkpoints.load(5)
    assert state == {"step": 5, "names": ["ä"]}
    assert loaded.keys() == arrays().keys()
    for name, array in arrays().items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        np.testing.assert_array_equal(loaded[name], array)


def test_equal_checkpoints_are_equal_files(tmp_path):
    for name in ("one", "two"):
        items = list(arrays().items())
        ordered = dict(items if name == "one" else reversed(items))
        Checkpoints(tmp_path / name).save(1, ordered, {"step": 1})
    one, two = (tmp_path / n / "step-00000001.safetensors" for n in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_newest_and_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 7):
        checkpoints.save(step, arrays(), {}, kept_steps={2})
    assert checkpoints.steps() == [2, 5, 6]
    assert deleted_steps(tmp_path) == [1, 3, 4]


def test_what_another_run_deleted_here_is_forgotten(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 2):
        checkpoints.save(step, arrays(), {})
    checkpoints.clean()
    assert deleted_steps(tmp_path) == [1]
    checkpoints.path(2).unlink()
    checkpoints.clean()
    assert deleted_steps(tmp_path) == []


def test_same_step_is_replaced(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, arrays(1.0), {"n": 1})
    checkpoints.save(1, arrays(2.0), {"n": 2})
    loaded, state = checkpoints.load(1)
    assert state == {"n": 2}
    assert loaded["a/kernel"][0, 0] == 2


def test_numbers_that_are_not_finite_are_never_written(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, arrays(), {})
    with pytest.raises(ValueError, match=r"step 2, because `a/kernel` is not finite"):
        checkpoints.save(2, arrays(np.nan), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.safetensors"]


def test_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, arrays(), {})

    def replace(*_):
        raise OSError("disk is full")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="disk is full"):
        checkpoints.save(2, arrays(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.safetensors"]


@pytest.mark.parametrize("offset", [0, 9, 40, -30, -1])
def test_one_flipped_bit_is_found(tmp_path, offset):
    path = Checkpoints(tmp_path).save(1, arrays(), {"step": 1})
    content = bytearray(path.read_bytes())
    content[offset] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"step-00000001\.safetensors.*Received"):
        load_checkpoint(path)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_truncation_is_found(tmp_path, length):
    path = Checkpoints(tmp_path).save(1, arrays(), {"step": 1})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="Received"):
        load_checkpoint(path)


def test_broken_newest_gives_way_to_the_one_before(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, arrays(1.0), {"step": 1})
    path = checkpoints.save(2, arrays(2.0), {"step": 2})
    path.write_bytes(path.read_bytes()[:-5])
    logging.getLogger("worklab").propagate = True
    with caplog.at_level(logging.WARNING, "worklab"):
        newest = checkpoints.load_newest()
    assert newest is not None
    assert newest[0] == 1
    assert "step-00000002" in caplog.text


def test_empty_folder_has_no_newest(tmp_path):
    assert Checkpoints(tmp_path / "missing").load_newest() is None
    (tmp_path / "step-00000001.safetensors.txt").touch()
    assert list_steps(tmp_path) == []


def test_new_checkpoints_are_linked_into_every_queue(tmp_path):
    for split in ("valid", "test"):
        (tmp_path / "queues" / split).mkdir(parents=True)
    checkpoints = Checkpoints(
        tmp_path / "checkpoints", keep=1, queues=tmp_path / "queues"
    )
    for step in range(5):
        checkpoints.save(step, arrays(step), {"step": step})
    assert checkpoints.steps() == [4]
    for split in ("valid", "test"):
        folder = tmp_path / "queues" / split
        assert list_steps(folder) == [0, 1, 2, 3, 4]
        loaded, _ = load_checkpoint(folder / "step-00000002.safetensors")
        assert loaded["a/kernel"][0, 0] == 2


def test_digest_tells_names_types_shapes_and_values_apart():
    base = {"a": np.zeros((2, 3), np.float32)}
    others = [
        {"b": np.zeros((2, 3), np.float32)},
        {"a": np.zeros((3, 2), np.float32)},
        {"a": np.zeros((2, 3), np.int32)},
        {"a": np.full((2, 3), -0.0, np.float32)},
    ]
    digests = {digest(each) for each in [base, *others]}
    assert len(digests) == 5
    assert digest({"x": base["a"], "y": base["a"]}) == digest(
        {"y": base["a"], "x": base["a"]}
    )


def test_keep_below_one_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"at least 1\. Received: keep=0"):
        Checkpoints(tmp_path, keep=0)
