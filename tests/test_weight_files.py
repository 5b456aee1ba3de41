"""Files of every format, written by the library whose format it is."""

import copy
import io
import pickle
import struct
import sys
import zipfile
import zlib

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from worklab.checkpoints import Checkpoints
from worklab.pretrained.files import open_weights, read_weights, write_weights

RNG = np.random.default_rng(0)
ARRAYS = {
    "conv1/weights": RNG.normal(size=(3, 3, 2, 4)).astype(np.float32),
    "conv1/biases": RNG.normal(size=4).astype(np.float32),
    "step": np.array(7, np.int64),
    "half": RNG.normal(size=(5, 2)).astype(np.float16),
    "mask": np.array([True, False, True]),
}


def assert_same(weights, expected):
    assert set(weights) == set(expected)
    assert len(weights) == len(expected)
    for name, array in expected.items():
        assert weights.shape(name) == array.shape, name
        assert weights.dtype(name) == weights[name].dtype == array.dtype, name
        np.testing.assert_array_equal(weights[name], array, err_msg=name)


def make_model():
    """A model with a nested one, and each kind of layer that numbers its variables."""
    layers = keras.layers
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, use_bias=False, name="conv_a"),
            layers.BatchNormalization(name="bn_a"),
            layers.DepthwiseConv2D(3, name="depthwise"),
        ],
        name="backbone",
    )
    inputs = keras.Input((8, 8, 3))
    x = layers.Normalization(name="scaling")(inputs)
    x = layers.SeparableConv2D(4, 2, name="separable")(inner(x))
    x = layers.PReLU(name="prelu")(x)
    x = layers.Reshape((9, 4), name="rows")(x)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.LSTM(3, use_bias=False, name="lstm")(x)
    x = layers.BatchNormalization(scale=False, name="bn_b")(x)
    x = layers.LayerNormalization(center=False, name="norm_b")(x)
    outputs = layers.Dense(2, name="predictions")(x)
    model = keras.Model(inputs, outputs, name="whole")
    for variable in model.variables:
        variable.assign(RNG.normal(size=variable.shape))
    return model


def variables(model):
    return {
        variable.path: np.array(variable.value)
        for variable in model.variables
        if "seed_generator" not in variable.path
    }


# === safetensors ===


def test_safetensors_of_our_own(tmp_path):
    write_weights(tmp_path / "w", ARRAYS, class_names=["cat", "dog"])
    with open_weights(tmp_path / "w") as weights:
        assert weights.format == "safetensors"
        assert weights.class_names == ["cat", "dog"]
        assert_same(weights, ARRAYS)


def test_checkpoint_of_our_own_has_class_names(tmp_path):
    path = Checkpoints(tmp_path).save(3, ARRAYS, {"class_names": ["cat", "dog"]})
    with open_weights(path) as weights:
        assert weights.class_names == ["cat", "dog"]
        assert_same(weights, ARRAYS)


# === TensorFlow ===


# TensorFlow itself reads no float16 of format V1.
TENSORFLOW_1 = {name: array for name, array in ARRAYS.items() if name != "half"}


def save_v1(path, version):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in TENSORFLOW_1.items():
            tf.compat.v1.get_variable(name, initializer=tf.constant(array))
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(write_version=version)
        return saver.save(session, str(path), write_meta_graph=False)


@pytest.mark.parametrize("version", [1, 2])
def test_tensorflow_1_checkpoint(tmp_path, version):
    save_v1(tmp_path / "model.ckpt", version)
    paths = [tmp_path / "model.ckpt", tmp_path]
    if version == 2:
        paths.append(tmp_path / "model.ckpt.index")
        paths.append(tmp_path / "model.ckpt.data-00000-of-00001")
    for path in paths:
        with open_weights(path) as weights:
            assert weights.format == "TensorFlow checkpoint"
            assert weights.path == tmp_path / "model.ckpt"
            assert_same(weights, TENSORFLOW_1)


def test_tensorflow_checkpoint_of_one_variable(tmp_path):
    tf.train.Checkpoint(net=tf.Variable([1.0, 2.0], name="v")).save(str(tmp_path / "c"))
    with open_weights(tmp_path) as weights:
        assert_same(weights, {"v": np.array([1, 2], np.float32)})


def test_tensorflow_2_object_checkpoint_has_the_variables_names(tmp_path):
    model = make_model()
    tf.train.Checkpoint(model=model).save(str(tmp_path / "ckpt"))
    with open_weights(tmp_path) as weights:
        expected = variables(model)
        assert {n: weights[n].shape for n in expected} == {
            n: a.shape for n, a in expected.items()
        }
        for name, array in expected.items():
            np.testing.assert_array_equal(weights[name], array)
        assert not [n for n in weights if "save_counter" in n or "OBJECT_GRAPH" in n]


def test_tensorflow_2_names_that_are_not_unique_stay_paths(tmp_path):
    twins = [tf.Variable([1.0], name="v"), tf.Variable([2.0], name="v")]
    tf.train.Checkpoint(net=twins).save(str(tmp_path / "c"))
    with open_weights(tmp_path) as weights:
        assert_same(
            weights,
            {f"net/{n}": np.array([n + 1], np.float32) for n in range(2)},
        )


# === Keras ===


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_keras_file_has_the_variables_names(tmp_path, suffix):
    model = make_model()
    model.save(tmp_path / f"m.{suffix}")
    with open_weights(tmp_path / f"m.{suffix}") as weights:
        assert weights.format == {"h5": "Keras HDF5", "keras": ".keras archive"}[suffix]
        assert_same(weights, variables(model))


def test_weights_alone_have_the_names_that_are_certain(tmp_path):
    model = make_model()
    model.save_weights(tmp_path / "m.weights.h5")
    expected = variables(model)
    for old, new in {
        "bn_b/beta": "bn_b/vars/0",  # or gamma: the file does not say
        "norm_b/gamma": "norm_b/vars/0",
    }.items():
        expected[new] = expected.pop(old)
    with open_weights(tmp_path / "m.weights.h5") as weights:
        assert_same(weights, expected)


def test_keras_2_file(tmp_path):
    kernel, bias = ARRAYS["conv1/weights"], ARRAYS["conv1/biases"]
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["layer_names"] = [b"input_1", b"conv1", b"inner", b"renamed"]
        file.create_group("input_1").attrs["weight_names"] = []
        for layer, names in {
            "conv1": ["conv1/kernel:0", "conv1/bias:0"],
            "inner": ["conv2/kernel:0", "conv2/bias:0"],
            "renamed": ["model/renamed/kernel:0", "model/renamed/bias:0"],
        }.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in names]
            group[names[0]], group[names[1]] = kernel, bias
    with open_weights(tmp_path / "m.h5") as weights:
        layers = ["conv1", "inner/conv2", "renamed"]
        assert set(weights) == {
            f"{layer}/{leaf}" for layer in layers for leaf in ("kernel", "bias")
        }
        for name in weights:
            expected = kernel if name.endswith("kernel") else bias
            np.testing.assert_array_equal(weights[name], expected)


# === NumPy ===


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_numpy_archive(tmp_path, save):
    arrays = ARRAYS | {
        "fortran": np.asfortranarray(ARRAYS["half"]),
        "big endian": np.arange(3, dtype=">f4").astype("<f4"),
        "empty": np.zeros((0, 3), np.float32),
    }
    save(tmp_path / "w.npz", **arrays | {"big endian": np.arange(3, dtype=">f4")})
    with open_weights(tmp_path / "w.npz") as weights:
        assert weights.format == "NumPy archive"
        assert_same(weights, arrays)


# === PyTorch ===


def save_torch(path, *, is_stream=False, wrap=dict):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(array) for name, array in ARRAYS.items()}
    torch.save(wrap(tensors), path, _use_new_zipfile_serialization=not is_stream)


@pytest.mark.parametrize("is_stream", [False, True])
def test_torch_file(tmp_path, is_stream):
    save_torch(tmp_path / "w", is_stream=is_stream)
    with open_weights(tmp_path / "w") as weights:
        assert weights.format == "PyTorch"
        assert_same(weights, ARRAYS)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_torch_checkpoint_is_unwrapped(tmp_path, key):
    def wrap(tensors):
        inner = {f"module.{name}": tensor for name, tensor in tensors.items()}
        return {"epoch": 3, "optimizer": {"state": {}}, key: inner}

    save_torch(tmp_path / "w", wrap=wrap)
    with open_weights(tmp_path / "w") as weights:
        assert_same(weights, ARRAYS)


def test_torch_bfloat16_and_strides(tmp_path):
    torch = pytest.importorskip("torch")
    values = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": values.bfloat16(), "b": values.t()}, tmp_path / "w")
    with open_weights(tmp_path / "w") as weights:
        assert_same(weights, {"a": values.numpy(), "b": values.numpy().T})


def test_torch_tensor_larger_than_its_numbers_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "w")
    refused(tmp_path / "w", "must not claim more than is stored: 4 bytes")


@pytest.mark.parametrize("is_stream", [False, True])
def test_torch_pickle_is_not_run(tmp_path, is_stream):
    torch = pytest.importorskip("torch")
    torch.save(Bomb(), tmp_path / "w", _use_new_zipfile_serialization=not is_stream)
    refused(tmp_path / "w", "must have tensors alone.*Received: .*[Ff]ail")


@pytest.mark.parametrize("is_stream", [False, True])
def test_torch_pickle_that_fills_the_memory(tmp_path, is_stream):
    def wrap(tensors):
        return tensors | {"filling": Filling()}

    save_torch(tmp_path / "w", is_stream=is_stream, wrap=wrap)
    refused(tmp_path / "w", "must have tensors alone.*Received: .*bytearray")


def test_torch_missing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({}))
    refused(tmp_path / "w", r"pip install 'worklab\[torch\]'")


# === ONNX ===


def save_onnx(path, **options):
    onnx = pytest.importorskip("onnx")
    initializers = [
        onnx.numpy_helper.from_array(array, name) for name, array in ARRAYS.items()
    ]
    typed = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16
    initializers += [
        onnx.helper.make_tensor(f"typed {n}", kind, [2], [1.0, 2.0])
        for n, kind in enumerate(typed)
    ]
    graph = onnx.helper.make_graph([], "graph", [], [], initializers)
    onnx.save(onnx.helper.make_model(graph), path, **options)


def test_onnx_file(tmp_path):
    save_onnx(tmp_path / "w")
    typed = np.array([1, 2], np.float32)
    with open_weights(tmp_path / "w") as weights:
        assert weights.format == "ONNX"
        assert_same(weights, ARRAYS | {"typed 0": typed, "typed 1": typed})


def test_onnx_with_values_in_another_file_is_refused(tmp_path):
    save_onnx(tmp_path / "w", save_as_external_data=True, size_threshold=0)
    refused(tmp_path / "w", "in the file itself.*Received: external data of `conv1")


def test_onnx_missing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "w").write_bytes(b"\x08\x08\x3a\x00")  # a version and an empty graph
    refused(tmp_path / "w", r"pip install 'worklab\[onnx\]'")


# === Broken files ===


class Bomb:
    """Pickled, it would run code when it is read."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was run",)


class Filling:
    """Pickled, it would take a terabyte when it is read."""

    def __reduce__(self):
        return bytearray, (10**12,)


def read_all(path):
    with open_weights(path) as weights:
        for name in weights:
            assert weights[name].shape == weights.shape(name)


def refused(path, match):
    with pytest.raises(ValueError, match=match) as error:
        read_all(path)
    text = str(error.value)
    assert str(path) in text
    assert "Received: " in text
    assert "\n" not in text


def save_keras(path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])
    if path.suffix == ".weights":
        model.save_weights(path.with_suffix(".weights.h5"))
        path.with_suffix(".weights.h5").rename(path)
    else:
        model.save(path)


SAVERS = {
    "w.safetensors": lambda path: write_weights(path, ARRAYS),
    "v1.ckpt": lambda path: save_v1(path, 1),
    "v2.ckpt.index": lambda path: save_v1(path.with_suffix(""), 2),
    "v2.ckpt.data-00000-of-00001": lambda path: save_v1(path.with_suffix(""), 2),
    "w.h5": save_keras,
    "w.weights": save_keras,
    "w.keras": save_keras,
    "w.npz": lambda path: np.savez(path, **ARRAYS),
    "compressed.npz": lambda path: np.savez_compressed(path, **ARRAYS),
    "w.pth": save_torch,
    "stream.pth": lambda path: save_torch(path, is_stream=True),
    "w.onnx": save_onnx,
}


@pytest.mark.parametrize("name", SAVERS)
def test_truncated_file_is_refused(tmp_path, name):
    path = tmp_path / name
    SAVERS[name](path)
    read_all(path)
    content = path.read_bytes()
    for length in (0, 1, 7, 60, len(content) // 3, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is not a whole .*Received: ") as error:
            read_all(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SAVERS)
def test_file_with_flipped_bits_is_read_or_refused_in_one_line(tmp_path, name):
    path = tmp_path / name
    SAVERS[name](path)
    content = path.read_bytes()
    places = {*range(0, 40), *range(len(content) - 60, len(content))}
    places |= set(RNG.integers(0, len(content), 60).tolist())
    for place in sorted(places & set(range(len(content)))):
        changed = bytearray(content)
        changed[place] ^= 1 << int(RNG.integers(8))
        path.write_bytes(changed)
        message = ""
        try:
            read_all(path)
        except ValueError as error:
            message = str(error)
        assert not message or "Received: " in message
        assert "\n" not in message


@pytest.mark.parametrize(
    "name",
    ["v1.ckpt", "v2.ckpt.data-00000-of-00001", "w.keras", "w.npz", "w.pth"],
)
def test_changed_value_is_refused_where_the_format_has_checksums(tmp_path, name):
    path = tmp_path / name
    SAVERS[name](path)
    content = bytearray(path.read_bytes())
    if name == "w.keras":
        with open_weights(path) as weights:
            value = weights["dense/kernel"].tobytes()
    else:
        value = ARRAYS["conv1/weights"].tobytes()
    content[content.index(value) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a whole"):
        read_all(path)


def test_empty_file_folder_and_text_are_refused(tmp_path):
    (tmp_path / "empty").touch()
    refused(tmp_path / "empty", "is not a whole weights file.*Received: an empty file")
    (tmp_path / "text.h5").write_text("not HDF5 at all")
    refused(tmp_path / "text.h5", "must be of safetensors, .* begins with b'not HDF5")
    refused(tmp_path, "a folder must have the file `checkpoint`")
    refused(tmp_path / "none", "does not exist")


def test_pickle_in_numpy_archive_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array(Bomb(), object))
    refused(tmp_path / "w.npz", "`a.npy` must hold plain numbers.*dtype=object")


def test_pickle_is_refused(tmp_path):
    (tmp_path / "w.npy").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "w.npy", "is not a whole weights file")


# === Forged claims ===


def forge_zip(path, name, size, shape):
    """Make an archive with one array that claims a shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, header.getvalue() + bytes(size))


def test_numpy_header_claims_more_than_is_there(tmp_path):
    forge_zip(tmp_path / "w.npz", "a.npy", 40, (10**9,))
    refused(
        tmp_path / "w.npz", r"`a.npy` must have the 40 bytes.*shape=\(1000000000,\)"
    )


def test_zip_member_that_expands_a_thousandfold(tmp_path):
    forge_zip(tmp_path / "w.npz", "a.npy", 3 << 20, (786432,))
    refused(tmp_path / "w.npz", "must not expand to more than 20 times")


def test_zip_members_that_share_their_bytes(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", bytes(5000))
        for number in range(9):
            again = copy.copy(archive.infolist()[0])
            again.filename = f"b{number}.npy"
            archive.filelist.append(again)
    refused(tmp_path / "w.npz", "the members must fit into the .* bytes of the file")


def forge_h5(path, make):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a"]
        group = file.create_group("a")
        group.attrs["weight_names"] = [b"kernel"]
        make(group)


def link(target):
    return lambda group: group.__setitem__("kernel", target)


def virtual(group):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3,))
    group.create_virtual_dataset("kernel", layout)


H5_CLAIMS = {
    "ExternalLink `kernel`": link(h5py.ExternalLink("/etc/passwd", "/")),
    "SoftLink `kernel`": link(h5py.SoftLink("/a")),
    "data in other files": lambda group: group.create_dataset(
        "kernel", (4,), "u1", external=[("/etc/passwd", 0, 4)]
    ),
    "must lie in the file itself": virtual,
    "more than is stored: 0 bytes": lambda group: group.create_dataset(
        "kernel", (10**6, 10**6), "f4"
    ),
    r"chunks=\(1000, 1000\)": lambda group: group.create_dataset(
        "kernel", (10**5, 10**5), "f4", chunks=(1000, 1000), compression="gzip"
    ),
    "must hold numbers": lambda group: group.create_dataset("kernel", data="text"),
    "as Keras saves them": lambda group: group.create_group("kernel"),
    "plainly or by gzip": lambda group: group.create_dataset(
        "kernel", data=np.zeros(9), chunks=(9,), compression="lzf"
    ),
}


@pytest.mark.parametrize("match", H5_CLAIMS)
def test_hdf5_that_leads_or_claims_outside_the_file(tmp_path, match):
    forge_h5(tmp_path / "w.h5", H5_CLAIMS[match])
    refused(tmp_path / "w.h5", match)


def test_hdf5_chunk_that_inflates_beyond_its_claim(tmp_path):
    def make(group):
        dataset = group.create_dataset(
            "kernel", (1000,), "f4", chunks=(1000,), compression="gzip"
        )
        dataset.id.write_direct_chunk((0,), zlib.compress(bytes(10**7)))

    forge_h5(tmp_path / "w.h5", make)
    refused(tmp_path / "w.h5", "must inflate to at most 4004 bytes")


def test_hdf5_that_is_compressed_is_read(tmp_path):
    array = RNG.normal(size=(50, 30)).astype(np.float32)
    forge_h5(
        tmp_path / "w.h5",
        lambda group: group.create_dataset(
            "kernel", data=array, chunks=(7, 30), compression="gzip", shuffle=True
        ),
    )
    with open_weights(tmp_path / "w.h5") as weights:
        assert_same(weights, {"a/kernel": array})


def test_hdf5_group_that_holds_itself(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        layers = file.create_group("layers")
        layers["again"] = layers
        layers["dense/vars/0"] = np.ones((2, 3), np.float32)
    with open_weights(tmp_path / "w.h5") as weights:
        assert list(weights) == ["dense/kernel"]


def test_hdf5_text_that_claims_four_gigabytes(tmp_path):
    save_keras(tmp_path / "w.weights")
    content = (tmp_path / "w.weights").read_bytes()
    # The length of the layer's attribute `name`, which is "dense".
    place = content.index(struct.pack("<I", 5), content.rindex(b"name\0\0\0\0"))
    forged = content[:place] + b"\xff" * 4 + content[place + 4 :]
    (tmp_path / "w.weights").write_bytes(forged)
    refused(tmp_path / "w.weights", "a name must have at most .* Received: 4294967295")


def test_hdf5_without_weights(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["images"] = np.zeros(3)
    refused(tmp_path / "w.h5", "must have weights as Keras saves them.*images")


def replace_once(path, old, new):
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


# The sizes 3, 3, 2, 4 as TensorFlow writes them; then the first two are 127.
SIZES = b"\x12\x02\x08\x03\x12\x02\x08\x03\x12\x02\x08\x02\x12\x02\x08\x04"
FORGED = SIZES.replace(b"\x03", b"\x7f")


def test_tensorflow_shape_claims_more_than_is_there(tmp_path):
    save_v1(tmp_path / "v1", 1)
    replace_once(tmp_path / "v1", SIZES, FORGED)
    refused(tmp_path / "v1", "must fit into its .* bytes. Received: at least 516")
    save_v1(tmp_path / "v2", 2)
    replace_once(tmp_path / "v2.index", SIZES, FORGED)
    refused(tmp_path / "v2", r"must have 288 bytes. Received: shape=\(127, 127, 2, 4\)")


def test_tensorflow_files_that_are_missing(tmp_path):
    save_v1(tmp_path / "v2", 2)
    (tmp_path / "v2.data-00000-of-00001").unlink()
    refused(tmp_path / "v2", "must be in one folder. Received: no `v2.data-00000")


def test_tensorflow_folder_names_no_path_outside(tmp_path):
    save_v1(tmp_path / "model", 1)
    (tmp_path / "inner").mkdir()
    for name in ("../model", "/etc/passwd", ".."):
        state = f'model_checkpoint_path: "{name}"\n'
        (tmp_path / "inner/checkpoint").write_text(state)
        refused(tmp_path / "inner", "the checkpoint it names must be in its folder")


def test_tensorflow_path_that_is_a_pattern(tmp_path):
    save_v1(tmp_path / "model", 2)
    for part in tmp_path.glob("model.*"):
        part.rename(part.with_name(part.name.replace("model", "model[1]")))
    with pytest.raises(ValueError, match="takes .* in a path as a pattern; rename"):
        open_weights(tmp_path / "model[1]")


def test_safetensors_offsets_claim_more_than_is_there(tmp_path):
    write_weights(tmp_path / "w", {"a": np.zeros(4, np.float32)})
    replace_once(tmp_path / "w", b"[0,16]", b"[0,99]")
    refused(tmp_path / "w", "is not a whole safetensors file")


# === All ===


def test_closed_file_is_an_error(tmp_path):
    write_weights(tmp_path / "w", ARRAYS)
    with open_weights(tmp_path / "w") as weights:
        pass
    with pytest.raises(RuntimeError, match="is closed.*Received: 'step' of"):
        weights["step"]


def test_all_arrays_are_read_at_once(tmp_path):
    np.savez(tmp_path / "w.npz", **ARRAYS)
    assert read_weights(tmp_path / "w.npz").keys() == ARRAYS.keys()
