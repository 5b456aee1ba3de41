"""ArrayReader: images that are in memory already."""

from collections.abc import Sequence
from typing import Any

import numpy as np

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
