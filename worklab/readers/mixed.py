"""MixedReader: several readers as one, each with its share of the training images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from worklab.reader import Reader


class MixedReader(Reader):
    """Draws training images from several readers at given rates, whatever their sizes.

    An epoch has as many images as all records together; those of a small reader with a
    large rate come several times in it. Records are numbered through, reader by reader,
    and a test pass has each once.

    Args:
        readers: With the same class names; their own augmentation and order are not
            used, only their images.
        rates: Share of the images of each, above 0, summing to 1.
        **settings: As for `Reader`: options, augment, seed.

    Raises:
        ValueError: If class names differ, a rate is out of range, or some readers have
            features and others have not.

    Example:
        >>> from worklab.options import ReaderOptions
        >>> from worklab.readers import ArrayReader
        >>> options = ReaderOptions(image_size=(8, 8), batch_size=10)
        >>> images = np.zeros((20, 8, 8, 3), np.uint8)
        >>> few = ArrayReader(images[:2], [0, 1], ["no", "yes"], options=options)
        >>> many = ArrayReader(images, [0, 1] * 10, ["no", "yes"], options=options)
        >>> reader = MixedReader([few, many], [0.5, 0.5], options=options)
        >>> batches = [reader.train_batch(number) for number in range(11)]
        >>> sum(int((batch["index"] < 2).sum()) for batch in batches)
        55
    """

    def __init__(
        self, readers: Sequence[Reader], rates: Sequence[float], **settings: Any
    ) -> None:
        _check(readers, rates)
        self.readers = list(readers)
        self.rates = list(rates)
        self._starts = np.cumsum([0, *(len(reader) for reader in readers)])
        features = [each.features for each in readers if each.features is not None]
        weights = [
            np.ones(len(each)) if each.weights is None else each.weights
            for each in readers
        ]
        given = any(each.weights is not None for each in readers)
        super().__init__(
            np.concatenate([reader.labels for reader in readers]),
            readers[0].class_names,
            features=np.concatenate(features) if features else None,
            weights=np.concatenate(weights) if given else None,
            **settings,
        )
        self.path = readers[0].path

    def name(self, index: int) -> str:
        """Return what its reader calls record `index`."""
        reader, inner = self._place(index)
        return reader.name(inner)

    def version(self, index: int) -> str:
        """Return its reader's text of record `index`."""
        reader, inner = self._place(index)
        return reader.version(inner)

    def _load(self, index: int) -> np.ndarray:
        reader, inner = self._place(index)
        return reader._load(inner)

    def _place(self, index: int) -> tuple[Reader, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.readers[number], index - int(self._starts[number])

    def _sampling_rates(self) -> tuple[np.ndarray, np.ndarray] | None:
        probabilities, groups = [], []
        for number, reader in enumerate(self.readers):
            inner = reader._sampling_rates()
            each = np.full(len(reader), 1 / len(reader)) if inner is None else inner[0]
            probabilities.append(each * self.rates[number])
            groups.append(reader.labels + number * len(self.class_names))
        return np.concatenate(probabilities), np.concatenate(groups)


def _check(readers: Sequence[Reader], rates: Sequence[float]) -> None:
    if len(readers) != len(rates) or not readers:
        raise ValueError(
            "each reader needs its rate. Received: "
            f"{len(readers)} readers and {len(rates)} rates"
        )
    if not all(rate > 0 for rate in rates) or abs(sum(rates) - 1) > 1e-6:
        raise ValueError(
            "rates are shares of the images: each above 0, all together 1. "
            f"Received: rates={list(rates)}"
        )
    for reader in readers:
        if reader.class_names != readers[0].class_names:
            raise ValueError(
                "readers that are mixed must have the same class names in one order. "
                f"Received: {readers[0].class_names} and {reader.class_names}"
            )
    if len({reader.features is None for reader in readers}) > 1:
        raise ValueError(
            "either all readers that are mixed have features, or none. Received: "
            f"features in {sum(r.features is not None for r in readers)} of "
            f"{len(readers)}"
        )
