import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from worklab.lists import (
    Record,
    find_class_names,
    make_lists,
    read_class_names,
    read_list,
    write_class_names,
)

NAMES = ["cat", "dog", "horse"]


def write(folder: Path, content: Any, name: str = "train.json") -> Path:
    path = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def fill(folder: Path, **counts: int) -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{index:03}.png").touch()


def entries(path: Path) -> dict[str, str]:
    return json.loads(path.read_text(encoding="utf-8"))


# Class names


def test_class_names_come_back_as_written(tmp_path: Path) -> None:
    write_class_names(tmp_path / "classes.json", ["Käse", "3", "a b"])
    assert read_class_names(tmp_path / "classes.json") == ["Käse", "3", "a b"]
    assert "Käse" in (tmp_path / "classes.json").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["classes.json"]


@pytest.mark.parametrize(
    ("content", "received"),
    [
        ({"cat": 0}, r"\[\]"),
        ([], r"\[\]"),
        (["cat", "dog", "cat"], r"\['cat', 'cat'\]"),
        (["cat", ""], r"\[''\]"),
        (["cat", 3], r"\[3\]"),
    ],
)
def test_class_names_are_unique_strings(
    tmp_path: Path, content: Any, received: str
) -> None:
    path = write(tmp_path, content, "classes.json")
    match = rf"classes\.json` is not a list of unique class names.*Received: {received}"
    with pytest.raises(ValueError, match=match):
        read_class_names(path)


def test_wrong_class_names_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`names` is not a list of unique.*Received"):
        write_class_names(tmp_path / "classes.json", ["cat", "cat"])
    with pytest.raises(ValueError, match=r"`class_names` is not a list of unique"):
        read_list(write(tmp_path, {"1.png": 0}), ["cat", "cat"])
    assert not (tmp_path / "classes.json").exists()


def test_classes_file_beside_the_list_decides(tmp_path: Path) -> None:
    write(tmp_path, ["horse", "cat"], "classes.json")
    assert find_class_names(write(tmp_path, {"1.png": 0})) == ["horse", "cat"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 3, 1], ["0", "1", "2", "3"]),
        (["dog", "cat", "dog"], ["cat", "dog"]),
        (["10", "2"], ["10", "2"]),
    ],
)
def test_class_names_are_found_in_labels(
    tmp_path: Path, labels: list[Any], names: list[str]
) -> None:
    short = {f"{index}.png": label for index, label in enumerate(labels)}
    long = [{"image": path, "label": label} for path, label in short.items()]
    assert find_class_names(write(tmp_path, short)) == names
    assert find_class_names(write(tmp_path, long)) == names


def test_mixed_labels_name_the_first_entry_that_differs(tmp_path: Path) -> None:
    path = write(tmp_path, {"1.png": 0, "2.png": 1, "3.png": "cat", "4.png": "dog"})
    match = r"train\.json`, entry 3 \('3\.png'\), mixes.*Received: label='cat'"
    with pytest.raises(ValueError, match=match):
        find_class_names(path)


def test_negative_label_gives_no_class_names(tmp_path: Path) -> None:
    path = write(tmp_path, {"1.png": 0, "2.png": -1})
    with pytest.raises(ValueError, match=r"entry 2 .* negative.*Received: label=-1"):
        find_class_names(path)


# Reading


def test_short_form(tmp_path: Path) -> None:
    path = write(tmp_path, {"b/./1.png": "dog", "../a.png": 2})
    assert read_list(path, NAMES) == [Record("b/./1.png", 1), Record("../a.png", 2)]


def test_long_form_keeps_further_fields(tmp_path: Path) -> None:
    entry = {"image": "1.png", "label": "cat", "age": 3, "box": [1, 2]}
    path = write(tmp_path, [entry, {"label": 1, "image": "2.png"}])
    assert read_list(path, NAMES) == [
        Record("1.png", 0, {"age": 3, "box": [1, 2]}),
        Record("2.png", 1, {}),
    ]


def test_class_missing_from_a_split_shifts_no_label(tmp_path: Path) -> None:
    path = write(tmp_path, {"1.png": "horse"})
    assert read_list(path, NAMES) == [Record("1.png", 2)]


def test_strings_are_names_and_integers_are_indices(tmp_path: Path) -> None:
    path = write(tmp_path, {"1.png": "3", "2.png": 1})
    assert [record.label for record in read_list(path, ["3", "1"])] == [0, 1]


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeff{"1.png": 0}')
    assert read_list(path, NAMES) == [Record("1.png", 0)]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"1.png": "dgo"}, r"entry 1 .*unknown class.*Did you mean \"dog\"\?.*='dgo'$"),
        ({"1.png": "xyz"}, r"names cat, dog, horse\. Add the class .* label='xyz'$"),
        ({"1.png": 3}, r"out of range: the labels are 0 to 2.*Received: label=3$"),
        ({"1.png": -1}, r"out of range.*Received: label=-1$"),
        ({"1.png": True}, r"neither an integer nor a class name.*label=true$"),
        ({"1.png": 1.0}, r"neither an integer nor a class name.*label=1\.0$"),
        ({"1.png": None}, r"neither an integer nor a class name.*label=null$"),
        ({"1.png": [1]}, r"neither an integer nor a class name.*label=\[1\]$"),
        ([{"image": "1.png"}], r"entry 1 .*neither an integer.*label=null$"),
        ({"": 1}, r"entry 1 \(''\), has no image path.*Received: {\"image\": \"\""),
        ([{"label": 1}], r"no image path.*Received: {\"label\": 1}$"),
        ([{"image": 5, "label": 1}], r"entry 1 \(5\), has no image path"),
        (["1.png"], r"no image path.*Received: \"1\.png\"$"),
        ({}, r"train\.json` is empty or .*worklab lists FOLDER`\. Received: {}$"),
        ([], r"train\.json` is empty or .*worklab lists FOLDER`\. Received: \[\]$"),
        ("3", r"not a list of images.*Received: 3$"),
    ],
)
def test_wrong_lists(tmp_path: Path, content: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_list(write(tmp_path, content), NAMES)


@pytest.mark.parametrize("label", [True, 1.5])
def test_wrong_label_types_give_no_class_names(tmp_path: Path, label: Any) -> None:
    with pytest.raises(ValueError, match="neither an integer nor a class name"):
        find_class_names(write(tmp_path, {"1.png": 1, "2.png": label}))


def test_integer_label_that_is_a_class_name_gets_a_hint(tmp_path: Path) -> None:
    path = write(tmp_path, {"1.png": 12})
    with pytest.raises(ValueError, match=r"Did you mean \"12\"\?.*label=12$"):
        read_list(path, ["12", "1"])
    with pytest.raises(ValueError, match=r"names 1, 2\. Add the class.*label=12$"):
        read_list(path, ["1", "2"])


def test_key_twice(tmp_path: Path) -> None:
    path = write(tmp_path, '{"1.png": 0, "2.png": 1, "1.png": 2}')
    match = r"train\.json` has a key twice.*Received: '1\.png' with 0 and with 2$"
    with pytest.raises(ValueError, match=match):
        read_list(path, NAMES)


def test_malformed_json_names_line_and_column(tmp_path: Path) -> None:
    path = write(tmp_path, '{\n "1.png": 0,\n "2.png" 1\n}')
    match = (
        r"train\.json` .*line 3, column 10: Expecting ':'.*Received: ' \"2\.png\" 1'"
    )
    with pytest.raises(ValueError, match=match):
        read_list(path, NAMES)


def test_malformed_long_line_is_cut_around_the_column(tmp_path: Path) -> None:
    good = ", ".join(f'"{index}.png": 0' for index in range(1000))
    path = write(tmp_path, f'{{{good}, "bad.png" 1, {good}}}')
    with pytest.raises(ValueError, match=r"Received: .*\"bad\.png\" 1") as info:
        read_list(path, NAMES)
    assert len(str(info.value)) < 250 + len(str(path))


@pytest.mark.parametrize("text", ["", "[1,"])
def test_cut_off_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"not valid JSON at line 1, column"):
        read_list(write(tmp_path, text), NAMES)


def test_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_bytes(b'{"\xff.png": 0}')
    with pytest.raises(
        ValueError, match=r"not UTF-8 text at byte 2.*Received: b'\\xff"
    ):
        read_list(tmp_path / "train.json", NAMES)


def test_missing_file_lists_the_others(tmp_path: Path) -> None:
    write(tmp_path, {}, "b.json")
    write(tmp_path, {}, "a.json")
    match = r"no file `.*trian\.json`.*: a\.json, b\.json\. .*Received: .*trian\.json$"
    with pytest.raises(FileNotFoundError, match=match):
        read_list(tmp_path / "trian.json", NAMES)
    with pytest.raises(FileNotFoundError, match=r": a\.json, b\.json\. "):
        read_list(tmp_path, NAMES)
    with pytest.raises(FileNotFoundError, match=r": none\. .*lists FOLDER"):
        find_class_names(tmp_path / "missing" / "train.json")


# Making


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
    assert read_class_names(tmp_path / "classes.json") == NAMES


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
    path = write(tmp_path, {"mine.png": 0}, "valid.json")
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
