import json
from collections import Counter
from pathlib import Path

import pytest

from worklab.list_making import make_lists
from worklab.lists import (
    find_class_names,
    read_class_names,
    read_list,
    write_class_names,
)


def fill(folder: Path, **counts: int) -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{index:03}.png").touch()


def entries(path: Path) -> dict[str, str]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_folder_of_classes_becomes_lists(tmp_path: Path) -> None:
    fill(tmp_path, dog=10, cat=20)
    paths = make_lists(tmp_path)
    assert paths == {
        split: tmp_path / f"{split}.json" for split in ("train", "valid", "test")
    }
    lists = {split: entries(path) for split, path in paths.items()}
    counts = {split: Counter(labels.values()) for split, labels in lists.items()}
    assert counts == {
        "train": {"cat": 12, "dog": 6},
        "valid": {"cat": 4, "dog": 2},
        "test": {"cat": 4, "dog": 2},
    }
    merged = lists["train"] | lists["valid"] | lists["test"]
    assert len(merged) == 30
    assert all(path.split("/")[0] == label for path, label in merged.items())
    assert all((tmp_path / path).is_file() for path in merged)
    assert read_class_names(tmp_path / "classes.json") == ["cat", "dog"]
    assert find_class_names(paths["test"]) == ["cat", "dog"]
    assert len(read_list(paths["train"], ["cat", "dog"])) == 18
    assert not list(tmp_path.glob(".*"))


def test_seed_decides_the_split(tmp_path: Path) -> None:
    fill(tmp_path, cat=20)

    def made(seed: int) -> list[bytes]:
        paths = make_lists(tmp_path, seed=seed, overwrite=True)
        return [path.read_bytes() for path in paths.values()]

    assert made(0) == made(0)
    assert made(0) != made(1)


def test_small_classes_keep_a_train_image_and_all_images_are_used(
    tmp_path: Path,
) -> None:
    sizes = {f"class{index}": 1 + index % 4 for index in range(20)}
    fill(tmp_path, **sizes)
    paths = make_lists(tmp_path, fractions={"train": 0.2, "valid": 0.4, "test": 0.4})
    lists = {split: entries(path) for split, path in paths.items()}
    assert set(lists["train"].values()) == set(sizes)
    assert sum(len(labels) for labels in lists.values()) == sum(sizes.values())


def test_fractions_hold_for_each_class_and_in_total(tmp_path: Path) -> None:
    fill(tmp_path, **{f"class{index}": 12 for index in range(10)})
    counts = Counter(entries(make_lists(tmp_path)["test"]).values())
    assert counts.total() == 24  # 12 * 0.2 = 2.4 of each class
    assert set(counts.values()) == {2, 3}


def test_ready_splits_are_used_as_they_are(tmp_path: Path) -> None:
    fill(tmp_path / "train", cat=3, dog=2)
    fill(tmp_path / "val", dog=1)
    fill(tmp_path / "test", cat=1, horse=1)
    paths = make_lists(tmp_path)
    assert entries(paths["train"]) == {
        "train/cat/000.png": "cat",
        "train/cat/001.png": "cat",
        "train/cat/002.png": "cat",
        "train/dog/000.png": "dog",
        "train/dog/001.png": "dog",
    }
    assert entries(paths["valid"]) == {"val/dog/000.png": "dog"}
    assert entries(paths["test"]) == {
        "test/cat/000.png": "cat",
        "test/horse/000.png": "horse",
    }
    assert read_class_names(tmp_path / "classes.json") == ["cat", "dog", "horse"]


def test_missing_valid_is_split_off_from_train(tmp_path: Path) -> None:
    fill(tmp_path / "train", cat=40, dog=20)
    fill(tmp_path / "test", cat=5, dog=5)
    paths = make_lists(tmp_path)  # 0.2 / (0.6 + 0.2) of the train images
    assert Counter(entries(paths["train"]).values()) == {"cat": 30, "dog": 15}
    assert Counter(entries(paths["valid"]).values()) == {"cat": 10, "dog": 5}
    assert len(entries(paths["test"])) == 10
    assert all(path.startswith("train/") for path in entries(paths["valid"]))


def test_train_alone_is_split_into_three(tmp_path: Path) -> None:
    fill(tmp_path / "train", cat=10)
    sizes = [len(entries(path)) for path in make_lists(tmp_path).values()]
    assert sizes == [6, 2, 2]


def test_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path, train=10, bus=10)
    make_lists(tmp_path)
    assert read_class_names(tmp_path / "classes.json") == ["bus", "train"]


def test_hidden_and_other_files_are_skipped(tmp_path: Path) -> None:
    fill(tmp_path, cat=10)
    fill(tmp_path, **{".ipynb_checkpoints": 3})
    fill(tmp_path / "cat", **{".ipynb_checkpoints": 3})
    for name in ("cat/.hidden.png", "cat/notes.txt", ".DS_Store", "README.md"):
        (tmp_path / name).touch()
    (tmp_path / "cat" / "big.JPG").touch()
    paths = [path for split in make_lists(tmp_path).values() for path in entries(split)]
    expected = [f"cat/{index:03}.png" for index in range(10)]
    assert sorted(paths) == [*expected, "cat/big.JPG"]


def test_image_suffixes_can_be_chosen(tmp_path: Path) -> None:
    fill(tmp_path, cat=3)
    for index in range(5):
        (tmp_path / "cat" / f"{index}.GIF").touch()
    paths = make_lists(tmp_path, image_suffixes=[".gif"])
    assert [len(entries(path)) for path in paths.values()] == [3, 1, 1]


def test_file_name_that_is_not_unicode_is_found_again(tmp_path: Path) -> None:
    fill(tmp_path, cat=9)
    name = b"\xff.png".decode("utf-8", "surrogateescape")
    try:
        (tmp_path / "cat" / name).touch()
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    paths = [path for split in make_lists(tmp_path).values() for path in entries(split)]
    assert len(paths) == 10
    assert all((tmp_path / path).is_file() for path in paths)


def test_existing_lists_are_kept_unless_told_otherwise(tmp_path: Path) -> None:
    fill(tmp_path, cat=5)
    path = tmp_path / "valid.json"
    path.write_text('{"mine.png": 0}')
    match = r"has lists already.*`overwrite=True`\. Received: valid\.json$"
    with pytest.raises(FileExistsError, match=match):
        make_lists(tmp_path)
    assert [file.name for file in tmp_path.glob("*.json")] == ["valid.json"]
    assert entries(path) == {"mine.png": 0}
    make_lists(tmp_path, overwrite=True)
    assert set(entries(path).values()) == {"cat"}


def test_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_class_names(tmp_path / "classes.json", ["old"])

    def replace(*_: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(OSError, match="disk is full"):
        write_class_names(tmp_path / "classes.json", ["new"])
    assert read_class_names(tmp_path / "classes.json") == ["old"]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "fractions",
    [
        {"train": 0.8, "valid": 0.2, "test": 0.0},
        {"train": 1.2, "valid": -0.1, "test": -0.1},
        {"train": 0.6, "valid": 0.2, "test": 0.1},
        {"train": float("nan"), "valid": 0.2, "test": 0.2},
        {"train": 0.8, "test": 0.2},
        {"train": 0.6, "val": 0.2, "test": 0.2},
    ],
)
def test_wrong_fractions(tmp_path: Path, fractions: dict[str, float]) -> None:
    fill(tmp_path, cat=5)
    match = (
        r"`fractions` are not positive shares.*sum to 1.*Received: fractions={'train"
    )
    with pytest.raises(ValueError, match=match):
        make_lists(tmp_path, fractions=fractions)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder `.*/no`.*Received: .*/no$"):
        make_lists(tmp_path / "no")


def test_no_class_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no class folders\. .*Received: "):
        make_lists(tmp_path)


def test_class_folder_without_images(tmp_path: Path) -> None:
    fill(tmp_path, cat=5, dog=0)
    match = r"class folders without images\. .*Received: folders=\['dog'\]$"
    with pytest.raises(ValueError, match=match):
        make_lists(tmp_path)


@pytest.mark.parametrize("place", ["", "train", "test"])
def test_loose_images(tmp_path: Path, place: str) -> None:
    fill(tmp_path / "train", cat=5)
    fill(tmp_path / "test", cat=5)
    for name in ("a.png", "b.jpg"):
        (tmp_path / place / name).touch()
    match = r"outside of class folders\. Move them.*Received: 2 \(a\.png, \.\.\.\)$"
    with pytest.raises(ValueError, match=match):
        make_lists(tmp_path)


def test_two_folders_of_one_split(tmp_path: Path) -> None:
    for split in ("train", "valid", "val"):
        fill(tmp_path / split, cat=5)
    with pytest.raises(ValueError, match=r"two folders for .*`valid`.*: valid, val$"):
        make_lists(tmp_path)


def test_split_that_would_be_empty(tmp_path: Path) -> None:
    fill(tmp_path, cat=1, dog=1)
    with pytest.raises(ValueError, match=r"`valid` of .* would be empty.*Received: "):
        make_lists(tmp_path)
    assert not list(tmp_path.glob("*.json"))
