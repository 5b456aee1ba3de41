"""Reader: records -> augmented, reproducible batches."""

import abc
import dataclasses
import functools
import itertools
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import grain
import numpy as np

from worklab import sampling
from worklab.augmentation import augment_image, check_amounts, least_side
from worklab.bad_files import BadFiles
from worklab.images import decode_image, warp
from worklab.mixing import draw_mix, mix_images, mix_rows, partners
from worklab.options import AugmentOptions, ReaderOptions, with_test_form
from worklab.processes import Processes
from worklab.views import CENTRE, View, cut

Batch = Mapping[str, np.ndarray]
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]

# First words of the seeds, so that the streams never share numbers.
_ORDER_STREAM, _AUGMENT_STREAM, _COPY_STREAM, _REPLACEMENT_STREAM, _MIX_STREAM = range(
    5
)

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
    grey 0..255, `labels` int64 (batch,), `weights` float32 (batch,), what an image
    counts in the loss, 0 for padding, `index` int64 (batch,), the record's number or -1
    for padding, and, where records have them, `features` float32 (batch,
    num_features). With MixUp or CutMix a training batch also has `mixed_labels` int64
    (batch,), the labels of what was mixed in, and `mix` float32 (batch,), what the own
    label counts, 1 where nothing was mixed in.

    A record that cannot be read ends the run, or is skipped: in training another one,
    drawn from the seed and the place in training, stands in for it; in a test it has
    weight 0.

    Implement: `_load(index)`. May override: `augment`, `centre`, `view`, `name`,
    `version`. Do not override: `load`, `train_batch`, `train_batches`, `test_batches`.

    Args:
        labels: Class index of each record, integers (num_records,).
        class_names: Names in label order.
        options: Sizes, threads and cache.
        augment: Amounts of the random changes, or a function `(image, rng) -> image`
            that takes the loaded uint8 image of any size, read-only.
        seed: Seed of order and augmentation, at least 0.
        features: Numbers that go with each record, (num_records, num_features).
        weights: What each record counts in the training loss, above 0 (num_records,);
            with `sampling="weighted"` how often it is drawn instead.
        on_bad_file: What becomes of a record whose `_load` raises `ValueError` or
            `OSError`; also with `skip` more than 1 % of such records are an error.

    Raises:
        ValueError: If there is no record, a label, weight or option is out of range,
            `features` has another shape, or (in training) the batch is larger than
            the split.
    """

    path: Path | None = None
    """Where the records are from, for the record of a run; None: nowhere in a file."""

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str],
        *,
        options: ReaderOptions = ReaderOptions(),
        augment: AugmentOptions | Augment = AugmentOptions(),
        seed: int = 0,
        features: np.ndarray | None = None,
        weights: Sequence[float] | np.ndarray | None = None,
        on_bad_file: Literal["stop", "skip"] = "stop",
    ) -> None:
        self.class_names = list(class_names)
        self.seed = seed
        self.augment_options = AugmentOptions(preset="off")
        if callable(augment):
            self.augment = augment  # type: ignore[method-assign,assignment]
        else:
            self.augment_options = augment
            check_amounts(augment)
        # Then no image needs random numbers, which cost as much as a small one.
        self._never_changes = (
            augment == AugmentOptions(preset="off")
            and type(self).augment is Reader.augment
            and type(self).centre is Reader.centre
        )
        self.options = options = with_test_form(options, self.augment_options)
        _check_options(options, seed)
        self._crop_fraction = options.crop_fraction or 1.0
        self._least_side: int | None = None
        if options.reduced_decoding and not callable(augment):
            self._least_side = least_side(options, augment)
        self.on_bad_file = on_bad_file
        self.labels = np.asarray(labels)
        self.features = None if features is None else np.asarray(features, np.float32)
        self._check_labels()
        self.labels = self.labels.astype(np.int64)
        self.weights = None if weights is None else self._checked_weights(weights)
        if options.class_weights != "balanced":  # wrong names should not wait
            sampling.weights_of_classes(
                options.class_weights, self.labels, self.class_names
            )
        self._cache_room = options.cache_megabytes * 2**20
        self._start_process()

    def _start_process(self) -> None:
        # What a process has for itself, and does not pickle for another one.
        self._bad = BadFiles(len(self.labels), self.name)
        self._order = functools.lru_cache(maxsize=2)(self._shuffle)
        self._cache: dict[int, np.ndarray] = {}
        self._cache_lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to read the same batches."""
        own = ("_bad", "_order", "_cache", "_cache_lock", "_processes")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the state of a Reader in another process."""
        vars(self).update(state)
        self._cache_room //= max(1, self.options.num_processes)
        self._start_process()

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

    @property
    def skipped(self) -> dict[str, str]:
        """Why each record skipped so far could not be read, by its name."""
        return dict(self._bad.reasons)

    def load(self, index: int) -> np.ndarray | None:
        """Return a record as it was loaded.

        Returns:
            uint8 (height, width, channels) of any size, read-only; None if the record
            is skipped.

        Raises:
            ValueError: If it cannot be read, and is not to be skipped, or too many
                cannot.
            OSError: The same, where `_load` raised it.
        """
        if index in self._bad:
            return None
        try:
            return self._load_cached(index)
        except (ValueError, OSError) as error:
            if self.on_bad_file == "stop":
                raise
            self._bad.add(index, error)
            return None

    def training_form(self, index: int, epoch: int) -> np.ndarray | None:
        """Return record `index` as epoch number `epoch` of training shows it.

        Returns:
            uint8 of `image_shape`; None if the record is skipped.
        """
        place = int(np.flatnonzero(self._order(epoch) == index)[0])
        copy = epoch % max(1, self.options.copies)
        return self._training_form(index, epoch * len(self) + place, copy)

    def augment(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the training form of an image: one random warp, then colour.

        Args:
            image: uint8 (height, width, channels), of any size, read-only.
            rng: The only source of chance; the same for the same place in training.

        Returns:
            uint8 of `image_shape`.
        """
        return augment_image(
            image,
            rng,
            self.options.image_size,
            crop_fraction=self._crop_fraction,
            options=self.augment_options,
        )

    def centre(self, image: np.ndarray) -> np.ndarray:
        """Return the test form of an image: the centre of what training sees."""
        return warp(
            image,
            self.options.image_size,
            crop_fraction=self._crop_fraction,
            stretch=bool(self.options.stretch),
        )

    def view(self, image: np.ndarray, view: View) -> np.ndarray:
        """Return one of several test forms of an image, see `worklab.views`.

        Args:
            image: uint8 (height, width, channels), of any size, read-only.
            view: `CENTRE` must be what `centre` returns.

        Raises:
            ValueError: If another size or place is asked for, and `centre` is
                overridden.
        """
        if (view.scale, view.corner) == (CENTRE.scale, CENTRE.corner):
            seen = self.centre(image)
        elif type(self).centre is not Reader.centre:
            raise ValueError(
                f"`{type(self).__name__}` shows test images by its own `centre`, so it "
                "has to say by a `view` of its own what crops and scales are. "
                f"Received: {view}"
            )
        else:
            seen = cut(
                image,
                self.options.image_size,
                view,
                crop_fraction=self._crop_fraction,
                stretch=bool(self.options.stretch),
            )
        return seen[:, ::-1] if view.flip else seen

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
        if size > num_records and self.options.sampling == "each":
            raise ValueError(
                "`batch_size` must not exceed the number of training images "
                f"({num_records}), or an image would stand in a batch twice. Give "
                f"`--reader.batch-size {num_records}` or less. "
                f"Received: batch_size={size}"
            )
        rows = np.arange(size)[share.rows(size)]
        if self.augment_options.mixes:
            return self._mixed_rows(step, rows)
        return self._train_rows(step, rows)

    def _train_rows(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return some rows of a batch, others in the place of what is skipped."""
        order, copies = self.train_order(step)
        index = order["index"][rows]
        images = np.empty((len(index), *self.image_shape), np.uint8)
        places = (step * self.options.batch_size + rows).tolist()
        for row, (place, copy) in enumerate(zip(places, copies[rows], strict=True)):
            for record in self._candidates(int(index[row]), place):
                image = self._training_form(record, place, int(copy))
                if image is not None:
                    index[row], images[row] = record, image
                    break
        return {"images": images, **self._train_labels(index)}

    def _mixed_rows(self, step: int, rows: np.ndarray) -> Batch:
        """Return some rows of a batch, mixed as they are in the whole batch."""
        size = self.options.batch_size
        rng = np.random.default_rng([self.seed, _MIX_STREAM, step])
        mix = draw_mix(self.augment_options, size, self.options.image_size, rng)
        others = partners(size)[rows]
        needed = np.union1d(rows, others)  # those of a neighbour's share, too
        batch = self._train_rows(step, needed)
        images = batch.pop("images")
        own, other = (np.searchsorted(needed, each) for each in (rows, others))
        return {
            "images": mix_images(images[own], images[other], mix.of_rows(rows)),
            **mix_rows(batch, own, other, mix.shares[rows]),
        }

    def train_order(self, step: int) -> tuple[Batch, np.ndarray]:
        """Return training batch `step` without its images, and which form each has.

        Where `train_batch` had to skip a record, the one that stands in is given.

        Returns:
            The batch, and int64 (batch,): the number of the fixed augmented form, 0
            where there are none.
        """
        size, num_records = self.options.batch_size, len(self)
        positions = np.arange(step * size, (step + 1) * size)
        index = np.array(
            [self._order(p // num_records)[p % num_records] for p in positions]
        )
        for row, record in enumerate(index.tolist()):
            if record in self._bad:
                index[row] = next(self._candidates(record, step * size + row))
        epochs = positions // num_records
        return self._train_labels(index), epochs % max(1, self.options.copies)

    def _train_labels(self, index: np.ndarray) -> dict[str, np.ndarray]:
        batch = self._batch(index)
        if self._loss_weights is not None:
            batch["weights"] = self._loss_weights[index]
        return batch

    def fixed_images(self, index: np.ndarray, copies: np.ndarray) -> np.ndarray:
        """Return fixed augmented forms of records, uint8 (n, height, width, channels).

        A record that is skipped is black.

        Args:
            index: Records, int64 (n,).
            copies: Which of its forms, int64 (n,), below `options.copies`.
        """
        images = np.zeros((len(index), *self.image_shape), np.uint8)
        for row, (record, copy) in enumerate(zip(index, copies, strict=True)):
            image = self._fixed_form(int(record), int(copy))
            if image is not None:
                images[row] = image
        return images

    def test_batch(
        self, number: int, share: Share = WHOLE, views: Sequence[View] = (CENTRE,)
    ) -> Batch:
        """Return test batch `number`, padded with weight 0 where records end.

        A record that is skipped keeps its place, with weight 0.

        Args:
            number: Counted from 0, in the order of the records.
            share: Part of the batch.
            views: Forms of each record, which are rows that follow one another.
        """
        size = self.options.test_batch_size
        places = np.arange(number * size, (number + 1) * size)[share.rows(size)]
        index, forms = np.divmod(places, len(views))
        index[index >= len(self)] = -1
        images = np.zeros((len(index), *self.image_shape), np.uint8)
        batch = self._batch(index)
        real = np.flatnonzero(index >= 0).tolist()
        for record, group in itertools.groupby(real, index.tolist().__getitem__):
            rows = list(group)
            found = self._read_views(record, [views[forms[row]] for row in rows])
            if found is None:
                batch["weights"][rows] = 0
            else:
                for row, image in zip(rows, found, strict=True):
                    images[row] = image
        return {"images": images, **batch}

    def train_batches(self, start_step: int, share: Share = WHOLE) -> Iterator[Batch]:
        """Return the endless training batches from `start_step` on."""
        return self._prefetched("train_batch", start_step, sys.maxsize, share=share)

    def test_batches(
        self, share: Share = WHOLE, views: Sequence[View] = (CENTRE,)
    ) -> Iterator[Batch]:
        """Return one pass over all records, in their order, each in all views."""
        num_batches = -(-len(self) * len(views) // self.options.test_batch_size)
        return self._prefetched("test_batch", 0, num_batches, share=share, views=views)

    def _prefetched(
        self, method: str, start: int, stop: int, **settings: Any
    ) -> Iterator[Batch]:
        if self.options.num_processes:
            return self._from_processes(method, start, stop, settings)
        threads = self.options.num_threads
        if threads is None:
            threads = self._suitable_threads
        return iter(
            grain.MapDataset.range(start, stop)
            .map(functools.partial(getattr(self, method), **settings))
            .to_iter_dataset(
                grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
            )
        )

    def _from_processes(
        self, method: str, start: int, stop: int, settings: Mapping[str, Any]
    ) -> Iterator[Batch]:
        calls = self._processes.call(
            "_batch_and_bad", range(start, stop), method=method, settings=settings
        )
        for batch, reasons in calls:
            for index, reason in reasons.items():
                self._bad.add(index, ValueError(reason))
            yield batch

    def _batch_and_bad(
        self, number: int, method: str, settings: Mapping[str, Any]
    ) -> tuple[Batch, Mapping[int, str]]:
        """In a process: return a batch, and why which records could not be read."""
        return getattr(self, method)(number, **settings), self._bad.by_index

    @functools.cached_property
    def _processes(self) -> Processes:
        """The reader's processes, which live as long as it does."""
        return Processes(self, self.options.num_processes)

    @functools.cached_property
    def _suitable_threads(self) -> int:
        """Return 1 for cheap records, where threads would contend for Python's lock."""
        seconds = []
        record = next(n for n in range(len(self)) if self.load(n) is not None)
        for _ in range(3):  # the first is slow, whatever the record
            start = time.perf_counter()
            self.augment(self._load_checked(record), np.random.default_rng(0))
            seconds.append(time.perf_counter() - start)
        cheap = min(seconds) < _CHEAP_RECORD_SECONDS
        return 1 if cheap else min(16, os.cpu_count() or 1)

    def _shuffle(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, _ORDER_STREAM, epoch])
        if self._rates is None:
            return rng.permutation(len(self))
        return sampling.draw_epoch(*self._rates, rng)

    @functools.cached_property
    def _rates(self) -> tuple[np.ndarray, np.ndarray] | None:
        return self._sampling_rates()

    def _sampling_rates(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return each record's probability and group; None: each once an epoch.

        Raises:
            ValueError: If weights are to decide, and records have none.
        """
        if self.options.sampling == "balanced":
            num_classes = len(self.class_names)
            return sampling.class_balanced(self.labels, num_classes), self.labels
        if self.options.sampling == "weighted":
            if self.weights is None:
                raise ValueError(
                    "to draw images by their weights, each entry of the list needs a "
                    "`weight`, a number above 0. Received: sampling='weighted' and no "
                    "weights"
                )
            return self.weights / self.weights.sum(), self.labels
        return None

    @functools.cached_property
    def _loss_weights(self) -> np.ndarray | None:
        """What each record counts in the training loss; None: all the same."""
        given, weights = self.options.class_weights, None
        if given:
            weights = sampling.weights_of_classes(given, self.labels, self.class_names)
            weights = weights[self.labels]
        if self.weights is not None and self.options.sampling != "weighted":
            weights = self.weights if weights is None else weights * self.weights
        return None if weights is None else weights.astype(np.float32)

    def _candidates(self, record: int, place: int) -> Iterator[int]:
        """Yield a record, then others to stand in for it, but none known as bad.

        The first that can be read is the same whatever is known yet.
        """
        if record not in self._bad:
            yield record
        rng = np.random.default_rng([self.seed, _REPLACEMENT_STREAM, place])
        while True:
            record = int(rng.integers(len(self)))
            if record not in self._bad:
                yield record

    def _training_form(self, record: int, place: int, copy: int) -> np.ndarray | None:
        if self._never_changes:
            return self._read(record, self.centre)
        if self.options.copies:
            return self._fixed_form(record, copy)
        rng = np.random.default_rng([self.seed, _AUGMENT_STREAM, place])
        return self._read(record, self.augment, rng)

    def _fixed_form(self, record: int, copy: int) -> np.ndarray | None:
        rng = np.random.default_rng([self.seed, _COPY_STREAM, record, copy])
        return self._read(record, self.augment, rng)

    def _read(
        self, index: int, change: Callable[..., Any], *rng: Any
    ) -> np.ndarray | None:
        """Return a record as changed, or None if it is skipped."""
        found = self._read_forms(index, lambda image: [change(image, *rng)])
        return None if found is None else found[0]

    def _read_views(
        self, index: int, views: Sequence[View]
    ) -> Sequence[np.ndarray] | None:
        """Return some views of a record, or None if it is skipped."""
        return self._read_forms(
            index, lambda image: [self.view(image, view) for view in views]
        )

    def _read_forms(
        self, index: int, change: Callable[[np.ndarray], Sequence[Any]]
    ) -> Sequence[np.ndarray] | None:
        """Return forms of a record that is loaded once, or None if it is skipped.

        Raises:
            ValueError: If it cannot be read, or comes out in another form.
        """
        try:
            image = self.load(index)
            if image is None:
                return None
            images = change(image)
        except Exception as error:
            error.add_note(f"while reading `{self.name(index)}`")
            raise
        for each in images:
            form = (np.shape(each), getattr(each, "dtype", type(each).__name__))
            if form != (self.image_shape, np.uint8):
                raise ValueError(
                    f"`{self.name(index)}` came out of augmentation with the wrong "
                    f"form: expected uint8 {self.image_shape}. `augment`, `centre` and "
                    "`view` must return an image of `reader.image_size`. "
                    f"Received: {form[1]} {form[0]}"
                )
        return images

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

    def _decode(self, data: bytes, name: str) -> np.ndarray:
        """Return the bytes of an image file decoded, as the options say."""
        return decode_image(
            data,
            self.options.channels,
            name,
            max_megapixels=self.options.max_megapixels,
            least_side=self._least_side,
        )

    def _batch(self, index: np.ndarray) -> dict[str, np.ndarray]:
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

    def _checked_weights(self, weights: Sequence[float] | np.ndarray) -> np.ndarray:
        if len(weights) != len(self.labels):
            raise ValueError(
                "`weights` must be one number for each record. Received: "
                f"{len(weights)} weights for {len(self.labels)} records"
            )
        names = [self.name(index) for index in range(len(self.labels))]
        values = weights.tolist() if isinstance(weights, np.ndarray) else weights
        return sampling.checked_weights(values, names)


def _check_options(options: ReaderOptions, seed: int) -> None:
    if options.sampling not in ("each", "balanced", "weighted"):
        raise ValueError(
            "`sampling` must be 'each', 'balanced' or 'weighted'. "
            f"Received: sampling={options.sampling!r}"
        )
    if options.sampling == options.class_weights == "balanced":
        raise ValueError(
            "drawing all classes equally often and weighting them would correct twice; "
            "choose one. Received: sampling='balanced', class_weights='balanced'"
        )
    values = dataclasses.asdict(options) | {"seed": seed}
    limits = {
        "batch_size": options.batch_size >= 1,
        "test_batch_size": options.test_batch_size >= 1,
        "copies": options.copies >= 0,
        "image_size": min(options.image_size) >= 1,
        "channels": options.channels in (1, 3),
        "crop_fraction": 0 < (options.crop_fraction or 0) <= 1,
        "num_threads": (options.num_threads or 0) >= 0,
        "num_processes": options.num_processes >= 0,
        "cache_megabytes": options.cache_megabytes >= 0,
        "max_megapixels": options.max_megapixels > 0,
        "seed": seed >= 0,
    }
    for name, holds in limits.items():
        if not holds:
            raise ValueError(
                f"`{name}` is out of range: sizes are at least 1, channels 1 or 3, "
                "`crop_fraction` is in (0, 1], `max_megapixels` above 0, all else at "
                "least 0. "
                f"Received: {name}={values[name]!r}"
            )
