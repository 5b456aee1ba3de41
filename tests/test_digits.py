import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

from worklab.lists import find_class_names, read_list

SCRIPT = Path(__file__).resolve().parents[1] / "data" / "make_digits.py"
SPLITS = {"train": 1078, "valid": 359, "test": 360}


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_digits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "new" / "digits"
    load_script().make_digits(folder)
    return folder


def test_files_are_images_lists_and_class_names(digits: Path) -> None:
    names = set(contents(digits))
    lists = {"train.json", "valid.json", "test.json", "classes.json"}
    assert lists <= names
    assert len(names - lists) == 1797
    assert find_class_names(digits / "train.json") == list("0123456789")


def test_splits_have_their_sizes_and_share_no_image(digits: Path) -> None:
    paths = {}
    for split, count in SPLITS.items():
        records = read_list(digits / f"{split}.json", list("0123456789"))
        assert len(records) == count
        paths |= {record.path: record.label for record in records}
    assert len(paths) == 1797
    assert all(path.split("/")[1] == str(label) for path, label in paths.items())


@pytest.mark.parametrize(
    ("split", "share"), [("train", 0.6), ("valid", 0.2), ("test", 0.2)]
)
def test_splits_are_stratified(digits: Path, split: str, share: float) -> None:
    totals = Counter(str(digit) for digit in load_digits().target)
    counts = Counter(json.loads((digits / f"{split}.json").read_text()).values())
    assert all(abs(counts[name] - share * totals[name]) <= 1 for name in totals)


def test_images_equal_those_of_scikit_learn(digits: Path) -> None:
    data = load_digits()
    for index, (pixels, digit) in enumerate(zip(data.images, data.target, strict=True)):
        path = digits / "images" / str(digit) / f"{index:04}.png"
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert image.shape == (8, 8)
        assert image.dtype == np.uint8
        np.testing.assert_allclose(image * (16 / 255), pixels, atol=0.5 * 16 / 255)


def test_second_folder_has_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    load_script().make_digits(tmp_path)
    assert contents(tmp_path) == contents(digits)


def test_ready_folder_is_left_alone(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in digits.rglob("*")}
    load_script().make_digits(digits)
    assert "already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in digits.rglob("*")} == before


def test_interrupted_run_is_redone(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script()
    real, written = cv2.imwrite, []

    def imwrite(path: str, image: np.ndarray) -> bool:
        written.append(path)
        return len(written) <= 100 and real(path, image)

    monkeypatch.setattr(cv2, "imwrite", imwrite)
    with pytest.raises(OSError, match=r"Could not write .*0100\.png.*Received: "):
        script.make_digits(tmp_path)
    assert not list(tmp_path.glob("*.json"))
    monkeypatch.undo()
    script.make_digits(tmp_path)
    assert contents(tmp_path) == contents(digits)


def test_command_line_takes_a_folder(digits: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--folder", str(digits)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "already" in result.stdout
