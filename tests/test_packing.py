import json
import logging
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import tensorflow as tf

from worklab import packing
from worklab.__main__ import main
from worklab.examples import parse_image
from worklab.options import ReaderOptions
from worklab.packing import PackOptions, pack
from worklab.readers import find_class_names, open_reader
from worklab.tfrecords import scan_records

FORMATS = [("tfrecord", "tfrecord"), ("hdf5", "h5"), ("arrayrecord", "array_record")]


@pytest.fixture(autouse=True)
def _seeds():
    """Nothing here is Keras's: clearing it after each test would take seconds."""


@pytest.fixture
def photos(tmp_path):
    """Eleven JPEGs of 60x40 and one PNG of 10x20, with features, in two classes."""
    rng = np.random.default_rng(0)
    entries = []
    for number in range(12):
        small = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        image = cv2.resize(small, (60, 40), interpolation=cv2.INTER_CUBIC)
        name = f"{number:02d}.jpg"
        if number == 5:
            image, name = image[:20, :10], "05.png"
        cv2.imwrite(str(tmp_path / name), image)
        label = ["cat", "dog"][number % 2]
        entry = {"image": name, "label": label, "features": [number, 0.5]}
        entries.append(entry | {"weight": 0.1 * (1 + number)})
    (tmp_path / "train.json").write_text(json.dumps(entries))
    return tmp_path


def opened(path, **options):
    options = ReaderOptions(**{"image_size": (20, 20), "batch_size": 12} | options)
    return open_reader(path, find_class_names(path), options=options)


@pytest.mark.parametrize(("to", "suffix"), FORMATS)
def test_bytes_features_and_names_are_kept(photos, to, suffix):
    paths = pack(photos / "train.json", photos / to, PackOptions(to, 5))
    names = [f"train-0000{number}-of-00005.{suffix}" for number in range(5)]
    assert [path.name for path in paths] == names
    packed = opened(photos / to / "train@5")
    original = opened(photos / "train.json")
    assert packed.class_names == original.class_names == ["cat", "dog"]
    assert packed.features.tolist() == original.features.tolist()
    assert packed.weights.tolist() == original.weights.tolist()
    for index in range(12):
        assert packed.encoded(index) == original.encoded(index)
        assert packed.filename(index) == original.filename(index)
        assert packed.name(index).endswith(f":{original.name(index)}")
    for name, values in original.train_batch(3).items():
        np.testing.assert_array_equal(packed.train_batch(3)[name], values)
    again = pack(photos / to / "train@5", photos / "again", PackOptions(to, 5))
    for path, other in zip(paths, again, strict=True):
        assert path.read_bytes() == other.read_bytes()


def test_keys_are_those_of_slim(photos):
    (path,) = pack(photos / "train.json", photos / "out", PackOptions(first_label=1))
    (data, *_) = [data for _, data in scan_records(path)]
    features = tf.train.Example.FromString(data).features.feature
    found = {
        name: getattr(value, value.WhichOneof("kind")).value[:]
        for name, value in features.items()
        if value.WhichOneof("kind")
    }
    assert found.pop("image/encoded") == [(photos / "00.jpg").read_bytes()]
    assert found == {
        "features": [0.0, 0.5],
        "image/channels": [3],
        "image/class/label": [1],
        "image/class/text": [b"cat"],
        "image/colorspace": [b"RGB"],
        "image/filename": [b"00.jpg"],
        "image/format": [b"JPEG"],
        "image/height": [40],
        "image/width": [60],
        "weight": [b"0.1"],
    }
    reader = open_reader(path, ["cat", "dog"], labels_offset=1)
    assert reader.labels.tolist() == [0, 1] * 6


def test_larger_images_are_scaled_down(photos):
    pack(photos / "train.json", photos / "out", PackOptions(shorter_side=20))
    reader = opened(photos / "out" / "train@1")
    original = opened(photos / "train.json")
    for index in range(12):
        image = reader._load(index)
        if index == 5:  # small already
            assert reader.encoded(index) == original.encoded(index)
            continue
        assert image.shape == (20, 30, 3)
        expected = cv2.resize(
            original._load(index), (30, 20), interpolation=cv2.INTER_AREA
        )
        assert np.abs(image.astype(int) - expected).mean() < 8
    worse = PackOptions(shorter_side=20, quality=30)
    pack(photos / "train.json", photos / "worse", worse)
    lengths = [
        sum(len(each.encoded(index)) for index in range(12))
        for each in (reader, opened(photos / "worse" / "train@1"))
    ]
    assert lengths[1] < 0.8 * lengths[0]


def test_pixels_are_packed_without_loss(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
    np.savez(tmp_path / "valid.npz", images=images, labels=np.arange(6) % 2)
    (path,) = pack(tmp_path / "valid.npz", tmp_path / "out")
    assert path.name == "valid-00000-of-00001.tfrecord"
    reader = opened(path, batch_size=6)
    for index, image in enumerate(images):
        np.testing.assert_array_equal(reader._load(index), image)


@pytest.mark.parametrize(("to", "suffix"), FORMATS)
def test_only_missing_files_are_made(photos, to, suffix, monkeypatch):
    options = PackOptions(to, 4)
    paths = pack(photos / "train.json", photos / "out", options)
    contents = [path.read_bytes() for path in paths]
    paths[2].unlink()
    made = []
    real = packing._write_shard
    monkeypatch.setattr(
        packing,
        "_write_shard",
        lambda path, *rest: made.append(path) or real(path, *rest),
    )
    assert pack(photos / "train.json", photos / "out", options) == paths
    assert made == [paths[2]]
    assert [path.read_bytes() for path in paths] == contents


def test_killed_packing_goes_on(photos):
    script = photos / "script.py"
    script.write_text(
        """
import os, signal, sys
from pathlib import Path
from worklab import packing

real, done = packing._item, []
def item(reader, index, options):
    if index == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(reader, index, options)

packing._item = item
options = packing.PackOptions(shards=4)
packing.pack(Path("train.json"), Path("out"), options, num_threads=1)
"""
    )
    done = subprocess.run([sys.executable, script], cwd=photos, timeout=60)
    assert done.returncode == -signal.SIGKILL
    left = sorted(path.name for path in (photos / "out").glob("*train-*"))
    whole = [f"train-0000{number}-of-00004.tfrecord" for number in range(4)]
    assert left == sorted([*whole[:2], *left[:1]])
    assert left[0].startswith(f".{whole[2]}.")  # what was being written
    times = {name: (photos / "out" / name).stat().st_mtime_ns for name in whole[:2]}
    pack(photos / "train.json", photos / "out", PackOptions(shards=4))
    assert sorted(path.name for path in (photos / "out").glob("*train-*")) == whole
    for name, changed in times.items():
        assert (photos / "out" / name).stat().st_mtime_ns == changed
    whole = opened(photos / "out" / "train@4")
    assert whole.labels.tolist() == [0, 1] * 6


def test_ctrl_c_ends_at_once_and_leaves_no_half_file(photos):
    code = (
        "import signal, time; from worklab import packing; from pathlib import Path;"
        # Python leaves it ignored where the tests run as a background job.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "real = packing._item;"
        "packing._item = lambda *a: (print(flush=True), time.sleep(1), real(*a))[2];"
        "packing.pack(Path('train.json'), Path('out'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=photos,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    begun_afterwards = process.communicate(timeout=30)[0].count(b"\n")
    assert begun_afterwards < 8  # of 11 that were left, a second each
    assert process.returncode != 0
    assert not list((photos / "out").glob("*train-*"))


def test_another_packing_in_the_folder_is_refused(photos):
    pack(photos / "train.json", photos / "out", PackOptions(shards=2))
    match = r"files of another packing of `train`.*Received: differing shards$"
    with pytest.raises(ValueError, match=match):
        pack(photos / "train.json", photos / "out", PackOptions(shards=3))
    entries = json.loads((photos / "train.json").read_text())
    (photos / "train.json").write_text(json.dumps(entries[:10]))
    with pytest.raises(ValueError, match=r"Received: differing digest$"):
        pack(photos / "train.json", photos / "out", PackOptions(shards=2))
    (photos / "out" / ".train.pack.json").unlink()
    with pytest.raises(ValueError, match=r"train-0000.*tfrecord of unknown origin$"):
        pack(photos / "train.json", photos / "out", PackOptions(shards=2))
    (photos / "valid.json").write_text('{"00.jpg": "bird"}')
    match = r"classes\.json` has other classes than .*Received: \['bird'\]$"
    with pytest.raises(ValueError, match=match):
        pack(photos / "valid.json", photos / "out")


def test_what_is_written_wrongly_does_not_appear(photos, monkeypatch):
    real = packing.WRITERS["tfrecord"]

    def lose_the_last(path, items, names):
        real(path, list(items)[:-1], names)

    monkeypatch.setitem(packing.WRITERS, "tfrecord", lose_the_last)
    with pytest.raises(OSError, match=r"read back with another.*: 11 of 12 records$"):
        pack(photos / "train.json", photos / "out")
    assert not list((photos / "out").glob("*train-*"))


def test_broken_image_is_named_and_nothing_is_left(photos):
    (photos / "03.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"03\.jpg` is not a readable image"):
        pack(photos / "train.json", photos / "out", PackOptions(shards=2))
    assert not list((photos / "out").glob(".train-*"))


@pytest.mark.parametrize(
    "option",
    [{"shards": 0}, {"shards": 13}, {"shorter_side": 0}, {"quality": 101}],
)
def test_options_out_of_range(photos, option):
    ((name, value),) = option.items()
    match = rf"`{name}` is out of range: .*number of images \(12\).*: {name}={value}$"
    with pytest.raises(ValueError, match=match):
        pack(photos / "train.json", photos / "out", PackOptions(**option))


def test_fields_that_are_lost_are_said(photos, caplog):
    entries = [{"image": "00.jpg", "label": 0, "note": 2, "features": [1]}]
    (photos / "a.json").write_text(json.dumps(entries))
    with caplog.at_level(logging.WARNING):
        pack(photos / "a.json", photos / "out")
    assert caplog.messages == ["the field `note` of the list is not packed"]


def test_command_packs_and_says_where(photos, capsys, monkeypatch):
    monkeypatch.chdir(photos)
    main(["pack", "train.json", "--out", "out", "--to", "hdf5", "--shards", "2"])
    output = capsys.readouterr().out
    assert "packing train" in output
    assert "read by `--data.folder out --data.train train@2`" in output
    assert len(opened(photos / "out" / "train@2")) == 12


# ImageNet


XML = """<annotation><filename>%s</filename>
<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
{objects}</annotation>"""
OBJECT = """<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin>
<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


@pytest.fixture
def imagenet(tmp_path):
    """A miniature of ImageNet as it is handed out."""
    folder = tmp_path / "imagenet"
    synsets = ["n01440764", "n02084071", "n03126707"]
    for number, synset in enumerate(synsets):
        for image in range(2):
            path = folder / "train" / synset / f"{synset}_{image}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            data = cv2.imencode(".jpg", np.full((30, 40, 3), 50 * number, np.uint8))[1]
            path.write_bytes(data.tobytes())
    (folder / "validation").mkdir()
    for number in (2, 1, 3):
        path = folder / "validation" / f"ILSVRC2012_val_0000000{number}.JPEG"
        data = cv2.imencode(".jpg", np.full((30, 40, 3), number, np.uint8))[1]
        path.write_bytes(data.tobytes())
    (folder / "val_labels.txt").write_text("n03126707\nn01440764\nn02084071\n")
    (folder / "synsets.txt").write_text("\n".join(synsets) + "\n")
    (folder / "words.txt").write_text(
        "n00000001\tnothing\nn01440764\ttench, Tinca tinca\n"
        "n02084071\tcrane\nn03126707\tcrane\n"
    )
    boxes = folder / "boxes"
    for synset in synsets:
        (boxes / synset).mkdir(parents=True)
    objects = [
        ("n01440764", 10, 20, 50, 100),
        ("Scottish_deerhound", 90, 110, -10, 40),  # from right to left, and outside
        ("n02084071", 0, 0, 10, 10),  # another synset
        ("n01440764", 7, 7, 7, 9),  # empty
    ]
    text = "".join(OBJECT.format(*each) for each in objects)
    text = XML.format(width=100, height=200, objects=text)
    (boxes / "n01440764" / "n01440764_0.xml").write_text(text)
    return folder


def command(folder, images, *words):
    main(
        ["imagenet", str(folder / images), "--synsets", str(folder / "synsets.txt")]
        + ["--words", str(folder / "words.txt"), *words]
    )
    return json.loads((folder / f"{images}.json").read_text())


def test_imagenet_becomes_what_slim_makes(imagenet, capsys):
    entries = command(imagenet, "train", "--boxes", str(imagenet / "boxes"))
    assert "pack it with" in capsys.readouterr().out
    assert entries[0] == {
        "image": "train/n01440764/n01440764_0.JPEG",
        "label": "n01440764",
        "text": "tench, Tinca tinca",
        "boxes": [[0.1, 0.1, 0.5, 0.5], [0.0, 0.2, 0.9, 0.55]],
    }
    assert [entry["boxes"] for entry in entries[1:]] == [[]] * 5
    entries = command(
        imagenet,
        "validation",
        "--validation-labels",
        str(imagenet / "val_labels.txt"),
    )
    assert [entry["label"] for entry in entries] == [
        "n03126707",
        "n01440764",
        "n02084071",
    ]
    assert entries[0]["image"] == "validation/ILSVRC2012_val_00000001.JPEG"
    out = imagenet / "records"
    for split, shards in (("train", 2), ("validation", 1)):
        options = PackOptions(shards=shards, first_label=1)
        paths = pack(imagenet / f"{split}.json", out, options)
    (data, *_) = [
        data for _, data in scan_records(out / "train-00000-of-00002.tfrecord")
    ]
    features = tf.train.Example.FromString(data).features.feature
    assert features["image/class/label"].int64_list.value[:] == [1]
    assert features["image/class/synset"].bytes_list.value[:] == [b"n01440764"]
    assert features["image/class/text"].bytes_list.value[:] == [b"tench, Tinca tinca"]
    for side, expected in (
        ("xmin", [0.1, 0.0]),
        ("ymin", [0.1, 0.2]),
        ("xmax", [0.5, 0.9]),
        ("ymax", [0.5, 0.55]),
    ):
        found = features[f"image/object/bbox/{side}"].float_list.value[:]
        assert found == pytest.approx(expected)
    assert features["image/object/bbox/label"].int64_list.value[:] == [1, 1]
    names = find_class_names(out / "train@2", labels_offset=1)
    assert names == ["n01440764", "n02084071", "n03126707"]
    reader = open_reader(paths[0], names, labels_offset=1)
    assert reader.labels.tolist() == [2, 0, 1]
    (out / "classes.json").unlink()  # as slim's own files come
    assert find_class_names(out / "train@2", labels_offset=1) == [
        "tench, Tinca tinca",
        "crane (1)",
        "crane (2)",
    ]
    assert parse_image(data).filename == "n01440764_0.JPEG"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("<annotation>", r"n01440764_0\.xml` is not an annotation.*no element found"),
        ("<annotation><object/></annotation>", r"is not an annotation"),
        (
            XML.format(width=0, height=1, objects=OBJECT.format("a", 0, 0, 1, 1)),
            "by zero",
        ),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "document type"),
        ("<annotation>" + " " * 2**20 + "</annotation>", r"\(too large\)"),
    ],
)
def test_annotations_that_are_none(imagenet, capsys, text, match):
    (imagenet / "boxes/n01440764/n01440764_0.xml").write_text(text)
    with pytest.raises(SystemExit):
        command(imagenet, "train", "--boxes", str(imagenet / "boxes"))
    error = capsys.readouterr().err
    assert pytest.raises(ValueError, match=match).matches(ValueError(error))


def test_imagenet_whose_files_do_not_fit(imagenet, capsys):
    for name, text, words in (
        ("synsets.txt", "n01440764\n", ["has synsets that", "['n02084071', 'n03"]),
        ("words.txt", "n01440764 tench\n", ["a synset, a tab and words"]),
    ):
        before = (imagenet / name).read_text()
        (imagenet / name).write_text(text)
        with pytest.raises(SystemExit):
            command(imagenet, "train")
        error = capsys.readouterr().err
        assert all(word in error for word in words)
        (imagenet / name).write_text(before)
    (imagenet / "val_labels.txt").write_text("n01440764\n")
    labels = str(imagenet / "val_labels.txt")
    with pytest.raises(SystemExit):
        command(imagenet, "validation", "--validation-labels", labels)
    assert "Received: 1 lines for 3" in capsys.readouterr().err
    (imagenet / "classes.json").write_text('["a"]')
    with pytest.raises(SystemExit):
        command(imagenet, "train")
    assert "has other classes than" in capsys.readouterr().err
    os.remove(imagenet / "synsets.txt")
    with pytest.raises(SystemExit):
        command(imagenet, "train")
    assert "It comes with tf-slim's scripts" in capsys.readouterr().err


def test_statistics_of_packed_images_are_those_of_the_list(photos, capsys):
    pack(photos / "train.json", photos / "out", PackOptions(shards=2))
    outputs = []
    for source in ("train.json", "out/train@2"):
        main(["stats", str(photos / source), "--reader.image-size", "8", "8"])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert "images: 12" in outputs[0]


def test_table_without_its_bad_images_is_a_table(photos, capsys):
    lines = ["image,label,note", '00.jpg,cat,"a, b"', "gone.jpg,dog,", "01.jpg,dog,"]
    (photos / "a.csv").write_text("\n".join(lines))
    main(["check", str(photos / "a.csv"), "--fix"])
    assert "entries taken off: 1" in capsys.readouterr().out
    assert (photos / "a.csv").read_text().splitlines() == [*lines[:2], lines[3]]
    assert (photos / "a.csv.before-check").read_text() == "\n".join(lines)
