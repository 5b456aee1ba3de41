"""Data in several files: found by a pattern, read at any place, indexed once."""

import glob
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from worklab.files import replacing
from worklab.npz import read_npz

_logger = logging.getLogger(__name__)

Index = Mapping[str, np.ndarray]

_LARGE_BYTES = 2**30  # takes a second or more to index

_COUNTED = re.compile(r"(?P<stem>.+)@(?P<count>\d+)(?P<suffix>\.\w+)?")
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})")


def shard_name(stem: str, number: int, count: int, suffix: str = "") -> str:
    """Return the name of one of several files, as tf-slim and others spell it.

    Example:
        >>> shard_name("train", 3, 8, ".tfrecord")
        'train-00003-of-00008.tfrecord'
    """
    return f"{stem}-{number:05d}-of-{count:05d}{suffix}"


def find_shards(path: Path) -> list[Path]:
    """Return the files of a source, in order.

    Args:
        path: A file, a pattern like `train-*`, or `train@8` for all of
            `train-00000-of-00008` (with whatever suffix) to `train-00007-of-00008`.

    Raises:
        FileNotFoundError: If there is none, or one of those counted is missing.
    """
    if path.is_file():
        return [path]
    counted = _COUNTED.fullmatch(path.name)
    if counted:
        name = (counted["stem"], int(counted["count"]), counted["suffix"] or "")
        return _counted_shards(path, *name)
    found = []
    if glob.has_magic(path.name):
        found = [each for each in path.parent.glob(path.name) if each.is_file()]
        found = sorted(each for each in found if not each.name.startswith("."))
    if not found:
        there = sorted(each.name for each in path.parent.glob("*"))[:10]
        raise FileNotFoundError(
            f"There is no file `{path}`. In `{path.parent}` there are: "
            f"{', '.join(there) or 'none'}. Give one of them, a pattern like "
            f"`train-*`, or `train@8` for eight numbered files. Received: {path}"
        )
    _warn_of_missing(path, found)
    return found


def read_at(path: Path, offset: int, length: int) -> bytes:
    """Return bytes of a file; safe in threads, as there is no shared position.

    Raises:
        ValueError: If the file cannot be read or ends before.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            inside = 0 <= offset <= offset + length <= size
            data = os.pread(file.fileno(), length, offset) if inside else b""
    except OSError as error:
        raise ValueError(
            f"`{path}` cannot be read ({error.strerror}). It was there when the run "
            f"began; bring it back. Received: {path}"
        ) from error
    if len(data) != length:
        raise ValueError(
            f"`{path}` ends before its record does; it has become shorter since its "
            "index was made. Copy it again. "
            f"Received: {length} bytes at {offset}, of {size}"
        )
    return data


def cached_index(
    shards: Sequence[Path], kind: str, build: Callable[[Path], Index]
) -> Index:
    """Return the joined indices of files, from beside them or built now.

    An index is a mapping of arrays of one row for each record, to which `shard`, the
    number of the file, is added. It is kept in a hidden file beside the first of the
    files, or in the user's cache folder where that one is read-only, and made anew when
    a file has another size or time.

    Args:
        shards: The files, in order.
        kind: Of the files and of what is in the index; ends with a version.
        build: Returns the index of one file.
    """
    status = [shard.stat() for shard in shards]
    state = [
        (shard.name, each.st_size, each.st_mtime_ns)
        for shard, each in zip(shards, status, strict=True)
    ]
    key = json.dumps([kind, state])
    place = str(shards[0].parent.resolve())
    names = "/".join(shard.name for shard in shards)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    paths = [
        shards[0].parent / f".{_digest(names)}.index.npz",
        cache / "worklab" / f"{_digest(place + names)}.index.npz",
    ]
    for path in paths:
        index = _read_index(path, key)
        if index is not None:
            return index
    if sum(each.st_size for each in status) > _LARGE_BYTES:
        _logger.info("indexing %d files in %s, once", len(shards), place)
    index = _joined([build(shard) for shard in shards])
    _write_index(paths, key, index)
    return index


def _counted_shards(path: Path, stem: str, count: int, suffix: str) -> list[Path]:
    found = []
    for number in range(count):
        name = shard_name(stem, number, count, suffix)
        pattern = glob.escape(name) if suffix else f"{glob.escape(name)}*"
        matches = sorted(path.parent.glob(pattern))
        if len(matches) != 1:
            problem = "is missing" if not matches else "is there more than once"
            raise FileNotFoundError(
                f"`{path.parent / name}`, one of the {count} files that `{path.name}` "
                f"means, {problem}. Copy or pack all of them into one folder, once. "
                f"Received: {[match.name for match in matches]}"
            )
        found += matches
    return found


def _warn_of_missing(pattern: Path, found: Sequence[Path]) -> None:
    matches = [_NUMBERED.match(path.name) for path in found]
    counts = {(match["stem"], int(match["count"])) for match in matches if match}
    for stem, count in sorted(counts):
        number = sum(bool(m) and m["stem"] == stem for m in matches)  # type: ignore[index]
        if number != count:
            _logger.warning(
                "%s matches %d of the %d files of %s@%d; give that to have them all",
                *(pattern, number, count, stem, count),
            )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _joined(indices: Sequence[Index]) -> dict[str, np.ndarray]:
    joined = {
        name: np.concatenate([index[name] for index in indices]) for name in indices[0]
    }
    lengths = [len(next(iter(index.values()))) for index in indices]
    return joined | {"shard": np.repeat(np.arange(len(indices)), lengths)}


def _read_index(path: Path, key: str) -> Index | None:
    try:
        index = read_npz(path)
    except (OSError, ValueError):
        return None  # none, or a damaged one, which is as good as none
    return index if str(index.pop("key", "")) == key else None


def _write_index(paths: Sequence[Path], key: str, index: Index) -> None:
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, **{**index, "key": np.array(key)})  # type: ignore[arg-type]
            return
        except OSError:
            continue
    _logger.warning("no place for the index %s; it is made at each start", paths[0])
