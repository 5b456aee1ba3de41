"""Which Reader reads what: by the suffix of a path, or by the content behind it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from worklab.labels import find_pinned_names
from worklab.lists import CLASSES_FILE
from worklab.options import AugmentOptions, ReaderOptions
from worklab.reader import Augment, Reader
from worklab.readers.array_record import ArrayRecordReader
from worklab.readers.arrays import NpzReader
from worklab.readers.folder import FolderReader
from worklab.readers.hdf5 import Hdf5Reader
from worklab.readers.idx import IdxReader
from worklab.readers.json_list import JsonListReader
from worklab.readers.tar import TarReader
from worklab.readers.tfrecord import TFRecordReader
from worklab.shards import find_shards
from worklab.tfrecords import looks_like_records

_LISTS = (".json", ".csv", ".tsv")
_BY_SUFFIX: dict[str, Any] = {
    ".h5": Hdf5Reader,
    ".hdf5": Hdf5Reader,
    ".tfrecord": TFRecordReader,
    ".tfrecords": TFRecordReader,
    ".array_record": ArrayRecordReader,
    ".arrayrecord": ArrayRecordReader,
    ".tar": TarReader,
    ".npz": NpzReader,
}

# What files begin with: (offset, bytes).
_BY_CONTENT: tuple[tuple[int, bytes, Any], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", Hdf5Reader),
    (0, bytes.fromhex("83af70d10d884a3f"), ArrayRecordReader),  # Riegeli's block
    (257, b"ustar", TarReader),
    (0, b"PK\x03\x04", NpzReader),
    (0, b"\0\0\x08", IdxReader),
)
_HEAD_BYTES = 512
_WHOLE_BYTES = 2**26


def open_reader(
    path: Path,
    class_names: Sequence[str],
    *,
    labels_offset: int = 0,
    options: ReaderOptions = ReaderOptions(),
    augment: AugmentOptions | Augment = AugmentOptions(),
    seed: int = 0,
    on_bad_file: Literal["stop", "skip"] = "stop",
) -> Reader:
    """Return the Reader of a source, whatever that is.

    Args:
        path: A list (JSON, CSV), a folder of class folders, or a file, or a pattern of
            files (`train-*`, `train@8`), of TFRecord, HDF5, ArrayRecord, tar, NumPy
            or idx.
        class_names: Names in label order, pinned for all splits of a run.
        labels_offset: Taken from labels that are numbers; 1 leaves out tf-slim's
            background class.
        options: Sizes, threads and cache.
        augment: As for `Reader`.
        seed: Seed of order and augmentation.
        on_bad_file: As for `Reader`.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If it is nothing that can be read, or it is damaged.
    """
    reader: Reader = recognise(path)(
        path,
        class_names,
        labels_offset=labels_offset,
        options=options,
        augment=augment,
        seed=seed,
        on_bad_file=on_bad_file,
    )
    return reader


def find_class_names(path: Path, *, labels_offset: int = 0) -> list[str]:
    """Find the class names to pin for all splits, usually from the train source.

    A `classes.json` beside the source or in its folder decides, then tf-slim's
    `labels.txt`. Without them the source does: names that it has, else its labels.

    Args:
        path: As for `open_reader`.
        labels_offset: As for `open_reader`.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If it is nothing that can be read, or it is damaged.
    """
    pinned = find_pinned_names(path, labels_offset)
    if pinned is not None:
        return pinned
    names: list[str] = recognise(path).find_class_names(
        path, labels_offset=labels_offset
    )
    return names


def recognise(path: Path) -> Any:
    """Return the class of the Reader that reads a source.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If it is nothing that can be read.
    """
    if path.is_dir():
        _refuse_loose_files(path)
        return FolderReader
    if path.suffix.lower() in _LISTS:
        return JsonListReader  # which says what lists there are, where this is missing
    first = find_shards(path)[0]
    if first.suffix.lower() in _BY_SUFFIX:
        return _BY_SUFFIX[first.suffix.lower()]
    with open(first, "rb") as file:
        head = file.read(_HEAD_BYTES)
    for offset, magic, reader_class in _BY_CONTENT:
        if head[offset:].startswith(magic):
            return reader_class
    if first.suffix == ".gz" and "idx" in first.name:
        return IdxReader
    if looks_like_records(head):
        return TFRecordReader
    raise ValueError(
        f"`{first}` is nothing that can be read. Give a list ({', '.join(_LISTS)}), a "
        "folder of class folders, or a file of TFRecord, HDF5, ArrayRecord, tar, NumPy "
        f"(`.npz`) or idx. Received: a file that begins with {head[:8]!r}"
    )


def _refuse_loose_files(folder: Path) -> None:
    there = sorted(each for each in folder.iterdir() if each.name[0] != ".")
    if there and not any(each.is_dir() for each in there):
        names = [each.name for each in there if each.name != CLASSES_FILE]
        raise ValueError(
            f"`{folder}` is no folder of class folders. To read files in it give their "
            f"names: `{folder}/NAME`, or `{folder}/train@8` for eight numbered ones. "
            f"Received: a folder of {', '.join(names[:4])}"
        )


def digest_source(path: Path) -> str | None:
    """Return what tells a source from another one, or None where there is nothing.

    The SHA-256 of a list or another small file; of a folder, the paths in it; of
    large files, their names, sizes and last bytes, as reading them whole may take
    hours.
    """
    if path.is_dir():
        names = sorted(each.relative_to(path).as_posix() for each in path.glob("*/*"))
        return hashlib.sha256(
            "\n".join(names).encode(errors="surrogateescape")
        ).hexdigest()
    try:
        shards = find_shards(path)
    except FileNotFoundError:
        return None
    small = len(shards) == 1 and shards[0].stat().st_size <= _WHOLE_BYTES
    if small or path.suffix.lower() in _LISTS:
        return hashlib.sha256(shards[0].read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for shard in shards:
        size = shard.stat().st_size
        with open(shard, "rb") as file:
            file.seek(max(0, size - _HEAD_BYTES))
            name = shard.name.encode(errors="surrogateescape")
            digest.update(name + f" {size} ".encode() + file.read())
    return digest.hexdigest()
