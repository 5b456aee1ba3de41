"""TarReader: images in tar files, as WebDataset writes them."""

import json
import math
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from worklab.list_making import IMAGE_SUFFIXES
from worklab.readers.indexed import Entry, IndexedReader
from worklab.shards import read_at

_MOST_LABEL_BYTES = 2**20
_BLOCK = 512


class TarReader(IndexedReader):
    """Reads images in tar files in any order; nothing is ever extracted.

    A sample is what stands together under one name: an image (`7.jpg`, `7.png`, ...)
    and its class, a number or a name, in `7.cls` or as `label` or `cls` of `7.json`,
    which may also have `features` and `weight`, as an entry of a list.

    Args:
        path: A file, a pattern like `train-*`, or `train@8` for eight numbered files.
        class_names: Names in label order, pinned for all splits of a run.
        **settings: As for `IndexedReader` and `Reader`.
    """

    kind = "tar 1"

    @staticmethod
    def _scan(path: Path) -> Iterator[Entry]:
        sample: dict[str, Any] = {}
        for key, suffix, member in _members(path):
            if sample and sample["key"] != key:
                yield _entry(path, sample)
                sample = {}
            if suffix in IMAGE_SUFFIXES:
                if "image" in sample:
                    raise ValueError(
                        f"`{path}`, sample `{key}`, has two images. Give each its own "
                        f"name. Received: {member.name!r}"
                    )
                sample |= {"key": key, "image": member}
            elif suffix in (".cls", ".json"):
                sample |= {"key": key, suffix: _small(path, member)}
        if sample:
            yield _entry(path, sample)

    def encoded(self, index: int) -> bytes:
        """Return the content of record `index` as it is in its image file."""
        place, length = self._index["place"][index], self._index["length"][index]
        return read_at(self._place(index)[0], int(place), int(length))


def _members(path: Path) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yield name without suffix, suffix, and member of each file in a tar file.

    Raises:
        ValueError: If the file is damaged or cut off.
    """
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # a list of all
                if not member.isreg() or member.issparse():
                    continue
                _check_inside(member, size)
                folder, _, base = member.name.rpartition("/")
                stem, dot, suffix = base.partition(".")
                yield f"{folder}/{stem}".lstrip("/"), dot + suffix.lower(), member
            _check_end(file, archive.offset)
    except tarfile.TarError as error:
        raise ValueError(
            f"`{path}` is not a whole tar file ({error}). Copy or pack it again; one "
            "that is compressed cannot be read in any order: unpack the compression "
            f"first. Received: {size} bytes"
        ) from error


def _check_inside(member: tarfile.TarInfo, size: int) -> None:
    if not 0 <= member.size <= size - member.offset_data:
        raise tarfile.ReadError(f"{member.name!r} is cut off")


def _check_end(file: IO[bytes], offset: int) -> None:
    # The module takes the end of the file for that of the archive.
    file.seek(offset)
    if file.read(_BLOCK).strip(b"\0") or file.tell() != offset + _BLOCK:
        raise tarfile.ReadError(f"no end mark at {offset}")


def _small(path: Path, member: tarfile.TarInfo) -> str:
    if member.size > _MOST_LABEL_BYTES:
        raise ValueError(
            f"`{path}`, `{member.name}`, should be a label, and is larger than any. "
            f"Take it out. Received: {member.size} bytes"
        )
    data = read_at(path, member.offset_data, member.size)
    return data.decode("utf-8", "replace").strip()


def _entry(path: Path, sample: dict[str, Any]) -> Entry:
    where = f"`{path}`, sample `{sample['key']}`,"
    image: Any = sample.get("image")
    label, features, weight = _fields(sample.get(".json", "{}"), where)
    if ".cls" in sample:
        text = sample[".cls"]
        label = int(text) if text.lstrip("-").isdecimal() else text
    wrong = isinstance(label, bool) or not isinstance(label, int | str) or label == ""
    if image is None or wrong:
        raise ValueError(
            f"{where} has no image or no class: expected `NAME.jpg` beside `NAME.cls`, "
            "or beside `NAME.json` with a `label`, a number or a name. "
            f"Received: {sorted(sample)} with label={label!r}"
        )
    return Entry(
        label,
        filename=image.name,
        place=image.offset_data,
        length=image.size,
        features=features,
        weight=weight,
    )


def _fields(text: str, where: str) -> tuple[Any, tuple[float, ...], float]:
    """Return label, features and weight in the `.json` of a sample.

    Raises:
        ValueError: If it is none of an image.
    """
    try:
        fields = json.loads(text)
        label = fields.get("label", fields.get("cls"))
        features = tuple(float(value) for value in fields.get("features", ()))
        return label, features, float(fields.get("weight", math.nan))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{where} has a `.json` that is none of an image ({error}). Write it as "
            '{"label": 3} or {"label": "cat"}, where there are with a list of numbers '
            f"as `features` and a number as `weight`. Received: {text!r:.80}"
        ) from error
