"""Export: a trained network as a file for elsewhere, checked before it appears."""

import contextlib
import dataclasses
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import keras
import numpy as np
import tensorflow as tf

from worklab.checkpoints import (
    CheckpointError,
    Checkpoints,
    checkpoint_path,
    list_steps,
    load_checkpoint,
    with_averages,
)
from worklab.files import write_json, writing
from worklab.images import warp
from worklab.network import Network
from worklab.pretrained.cards import check_place, write_card
from worklab.pretrained.files import write_weights
from worklab.runs import RunSetup, make_reader, make_run_network, read_run
from worklab.serving import answering, plain_model, write_saved_model
from worklab.session import Session

Format = Literal["h5", "keras", "savedmodel", "onnx", "litert"]

SUFFIXES: dict[str, str] = {
    "safetensors": ".safetensors",
    "h5": ".weights.h5",
    "keras": ".keras",
    "savedmodel": ".savedmodel",
    "onnx": ".onnx",
    "litert": ".tflite",
}
"""How the file, or folder, of each format is called."""

TOLERANCE = 1e-4
"""Largest difference of a probability between a network and what was exported."""

ENCODED_TOLERANCE = 0.02
"""The same for images that a SavedModel decodes and resizes by itself."""

NUM_IMAGES = 32
"""Images that an export is checked on, at most."""

_logger = logging.getLogger(__name__)
_ONNX_OPSET = 18

Inputs = Mapping[str, np.ndarray]
Answer = Callable[[Inputs], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written, and how near it comes to the network.

    Attributes:
        path: The file or folder.
        num_images: Images on which both were asked.
        difference: Largest difference of a probability.
        encoded_difference: The same for encoded images; None but for a SavedModel.
    """

    path: Path
    num_images: int
    difference: float
    encoded_difference: float | None = None


def find_checkpoint(
    place: Path, checkpoint: Literal["best", "latest"] | int = "best"
) -> Path:
    """Return the checkpoint file of a run, or the file that is named itself.

    Raises:
        CheckpointError: If there is none, or nothing was validated and so none is best.
    """
    if not place.is_dir():
        return place
    folder = place / "checkpoints"
    step: int | None = checkpoint if isinstance(checkpoint, int) else None
    if step is None:
        newest = Checkpoints(folder).load_newest()
        if newest is None:
            raise CheckpointError(
                "the folder is no run, or has no checkpoint yet; give a run or a "
                f"checkpoint file. Received: `{place}`"
            )
        step = newest[2].get("best_step") if checkpoint == "best" else newest[0]
    if step is None:
        raise CheckpointError(
            f"no checkpoint of `{place}` is the best, as nothing was validated in "
            "training; ask for `--checkpoint latest` or for a step. "
            "Received: best_step=None"
        )
    if step not in list_steps(folder):
        raise CheckpointError(
            f"`{place}` has no checkpoint of that step; it has {list_steps(folder)}. "
            f"Received: step={step}"
        )
    return checkpoint_path(folder, step)


def export_weights(checkpoint: Path, path: Path, *, overwrite: bool = False) -> int:
    """Write the weights of a checkpoint by their names as `.safetensors`.

    A checkpoint in the folder of its run also gets a card beside the file, which says
    what the weights expect of images, and what they answer to one.

    Returns:
        The number of variables.

    Raises:
        ValueError: If the checkpoint cannot be read, or the file is there already.
        OSError: If it cannot be written.
    """
    check_place(path)
    arrays, state = load_checkpoint(checkpoint)
    arrays = with_averages(arrays, state)
    network = {k: v for k, v in arrays.items() if not k.startswith("optimizer/")}
    with _appearing(path, overwrite) as temporary:
        write_weights(
            temporary,
            network,
            class_names=state["class_names"],
            layout=state.get("layout"),
        )
    if (_run_of(checkpoint) / "run.json").exists():
        made, setup = load_network(checkpoint)
        write_card(
            path,
            made,
            network_name=f"{type(made).__module__}:{type(made).__name__}",
            class_names=setup.class_names,
            crop_fraction=setup.reader.crop_fraction or 1.0,
        )
    return len(network)


def export_run(
    checkpoint: Path,
    path: Path,
    *,
    to: Format,
    num_features: int | None = None,
    overwrite: bool = False,
) -> Exported:
    """Export the network of a checkpoint, which must be in the folder of its run.

    The network is computed in float32, whatever it was trained in. It is checked on
    images of the run's test list, or random ones where that is gone.

    Args:
        checkpoint: A file in `RUN/checkpoints`.
        path: File, or for a SavedModel folder, to write.
        to: Its format.
        num_features: As for `make_run_network`.
        overwrite: Replace what is there.

    Raises:
        ValueError: If the run cannot be read, or its network does not fit.
        OSError: If it cannot be written.
        RuntimeError: If it cannot be converted, or answers differently.
    """
    network, setup = load_network(checkpoint, num_features)
    return export_network(
        network,
        path,
        to=to,
        class_names=setup.class_names,
        crop_fraction=setup.reader.crop_fraction or 1.0,
        stretch=bool(setup.reader.stretch),
        inputs=_inputs_of(setup),
        overwrite=overwrite,
    )


def _run_of(checkpoint: Path) -> Path:
    return checkpoint.resolve().parent.parent


def load_network(
    checkpoint: Path, num_features: int | None = None
) -> tuple[Network, RunSetup]:
    """Return the network of a checkpoint in its run's folder, in float32.

    Args:
        checkpoint: A file in `RUN/checkpoints`, which `find_checkpoint` finds.
        num_features: As for `make_run_network`.

    Raises:
        ValueError: If the run cannot be read, or its network does not fit.
    """
    run = _run_of(checkpoint)
    setup = read_run(run)
    session_options = dataclasses.replace(setup.session, precision="float32")
    setup = dataclasses.replace(setup, session=session_options)
    session = Session(run, setup.session, alone=True)
    try:
        network = make_run_network(setup, num_features=num_features)
        session.track_variables(network.variables)
        session.restore_file(checkpoint)
    finally:
        session.close()
    return network, setup


def export_network(
    network: Network,
    path: Path,
    *,
    to: Format,
    class_names: Sequence[str],
    crop_fraction: float = 1.0,
    stretch: bool = False,
    inputs: Inputs | None = None,
    overwrite: bool = False,
) -> Exported:
    """Export a network, and load it again to compare its answers.

    uint8 images go in, probabilities come out. What is wrong never appears: it is
    written beside, and renamed when its answers are those of the network. Where the
    format has no place for class names, they are written to `<path>.classes.json`.

    Args:
        network: In float32.
        path: File, or for a SavedModel folder, to write.
        to: Its format.
        class_names: Names in label order.
        crop_fraction: As the Reader had it; for encoded images.
        stretch: As the Reader had it, too.
        inputs: `images`, and `features` where the network takes them, to compare
            on; None: random ones.
        overwrite: Replace what is there.

    Raises:
        ValueError: If something is there already, the name has another suffix, or
            the format needs a package that is not installed.
        OSError: If it cannot be written.
        RuntimeError: If the converter failed, or the answers differ.
    """
    if not path.name.endswith(SUFFIXES[to]):
        raise ValueError(
            f"a file of the format {to} is called `...{SUFFIXES[to]}`. "
            f"Received: `{path}`"
        )
    inputs = _random_inputs(network) if inputs is None else inputs
    inputs = {name: np.asarray(inputs[name]) for name in network.model.input}
    expected = _probabilities(network.model, inputs)
    encoded_difference = None
    with _appearing(path, overwrite) as temporary:
        with _explaining(to):
            answer = _FORMATS[to](
                network, temporary, class_names, crop_fraction, stretch
            )
            answers = answer(inputs)
        difference = _checked_difference(answers, expected, TOLERANCE, to)
        if to == "savedmodel":
            encoded_difference = _check_encoded(
                network, temporary, inputs, crop_fraction, stretch
            )
    if to != "savedmodel":
        write_json(path.with_name(f"{path.name}.classes.json"), list(class_names))
    return Exported(path, len(expected), difference, encoded_difference)


def _h5(network: Network, path: Path, *_: Any) -> Answer:
    model = plain_model(network)
    model.save_weights(path)
    for variable in model.variables:  # so that only what is read can be right
        variable.assign(tf.zeros_like(variable))
    model.load_weights(path)
    return lambda inputs: _probabilities(model, inputs)


def _keras(network: Network, path: Path, *_: Any) -> Answer:
    answering(plain_model(network)).save(path)
    model = keras.models.load_model(path)
    return lambda inputs: np.asarray(
        model(inputs if len(inputs) > 1 else inputs["images"], training=False)
    )


def _saved_model(
    network: Network,
    path: Path,
    class_names: Sequence[str],
    crop_fraction: float,
    stretch: bool,
) -> Answer:
    model = answering(plain_model(network))
    write_saved_model(model, path, class_names, crop_fraction, stretch)
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    return lambda inputs: serve(**_tensors(inputs))["probabilities"].numpy()


def _onnx(network: Network, path: Path, *_: Any) -> Answer:
    import onnxruntime  # an extra

    model = answering(plain_model(network), named=True)
    with warnings.catch_warnings():  # Keras mends tf2onnx for NumPy 2
        warnings.simplefilter("ignore")
        model.export(
            path,
            format="onnx",
            input_signature=_signature(model, None),
            opset_version=_ONNX_OPSET,
            verbose=False,
        )
    runtime = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: runtime.run(["probabilities"], dict(inputs))[0]


def _litert(network: Network, path: Path, *_: Any) -> Answer:
    from ai_edge_litert.interpreter import Interpreter  # an extra

    model = answering(plain_model(network), named=True)
    batch_size = None
    try:
        _convert_to_litert(model, path, batch_size)
    except Exception:  # recurrent layers want to know the size of a batch
        batch_size = 1
        _convert_to_litert(model, path, batch_size)
        _logger.warning(
            "the .tflite file takes one image at a time, as LiteRT cannot leave their "
            "number open for this network"
        )
    run = Interpreter(model_path=str(path)).get_signature_runner("serving_default")

    def answer(inputs: Inputs) -> np.ndarray:
        size = batch_size or len(inputs["images"])
        answers = [
            run(**{name: values[i : i + size] for name, values in inputs.items()})
            for i in range(0, len(inputs["images"]), size)
        ]
        return np.concatenate([each["probabilities"] for each in answers])

    return answer


def _convert_to_litert(model: Any, path: Path, batch_size: int | None) -> None:
    model.export(
        path,
        format="litert",
        input_signature=_signature(model, batch_size),
        verbose=False,
        # Without TensorFlow's own operations, which few devices have.
        target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]},
    )


def _signature(model: Any, batch_size: int | None) -> list[Any]:
    specs = {
        tensor.name: keras.InputSpec(
            tensor.dtype, (batch_size, *tensor.shape[1:]), name=tensor.name
        )
        for tensor in model.inputs
    }
    return [specs if len(specs) > 1 else specs["images"]]


_FORMATS: dict[
    Format, Callable[[Network, Path, Sequence[str], float, bool], Answer]
] = {
    "h5": _h5,
    "keras": _keras,
    "savedmodel": _saved_model,
    "onnx": _onnx,
    "litert": _litert,
}


@contextlib.contextmanager
def _appearing(path: Path, overwrite: bool) -> Iterator[Path]:
    """Give a place beside a path, whose content is renamed to it when all went well.

    Raises:
        ValueError: If the path is there already and may not be replaced.
    """
    if path.exists() and not overwrite:
        raise ValueError(
            "something is there already; give another `--output`, or `--overwrite`. "
            f"Received: `{path}`"
        )
    folder = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            folder.mkdir(parents=True)
            yield folder / path.name
            if path.is_dir():  # cannot be replaced in one step
                os.rename(path, folder / "before")
            os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _explaining(to: Format) -> Iterator[None]:
    """Say which converter failed, and why.

    Raises:
        OSError: If the disk is full or cannot be written.
        ValueError: If its package is not installed.
        RuntimeError: If it could not convert the network.
    """
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"the format {to} needs packages that are not installed; in the project's "
            f"folder: `pip install -e '.[{to}]'`. Received: {error}"
        ) from error
    except OSError:
        raise
    except Exception as error:  # whatever a converter raises
        raise RuntimeError(
            f"the network could not be converted to {to}; nothing was written. A layer "
            "may have no counterpart there: try another `--to`. "
            f"Received: {type(error).__name__}: {error}"
        ) from error


def _checked_difference(
    answers: np.ndarray, expected: np.ndarray, tolerance: float, what: str
) -> float:
    difference = np.inf
    if answers.shape == expected.shape:
        difference = float(np.abs(answers - expected).max())
    if not difference <= tolerance:  # NaN is not, either
        raise RuntimeError(
            f"the exported {what} does not answer as the network does, so it was not "
            f"written: probabilities must agree within {tolerance}. "
            f"Received: difference={difference}"
        )
    return difference


def _check_encoded(
    network: Network, path: Path, inputs: Inputs, crop_fraction: float, stretch: bool
) -> float:
    """Compare the answers to PNG files with those of a Reader and the network."""
    images = inputs["images"]
    form = images.shape[1:]
    centred = [
        warp(image, form[:2], crop_fraction=crop_fraction, stretch=stretch)
        for image in images
    ]
    expected = _probabilities(network.model, {**inputs, "images": np.stack(centred)})
    order = cv2.COLOR_RGB2BGR if form[2] == 3 else cv2.COLOR_GRAY2BGR
    files = [cv2.imencode(".png", cv2.cvtColor(i, order))[1].tobytes() for i in images]
    serve = tf.saved_model.load(str(path)).signatures["serve_bytes"]
    others = {name: value for name, value in inputs.items() if name != "images"}
    answers = serve(encoded=tf.constant(files), **_tensors(others))
    return _checked_difference(
        answers["probabilities"].numpy(),
        expected,
        ENCODED_TOLERANCE,
        "signature `serve_bytes`",
    )


def _probabilities(model: Any, inputs: Inputs) -> np.ndarray:
    return tf.nn.softmax(model(dict(inputs), training=False)).numpy()


def _tensors(inputs: Inputs) -> dict[str, Any]:
    return {name: tf.constant(value) for name, value in inputs.items()}


def _inputs_of(setup: RunSetup) -> Inputs | None:
    options = dataclasses.replace(
        setup.reader, test_batch_size=NUM_IMAGES, num_threads=0
    )
    try:
        reader = make_reader(
            "test", setup.class_names, dataclasses.replace(setup, reader=options)
        )
        batch = reader.test_batch(0)
    except (OSError, ValueError) as error:
        _logger.warning("checked on random images, as the test list is gone: %s", error)
        return None
    real = batch["weights"] > 0
    return {name: values[real] for name, values in batch.items()}


def _random_inputs(network: Network) -> Inputs:
    rng = np.random.default_rng(0)
    shape = (NUM_IMAGES, *network.image_shape)
    features = rng.normal(size=(NUM_IMAGES, network.num_features))
    return {
        "images": rng.integers(0, 256, shape, np.uint8),
        "features": features.astype(np.float32),
    }
