"""Reader: records -> augmented, reproducible batches."""

import abc
import dataclasses
import functools
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from worklab.images import adjust_colour, warp
from worklab.options import AUGMENT_PRESETS, AugmentOptions, ReaderOptions

Batch = Mapping[str, np.ndarray]
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]

# First words of the seeds, so that the streams never share numbers.
_ORDER_STREAM, _AUGMENT_STREAM, _COPY_STREAM = 0, 1, 2

# Measured: 32x32 records (40 us) halve their rate with a second thread, while
# 500x375 JPEG files (1.5 ms) want every core.
_CHEAP_RECORD_SECONDS = 300e-6


@dataclasses.dataclass(frozen=True)
class Share:
    """One of some equal parts of each batch, as one of several workers reads it.

    Attributes:
        index: Which part, counted from 0.
        count: Number of parts.
    """

    index: int = 0
    count: int = 1

    def rows(self, size: int) -> slice:
        """Return the rows of a batch of `size` that the part has."""
        return slice(
            size * self.index // self.count, size * (self.index + 1) // self.count
        )


WHOLE = Share()


class Reader(abc.ABC):
    """Turns records into batches; batch n depends on nothing but its arguments.

    Training batches are endless, shuffled anew each epoch and augmented. Batch *n*
    is a pure function of (records, options, seed, *n*), for any number of threads,
    so a run can start at any step. Testing is one pass in which every image counts
    exactly once, for any batch size.

    A batch is a mapping of `images` uint8 (batch, height, width, channels) RGB or
    grey 0..255, `labels` int64 (batch,), `weights` float32 (batch,), 0 for padding,
    `index` int64 (batch,), the record's number or -1 for padding, and, where records
    have them, `features` float32 (batch, num_features).

    Implement: `_load(index)`. May override: `augment`, `centre`, `name`, `version`. Do
    not override: `train_batch`, `train_batches`, `test_batches`.

    Args:
        labels: Class index of each record, integers (num_records,).
        class_names: Names in label order.
        options: Sizes, threads and cache.
        augment: Amounts of the random changes, or a function `(image, rng) -> image`
            that takes the loaded uint8 image of any size, read-only.
        seed: Seed of order and augmentation, at least 0.
        features: Numbers that go with each record, (num_records, num_features).

    Raises:
        ValueError: If there is no record, a label or an option is out of range,
            `features` has another shape, or (in training) the batch is larger than
            the split.
    """

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str],
        *,
        options: ReaderOptions = ReaderOptions(),
        augment: AugmentOptions | Augment = AugmentOptions(),
        seed: int = 0,
        features: np.ndarray | None = None,
    ) -> None:
        self.class_names = list(class_names)
        self.options = options
        self.seed = seed
        self.augment_options = AugmentOptions(preset="off")
        if callable(augment):
            self.augment = augment  # type: ignore[method-assign,assignment]
        else:
            self.augment_options = augment
        _check_options(options, self.augment_options, seed)
        self.labels = np.asarray(labels)
        self.features = None if features is None else np.asarray(features, np.float32)
        self._check_labels()
        self.labels = self.labels.astype(np.int64)
        self._order = functools.lru_cache(maxsize=2)(self._shuffle)
        self._cache: dict[int, np.ndarray] = {}
        self._cache_room = options.cache_megabytes * 2**20
        self._cache_lock = threading.Lock()

    @abc.abstractmethod
    def _load(self, index: int) -> np.ndarray:
        """Return record `index` as uint8 (height, width, channels), of any size."""

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images in a batch."""
        return (*self.options.image_size, self.options.channels)

    def name(self, index: int) -> str:
        """Return what to call record `index` in a message, e.g. its path."""
        return f"record {index}"

    def version(self, index: int) -> str:
        """Return a text that is another one when the record's content is."""
        image = self._load_checked(index)
        return f"{self.name(index)} {image.shape} {zlib.crc32(image.tobytes())}"

    def augment(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the training form of an image: one random warp, then colour.

        Args:
            image: uint8 (height, width, channels), of any size, read-only.
            rng: The only source of chance; the same for the same place in training.

        Returns:
            uint8 of `image_shape`.
        """
        options, amount = self.augment_options, self.augment_options.amount
        zoom, turn, down, right = rng.uniform(-1, 1, size=4)
        brightness, contrast, saturation = rng.uniform(-1, 1, size=3)
        coins = rng.integers(0, [2, 2, 4])
        shift = amount("shift")
        image = warp(
            image,
            self.options.image_size,
            crop_fraction=self.options.crop_fraction,
            zoom=(1 + amount("zoom")) ** zoom,
            angle=turn * amount("rotation") + 90 * options.quarter_turns * coins[2],
            shift=(down * shift, right * shift),
            flip=(
                options.flip_vertical and bool(coins[0]),
                options.flip and bool(coins[1]),
            ),
        )
        if amount("brightness") or amount("contrast") or amount("saturation"):
            image = adjust_colour(
                image,
                brightness=1 + brightness * amount("brightness"),
                contrast=1 + contrast * amount("contrast"),
                saturation=1 + saturation * amount("saturation"),
            )
        return image

    def centre(self, image: np.ndarray) -> np.ndarray:
        """Return the test form of an image: the centre of what training sees."""
        return warp(
            image, self.options.image_size, crop_fraction=self.options.crop_fraction
        )

    def train_batch(self, step: int, share: Share = WHOLE) -> Batch:
        """Return training batch number `step`, counted from 0.

        Args:
            step: Number of the batch.
            share: Part of it; the parts together are the whole batch.

        Raises:
            ValueError: If the batch is larger than the split, an image cannot be
                read, or `augment` returns another form.
        """
        size, num_records = self.options.batch_size, len(self)
        if size > num_records:
            raise ValueError(
                "`batch_size` must not exceed the number of training images "
                f"({num_records}), or an image would stand in a batch twice. Give "
                f"`--reader.batch-size {num_records}` or less. "
                f"Received: batch_size={size}"
            )
        order, copies = self.train_order(step)
        rows = share.rows(size)
        batch = {name: values[rows] for name, values in order.items()}
        index = batch["index"]
        if self.options.copies:
            return {"images": self.fixed_images(index, copies[rows]), **batch}
        images = np.empty((len(index), *self.image_shape), np.uint8)
        for row, record in enumerate(index.tolist()):
            place = step * size + rows.start + row
            rng = np.random.default_rng([self.seed, _AUGMENT_STREAM, place])
            images[row] = self._read(record, self.augment, rng)
        return {"images": images, **batch}

    def train_order(self, step: int) -> tuple[Batch, np.ndarray]:
        """Return training batch `step` without its images, and which form each has.

        Returns:
            The batch, and int64 (batch,): the number of the fixed augmented form, 0
            where there are none.
        """
        size, num_records = self.options.batch_size, len(self)
        positions = np.arange(step * size, (step + 1) * size)
        index = np.array(
            [self._order(p // num_records)[p % num_records] for p in positions]
        )
        epochs = positions // num_records
        return self._batch(index), epochs % max(1, self.options.copies)

    def fixed_images(self, index: np.ndarray, copies: np.ndarray) -> np.ndarray:
        """Return fixed augmented forms of records, uint8 (n, height, width, channels).

        Args:
            index: Records, int64 (n,).
            copies: Which of its forms, int64 (n,), below `options.copies`.
        """
        images = np.empty((len(index), *self.image_shape), np.uint8)
        for row, (record, copy) in enumerate(zip(index, copies, strict=True)):
            words = [self.seed, _COPY_STREAM, int(record), int(copy)]
            rng = np.random.default_rng(words)
            images[row] = self._read(int(record), self.augment, rng)
        return images

    def test_batch(self, number: int, share: Share = WHOLE) -> Batch:
        """Return test batch `number`, padded with weight 0 where records end.

        Args:
            number: Counted from 0, in the order of the records.
            share: Part of the batch.
        """
        size = self.options.test_batch_size
        index = np.arange(number * size, (number + 1) * size)[share.rows(size)]
        index[index >= len(self)] = -1
        images = np.zeros((len(index), *self.image_shape), np.uint8)
        for row, record in enumerate(index[index >= 0]):
            images[row] = self._read(int(record), self.centre)
        return {"images": images, **self._batch(index)}

    def train_batches(self, start_step: int, share: Share = WHOLE) -> Iterator[Batch]:
        """Return the endless training batches from `start_step` on."""
        read = functools.partial(self.train_batch, share=share)
        return iter(self._prefetched(read, start_step, sys.maxsize))

    def test_batches(self, share: Share = WHOLE) -> Iterator[Batch]:
        """Return one pass over all records, in their order."""
        num_batches = -(-len(self) // self.options.test_batch_size)
        read = functools.partial(self.test_batch, share=share)
        return iter(self._prefetched(read, 0, num_batches))

    def _prefetched(
        self, read: Callable[[int], Batch], start: int, stop: int
    ) -> grain.IterDataset:
        threads = self.options.num_threads
        if threads is None:
            threads = self._suitable_threads
        return (
            grain.MapDataset.range(start, stop)
            .map(read)
            .to_iter_dataset(
                grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
            )
        )

    @functools.cached_property
    def _suitable_threads(self) -> int:
        """Return 1 for cheap records, where threads would contend for Python's lock."""
        seconds = []
        for _ in range(3):  # the first is slow, whatever the record
            start = time.perf_counter()
            self.augment(self._load_checked(0), np.random.default_rng(0))
            seconds.append(time.perf_counter() - start)
        cheap = min(seconds) < _CHEAP_RECORD_SECONDS
        return 1 if cheap else min(16, os.cpu_count() or 1)

    def _shuffle(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, _ORDER_STREAM, epoch])
        return rng.permutation(len(self))

    def _read(self, index: int, change: Callable[..., Any], *rng: Any) -> np.ndarray:
        try:
            image = change(self._load_cached(index), *rng)
        except Exception as error:
            error.add_note(f"while reading `{self.name(index)}`")
            raise
        form = (np.shape(image), getattr(image, "dtype", type(image).__name__))
        if form != (self.image_shape, np.uint8):
            raise ValueError(
                f"`{self.name(index)}` came out of augmentation with the wrong form: "
                f"expected uint8 {self.image_shape}. `augment` and `centre` must "
                "return an image of `reader.image_size`. "
                f"Received: {form[1]} {form[0]}"
            )
        return image

    def _load_cached(self, index: int) -> np.ndarray:
        image = self._cache.get(index)
        if image is None:
            image = self._load_checked(index)
            with self._cache_lock:
                if index not in self._cache and image.nbytes <= self._cache_room:
                    self._cache[index] = image
                    self._cache_room -= image.nbytes
        return image

    def _load_checked(self, index: int) -> np.ndarray:
        image = self._load(index).view()
        if image.ndim != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"`{self.name(index)}` was loaded in the wrong form: `_load` must "
                "return uint8 (height, width, channels). "
                f"Received: {image.dtype} {image.shape}"
            )
        image.flags.writeable = False  # a change in place would last into later epochs
        return image

    def _batch(self, index: np.ndarray) -> Batch:
        real = index >= 0
        batch = {
            "labels": np.where(real, self.labels[index], 0),
            "weights": real.astype(np.float32),
            "index": index,
        }
        if self.features is not None:
            batch["features"] = np.where(real[:, None], self.features[index], 0)
        return batch

    def _check_labels(self) -> None:
        if len(self.labels) == 0:
            raise ValueError(
                "a Reader needs at least one record; check the list it was made from. "
                "Received: 0 records"
            )
        if self.labels.ndim != 1 or self.labels.dtype.kind not in "iu":
            raise ValueError(
                "`labels` must be one integer for each record, the index of its class. "
                f"Received: {self.labels.dtype} {self.labels.shape}"
            )
        wrong = np.flatnonzero(
            (self.labels < 0) | (self.labels >= len(self.class_names))
        )
        if len(wrong):
            raise ValueError(
                f"labels must be in 0..{len(self.class_names) - 1}, as there are "
                f"{len(self.class_names)} class names. "
                f"Received: label {self.labels[wrong[0]]} of {self.name(int(wrong[0]))}"
            )
        if self.features is not None and (
            self.features.ndim != 2 or len(self.features) != len(self.labels)
        ):
            raise ValueError(
                "`features` must have one row of numbers for each record. Received: "
                f"shape {self.features.shape} for {len(self.labels)} records"
            )


def _check_options(options: ReaderOptions, augment: AugmentOptions, seed: int) -> None:
    if augment.preset not in AUGMENT_PRESETS:
        raise ValueError(
            f"`preset` must be one of {list(AUGMENT_PRESETS)}. "
            f"Received: preset={augment.preset!r}"
        )
    values = dataclasses.asdict(options) | {"seed": seed}
    changes = ("zoom", "shift", "rotation", "brightness", "contrast", "saturation")
    values |= {name: augment.amount(name) for name in changes}
    limits = {
        "batch_size": options.batch_size >= 1,
        "test_batch_size": options.test_batch_size >= 1,
        "copies": options.copies >= 0,
        "image_size": min(options.image_size) >= 1,
        "channels": options.channels in (1, 3),
        "crop_fraction": 0 < options.crop_fraction <= 1,
        "num_threads": (options.num_threads or 0) >= 0,
        "cache_megabytes": options.cache_megabytes >= 0,
        "seed": seed >= 0,
        **{name: values[name] >= 0 for name in changes},
    }
    for name, holds in limits.items():
        if not holds:
            raise ValueError(
                f"`{name}` is out of range: sizes are at least 1, channels 1 or 3, "
                "`crop_fraction` is in (0, 1], all else at least 0. "
                f"Received: {name}={values[name]!r}"
            )
