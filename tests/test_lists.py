import json
from pathlib import Path
from typing import Any

import pytest

from worklab.lists import (
    Record,
    find_class_names,
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
