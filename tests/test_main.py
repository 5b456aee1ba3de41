"""`python -m worklab`: each command, as a person calls it."""

import json

import cv2
import numpy as np
import pytest

from worklab.__main__ import main
from worklab.checkpoints import Checkpoints
from worklab.checkpoints import digest as digest_of
from worklab.pretrained import read_weights

ARRAYS = {
    "stem/conv/kernel": np.ones((3, 3), np.float32),
    "optimizer/sgd/iteration": np.array(3, np.int64),
}


@pytest.fixture
def run(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    old = {"stem/conv/kernel": np.zeros((3, 3), np.float32)}
    checkpoints.save(1, old, {"class_names": ["a", "b"]})
    checkpoints.save(2, ARRAYS, {"class_names": ["a", "b"]})
    return tmp_path / "run"


def test_lists_are_made_and_counted(tmp_path, capsys):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(5):
            image = np.zeros((4, 4, 3), np.uint8)
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), image)
    main(["lists", str(tmp_path)])
    output = capsys.readouterr().out
    assert "train.json: 6 images" in output
    assert "classes.json: 2 classes" in output
    assert len(json.loads((tmp_path / "test.json").read_text())) == 2
    with pytest.raises(SystemExit) as error:
        main(["lists", str(tmp_path)])
    assert error.value.code == 1
    assert "has lists already" in capsys.readouterr().err
    main(["lists", str(tmp_path), "--overwrite", "--seed", "3"])


def test_digest_of_a_run_is_that_of_its_newest_checkpoint(run, capsys):
    main(["digest", str(run)])
    of_run = capsys.readouterr().out
    assert of_run.split()[0] == digest_of(ARRAYS)
    main(["digest", str(run / "checkpoints" / "step-00000002.safetensors")])
    assert capsys.readouterr().out == of_run
    main(["digest", str(run / "checkpoints" / "step-00000001.safetensors")])
    assert capsys.readouterr().out.split()[0] != of_run.split()[0]


def test_digest_of_no_run_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["digest", str(tmp_path)])
    assert error.value.code == 1
    assert "no run, or has no checkpoint yet" in capsys.readouterr().err


def test_exported_weights_are_the_networks_alone(run, tmp_path, capsys):
    path = tmp_path / "weights.safetensors"
    main(["export", str(run), "--checkpoint", "latest", "--output", str(path)])
    assert "1 variables of" in capsys.readouterr().out
    weights = read_weights(path)
    assert list(weights) == ["stem/conv/kernel"]
    np.testing.assert_array_equal(
        weights["stem/conv/kernel"], ARRAYS["stem/conv/kernel"]
    )
    main(["export", str(run), "--checkpoint", "1"])
    default = run / "export" / "step-00000001.safetensors"
    assert not read_weights(default)["stem/conv/kernel"].any()


def test_export_without_a_best_checkpoint_is_an_error(run, capsys):
    with pytest.raises(SystemExit):
        main(["export", str(run)])
    assert "nothing was validated" in capsys.readouterr().err
