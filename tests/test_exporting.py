"""Exports: each is read in its own way and asked the same images as the network."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import sklearn
import tensorflow as tf

from worklab import Network, exporting
from worklab.__main__ import main
from worklab.checkpoints import Checkpoints
from worklab.exporting import export_network, export_run, find_checkpoint
from worklab.images import decode_image, warp
from worklab.layers import BatchNormalization
from worklab.serving import decode_centre, plain_model

from .conftest import CLASS_NAMES, TinyNetwork

CHECKED = ["h5", "keras", "savedmodel"]
EXTRAS = {"onnx": "onnxruntime", "litert": "ai_edge_litert"}


class FeaturesNetwork(Network):
    """Reads BGR and two numbers, and has the layers that converters may miss."""

    mean, std, channel_order = (100.0, 110.0, 120.0), (50.0,), "BGR"

    def _construct(self, images):
        x = self.conv_block(images, 4, 3)
        x = self.depthwise_layer(x, 3, strides=2)
        x = self.batch_norm(x, scope="bn2")
        x = self.pool_layer(x, 3, strides=1, mode="average")
        x = self.dropout(self.global_pool(x), 0.5)
        return self.full_layer(
            x, self.num_classes, features=self.features, scope="logits"
        )


def with_values(network):
    """Give statistics and biases values that matter, and logits that differ."""
    rng = np.random.default_rng(0)
    for name, variable in network.variables.items():
        if not name.endswith(("kernel", "seed_generator_state")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif name == "logits/kernel":
            variable.assign(rng.normal(0, 1, variable.shape))
    return network


@pytest.fixture
def network():
    return with_values(TinyNetwork(3, image_shape=(8, 8, 3)))


@pytest.fixture
def run(tmp_path, tiny_folder, network):
    """A run of a network in bfloat16, with checkpoints of steps 1 (best) and 2."""
    options = {
        "network": "tests.conftest:TinyNetwork",
        "data": {"folder": str(tiny_folder)},
        "reader": {"image_size": [8, 8]},
        "augment": {},
        "layers": {},
        "session": {"precision": "bfloat16"},
    }
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"options": options}))
    (run / "classes.json").write_text(json.dumps(CLASS_NAMES))
    arrays = {name: variable.numpy() for name, variable in network.variables.items()}
    arrays["optimizer/iteration"] = np.array(1)
    state = {"class_names": CLASS_NAMES, "best_step": 1, "states": {}}
    checkpoints = Checkpoints(run / "checkpoints")
    checkpoints.save(1, arrays, {**state, "step": 1}, kept_steps=[1])
    arrays["logits/bias"] = arrays["logits/bias"] + 100 * np.eye(3, dtype=np.float32)[0]
    checkpoints.save(2, arrays, {**state, "step": 2}, kept_steps=[1])
    return run


def answers_of(network, images):
    logits = network({"images": images}, training=False)
    return tf.nn.softmax(logits).numpy()


def test_the_checkpoint_is_the_best_the_newest_or_a_steps(run):
    folder = run / "checkpoints"
    assert find_checkpoint(run) == folder / "step-00000001.safetensors"
    assert find_checkpoint(run, "latest") == folder / "step-00000002.safetensors"
    assert find_checkpoint(run, 2) == folder / "step-00000002.safetensors"
    file = folder / "step-00000002.safetensors"
    assert find_checkpoint(file) == file
    with pytest.raises(ValueError, match=r"it has \[1, 2\]. Received: step=3"):
        find_checkpoint(run, 3)
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        find_checkpoint(run / "checkpoints")


def test_the_plain_model_is_kerass_own(network, tiny_images):
    model = plain_model(network)
    assert not any(isinstance(layer, BatchNormalization) for layer in model.layers)
    assert not model.get_layer("frozen.bn").trainable
    images = tiny_images[0]
    difference = model({"images": images}) - network({"images": images}, training=False)
    assert np.abs(difference).max() < 1e-5


@pytest.mark.parametrize("to", [*CHECKED, *EXTRAS])
def test_a_run_is_exported_and_checked_on_its_test_list(run, to, capsys):
    if to in EXTRAS:
        pytest.importorskip(EXTRAS[to])
    main(["export", str(run), "--to", to])
    path = run / "export" / f"step-00000001{exporting.SUFFIXES[to]}"
    output = capsys.readouterr().out
    assert f"{path}: step-00000001, the network's answers on 6 images" in output
    names = json.loads((run / "classes.json").read_text())
    left = {path.name}
    if to != "savedmodel":
        listed = path.with_name(f"{path.name}.classes.json")
        assert json.loads(listed.read_text()) == names
        left.add(listed.name)
    assert {p.name for p in path.parent.iterdir()} == left


def in_a_fresh_process(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return np.array(json.loads(done.stdout))


def test_a_keras_file_needs_no_worklab(network, tiny_images, tmp_path):
    path, images = tmp_path / "network.keras", tiny_images[0][:5]
    export_network(network, path, to="keras", class_names=CLASS_NAMES)
    np.save(tmp_path / "images.npy", images)
    code = """
import json, sys, keras, numpy as np
model = keras.models.load_model(sys.argv[1])
answers = model.predict(np.load(sys.argv[2]), verbose=0)
assert not any(name.startswith("worklab") for name in sys.modules)
print(json.dumps(answers.tolist()))
"""
    found = in_a_fresh_process(code, path, tmp_path / "images.npy")
    np.testing.assert_allclose(found, answers_of(network, images), atol=1e-5)


def test_a_saved_model_answers_to_arrays_and_to_files(network, tmp_path):
    path = tmp_path / "network.savedmodel"
    exported = export_network(
        network, path, to="savedmodel", class_names=CLASS_NAMES, crop_fraction=0.875
    )
    assert exported.num_images == 32
    assert exported.difference < 1e-5
    assert exported.encoded_difference < 0.02
    signatures = tf.saved_model.load(str(path)).signatures
    assert set(signatures) == {"serving_default", "serve_bytes"}
    files = photos()
    answer = signatures["serve_bytes"](encoded=tf.constant(files))
    images = np.stack(
        [warp(decode_image(f, 3, ""), (8, 8), crop_fraction=0.875) for f in files]
    )
    expected = answers_of(network, images)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=0.02)
    names = [CLASS_NAMES[best].encode() for best in expected.argmax(axis=1)]
    assert answer["class_name"].numpy().tolist() == names
    listed = [name.encode() for name in CLASS_NAMES]
    assert answer["class_names"].numpy().tolist() == listed
    answer = signatures["serving_default"](images=tf.constant(images))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    assert answer["class_name"].numpy().tolist() == names


def photos():
    folder = Path(sklearn.__file__).parent / "datasets" / "images"
    return [(folder / name).read_bytes() for name in ("china.jpg", "flower.jpg")]


@pytest.mark.parametrize("kind", [".jpg", ".png"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "crop_fraction"),
    [((224, 224), 0.875), ((32, 32), 1.0), ((100, 300), 1.0), ((427, 640), 1.0)],
)
@pytest.mark.parametrize("stretch", [False, True])
def test_tensorflow_cuts_the_centre_as_the_reader_does(
    kind, channels, size, crop_fraction, stretch
):
    for photo in photos():
        data = photo
        if kind != ".jpg":
            data = cv2.imencode(kind, decode_image(photo, 3, ""))[1].tobytes()
        found = decode_centre(tf.constant(data), size, channels, crop_fraction, stretch)
        image = decode_image(data, channels, "")
        expected = warp(image, size, crop_fraction=crop_fraction, stretch=stretch)
        difference = np.abs(found.numpy().astype(int) - expected)
        assert difference.max() <= (4 if stretch else 3)  # at a border
        assert difference.mean() < 0.1


@pytest.mark.parametrize("to", [*CHECKED, *EXTRAS])
def test_features_and_the_order_of_channels_are_kept(to, tmp_path):
    if to in EXTRAS:
        pytest.importorskip(EXTRAS[to])
    network = with_values(FeaturesNetwork(4, image_shape=(12, 9, 3), num_features=2))
    path = tmp_path / f"network{exporting.SUFFIXES[to]}"
    exported = export_network(network, path, to=to, class_names=list("abcd"))
    assert exported.difference < 1e-5


class RecurrentNetwork(Network):
    def _construct(self, images):
        x = self.layer(
            keras.layers.Reshape, images, scope="steps", target_shape=(8, 24)
        )
        x = self.layer(keras.layers.LSTM, x, scope="lstm", units=6)
        return self.full_layer(x, self.num_classes, scope="logits")


@pytest.mark.parametrize("to", EXTRAS)
def test_recurrent_networks_are_converted(to, tmp_path, caplog):
    pytest.importorskip(EXTRAS[to])
    network = with_values(RecurrentNetwork(3, image_shape=(8, 8, 3)))
    path = tmp_path / f"network{exporting.SUFFIXES[to]}"
    exported = export_network(network, path, to=to, class_names=CLASS_NAMES)
    assert exported.difference < 1e-5
    assert ("takes one image at a time" in caplog.text) == (to == "litert")


def test_random_images_are_taken_where_the_list_is_gone(run, tmp_path, caplog):
    options = json.loads((run / "run.json").read_text())
    options["options"]["data"]["folder"] = str(tmp_path / "gone")
    (run / "run.json").write_text(json.dumps(options))
    exported = export_run(find_checkpoint(run), tmp_path / "network.keras", to="keras")
    assert exported.num_images == 32
    assert "random images, as the test list is gone" in caplog.text


def test_what_is_there_is_replaced_only_when_told(network, tmp_path):
    for to in ("h5", "savedmodel"):
        path = tmp_path / f"network{exporting.SUFFIXES[to]}"
        export_network(network, path, to=to, class_names=CLASS_NAMES)
        with pytest.raises(ValueError, match="something is there already"):
            export_network(network, path, to=to, class_names=CLASS_NAMES)
        export_network(network, path, to=to, class_names=CLASS_NAMES, overwrite=True)
    with pytest.raises(ValueError, match=r"`\.\.\.\.weights\.h5`. Received"):
        export_network(network, tmp_path / "network.h5", to="h5", class_names=[])


def failing(network, path, *_):
    path.write_bytes(b"half")
    raise NotImplementedError("no such layer")


def wrong(network, path, *_):
    path.write_bytes(b"whole")
    return lambda inputs: np.full((len(inputs["images"]), 3), 1 / 3)


def missing(network, path, *_):
    raise ModuleNotFoundError("No module named 'onnxruntime'")


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (failing, RuntimeError, "converted to onnx; .* NotImplementedError: no such"),
        (wrong, RuntimeError, r"does not answer as .* Received: difference=0\."),
        (missing, ValueError, r"pip install -e '.\[onnx\]'`. Received: No module"),
    ],
)
def test_what_fails_leaves_nothing(
    network, tmp_path, monkeypatch, write, error, message
):
    monkeypatch.setitem(exporting._FORMATS, "onnx", write)
    path = tmp_path / "network.onnx"
    path.write_bytes(b"before")
    with pytest.raises(error, match=message):
        export_network(
            network, path, to="onnx", class_names=CLASS_NAMES, overwrite=True
        )
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_network_with_a_layer_of_its_own_keeps_it(tmp_path, network):
    @keras.saving.register_keras_serializable(package="test")
    class Halved(keras.layers.Layer):
        def call(self, inputs):
            return inputs / 2

    class Own(TinyNetwork):
        def _construct(self, images):
            return self.layer(Halved, super()._construct(images), scope="halved")

    path = tmp_path / "own.keras"
    own = with_values(Own(3, image_shape=(8, 8, 3)))
    exported = export_network(own, path, to="keras", class_names=CLASS_NAMES)
    assert exported.difference < 1e-5
