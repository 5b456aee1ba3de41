"""ArrayReader: images that are in memory already, or in NumPy's own files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from worklab.labels import Labels
from worklab.npz import read_npz
from worklab.reader import Reader


class ArrayReader(Reader):
    """Reads images from one uint8 array, or from a sequence of arrays of any size.

    Args:
        images: uint8 (num_records, height, width, channels), RGB or grey, or a
            sequence of uint8 (height, width, channels).
        labels: Class index of each image, integers (num_records,).
        class_names: Names in label order.
        **settings: As for `Reader`.

    Raises:
        ValueError: If the images are not uint8, have another number of channels, or
            are not as many as the labels.

    Example:
        >>> from worklab.options import ReaderOptions
        >>> images = np.zeros((10, 8, 8, 3), np.uint8)
        >>> options = ReaderOptions(image_size=(8, 8), batch_size=5)
        >>> reader = ArrayReader(images, [0, 1] * 5, ["no", "yes"], options=options)
        >>> reader.train_batch(0)["images"].shape
        (5, 8, 8, 3)
    """

    def __init__(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str],
        **settings: Any,
    ) -> None:
        super().__init__(labels, class_names, **settings)
        if len(images) != len(self.labels):
            raise ValueError(
                "`images` and `labels` must be equally many. Received: "
                f"{len(images)} images and {len(self.labels)} labels"
            )
        channels = self.options.channels
        for image in images:
            if image.dtype != np.uint8 or image.shape[2:] != (channels,):
                raise ValueError(
                    "`images` must be uint8 with values 0..255 (the network does the "
                    f"scaling), each (height, width, {channels}) as `channels` says. "
                    f"Received: {image.dtype} {image.shape}"
                )
        self._images = images
        self._cache_room = 0  # the images are in memory already

    def _load(self, index: int) -> np.ndarray:
        return np.asarray(self._images[index])


class StoredArrayReader(Reader):
    """Reads images from one array that a file had; grey and RGB are converted.

    Args:
        path: Where the array is from, for errors.
        images: uint8 (num_records, height, width) or with 1 or 3 channels behind.
        labels: Of the images.
        class_names: Names in label order, pinned for all splits of a run.
        labels_offset: Taken from labels that are numbers.
        **settings: As for `Reader`.

    Raises:
        ValueError: If the array has another form, or a label is unknown.
    """

    def __init__(
        self,
        path: Path,
        images: Any,
        labels: Labels,
        class_names: Sequence[str],
        *,
        labels_offset: int = 0,
        **settings: Any,
    ) -> None:
        check_images(path, images, len(labels.values))
        indices = labels.without(labels_offset).indices(
            class_names, lambda index: f"`{path}`, record {index},"
        )
        self._file_name = path.name
        super().__init__(indices, class_names, **settings)
        self.path = path
        self._images = images
        self._cache_room = 0  # the images are in memory already

    def name(self, index: int) -> str:
        """Return the file and the number of record `index`."""
        return f"{self._file_name}:{index}"

    def _load(self, index: int) -> np.ndarray:
        return with_channels(self._images[index], self.options.channels)


class NpzReader(StoredArrayReader):
    """Reads the arrays `images` and `labels` of a `.npz` file into memory.

    `images` are uint8 (num_records, height, width[, channels]); `labels` numbers or
    names. `class_names` in label order, `features` (num_records, num_features) and
    `weights` (num_records,) may stand beside them. Nothing in the file is executed.

    Args:
        path: The file.
        class_names: Names in label order, pinned for all splits of a run.
        **settings: As for `StoredArrayReader` and `Reader`.
    """

    def __init__(self, path: Path, class_names: Sequence[str], **settings: Any) -> None:
        arrays = _read(Path(path))
        super().__init__(
            Path(path),
            arrays["images"],
            stored_labels(Path(path), arrays["labels"], arrays.get("class_names")),
            class_names,
            features=arrays.get("features"),
            weights=arrays.get("weights"),
            **settings,
        )

    @classmethod
    def find_class_names(cls, path: Path, *, labels_offset: int = 0) -> list[str]:
        """Return the class names that the file pins."""
        arrays = _read(Path(path))
        names = arrays.get("class_names")
        labels = stored_labels(Path(path), arrays["labels"], names)
        return labels.without(labels_offset).class_names(
            lambda index: f"`{path}`, record {index},"
        )


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Return an image (height, width[, 1 or 3]) with 1 or 3 channels."""
    image = image.reshape(*image.shape[:2], -1)
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return grey[:, :, np.newaxis]


def check_images(path: Path, images: Any, num_labels: int) -> None:
    """Check the form of an array of images, in memory or not.

    Raises:
        ValueError: If it is another one, or they are not as many as the labels.
    """
    right = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if images.dtype != np.uint8 or not right:
        raise ValueError(
            f"`images` in `{path}` must be uint8 with values 0..255, (num_records, "
            "height, width) or with 1 or 3 channels behind; the network does the "
            f"scaling. Received: {images.dtype} {images.shape}"
        )
    if len(images) != num_labels:
        raise ValueError(
            f"`images` and `labels` in `{path}` must be equally many. Received: "
            f"{len(images)} images and {num_labels} labels"
        )


def stored_labels(path: Path, labels: np.ndarray, names: Any = None) -> Labels:
    """Return labels as a file has them: integers, text or bytes, one for each image.

    Args:
        path: The file, for errors.
        labels: (num_records,), or with a last axis of 1.
        names: Class names in label order, text or bytes; None: the file has none.

    Raises:
        ValueError: If they have another form.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind in "SO" and labels.ndim == 1:
        labels = np.array([_text(label) for label in labels], np.str_)
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"`labels` in `{path}` must be one integer or name for each image. "
            f"Received: {labels.dtype} {labels.shape}"
        )
    if labels.dtype.kind == "U":
        return Labels(labels)
    named = {} if names is None else dict(enumerate(map(_text, names)))
    return Labels(labels.astype(np.int64), named)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _read(path: Path) -> dict[str, np.ndarray]:
    arrays = read_npz(path)
    if not {"images", "labels"} <= arrays.keys():
        raise ValueError(
            f"`{path}` must have the arrays `images` and `labels`, as "
            "`numpy.savez(path, images=..., labels=...)` writes them. "
            f"Received: {sorted(arrays)}"
        )
    return arrays
