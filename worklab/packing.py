"""Packs the images of a source into few large files, which any tool can read."""

import concurrent.futures
import dataclasses
import json
import logging
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from worklab.files import replacing, write_json
from worklab.lists import CLASSES_FILE, read_class_names, write_class_names
from worklab.options import ReaderOptions
from worklab.packed_files import READERS, SUFFIXES, WRITERS, Format, Item
from worklab.reader import Reader
from worklab.readers import (
    EncodedReader,
    FileReader,
    digest_source,
    find_class_names,
    open_reader,
)
from worklab.shards import shard_name

_logger = logging.getLogger(__name__)


_KEPT_FIELDS = {"features", "weight", "boxes", "text"}


@dataclasses.dataclass(frozen=True)
class PackOptions:
    """What becomes of the images on their way."""

    to: Format = "tfrecord"
    """Format of the files; TFRecord and ArrayRecord hold `tf.train.Example`s."""
    shards: int = 1
    """Number of files; some 100 MB each read and copy well."""
    shorter_side: int | None = None
    """Larger images are scaled down to this many pixels; None: bytes are kept."""
    quality: int = 95
    """Of the JPEGs that scaled images become, 1..100."""
    first_label: Literal[0, 1] = 0
    """Number of the first class; 1 is what tf-slim's ImageNet has."""


def pack(
    source: Path,
    output: Path,
    options: PackOptions = PackOptions(),
    *,
    labels_offset: int = 0,
    num_threads: int | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Write the images of a source into files of records.

    Each file is written under another name, read back and compared, then renamed. A
    call that was stopped, however, goes on with the files that are missing. Every
    image is decoded once, so that a broken one is found here.

    Args:
        source: Whatever `open_reader` reads.
        output: Folder of the files, which are named like the source, and of
            `classes.json`.
        options: Format, number of files and size of the images.
        labels_offset: As for `open_reader`.
        num_threads: None takes every core.
        console: Where progress is shown; None shows none.

    Returns:
        The files, in order.

    Raises:
        ValueError: If an option is out of range, an image is broken, or the folder has
            files of another packing.
    """
    names = find_class_names(source, labels_offset=labels_offset)
    whole = ReaderOptions(reduced_decoding=False)  # packed for any size of image
    reader = open_reader(source, names, labels_offset=labels_offset, options=whole)
    _check_options(options, len(reader))
    stem = source.resolve().name.split(".")[0].split("@")[0].rstrip("-*") or "data"
    paths = [
        output / shard_name(stem, number, options.shards, SUFFIXES[options.to])
        for number in range(options.shards)
    ]
    _begin(output, stem, names, source, options)
    _warn_of_lost_fields(reader)
    jobs = _missing(paths, len(reader))
    stop = threading.Event()
    with _progress(console) as progress:
        task = progress.add_task(f"packing {stem}", total=len(reader))
        progress.advance(task, len(reader) - sum(len(indices) for _, indices in jobs))

        def items(indices: Sequence[int]) -> Iterator[Item]:
            for index in indices:
                if stop.is_set():
                    raise InterruptedError
                yield _item(reader, index, options)
                progress.advance(task)

        def work(path: Path, indices: Sequence[int]) -> None:
            _write_shard(path, items(indices), names, options)

        _run_all(jobs, work, num_threads or os.cpu_count() or 1, stop)
    _check_whole(paths, stem, reader, options)
    return paths


_Job = tuple[Path, Sequence[int]]


def _missing(paths: Sequence[Path], num_records: int) -> list[_Job]:
    """Return the files that are not there, and which records belong into each."""
    bounds = np.linspace(0, num_records, len(paths) + 1).astype(int).tolist()
    return [
        (path, range(start, stop))
        for path, start, stop in zip(paths, bounds, bounds[1:], strict=False)
        if not path.exists()
    ]


def _run_all(
    jobs: Sequence[_Job],
    work: Callable[[Path, Sequence[int]], None],
    num_threads: int,
    stop: threading.Event,
) -> None:
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        futures = [pool.submit(work, *job) for job in jobs]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        finally:  # after an error or Ctrl-C the others need not end their files
            stop.set()
            pool.shutdown(cancel_futures=True)


def _progress(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console or Console(quiet=True),
    )


def _check_options(options: PackOptions, num_records: int) -> None:
    limits = {
        "shards": 1 <= options.shards <= min(num_records, 99_999),
        "shorter_side": options.shorter_side is None or options.shorter_side >= 1,
        "quality": 1 <= options.quality <= 100,
    }
    for name, holds in limits.items():
        if not holds:
            raise ValueError(
                f"`{name}` is out of range: `shards` is at least 1 and at most the "
                f"number of images ({num_records}), `shorter_side` at least 1, "
                f"`quality` in 1..100. Received: {name}={getattr(options, name)}"
            )


def _begin(
    output: Path,
    stem: str,
    names: Sequence[str],
    source: Path,
    options: PackOptions,
) -> None:
    """Write down what is packed.

    Raises:
        ValueError: If there are files of another packing, or other classes.
    """
    output.mkdir(parents=True, exist_ok=True)
    state_path = output / f".{stem}.pack.json"
    state = dataclasses.asdict(options) | {
        "source": str(source.resolve()),
        "digest": digest_source(source),
        "classes": list(names),
    }
    if state_path.exists():
        before = json.loads(state_path.read_text(encoding="utf-8"))
        differing = sorted(key for key in state if before.get(key) != state[key])
    else:
        others = [*output.glob(f"{stem}-*-of-*")]
        differing = [f"{others[0].name} of unknown origin"] if others else []
    if differing:
        raise ValueError(
            f"`{output}` has files of another packing of `{stem}`. Give another "
            f"`--out`, or delete them and `{state_path.name}`. Received: differing "
            f"{', '.join(differing)}"
        )
    classes = output / CLASSES_FILE
    if classes.exists() and read_class_names(classes) != list(names):
        raise ValueError(
            f"`{classes}` has other classes than `{source}`. Pack all splits with the "
            f"same `{CLASSES_FILE}` beside them, or give another `--out`. "
            f"Received: {list(names)!r:.80}"
        )
    write_class_names(classes, names)
    write_json(state_path, state)


def _warn_of_lost_fields(reader: Reader) -> None:
    if isinstance(reader, FileReader):
        fields = {name for record in reader.records for name in record.fields}
        for name in sorted(fields - _KEPT_FIELDS):
            _logger.warning("the field `%s` of the list is not packed", name)


def _item(reader: Reader, index: int, options: PackOptions) -> Item:
    image = reader._load_checked(index)
    filename = ""
    if isinstance(reader, EncodedReader) and not reader.has_pixels:
        encoded, filename = reader.encoded(index), reader.filename(index)
    else:
        encoded = _encode(image, ".png", [])
    side = options.shorter_side
    if side is not None and min(image.shape[:2]) > side:
        image = _scale(image, side)
        encoded = _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, options.quality])
    label = int(reader.labels[index])
    fields = reader.records[index].fields if isinstance(reader, FileReader) else {}
    if "text" in fields:  # as tf-slim's ImageNet has it
        filename = filename.rpartition("/")[2]
    return Item(
        encoded,
        (image.shape[0], image.shape[1]),
        label + options.first_label,
        reader.class_names[label],
        filename,
        () if reader.features is None else tuple(reader.features[index].tolist()),
        None if reader.weights is None else float(reader.weights[index]),
        fields,
    )


def _scale(image: np.ndarray, side: int) -> np.ndarray:
    factor = side / min(image.shape[:2])
    height, width = (max(side, round(factor * length)) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _encode(image: np.ndarray, suffix: str, settings: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    if not done:
        raise ValueError(f"an image cannot be encoded. Received: {image.shape}")
    return data.tobytes()


def _write_shard(
    path: Path, items: Iterator[Item], names: Sequence[str], options: PackOptions
) -> None:
    sums: list[tuple[int, int]] = []

    def counted() -> Iterator[Item]:
        for item in items:
            sums.append((zlib.crc32(item.encoded), item.label))
            yield item

    write, read = WRITERS[options.to], READERS[options.to]
    numbered = ["background"] * options.first_label + list(names)
    with replacing(path) as temporary:
        write(temporary, counted(), numbered)
        found = [(zlib.crc32(encoded), label) for encoded, label in read(temporary)]
        if found != sums:
            raise OSError(
                f"`{path}` was read back with another content than was written; the "
                "disk or the memory is not to be trusted. Pack to another disk. "
                f"Received: {len(found)} of {len(sums)} records"
            )


def _check_whole(
    paths: Sequence[Path], stem: str, reader: Reader, options: PackOptions
) -> None:
    """Open all files as training would, which also makes their index.

    Raises:
        ValueError: If their labels are not those of the source.
    """
    packed = open_reader(
        paths[0].with_name(f"{stem}@{options.shards}{SUFFIXES[options.to]}"),
        reader.class_names,
        labels_offset=options.first_label,
    )
    if not np.array_equal(packed.labels, reader.labels):
        raise ValueError(
            f"the files in `{paths[0].parent}` are not those of this source, though "
            "they were begun as such: delete them and pack again. Received: "
            f"{len(packed)} records in place of {len(reader)}, or other labels"
        )
