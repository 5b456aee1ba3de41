"""Predictions of images of which nothing is known, by a run whose data are gone."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from launchers import predict
from launchers import test as test_launcher
from worklab import cli
from worklab.readers import ImageReader

from .conftest import CLASS_NAMES

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the run; the place of its data in `run.json` is no more."""
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    content = json.loads((copy / "run.json").read_text())
    content["options"]["data"]["folder"] = "gone"
    (copy / "run.json").write_text(json.dumps(content))
    return copy


@pytest.fixture
def photos(tmp_path, tiny_images):
    """Folders within folders: a/0.png, a/b/1.png, 2.PNG, and what is no image."""
    folder = tmp_path / "photos"
    (folder / "a/b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for number, name in enumerate(["a/0.png", "a/b/1.png", "2.PNG", ".hidden/3.png"]):
        cv2.imwrite(str(folder / name), tiny_images[0][number][:, :, ::-1])
    (folder / "notes.pdf").write_text("no image")
    return folder


def names(places, **settings):
    reader = ImageReader(places, CLASS_NAMES, **settings)
    return [reader.name(index) for index in range(len(reader))]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# === The reader ===


def test_folder_stands_for_all_images_below_it(photos):
    expected = ["2.PNG", "a/0.png", "a/b/1.png"]
    assert names([photos]) == [str(photos / name) for name in expected]
    twice = names([photos / "a/b", photos / "a/0.png", photos / "a/0.png"])
    assert [Path(name).name for name in twice] == ["1.png", "0.png", "0.png"]


def test_links_in_a_circle_and_what_is_no_file_are_left_out(photos):
    (photos / "a/b/up").symlink_to(photos)
    (photos / "a/b/here").symlink_to(photos / "a/b")
    (photos / "beside").symlink_to(photos / "a/b")  # a link is as good as a folder
    os.mkfifo(photos / "pipe.png")
    (photos / "broken.png").symlink_to(photos / "gone.png")
    found = [str(Path(name).relative_to(photos)) for name in names([photos])]
    assert found == [
        "2.PNG",
        "a/0.png",
        "a/b/1.png",
        "beside/1.png",
        "broken.png",
    ]


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("a.json", '["a/0.png", "2.PNG"]', [None, None]),
        ("a.json", '{"a/0.png": "cross", "2.PNG": 1}', [2, 1]),
        ("a.json", '[{"image": "a/0.png", "label": "dog"}, "2.PNG"]', [None, None]),
        ("a.csv", "image\na/0.png\n2.PNG\n", [None, None]),
        ("a.tsv", "label\timage\n2\ta/0.png\nsquare\t2.PNG\n", [2, 1]),
        ("a.txt", "a/0.png\n\n  2.PNG\n", [None, None]),
    ],
)
def test_list_needs_no_labels_but_may_have_some(photos, name, text, labels):
    (photos / name).write_text(text)
    reader = ImageReader([photos / name], CLASS_NAMES)
    assert [reader.name(n) for n in (0, 1)] == [
        str(photos / "a/0.png"),
        str(photos / "2.PNG"),
    ]
    assert reader.given_labels == labels
    assert reader.load(1).shape == (8, 8, 3)


def test_numbers_of_a_list_come_with_the_images(photos):
    for name, text in {
        "a.csv": 'image,features\n2.PNG,"[1, 2]"\na/0.png,"[3, 4.5]"\n',
        "a.json": json.dumps(
            [
                {"image": "2.PNG", "features": [1, 2]},
                {"image": "a/0.png", "features": [3, 4.5]},
            ]
        ),
    }.items():
        (photos / name).write_text(text)
        features = ImageReader([photos / name], CLASS_NAMES).features
        assert features.tolist() == [[1, 2], [3, 4.5]]
    with pytest.raises(ValueError, match=r"as the other images, 2.*features=None"):
        ImageReader([photos / "a.csv", photos / "2.PNG"], CLASS_NAMES)


@pytest.mark.parametrize("wrong", [["x", 1], [[1]], [10**400], 3, "1"])
def test_what_is_no_list_of_numbers_is_an_error(wrong, photos):
    (photos / "a.json").write_text(json.dumps([{"image": "a", "features": wrong}]))
    with pytest.raises(ValueError, match=r"/a` must have as many `features`.*Received"):
        ImageReader([photos / "a.json"], CLASS_NAMES)


def test_what_is_no_list_and_no_image_is_an_error(photos):
    with pytest.raises(FileNotFoundError, match=r"that are there.*nowhere"):
        names([photos / "nowhere"])
    with pytest.raises(ValueError, match=r"there are no images.*\.png.*nothing"):
        names([])
    (photos / "empty").mkdir()
    with pytest.raises(ValueError, match=r"there are no images.*Received: .*empty"):
        names([photos / "empty"])
    wrong = {
        "a.json": ("[1]", "is no list of images: write.*Received: 1"),
        "a0.json": ('["a\\u0000.png"]', r"is no list of images.*'a\\x00.png'"),
        "b.json": ("[", "is not a list in UTF-8.*Expecting value"),
        "c.csv": ("file\na.png\n", r"among them `image`\. Received: \['file'\]"),
        "d.csv": ("image,label\na.png\n", "entry 1.*another number of columns"),
    }
    for name, (text, message) in wrong.items():
        (photos / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            names([photos / name])


# === The launcher ===


def test_answers_are_those_of_a_test(tiny_run, run, tiny_folder, tmp_path, capsys):
    copy = shutil.copytree(tiny_run, tmp_path / "[b]copy")
    tested = test_launcher.main(test_launcher.Options(run=copy, split="test"))
    output = capsys.readouterr().out
    assert f"{copy}, step {tested.step}, test:" in output
    assert f"result: {copy}" in output
    options = predict.Options(
        images=(tiny_folder / "test.json",), run=run, output=tmp_path / "answers.csv"
    )
    found = predict.main(options)
    assert found.step == tested.step
    assert found.names == [str(tiny_folder / name) for name in tested.names]
    assert found.probabilities.tolist() == tested.probabilities.tolist()
    written = rows(tmp_path / "answers.csv")
    assert list(written[0])[:3] == ["image", "prediction", "probability"]
    for row, name, probabilities in zip(
        written, found.names, tested.probabilities, strict=True
    ):
        assert row["image"] == name
        assert row["prediction"] == CLASS_NAMES[probabilities.argmax()]
        assert float(row["probability"]) == pytest.approx(probabilities.max(), rel=1e-5)
        for class_name, p in zip(CLASS_NAMES, probabilities, strict=True):
            assert float(row[f"p({class_name})"]) == pytest.approx(p, rel=1e-5)
    one_by_one = predict.main(
        predict.Options(**vars(options) | {"batch_size": 1, "checkpoint": found.step})
    )
    np.testing.assert_allclose(
        one_by_one.probabilities, found.probabilities, rtol=1e-5, atol=1e-6
    )


def test_json_has_the_most_probable_classes_first(run, photos, tmp_path):
    path = tmp_path / "a/answers.json"
    options = predict.Options(images=(photos,), run=run, output=path, top_k=2)
    found = predict.main(options)
    content = json.loads(path.read_text())
    assert [each["image"] for each in content] == found.names
    for each, probabilities in zip(content, found.probabilities, strict=True):
        best = [CLASS_NAMES[k] for k in np.argsort(-probabilities)[:2]]
        assert list(each["probabilities"]) == best
        assert each["prediction"] == best[0]
        assert each["probability"] == each["probabilities"][best[0]]
    found.save(path)
    content = json.loads(path.read_text())
    assert list(content[0]["probabilities"]) == CLASS_NAMES
    found.save(tmp_path / "top.csv", top_k=9)
    (row, *_) = rows(tmp_path / "top.csv")
    assert list(row)[1:] == [
        *("prediction", "probability", "prediction2", "probability2"),
        *("prediction3", "probability3"),
    ]
    assert float(row["probability"]) >= float(row["probability2"])


def test_unreadable_image_stops_or_is_named_and_skipped(run, photos, tmp_path, capsys):
    for name in ("a/0.png", "a/b/1.png"):  # two of three: far more than 1 %
        (photos / name).write_bytes(b"torn")
    path = tmp_path / "[b]answers.csv"
    options = predict.Options(images=(photos,), run=run, output=path)
    with pytest.raises(ValueError, match=r"a/0\.png"):
        predict.main(options)
    assert not path.exists()
    skipping = predict.Options(**vars(options) | {"on_bad_file": "skip"})
    found = predict.main(skipping)
    assert [Path(name).name for name in found.names] == ["2.PNG"]
    assert [Path(name).name for name in found.skipped] == ["0.png", "1.png"]
    output = capsys.readouterr().err
    assert f"{path}: 1 images" in output
    assert "skipped in images, as they cannot be read: 2" in output
    assert len(rows(path)) == 1
    (photos / "2.PNG").write_bytes(b"torn")
    with pytest.raises(ValueError, match="3 of 3 images cannot be read"):
        predict.main(skipping)


def test_standard_output_is_a_table_and_nothing_else(run, photos):
    done = subprocess.run(
        [
            *(sys.executable, "launchers/predict.py", str(photos / "a")),
            *("--run", str(run), "--top-k", "1"),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},  # for the network of conftest.py
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "image,prediction,probability"
    assert [line.split(",")[0] for line in lines[1:]] == [
        str(photos / "a/0.png"),
        str(photos / "a/b/1.png"),
    ]


def test_name_that_is_no_unicode_is_escaped(run, photos, capsys):
    place = os.path.join(os.fsencode(photos / "a"), b"\xff.png")
    shutil.move(photos / "a/0.png", place)
    predict.main(predict.Options(images=(photos / "a",), run=run))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split(",")[0] == f"{photos}/a/\\udcff.png"


def test_mistakes_are_named_before_anything_is_computed(run, photos, tmp_path):
    def main(**settings):
        return predict.main(predict.Options(images=(photos,), run=run, **settings))

    with pytest.raises(ValueError, match=r"as \.csv or \.json\. Received: `a\.txt`"):
        main(output=Path("a.txt"))
    with pytest.raises(ValueError, match="at least 1. Received: top_k=0"):
        main(top_k=0)
    with pytest.raises(ValueError, match="`nowhere` is not the folder of a run"):
        predict.main(predict.Options(images=(photos,), run=Path("nowhere")))
    with pytest.raises(ValueError, match="out of range.*test_batch_size=0"):
        main(batch_size=0)


def test_images_stand_before_the_options():
    def parse(options: predict.Options) -> predict.Options:
        return options

    options = cli.run(parse, ["a", "b.png", "--run", "runs/x"])
    assert options.images == (Path("a"), Path("b.png"))
