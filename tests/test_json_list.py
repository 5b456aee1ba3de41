import json

import cv2
import numpy as np
import pytest

from worklab.lists import find_class_names
from worklab.options import AugmentOptions, ReaderOptions
from worklab.readers import ArrayReader, JsonListReader

from .conftest import CLASS_NAMES

OPTIONS = ReaderOptions(image_size=(8, 8), batch_size=6, test_batch_size=8)


@pytest.fixture(autouse=True)
def _seeds():
    """Nothing here is Keras's: clearing it after each test would take seconds."""


def write_list(folder, records, name="train.json"):
    path = folder / name
    path.write_text(json.dumps(records))
    return path


def write_images(folder, *names):
    """Write 8x8 images, each of the one grey level 10, 20, 30, ..."""
    for number, name in enumerate(names, 1):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8, 3), 10 * number, np.uint8))


def whole(reader):
    """Return all records of one test pass, joined, without padding."""
    batches = list(reader.test_batches())
    real = np.concatenate([batch["weights"] for batch in batches]) == 1
    return {key: np.concatenate([b[key] for b in batches])[real] for key in batches[0]}


def reader_of(path, class_names=CLASS_NAMES, **settings):
    return JsonListReader(path, class_names, options=OPTIONS, **settings)


@pytest.mark.parametrize(
    ("split", "first", "stop"), [("train", 0, 18), ("test", 24, 30)]
)
def test_images_and_labels_are_those_of_the_files(
    tiny_folder, tiny_images, split, first, stop
):
    images, labels = tiny_images
    found = whole(reader_of(tiny_folder / f"{split}.json"))
    assert np.array_equal(found["images"], images[first:stop])
    assert np.array_equal(found["labels"], labels[first:stop])
    assert "features" not in found


def test_training_batches_equal_those_of_the_same_arrays(tiny_folder, tiny_images):
    images, labels = tiny_images
    settings = {"options": OPTIONS, "augment": AugmentOptions("strong"), "seed": 3}
    files = JsonListReader(tiny_folder / "train.json", CLASS_NAMES, **settings)
    arrays = ArrayReader(images[:18], labels[:18], CLASS_NAMES, **settings)
    for step in range(4):
        for key, value in arrays.train_batch(step).items():
            assert np.array_equal(files.train_batch(step)[key], value)


def test_colour_order_is_rgb(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[:, :, 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "red.png"), red)
    found = whole(reader_of(write_list(tmp_path, {"red.png": 0})))
    assert found["images"][0, 0, 0].tolist() == [255, 0, 0]


def test_images_become_grey_on_request(tmp_path):
    write_images(tmp_path, "a.png")
    options = ReaderOptions(image_size=(8, 8), channels=1)
    path = write_list(tmp_path, {"a.png": 0})
    found = whole(JsonListReader(path, CLASS_NAMES, options=options))
    assert np.array_equal(found["images"], np.full((1, 8, 8, 1), 10))


def test_paths_are_relative_to_the_list_or_absolute(tmp_path, monkeypatch):
    write_images(tmp_path, "lists/sub/a.png", "b.png", "c d é.png")
    monkeypatch.chdir(tmp_path)
    records = {"sub/a.png": 0, "../b.png": 1, str(tmp_path / "c d é.png"): 2}
    found = whole(reader_of(write_list(tmp_path / "lists", records)))
    assert found["images"][:, 0, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    "records",
    [
        {"b.png": 2, "a.png": 0},
        {"b.png": "cross", "a.png": "circle"},
        [{"image": "b.png", "label": 2}, {"image": "a.png", "label": "circle"}],
    ],
)
def test_records_keep_the_order_of_the_list_in_every_form(tmp_path, records):
    write_images(tmp_path, "a.png", "b.png")
    reader = reader_of(write_list(tmp_path, records))
    found = whole(reader)
    assert found["images"][:, 0, 0, 0].tolist() == [20, 10]
    assert found["labels"].tolist() == [2, 0]
    assert [reader.name(index) for index in found["index"]] == ["b.png", "a.png"]


def test_further_fields_are_kept(tmp_path):
    records = [{"image": "a.png", "label": 0, "age": 3}]
    reader = reader_of(write_list(tmp_path, records))
    assert reader.records[0].fields == {"age": 3}


def test_class_missing_from_one_split_shifts_no_label(tmp_path):
    write_images(tmp_path, "a.png", "b.png", "c.png")
    train = write_list(tmp_path, {"a.png": "ant", "b.png": "bee", "c.png": "cat"})
    valid = write_list(tmp_path, {"c.png": "cat", "b.png": "bee"}, "valid.json")
    test = write_list(tmp_path, {"c.png": "cat"}, "test.json")
    names = find_class_names(train)
    labels = [whole(reader_of(path, names))["labels"] for path in (train, valid, test)]
    assert [list(each) for each in labels] == [[0, 1, 2], [2, 1], [2]]
    assert all(reader_of(path, names).class_names == names for path in (valid, test))


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("part", ["train", "test"])
def test_missing_image_names_its_path_and_the_list(tmp_path, part, threads):
    write_images(tmp_path, "a.png")
    path = write_list(tmp_path, {"a.png": 0, "gone/b.png": 1})
    options = ReaderOptions(image_size=(8, 8), batch_size=2, num_threads=threads)
    reader = JsonListReader(path, CLASS_NAMES, options=options)
    batches = reader.train_batches(0) if part == "train" else reader.test_batches()
    match = (
        rf"`{tmp_path}/gone/b\.png`, named in `{path}`, cannot be read "
        r"\(No such file or directory\)\. .*Received: 'gone/b\.png'"
    )
    with pytest.raises(ValueError, match=match):
        next(batches)


def test_folder_instead_of_an_image_is_an_error(tmp_path):
    (tmp_path / "a.png").mkdir()
    reader = reader_of(write_list(tmp_path, {"a.png": 0}))
    with pytest.raises(ValueError, match=r"a\.png`, .*cannot be read \(Is a directory"):
        next(reader.test_batches())


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("content", ["empty", "truncated", "garbage"])
def test_broken_image_names_its_path(tmp_path, part, threads, content):
    write_images(tmp_path, "a.png", "b.png")
    data = (tmp_path / "b.png").read_bytes()
    data = {"empty": b"", "truncated": data[: len(data) // 2], "garbage": b"<html>"}[
        content
    ]
    (tmp_path / "b.png").write_bytes(data)
    path = write_list(tmp_path, {"a.png": 0, "b.png": 1})
    options = ReaderOptions(image_size=(8, 8), batch_size=2, num_threads=threads)
    reader = JsonListReader(path, CLASS_NAMES, options=options)
    batches = reader.train_batches(0) if part == "train" else reader.test_batches()
    match = rf"`{tmp_path}/b\.png` is not a readable image.*Received: {len(data)} bytes"
    with pytest.raises(ValueError, match=match):
        next(batches)


def test_images_are_not_opened_before_they_are_read(tmp_path):
    reader = reader_of(write_list(tmp_path, {"gone.png": 0}))
    assert len(reader) == 1


# Features


def test_features_field_goes_with_its_image(tmp_path):
    write_images(tmp_path, "a.png", "b.png")
    records = [
        {"image": "b.png", "label": 0, "features": [1, 2.5, -3]},
        {"image": "a.png", "label": 1, "features": [4, 5.5, 1e6]},
    ]
    found = whole(reader_of(write_list(tmp_path, records)))
    assert found["features"].dtype == np.float32
    assert found["features"].tolist() == [[1, 2.5, -3], [4, 5.5, 1e6]]
    assert found["images"][:, 0, 0, 0].tolist() == [20, 10]


@pytest.mark.parametrize(
    ("second", "received"),
    [
        ({}, "features=None"),
        ({"features": None}, "features=None"),
        ({"features": [1]}, r"features=\[1\]"),
        ({"features": [1, 2, 3]}, r"features=\[1, 2, 3\]"),
        ({"features": [1, "2"]}, r"features=\[1, '2'\]"),
        ({"features": [1, None]}, r"features=\[1, None\]"),
        ({"features": [[1], [2]]}, r"features=\[\[1\], \[2\]\]"),
        ({"features": "12"}, "features='12'"),
        ({"features": 5}, "features=5"),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_wrong_features_name_a_record(tmp_path, second, received, order):
    records = [
        {"image": "good.png", "label": 0, "features": [1, 2]},
        {"image": "bad.png", "label": 0, **second},
    ]
    path = write_list(tmp_path, records[::order])
    match = (
        rf"\.png` in `{path}`: .*a list of numbers, equally long in all\. Received: "
    )
    with pytest.raises(ValueError, match=match) as info:
        reader_of(path)
    if order == 1:  # else the good one is the first to differ, where lengths do
        assert info.match(rf"`bad\.png`.*{received}$")
