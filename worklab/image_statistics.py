"""Mean and spread of the pixels of a data set, and the sizes of its images."""

import dataclasses
import math
import os
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool

import numpy as np

from worklab.console import Track
from worklab.reader import Reader


@dataclasses.dataclass(frozen=True)
class ImageStatistics:
    """Statistics of the images of one list.

    Attributes:
        num_images: Images that could be read.
        mean: Of the pixels 0..255 that a test shows of each image, by channel.
        std: Standard deviation of the same about that mean.
        heights: Smallest, median and largest height of the files' images.
        widths: The same of the widths.
        num_sizes: How many different sizes the files' images have.
        counts: Images in each class, by name; also those that could not be read.
        skipped: Why the others could not be read, by name.
    """

    num_images: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    heights: tuple[int, int, int]
    widths: tuple[int, int, int]
    num_sizes: int
    counts: dict[str, int]
    skipped: dict[str, str]


def image_statistics(
    reader: Reader, *, track: Track = lambda images, _: images
) -> ImageStatistics:
    """Return the statistics of a reader's list, each image once.

    Mean and spread are those of what a network sees without random changes, so that
    a large image counts no more than a small one. They are exact, as whole numbers are
    summed, whatever the order and the number of cores.

    Args:
        reader: Whose records; kept in memory they are not.
        track: Called with what is iterated over and its length, to show progress.

    Raises:
        ValueError: If an image cannot be read, and the reader does not skip it.

    Example:
        >>> from worklab.readers import ArrayReader
        >>> from worklab.options import ReaderOptions
        >>> options = ReaderOptions(image_size=(4, 4), channels=1)
        >>> images = np.array([[0], [255]], np.uint8).repeat(16).reshape(2, 4, 4, 1)
        >>> found = image_statistics(ArrayReader(images, [0, 0], "x", options=options))
        >>> found.mean, found.std
        ((127.5,), (127.5,))
    """
    histograms = np.zeros((reader.image_shape[2], 256), np.int64)
    sizes = []
    with ThreadPool(os.cpu_count()) as pool:
        found = pool.imap(lambda n: _read(reader, n), range(len(reader)), 16)
        for each in track(found, len(reader)):
            if each is not None:
                sizes.append(each[0])
                histograms += each[1]
    moments = [_mean_and_std(histogram) for histogram in histograms]
    heights, widths = zip(*sizes, strict=True)
    labels = np.bincount(reader.labels, minlength=len(reader.class_names))
    return ImageStatistics(
        num_images=len(sizes),
        mean=tuple(mean for mean, _ in moments),
        std=tuple(std for _, std in moments),
        heights=_range(heights),
        widths=_range(widths),
        num_sizes=len(set(sizes)),
        counts=dict(zip(reader.class_names, labels.tolist(), strict=True)),
        skipped=reader.skipped,
    )


def _read(reader: Reader, index: int) -> tuple[tuple[int, int], np.ndarray] | None:
    """Return size and histograms (channels, 256) of an image; None if it is skipped."""
    image = reader.load(index)
    if image is None:
        return None
    seen = reader.centre(image)
    histograms = [
        np.bincount(seen[:, :, channel].ravel(), minlength=256)
        for channel in range(seen.shape[2])
    ]
    return (image.shape[0], image.shape[1]), np.array(histograms)


def _mean_and_std(histogram: np.ndarray) -> tuple[float, float]:
    # Python's whole numbers, which no data set can overflow.
    counts = histogram.tolist()
    number = sum(counts)
    total = sum(level * count for level, count in enumerate(counts))
    squares = sum(level * level * count for level, count in enumerate(counts))
    variance = (number * squares - total * total) / (number * number)
    return total / number, math.sqrt(variance)


def _range(values: Sequence[int]) -> tuple[int, int, int]:
    ordered = sorted(values)
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]
