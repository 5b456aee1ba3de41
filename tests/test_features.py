"""Features are what Keras computes at a layer, row by row, in the order of the list."""

import json
import os
import resource
import shutil
import signal
from pathlib import Path

import cv2
import h5py
import keras
import numpy as np
import pytest

from launchers import extract_features
from worklab import Session
from worklab.feature_extraction import find_layers
from worklab.lists import read_list
from worklab.runs import make_run_network, read_run
from worklab.trained import restore_trained

from .conftest import CLASS_NAMES


def expected(run, layer, folder, names):
    """Return what plain Keras computes at a layer of the run's best checkpoint."""
    setup = read_run(run)
    with Session(run, setup.session, alone=True) as session:
        network = make_run_network(setup)
        restore_trained(session, network, CLASS_NAMES, "best")
    model = keras.Model(network.model.input, network.model.get_layer(layer).output)
    images = np.stack([cv2.imread(str(folder / name))[:, :, ::-1] for name in names])
    return model.predict({"images": images}, verbose=0)


def extract(tiny_run, tmp_path, *images, output="f.h5", **settings):
    options = extract_features.Options(
        images=images, run=tiny_run, output=tmp_path / output, **settings
    )
    return extract_features.main(options)


def test_features_of_a_split_are_those_of_keras(tiny_run, tiny_folder, tmp_path):
    layers = ("global_pool", "slow", "slow/b/conv", "frozen.conv")
    found = extract(tiny_run, tmp_path, layers=layers, split="valid")
    records = read_list(tiny_folder / "valid.json", CLASS_NAMES)
    names = [record.path for record in records]
    assert found.shapes == {
        "global_pool": (8,),
        "slow": (4, 4, 8),
        "slow/b/conv": (4, 4, 8),
        "frozen/conv": (8, 8, 4),
    }
    result = json.loads((tiny_run / "result.json").read_text())
    with h5py.File(tmp_path / "f.h5") as file:
        for layer, keras_name in {
            "global_pool": "global_pool",
            "slow": "slow.relu",  # the scope's last layer
            "slow/b/conv": "slow.b.conv",
            "frozen/conv": "frozen.conv",
        }.items():
            dataset = file[layer.replace("/", ".")]
            assert dataset.dtype == np.float32
            np.testing.assert_allclose(
                dataset[:],
                expected(tiny_run, keras_name, tiny_folder, names),
                rtol=1e-5,
                atol=1e-5,
            )
            assert dict(dataset.attrs) == {
                "run": str(tiny_run),
                "step": result["best_step"],
                "layer": layer,
            }
        assert file["names"].asstr()[:].tolist() == names
        assert file["labels"][:].tolist() == [record.label for record in records]
        assert file["class_names"].asstr()[:].tolist() == CLASS_NAMES


def test_npy_has_the_same_numbers_and_says_what_they_are(
    tiny_run, tmp_path, capsys, monkeypatch
):
    tmp_path = tmp_path / "[b]x"
    layers = ("global_pool", "slow")
    extract(tiny_run, tmp_path, layers=layers, batch_size=4)
    several = extract(tiny_run, tmp_path, layers=layers, output="f.npy", batch_size=4)
    assert [path.name for path in several.paths] == ["f.global_pool.npy", "f.slow.npy"]
    with h5py.File(tmp_path / "f.h5") as file:
        for path, layer in zip(several.paths, layers, strict=True):
            array = np.load(path)
            assert array.dtype == np.float32
            assert array.tolist() == file[layer][:].tolist()
    one = extract(tiny_run, tmp_path, output="f.npy")
    assert one.paths == [tmp_path / "f.npy"]
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'f.npy'}\n")
    assert np.load(tmp_path / "f.npy").shape == (6, 8)
    about = json.loads((tmp_path / "f.npy.json").read_text())
    assert about["shapes"] == {"global_pool": [8]}
    assert about["files"] == ["f.npy"]
    assert about["names"] == one.names
    assert about["labels"] == one.labels
    assert not list(tmp_path.glob(".*"))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("worklab.feature_extraction.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(tiny_run, tmp_path, output="f.npy", split="valid")
    assert not (tmp_path / "f.npy.json").exists()  # it was about other features


def test_pooling_averages_over_space_alone(tiny_run, tmp_path):
    layers = ("slow", "global_pool")
    extract(tiny_run, tmp_path, layers=layers, output="a.h5")
    found = extract(tiny_run, tmp_path, layers=layers, output="b.h5", pool=True)
    assert found.shapes == {"slow": (8,), "global_pool": (8,)}
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(tmp_path / "b.h5") as b:
        pooled = a["slow"][:].mean((1, 2))
        np.testing.assert_allclose(b["slow"][:], pooled, rtol=1e-5)
        assert b["global_pool"][:].tolist() == a["global_pool"][:].tolist()


def test_images_need_no_labels_and_no_lists_of_the_run(tiny_run, tiny_folder, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    content = json.loads((run / "run.json").read_text())
    content["options"]["data"]["folder"] = "gone"
    (run / "run.json").write_text(json.dumps(content))
    images = (tiny_folder / "test.json", tiny_folder / "3.png")
    found = extract(run, tmp_path, *images, output="f.npy")
    records = read_list(tiny_folder / "test.json", CLASS_NAMES)
    assert found.labels == [*(record.label for record in records), -1]
    names = [*(record.path for record in records), "3.png"]
    np.testing.assert_allclose(
        np.load(tmp_path / "f.npy"),
        expected(tiny_run, "global_pool", tiny_folder, names),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("output", ["f.npy", "f.h5"])
def test_skipped_images_have_rows_of_nan(tiny_run, tiny_folder, tmp_path, output):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(7):
        shutil.copy(tiny_folder / f"{number}.png", folder)
    place = os.path.join(os.fsencode(folder), b"4\xff.png")  # a name that is no Unicode
    os.rename(folder / "4.png", place)
    bad = [0, 3, 5, 6]  # first, within, and last, of batches of three
    for number in bad:
        (folder / f"{number}.png").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"0\.png"):
        extract(tiny_run, tmp_path, folder, output=output)
    assert not list(tmp_path.glob("f.*"))
    found = extract(
        *(tiny_run, tmp_path, folder),
        output=output,
        on_bad_file="skip",
        batch_size=3,
    )
    assert [Path(name).name for name in found.skipped] == [f"{n}.png" for n in bad]
    assert len(found.names) == 7
    path = tmp_path / output
    if output == "f.npy":
        array = np.load(path)
    else:
        with h5py.File(path) as file:
            array = file["global_pool"][:]
            assert file["names"].asstr()[4] == f"{folder}/4\\udcff.png"
    assert np.isnan(array).all(axis=1).tolist() == [n in bad for n in range(7)]
    good = [f"{n}.png" for n in range(7) if n not in bad]
    np.testing.assert_allclose(
        array[[1, 2, 4]],
        expected(tiny_run, "global_pool", tiny_folder, good),
        rtol=1e-5,
        atol=1e-5,
    )


def test_names_of_layers_are_those_that_people_read(tiny_network):
    found = find_layers(
        tiny_network, ["slow/a/conv", "slow.a.conv", "/slow/", "output"]
    )
    assert list(found) == ["slow/a/conv", "slow", "output"]
    with pytest.raises(
        ValueError, match=r"no layer or scope.*nearest are \['slow/a/conv'.*slow/a/con'"
    ):
        find_layers(tiny_network, ["slow/a/con"])
    with pytest.raises(ValueError, match="at least one layer"):
        find_layers(tiny_network, [])


def test_layer_of_two_outputs_has_no_features(tiny_network):
    images = keras.Input((4, 4))
    outputs = keras.layers.LSTM(2, return_state=True, name="lstm")(images)
    tiny_network.model = keras.Model(images, outputs)
    with pytest.raises(ValueError, match="more than one output.*'lstm'"):
        find_layers(tiny_network, ["lstm"])


def test_file_that_is_there_stays_when_something_fails(tiny_run, tmp_path, monkeypatch):
    extract(tiny_run, tmp_path)
    before = (tmp_path / "f.h5").read_bytes()
    original, checks = Session.raise_if_stopped, 0

    def check(self):
        nonlocal checks
        checks += 1
        if checks == 2:
            os.kill(os.getpid(), signal.SIGINT)
        original(self)

    monkeypatch.setattr(Session, "raise_if_stopped", check)
    with pytest.raises(SystemExit, match="130"):
        extract(tiny_run, tmp_path, batch_size=2)
    assert (tmp_path / "f.h5").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_room_on_the_disk_is_checked_first(tiny_run, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    needed = 6 * 4 * 4 * 8 * 4  # images, height, width, filters, bytes
    little = usage._replace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: little)
    with pytest.raises(ValueError, match=r"6 images need 0 MB.*layers=\['slow'\]"):
        extract(tiny_run, tmp_path, layers=("slow",))
    assert not list(tmp_path.iterdir())
    little = usage._replace(free=needed)
    extract(tiny_run, tmp_path, layers=("slow",))


def test_disk_that_fills_is_told_with_the_name_of_the_file(tiny_run, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"`.*f\.npy` could not be written"):
            extract(tiny_run, tmp_path, output="f.npy", layers=("slow",))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_suffix_is_checked_first(tmp_path):
    with pytest.raises(
        ValueError, match=r"\.npy, \.h5 or \.hdf5\. Received: `.*f\.csv"
    ):
        extract(tmp_path / "nowhere", tmp_path, output="f.csv")
