"""What the frozen part of a network makes of each image, computed once and kept."""

import dataclasses
import hashlib
import inspect
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from worklab.checkpoints import digest
from worklab.files import write_json, writing
from worklab.network import Network
from worklab.printing import open_console
from worklab.progress import track
from worklab.reader import WHOLE, Batch, Reader, Share

_logger = logging.getLogger(__name__)

KEY = "frozen_outputs"
"""What a batch has in place of `images`: outputs of the frozen part."""


class FeatureCache:
    """Trains a network on outputs of its frozen part, which are computed once.

    The network is cut behind the last layer before which nothing learns and nothing is
    random. With `ReaderOptions.copies` each image has that many fixed augmented forms,
    so the outputs of the frozen part are as many; they are kept in a memory-mapped file
    in the run's folder, keyed by weights, data and options, and made anew when one of
    these changes. Training on them gives what training on the images would, as far as
    the frozen part computes the same in batches of another size.

    Args:
        network: With its final frozen weights.
        reader: Where images come from.
        folder: Where the file is kept.

    Raises:
        ValueError: If the augmentation is not fixed, bad images may be skipped, the
            first layer learns, or the disk has no room.
    """

    def __init__(self, network: Network, reader: Reader, folder: Path) -> None:
        if not reader.options.copies:
            raise ValueError(
                "outputs of frozen layers can only be kept for images that come again "
                "as they were: give `--reader.copies K` for K fixed augmented forms of "
                f"each image. Received: copies={reader.options.copies}"
            )
        if reader.augment_options.mixes:
            raise ValueError(
                "outputs of frozen layers cannot be kept for images that are mixed "
                "with another one each time: go without `--augment.mixup` and "
                "`--augment.cutmix`, or without `--training.cache-features`. Received: "
                f"mixup={reader.augment_options.mixup}, "
                f"cutmix={reader.augment_options.cutmix}"
            )
        if reader.on_bad_file == "skip":
            raise ValueError(
                "outputs of frozen layers are kept for every image, so none can be "
                "skipped: take the bad ones off the list (`python -m worklab check "
                "--fix`), or go without `--training.cache-features`. "
                f"Received: on_bad_file={reader.on_bad_file!r}"
            )
        self.network = network
        self.reader = reader
        self.folder = Path(folder)
        # With auxiliary logits the model that trains has more outputs.
        parts = cut_at_boundary(getattr(network.model, "in_training", network.model))
        if parts is None:
            raise ValueError(
                f"`{type(network).__name__}` has nothing to keep: no frozen layer "
                "comes before all that learns or is random. Freeze the first layers by "
                "`lr_mult=0`, or go without `--training.cache-features`. "
                f"Received: lr_mult of `{next(iter(network.policies))}` above 0"
            )
        self.boundary, self.front, self.back = parts
        self._inputs = [
            KEY,
            *(name for name in network.model.input if name != "images"),
        ]
        self._outputs: np.ndarray | None = None

    def __call__(self, batch: Any, *, training: bool) -> Any:
        """Return logits for a batch of `train_batches`."""
        return self.back([batch[name] for name in self._inputs], training=training)

    def train_batches(self, start_step: int, share: Share = WHOLE) -> Iterator[Batch]:
        """Return the Reader's training batches, outputs in the place of images."""
        outputs = self._open()
        part = share.rows(self.reader.options.batch_size)
        step = start_step
        while True:
            order, copies = self.reader.train_order(step)
            batch = {name: values[part] for name, values in order.items()}
            rows = batch["index"] * self.reader.options.copies + copies[part]
            yield {KEY: outputs[rows], **batch}
            step += 1

    def _open(self) -> np.ndarray:
        if self._outputs is None:
            path = self.folder / "frozen_outputs.npy"
            about = path.with_suffix(".json")
            key = self._key()
            if not (about.exists() and json.loads(about.read_text())["key"] == key):
                about.unlink(missing_ok=True)
                self._build(path)
                write_json(about, {"key": key, "boundary": self.boundary.name})
            self._outputs = np.load(path, mmap_mode="r")
        return self._outputs

    def _build(self, path: Path) -> None:
        copies, size = self.reader.options.copies, self.reader.options.test_batch_size
        shape = (len(self.reader) * copies, *self.boundary.output.shape[1:])
        num_bytes = int(np.prod(shape)) * 4
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        _logger.info(
            "keeping outputs of `%s` for %d images, %d forms each: %.1f MB in %s",
            self.boundary.name,
            len(self.reader),
            copies,
            num_bytes / 1e6,
            path,
        )
        if num_bytes > free:
            raise ValueError(
                f"the outputs of `{self.boundary.name}` need {num_bytes / 1e6:.0f} MB "
                f"in `{self.folder}`, which has {free / 1e6:.0f} MB free. Make room, "
                "give fewer `--reader.copies`, or go without "
                "`--training.cache-features`. "
                f"Received: {shape[0]} images of shape {shape[1:]}"
            )
        part = path.with_suffix(".part.npy")
        forward = tf.function(lambda images: self.front(images, training=False))
        with writing(path):
            outputs = np.lib.format.open_memmap(part, "w+", np.float32, shape)
            starts, console = range(0, shape[0], size), open_console(sys.stderr)
            for start in track(starts, len(starts), "frozen layers, batch", console):
                rows = np.arange(start, min(start + size, shape[0]))
                images = self.reader.fixed_images(rows // copies, rows % copies)
                missing = size - len(images)  # one trace for all batches
                padded = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
                outputs[rows] = forward(padded)[: len(rows)]
            outputs.flush()
            part.replace(path)

    def _key(self) -> str:
        """Return a digest of all that the outputs depend on."""
        frozen = {v.path: v.value.numpy() for v in self.front.variables}
        options = dataclasses.asdict(self.reader.options)
        for harmless in (
            "batch_size",
            "num_threads",
            "cache_megabytes",
            "max_megapixels",
            "sampling",
            "class_weights",
        ):
            del options[harmless]
        about = {
            "weights": digest(frozen),
            "layers": [
                f"{type(layer).__name__} {layer.get_config()}"
                for layer in self.front.layers
            ],
            "channel_order": self.network.channel_order,
            "boundary": self.boundary.name,
            "precision": self.network.precision,
            "records": [self.reader.version(n) for n in range(len(self.reader))],
            "code": inspect.getsource(self.reader.augment),
            "options": options,
            "augment": dataclasses.asdict(self.reader.augment_options),
            "seed": self.reader.seed,
        }
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def cut_at_boundary(model: Any) -> tuple[Any, Any, Any] | None:
    """Cut a functional model behind the last layer before which nothing changes.

    Returns:
        The layer, the model from the images to its output, and the model from there
        to the logits; None where the first layers learn or are random.
    """
    images = model.input["images"]
    others = [each for name, each in model.input.items() if name != "images"]
    unchanging = []
    for layer in model.layers:
        learns = layer.trainable and layer.variables  # also statistics alone
        if learns or _is_random(layer):
            break
        if not isinstance(layer, keras.layers.InputLayer):
            unchanging.append(layer)
    for layer in reversed(unchanging):
        try:
            front = keras.Model(images, layer.output)
            back = keras.Model([layer.output, *others], model.output)
        except ValueError:  # something goes past this layer
            continue
        if front.variables:  # else only the images are prepared
            return layer, front, back
    return None


def _is_random(layer: Any) -> bool:
    return any(v.path.endswith("seed_generator_state") for v in layer.variables)
