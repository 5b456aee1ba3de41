"""Every source gives what the list of the same images does."""

import gzip
import io
import json
import logging
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile

import cv2
import h5py
import numpy as np
import pytest
import tensorflow as tf

from worklab.examples import make_example, parse_image
from worklab.lists import read_list, write_class_names
from worklab.npz import read_npz
from worklab.options import AugmentOptions, ReaderOptions
from worklab.packing import PackOptions, pack
from worklab.reader import Share
from worklab.readers import (
    ArrayReader,
    ArrayRecordReader,
    FolderReader,
    Hdf5Reader,
    IdxReader,
    JsonListReader,
    NpzReader,
    TarReader,
    TFRecordReader,
    digest_source,
    find_class_names,
    open_reader,
)
from worklab.shards import cached_index, find_shards, read_at
from worklab.tfrecords import scan_records, write_record

from .conftest import CLASS_NAMES

OPTIONS = {"image_size": (8, 8), "batch_size": 7, "test_batch_size": 8}
AUGMENT = AugmentOptions(preset="strong", flip=True)
SOURCES = [
    "train.json",
    "train.csv",
    "train.tsv",
    "folder",
    "train@2.tfrecord",
    "train-*.tfrecord",
    "train@3.h5",
    "pixels.h5",
    "train-00000-of-00001.array_record",
    "train.tar",
    "train.npz",
    "train-images-idx3-ubyte",
    "train-images-idx3-ubyte.gz",
]


@pytest.fixture(autouse=True)
def _seeds():
    """Nothing here is Keras's: clearing it after each test would take seconds."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same 30 grey images, as a source of every kind, sorted by class."""
    folder = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 8, 9), dtype=np.uint8)
    labels = np.repeat(np.arange(3), 10)
    classes = sorted(CLASS_NAMES)
    write_class_names(folder / "classes.json", classes)
    names = [f"{classes[label]}/{n:02d}.png" for n, label in enumerate(labels)]
    for name, image in zip(names, images, strict=True):
        (folder / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "folder" / name), image)
    entries = {f"folder/{name}": name.partition("/")[0] for name in names}
    (folder / "train.json").write_text(json.dumps(entries))
    for suffix, comma in (("csv", ","), ("tsv", "\t")):
        lines = [f"{name}{comma}{label}" for name, label in entries.items()]
        text = "\n".join([f"image{comma}label", *lines])
        (folder / f"train.{suffix}").write_text(text)
    for to, shards in (("tfrecord", 2), ("hdf5", 3), ("arrayrecord", 1)):
        pack(folder / "train.json", folder / to, PackOptions(to, shards))
        for path in (folder / to).glob("train-*"):
            path.rename(folder / path.name)
    with h5py.File(folder / "pixels.h5", "w") as file:
        file.create_dataset("images", data=images, chunks=(1, 8, 9), compression="gzip")
        file["labels"] = labels.astype(np.uint8)[:, np.newaxis]
    np.savez_compressed(folder / "train.npz", images=images, labels=labels)
    write_tar(folder / "train.tar", folder, entries)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        data = bytes([0, 0, 8, array.ndim]) + struct.pack(
            f">{array.ndim}I", *array.shape
        )
        data += array.astype(np.uint8).tobytes()
        (folder / f"train-{kind}-ubyte").write_bytes(data)
        (folder / f"train-{kind}-ubyte.gz").write_bytes(gzip.compress(data))
    return folder


def write_tar(path, folder, entries):
    with tarfile.open(path, "w") as archive:
        for number, (name, label) in enumerate(entries.items()):
            archive.add(folder / name, arcname=f"{number:04d}.png")
            as_json = json.dumps({"label": label}).encode()
            suffix, data = (
                (".cls", label.encode()) if number % 2 else (".json", as_json)
            )
            member = tarfile.TarInfo(f"{number:04d}{suffix}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def read(path, *, labels_offset=0, augment=AUGMENT, on_bad_file="stop", **options):
    return open_reader(
        path,
        find_class_names(path, labels_offset=labels_offset),
        labels_offset=labels_offset,
        options=ReaderOptions(**OPTIONS | {"num_threads": 0} | options),
        augment=augment,
        seed=3,
        on_bad_file=on_bad_file,
    )


def batches(reader, count=6, start=0):
    """Return some training batches and a test pass, as one list."""
    found = reader.train_batches(start)
    return [next(found) for _ in range(count)] + list(reader.test_batches())


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, values in one.items():
            assert values.dtype == other[name].dtype
            np.testing.assert_array_equal(values, other[name])


@pytest.fixture(scope="module")
def expected(sources):
    return batches(read(sources / "train.json"))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_batches_of_every_source_are_those_of_the_list(
    sources, expected, name, threads
):
    reader = read(sources / name, num_threads=threads)
    assert reader.class_names == sorted(CLASS_NAMES)
    assert reader.path == sources / name
    assert_equal(batches(reader), expected)


@pytest.mark.parametrize("name", SOURCES)
def test_steps_shares_and_names_of_every_source(sources, expected, name):
    reader = read(sources / name)
    assert_equal(batches(reader, 2, start=4), expected[4:])
    parts = [reader.train_batch(5, Share(part, 3)) for part in range(3)]
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    assert_equal([whole], [expected[5]])
    assert len({reader.name(index) for index in range(30)}) == 30
    versions = [reader.version(index) for index in range(30)]
    assert len(set(versions)) == 30
    assert versions == [reader.version(index) for index in range(30)]


@pytest.mark.parametrize(
    ("name", "processes"),
    [
        ("train@2.tfrecord", 2),
        ("train@3.h5", 1),
        ("train-00000-of-00001.array_record", 2),
    ],
)
def test_processes_change_no_batch(sources, expected, name, processes):
    reader = read(sources / name, num_processes=processes)
    for _ in range(2):
        found = reader.train_batches(1)
        assert_equal([next(found) for _ in range(5)], expected[1:6])
        assert_equal(list(reader.test_batches()), expected[6:])
    with pytest.raises(ValueError, match=r"`batch_size` must not exceed"):
        next(read(sources / name, num_processes=1, batch_size=31).train_batches(0))


def test_processes_report_what_they_skip(tmp_path, caplog):
    data = [example(n % 2) for n in range(12)]
    data[4]["image/encoded"] = [b"no image"]
    path = write_examples(tmp_path / "a.tfrecord", *data)
    readers = [
        read(path, on_bad_file="skip", num_processes=number) for number in (0, 2)
    ]
    found = [batches(reader, 4) for reader in readers]
    assert_equal(*found)
    assert readers[0].skipped == readers[1].skipped
    (reason,) = readers[1].skipped.values()
    assert "a.tfrecord, record 4` is not a readable image" in reason
    assert len(caplog.messages) == 2  # of each reader once
    data[5]["image/encoded"] = [b"no image"]
    path = write_examples(tmp_path / "b.tfrecord", *data)
    reader = read(path, on_bad_file="skip", num_processes=2)
    with pytest.raises(ValueError, match="2 of 12 images cannot be read"):
        batches(reader, 4)


def test_process_that_dies_is_an_error(sources):
    def die(image, rng):
        os.kill(os.getpid(), signal.SIGKILL)

    reader = read(sources / "train.json", num_processes=1, augment=die)
    match = r"has died, mostly for want of memory\. Give fewer `--reader\.num-proc"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=match):
            next(reader.train_batches(0))


def test_negative_number_of_processes(sources):
    with pytest.raises(ValueError, match=r"out of range.*num_processes=-1$"):
        read(sources / "train.json", num_processes=-1)


def test_own_augmentation_of_a_script_works_in_processes(sources, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys
from pathlib import Path
import numpy as np
from worklab.options import ReaderOptions
from worklab.readers import JsonListReader

class Own(JsonListReader):
    def augment(self, image, rng):
        assert "tensorflow" not in sys.modules
        return np.full((8, 8, 3), rng.integers(256), np.uint8)

if __name__ != "__main__":
    raise SystemExit("the script is not to be imported again")
sizes = {OPTIONS}
reader = Own(
    Path({str(sources / "train.json")!r}),
    ["circle", "cross", "square"],
    options=ReaderOptions(num_processes=2, **sizes),
)
batch = next(reader.train_batches(3))
assert (batch["images"] == reader.train_batch(3)["images"]).all()
"""
    )
    start = time.monotonic()
    subprocess.run([sys.executable, script], check=True, timeout=60)
    assert time.monotonic() - start < 30


def test_processes_end_with_a_parent_that_is_killed(sources, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import os, signal, multiprocessing
from pathlib import Path
from worklab.options import ReaderOptions
from worklab.readers import JsonListReader

reader = JsonListReader(
    Path({str(sources / "train.json")!r}),
    ["circle", "cross", "square"],
    options=ReaderOptions(num_processes=2, **{OPTIONS}),
)
batches = reader.train_batches(0)
next(batches), next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, timeout=60)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_readers_come_without_tensorflow():
    code = "import sys, worklab.readers; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Which reader


@pytest.mark.parametrize(
    ("name", "reader_class"),
    [
        ("train.json", JsonListReader),
        ("train.csv", JsonListReader),
        ("folder", FolderReader),
        ("train-00000-of-00002.tfrecord", TFRecordReader),
        ("train-00001-of-00003.h5", Hdf5Reader),
        ("train-00000-of-00001.array_record", ArrayRecordReader),
        ("train.tar", TarReader),
        ("train.npz", NpzReader),
        ("train-images-idx3-ubyte", IdxReader),
        ("train-images-idx3-ubyte.gz", IdxReader),
    ],
)
def test_source_is_known_by_its_content_where_it_has_no_suffix(
    sources, tmp_path, name, reader_class
):
    assert type(read(sources / name, batch_size=1)) is reader_class
    if name.partition(".")[2] in {"json", "csv", "", "gz"}:
        return
    bare = tmp_path / "validation"
    shutil.copy(sources / name, bare)
    assert type(read(bare, batch_size=1)) is reader_class


def test_what_is_no_source_is_an_error(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff nothing")
    match = r"a\.jpg` is nothing that can be read\. Give a list .*\\xff\\xd8\\xff noth"
    with pytest.raises(ValueError, match=match):
        find_class_names(tmp_path / "a.jpg")
    for name in ("b.tfrecord", "train-*"):
        match = rf"There is no file `.*\. In `.*` there are: a\.jpg\. .*{name[:1]}"
        with pytest.raises(FileNotFoundError, match=match):
            find_class_names(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"Lists in `.*`: none\. .*c\.csv$"):
        find_class_names(tmp_path / "c.csv")


def test_shards_that_are_missing_or_double(sources, tmp_path, caplog):
    for number in (0, 1):
        name = f"train-0000{number}-of-00002.tfrecord"
        shutil.copy(sources / name, tmp_path)
    assert len(find_shards(tmp_path / "train@2")) == 2
    shutil.copy(tmp_path / name, tmp_path / "train-00001-of-00002.h5")
    with pytest.raises(FileNotFoundError, match=r"`train@2` means, is there more than"):
        find_shards(tmp_path / "train@2")
    assert len(find_shards(tmp_path / "train@2.tfrecord")) == 2
    (tmp_path / name).unlink()
    match = (
        r"`.*train-00001-of-00002\.tfrecord`, one of the 2 .* is missing\. .*: \[\]$"
    )
    with pytest.raises(FileNotFoundError, match=match):
        find_shards(tmp_path / "train@2.tfrecord")
    with caplog.at_level(logging.WARNING):
        assert len(find_shards(tmp_path / "train-*.tfrecord")) == 1
    assert "1 of the 2 files of train@2" in caplog.text


def test_folder_of_files_is_not_one_of_classes(sources, tmp_path):
    shutil.copy(sources / "train.tar", tmp_path)
    match = r"is no folder of class folders\. .*Received: a folder of train\.tar$"
    with pytest.raises(ValueError, match=match):
        find_class_names(tmp_path)


def test_folder_of_splits_is_not_one_of_classes(sources, tmp_path):
    shutil.copytree(sources / "folder", tmp_path / "train")
    with pytest.raises(ValueError, match=r"a folder of splits, not of classes"):
        find_class_names(tmp_path)
    names = find_class_names(tmp_path / "train")
    assert names == sorted(CLASS_NAMES)
    shutil.rmtree(tmp_path / "train" / "cross")
    reader = open_reader(tmp_path / "train", names)
    assert set(reader.labels.tolist()) == {0, 2}  # no label is shifted
    with pytest.raises(ValueError, match=r"unknown class.*Received: label='square'"):
        open_reader(tmp_path / "train", names[:2])


def test_digest_tells_one_source_from_another(sources, tmp_path):
    digests = [digest_source(sources / name) for name in SOURCES]
    assert None not in digests
    assert len(set(digests)) == len(SOURCES) - 1  # one pattern is another's
    assert digest_source(tmp_path / "train.json") is None
    shutil.copytree(sources / "folder", tmp_path / "folder")
    before = digest_source(tmp_path / "folder")
    assert before == digest_source(sources / "folder")
    next((tmp_path / "folder").glob("*/*.png")).unlink()
    assert digest_source(tmp_path / "folder") != before
    found = []
    for name in ("caf\udce9", "caf\udce8"):  # as Python has names that are no Unicode
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / name / "1.png").touch()
        found.append(digest_source(tmp_path / name))
        for number in range(2):
            (tmp_path / f"{name}-{number:05d}-of-00002.tfrecord").touch()
        found.append(digest_source(tmp_path / f"{name}@2"))
    assert len(set(found)) == 4


# CSV


def write(path, text):
    path.write_text(text)
    return path


def test_further_columns_are_fields(tmp_path):
    text = 'image,label,features,note\n"a,b.png",1,"[1, 2.5]",x\nc.png,0,"[0, 3]",7\n'
    records = read_list(write(tmp_path / "a.csv", text), ["no", "yes"])
    assert [(record.path, record.label) for record in records] == [
        ("a,b.png", 1),
        ("c.png", 0),
    ]
    assert records[0].fields == {"features": [1, 2.5], "note": "x"}
    assert records[1].fields["note"] == 7
    reader = JsonListReader(tmp_path / "a.csv", ["no", "yes"])
    assert reader.features.tolist() == [[1, 2.5], [0, 3]]


def test_numbers_among_names_are_names(tmp_path):
    path = write(tmp_path / "a.csv", "image,label\na.png,1\nb.png,x1\n")
    assert find_class_names(path) == ["1", "x1"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("image,class\na.png,1\n", r"among them `image` and `label`.*'class'\]$"),
        ("image,label,label\na,1,1\n", r"each once"),
        ("", r"must name its columns"),
        ("image,label\n", r"is empty or not a list"),
        ("image,label\na.png,1\nb.png\n", "entry 2, has another number.*'b.png'"),
        ("image,label\na.png,1,3\n", "entry 1, has another number.*'a.png'"),
        ('image,label\n"a.png,1\n', r"is not a CSV file in UTF-8 \(unexpected end"),
        ("image,label\n,1\n", r"entry 1 \(''\), has no image path"),
    ],
)
def test_malformed_tables(tmp_path, text, match):
    with pytest.raises(ValueError, match=match):
        read_list(write(tmp_path / "a.csv", text), ["no", "yes"])


def test_table_that_is_not_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"image,label\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        read_list(tmp_path / "a.csv", ["no"])


# Labels


def png(value=0):
    image = np.full((8, 8, 3), value, np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def write_examples(path, *examples):
    with open(path, "wb") as file:
        for values in examples:
            write_record(file, make_example(values))
    return path


def example(label, text=None, key="image/class/label"):
    values = {"image/encoded": [png()], key: [label]}
    if text is not None:
        values["image/class/text"] = [text.encode()]
    return values


def test_background_class_of_slim_is_left_out_by_the_offset(tmp_path):
    path = write_examples(
        tmp_path / "train", example(1, "crane"), example(3, "crane"), example(2, "fox")
    )
    assert find_class_names(path) == ["0", "crane (1)", "fox", "crane (3)"]
    names = find_class_names(path, labels_offset=1)
    assert names == ["crane (0)", "fox", "crane (2)"]
    reader = open_reader(path, names, labels_offset=1)
    assert reader.labels.tolist() == [0, 2, 1]
    match = r"train`, record 0.* has a label that numbers no class.*label=-1$"
    with pytest.raises(ValueError, match=match):
        find_class_names(path, labels_offset=2)
    with pytest.raises(ValueError, match=r"what is class 0 here.*Received: 2='fox'"):
        open_reader(path, ["fox", "a", "b", "c"])


def test_labels_file_of_slim_names_the_classes(tmp_path):
    path = write_examples(
        tmp_path / "flowers_train_00000-of-00005.tfrecord", example(1)
    )
    (tmp_path / "labels.txt").write_text("0:daisy\n1:rose\n2:tulip\n")
    assert find_class_names(path) == ["daisy", "rose", "tulip"]
    assert find_class_names(path, labels_offset=1) == ["rose", "tulip"]
    (tmp_path / "labels.txt").write_text("something else\n")
    assert find_class_names(path) == ["0", "1"]


def test_names_and_other_keys_are_read(tmp_path):
    values = {"image": [png()], "label": [b"cat"]}
    path = write_examples(tmp_path / "a.tfrecord", values, values | {"label": [b"ant"]})
    assert find_class_names(path) == ["ant", "cat"]
    reader = open_reader(path, ["ant", "bee", "cat"])
    assert reader.labels.tolist() == [2, 0]
    with pytest.raises(
        ValueError, match=r"a\.tfrecord`, record 1 has an unknown class"
    ):
        open_reader(path, ["bee", "cat"])
    with pytest.raises(ValueError, match=r"these are class names.*labels_offset=1$"):
        find_class_names(path, labels_offset=1)


@pytest.mark.parametrize("name", ["train.json", "folder"])
def test_offset_is_not_for_labels_that_the_user_wrote(sources, name):
    with pytest.raises(ValueError, match=r"the labels that its user wrote.*offset=1$"):
        open_reader(sources / name, sorted(CLASS_NAMES), labels_offset=1)


@pytest.mark.parametrize("label", [-1, 2**40])
def test_label_that_is_no_class(tmp_path, label):
    path = write_examples(tmp_path / "a.tfrecord", example(0), example(label))
    with pytest.raises(ValueError, match=rf"record 1, .*Received: label={label}$"):
        find_class_names(path)


def test_records_of_two_kinds(tmp_path):
    path = write_examples(
        tmp_path / "a.tfrecord", example(0), example(b"cat", key="label")
    )
    with pytest.raises(ValueError, match=r"has records of two kinds.*\['0', 'cat'\]"):
        find_class_names(path)


# TFRecord


def test_records_are_those_of_tensorflow(tmp_path):
    values = {"a": [b"x", b""], "b": [1, -(2**40)], "c": [0.5, 2.0], "d": []}
    features = {
        "a": tf.train.Feature(bytes_list=tf.train.BytesList(value=values["a"])),
        "b": tf.train.Feature(int64_list=tf.train.Int64List(value=values["b"])),
        "c": tf.train.Feature(float_list=tf.train.FloatList(value=values["c"])),
        "d": tf.train.Feature(),
    }
    theirs = tf.train.Example(features=tf.train.Features(feature=features))
    assert tf.train.Example.FromString(make_example(values)) == theirs
    data = [b"", b"x" * 5, os.urandom(1000)]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for each in data:
            writer.write(each)
    with open(tmp_path / "ours", "wb") as file:
        for each in data:
            write_record(file, each)
    content = (tmp_path / "ours").read_bytes()
    assert content == (tmp_path / "theirs").read_bytes()
    assert [found for _, found in scan_records(tmp_path / "theirs")] == data


def damage(path, place, data=None):
    """Cut a file off, or change bytes of it, without changing its time."""
    content = bytearray(path.read_bytes())
    status = path.stat()
    if data is None:
        del content[place:]
    else:
        content[place : place + len(data)] = data
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("place", "data", "match"),
    [
        (-1, None, r"a\.tfrecord`, record 1, is cut off.*Copy or pack .*Received: \d+"),
        (3, None, r"record 0, is damaged, or the file is no TFRecord"),
        (0, struct.pack("<Q", 2**60), r"record 0, is damaged"),
        (40, b"!!!", r"record 0, is damaged: its checksum is another one"),
        (0, b"\x1f\x8b", r"record 0, is compressed as a whole"),
    ],
)
def test_damaged_records_are_named(tmp_path, place, data, match):
    path = write_examples(tmp_path / "a.tfrecord", example(0), example(1))
    damage(path, place, data)
    with pytest.raises(ValueError, match=match):
        find_class_names(path)


def test_length_is_compared_with_the_file_before_memory_is_taken(tmp_path):
    path = tmp_path / "a.tfrecord"
    file = io.BytesIO()
    write_record(file, b"x" * 2**20)
    path.write_bytes(file.getvalue()[:12])  # a length with its checksum, nothing behind
    with pytest.raises(ValueError, match=r"is cut off: .*1048576 bytes at 0 of 12$"):
        find_class_names(path)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\xff\xff", r"record 0, is not a `tf\.train\.Example`.*Received: b'"),
        (make_example({"x": [1]}), r"record 0, has no image or no class.*\['x'\]$"),
        (make_example({"image": [b"x"]}), r"has no image or no class"),
    ],
)
def test_records_that_are_no_images(tmp_path, data, match):
    with open(tmp_path / "a.tfrecord", "wb") as file:
        write_record(file, data)
    with pytest.raises(ValueError, match=match):
        find_class_names(tmp_path / "a.tfrecord")


def test_damage_after_the_index_was_made_names_the_record(tmp_path):
    values = example(1) | {"image/filename": [b"n01_7.JPEG"]}
    path = write_examples(tmp_path / "a.tfrecord", example(0), values)
    reader = read(path, batch_size=1)
    assert reader.name(1) == "a.tfrecord:1:n01_7.JPEG"
    size = path.stat().st_size
    damage(path, size - 30, b"!!!")
    match = r"a\.tfrecord`, record 1 \(n01_7\.JPEG\) is damaged: its checksum"
    with pytest.raises(ValueError, match=match):
        reader.test_batch(0)
    damage(path, size - 30)
    with pytest.raises(ValueError, match=r"ends before its record does"):
        reader.test_batch(0)
    path.unlink()
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        reader.test_batch(0)


def test_broken_image_in_a_record_is_named(tmp_path):
    broken = example(0) | {"image/encoded": [b"no image"]}
    path = write_examples(tmp_path / "a.tfrecord", broken)
    match = r"a\.tfrecord, record 0` is not a readable image"
    with pytest.raises(ValueError, match=match):
        read(path, batch_size=1).test_batch(0)


def test_parsing_keeps_features():
    values = example(2) | {"features": [0.5, 2.0]}
    assert parse_image(make_example(values)).features == (0.5, 2.0)


# The index


def build_counted(calls):
    def build(path):
        calls.append(path)
        return {"label": np.arange(len(path.read_bytes()))}

    return build


def test_index_is_made_once_and_anew_for_another_file(tmp_path):
    calls = []
    shards = [write(tmp_path / "a", "xy"), write(tmp_path / "b", "z")]
    for _ in range(2):
        index = cached_index(shards, "test 1", build_counted(calls))
        assert index["label"].tolist() == [0, 1, 0]
        assert index["shard"].tolist() == [0, 0, 1]
    assert calls == shards
    cached_index(shards, "test 2", build_counted(calls))
    assert len(calls) == 4
    shards[1].write_text("longer")
    cached_index(shards, "test 2", build_counted(calls))
    assert len(calls) == 6
    (kept,) = tmp_path.glob(".*.npz")
    damage(kept, 50)
    cached_index(shards, "test 2", build_counted(calls))
    assert len(calls) == 8


def test_index_of_a_read_only_folder_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = open

    def refuse(path, mode="r", *rest, **settings):
        if "w" in mode and str(path).startswith(str(tmp_path / "data")):
            raise PermissionError("read-only")
        return real(path, mode, *rest, **settings)

    monkeypatch.setattr("worklab.shards.open", refuse, raising=False)
    (tmp_path / "data").mkdir()
    calls, shards = [], [write(tmp_path / "data" / "a", "xy")]
    for _ in range(2):
        cached_index(shards, "test 1", build_counted(calls))
    assert len(calls) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["a"]
    assert len(list((tmp_path / "cache" / "worklab").iterdir())) == 1


def test_places_outside_of_a_file_take_no_memory(tmp_path):
    path = write(tmp_path / "a", "0123456789")
    assert read_at(path, 3, 4) == b"3456"
    for place, length in ((0, 11), (8, 2**60), (-1, 2), (4, -2)):
        with pytest.raises(ValueError, match="ends before its record does"):
            read_at(path, place, length)


# ArrayRecord, HDF5, tar, NumPy, idx


@pytest.mark.parametrize("size", [0, 100, 70_000, 131_071])
def test_array_record_that_is_cut_off(sources, tmp_path, size):
    path = tmp_path / "a.array_record"
    shutil.copy(sources / "train-00000-of-00001.array_record", path)
    damage(path, size)
    with pytest.raises(
        ValueError, match=r"a\.array_record` is no ArrayRecord file, or"
    ):
        find_class_names(path)


def test_array_record_that_is_damaged(sources, tmp_path):
    path = tmp_path / "a.array_record"
    shutil.copy(sources / "train-00000-of-00001.array_record", path)
    damage(path, 400, b"!!!!")
    with pytest.raises(ValueError, match=r"a\.array_record`, record \d+, is damaged"):
        find_class_names(path)


def make_hdf5(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file[name] = data
    return path


def zeros(*shape):
    return np.zeros(shape, np.uint8)


@pytest.mark.parametrize(
    ("datasets", "match"),
    [
        ({"images": zeros(3, 8, 8)}, r"must have the datasets.*labels among \['im"),
        (
            {"images": zeros(3, 8, 8), "labels": zeros(2)},
            r"equally many.*3 images",
        ),
        (
            {"images": zeros(3, 8), "labels": zeros(3)},
            r"must be uint8 .*uint8 \(3, 8\)",
        ),
        ({"images": zeros(3, 8, 8, 4), "labels": zeros(3)}, r"1 or 3 channels behind"),
        (
            {"images": np.zeros((3, 8, 8)), "labels": zeros(3)},
            r"must be uint8 with values 0\.\.255.*float64 \(3, 8, 8\)$",
        ),
        (
            {"images": zeros(3, 8, 8), "labels": np.zeros(3)},
            r"one integer or name for each image\. Received: float64 \(3,\)$",
        ),
        (
            {"images": zeros(3), "labels": zeros(3)},
            r"of a variable number of uint8",
        ),
    ],
)
def test_hdf5_of_another_form(tmp_path, datasets, match):
    with pytest.raises(ValueError, match=match):
        find_class_names(make_hdf5(tmp_path / "a.h5", **datasets))


def test_hdf5_reads_from_no_other_file(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(192)))
    make_hdf5(tmp_path / "other.h5", images=zeros(3, 8, 8), labels=zeros(3))
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset(
            "images", (3, 8, 8), np.uint8, external=[(str(secret), 0, 192)]
        )
        file["labels"] = zeros(3)
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["images"] = h5py.ExternalLink("other.h5", "/images")
        file["labels"] = zeros(3)
    layout = h5py.VirtualLayout((3, 8, 8), np.uint8)
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "images", (3, 8, 8))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("images", layout)
        file["labels"] = zeros(3)
    for name, match in (
        ("raw", r"`images` in `.*` reads from another file.*secret"),
        ("linked", r"in the file itself\. Received: images among .*ExternalLink$"),
        ("virtual", r"reads from another file, which may be any.*virtual$"),
    ):
        with pytest.raises(ValueError, match=match):
            find_class_names(tmp_path / f"{name}.h5")


def test_hdf5_that_claims_more_than_it_has(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", (2**40, 8, 8), np.uint8, chunks=(1, 8, 8))
        file.create_dataset("labels", (2**40,), np.uint8, chunks=(64,))
    with pytest.raises(ValueError, match=r"claims more than its file can hold"):
        find_class_names(tmp_path / "a.h5")
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:500])
    with pytest.raises(
        ValueError, match=r"b\.h5` cannot be read: it is no whole HDF5 file"
    ):
        find_class_names(tmp_path / "b.h5")


def test_names_and_features_of_hdf5_and_npz(tmp_path):
    arrays = {"images": zeros(3, 8, 8, 1), "labels": np.array([2, 0, 2])}
    arrays["features"] = np.arange(6.0).reshape(3, 2)
    arrays["weights"] = np.array([0.1, 2.0, 3.0])
    names = ["ant", "bee", "cat", "dog"]
    make_hdf5(tmp_path / "a.h5", **arrays, class_names=names)
    np.savez(tmp_path / "a.npz", **arrays, class_names=names)
    for path in (tmp_path / "a.h5", tmp_path / "a.npz"):
        assert find_class_names(path) == names
        assert find_class_names(path, labels_offset=0) == names
        reader = read(path, batch_size=1)
        assert reader.features.tolist() == arrays["features"].tolist()
        assert reader.weights.tolist() == [0.1, 2.0, 3.0]
        assert reader.test_batch(0)["images"].shape == (8, 8, 8, 3)
        assert read(path, batch_size=1, channels=1).image_shape == (8, 8, 1)
        with pytest.raises(ValueError, match=r"record 0, has a label out of range"):
            open_reader(path, ["ant"])


@pytest.mark.parametrize("channels", [1, 3])
def test_stored_pixels_are_converted(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(4))
    reader = read(tmp_path / "a.npz", channels=channels, test_batch_size=4)
    found = reader.test_batch(0)["images"]
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None] for image in images]
    np.testing.assert_array_equal(found, images if channels == 3 else grey)


def write_zip(path, name, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, data)
    return path


def npy_header(shape, dtype):
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def test_npz_executes_nothing_and_takes_no_memory_for_claims(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.array([{}], object), labels=zeros(1))
    with pytest.raises(ValueError, match=r"is not a whole array of numbers or text"):
        read_npz(tmp_path / "a.npz")
    path = write_zip(tmp_path / "b.npz", "images.npy", npy_header((2**50,), "|u1"))
    with pytest.raises(ValueError, match=r"`images\.npy` in `.*` claims more than"):
        read_npz(path)
    path = write_zip(tmp_path / "c.npz", "images.npy", npy_header((300,), "|u1"))
    with pytest.raises(ValueError, match=r"not a whole array.*uint8 \(300,\) in"):
        read_npz(path)
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 and nothing")
    with pytest.raises(ValueError, match=r"d\.npz` is not a whole `\.npz` file"):
        find_class_names(tmp_path / "d.npz")
    empty = write_zip(tmp_path / "f.npz", "images.npy", b"")
    with pytest.raises(ValueError, match=r"f\.npz` is not a whole .*images\.npy: EOF"):
        read_npz(empty)
    np.savez(tmp_path / "g.npz", images=zeros(0, 8, 8), labels=np.zeros(0, int))
    with pytest.raises(ValueError, match=r"at least one record"):
        read(tmp_path / "g.npz")
    np.savez(tmp_path / "e.npz", x=zeros(3), y=zeros(3))
    with pytest.raises(ValueError, match=r"must have the arrays.*\['x', 'y'\]$"):
        find_class_names(tmp_path / "e.npz")


def test_arrays_in_memory_and_in_a_file_are_equal(tmp_path, tiny_images):
    images, labels = tiny_images
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    options = ReaderOptions(**OPTIONS, num_threads=0)
    expected = batches(ArrayReader(images, labels, list("012"), options=options))
    stored = NpzReader(tmp_path / "a.npz", list("012"), options=options)
    assert_equal(batches(stored), expected)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("head", "body", "match"),
    [
        ([0, 0, 8, 3], (3, 2, 2, b"x" * 11), r"another size than it says.* 11 bytes"),
        ([0, 0, 8, 3], (3, 2, 2, b"x" * 13), r"another size than it says"),
        ([0, 0, 8, 3], (2**30, 2**30, 99, b"x"), r"claims more than its file can hold"),
        (
            [0, 0, 13, 3],
            (3, 2, 2, b"x" * 12),
            r"is no idx file of bytes.*\\x00\\r",
        ),
        ([0, 0, 8], (1, 2, 2, b""), r"is no idx file of bytes|another size"),
    ],
)
def test_damaged_idx_files(tmp_path, suffix, head, body, match):
    data = bytes(head) + struct.pack(">3I", *body[:3]) + body[3]
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    with pytest.raises(ValueError, match=match):
        IdxReader(path, ["a"])


def test_idx_files_without_labels_or_end(sources, tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    shutil.copy(sources / path.name, path)
    match = r"no labels for .*Put `train-labels-idx1-ubyte\.gz` beside it"
    with pytest.raises(FileNotFoundError, match=match):
        find_class_names(path)
    damage(path, 200)
    with pytest.raises(ValueError, match=r"is not a whole compressed file"):
        IdxReader(path, ["a"])


def make_tar(path, *members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ([("a.png", b"x")], r"sample `a`, has no image or no class.*label=None$"),
        ([("a.cls", b"0")], r"sample `a`, has no image or no class"),
        ([("a.png", b"x"), ("a.cls", b"")], r"no image or no class.*label=''$"),
        (
            [("a.png", b"x"), ("a.json", b"{")],
            r"has a `\.json` that is none",
        ),
        ([("a.png", b"x"), ("a.json", b"[1]")], r"`\.json` that is none of an image"),
        (
            [("a.png", b"x"), ("a.json", b'{"label": 1, "features": ["x"]}')],
            r"sample `a`, has a `\.json` that is none.*\(could not convert",
        ),
        ([("a.png", b"x"), ("a.jpg", b"x")], r"sample `a`, has two images.*'a\.jpg'$"),
        ([("a.cls", b"1" * 2**21)], r"larger than any"),
        ([], r"has no record"),
    ],
)
def test_tar_files_of_another_form(tmp_path, members, match):
    with pytest.raises(ValueError, match=match):
        find_class_names(make_tar(tmp_path / "a.tar", *members))


def test_what_else_a_tar_file_has_is_left_alone(tmp_path):
    path = make_tar(
        tmp_path / "a.tar",
        ("README.md", b"words"),
        ("../../up/1.seg.png", b"a mask"),
        ("../../up/1.png", png(7)),
        ("../../up/1.CLS", b" 1\n"),
        ("../../up/1.json", b'{"weight": 0.1, "features": [1, 2.5]}'),
    )
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("2.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    reader = read(path, batch_size=1)
    assert len(reader) == 1
    assert reader.name(0) == "a.tar:0:../../up/1.png"
    assert reader.weights.tolist() == [0.1]
    assert reader.features.tolist() == [[1, 2.5]]
    assert (reader.test_batch(0)["images"][0] == 7).all()
    assert sorted(each.name for each in tmp_path.iterdir() if each.name[0] != ".") == [
        "a.tar"
    ]


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9, 0.999])
def test_tar_file_that_is_cut_off(tmp_path, part):
    path = make_tar(tmp_path / "a.tar", ("1.png", png()), ("1.cls", b"0"))
    end = path.read_bytes().rstrip(b"\0")
    path.write_bytes(end[: int(part * len(end))])
    with pytest.raises(ValueError, match=r"a\.tar` is not a whole tar file"):
        find_class_names(path)


def test_compressed_tar_file(tmp_path):
    path = make_tar(tmp_path / "a.tar", ("1.png", png()), ("1.cls", b"0"))
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match=r"one that is compressed cannot be read in"):
        find_class_names(path)
