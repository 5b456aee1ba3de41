"""What may stand in a zip archive that is a weights file."""

import dataclasses
import functools
import io
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np

from worklab.pretrained.weights_file import Entry, Refusal

_LOCAL_HEADER_BYTES = 30
_MOST_EXPANSION = 20  # weights hardly compress; a bomb does, a thousandfold
_SMALL_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 18  # stays in the processor's cache


def check_members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name, if reading all of them cannot fill the memory.

    Raises:
        Refusal: If one expands to more than 20 times its size and 1 MiB, is encrypted
            or compressed by other means than deflate, if one name comes twice, or if
            they claim more than the file holds.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name, stored = member.filename, member.compress_size
        if name in members:
            raise Refusal("each name must come once", f"`{name}` twice")
        if member.file_size > _MOST_EXPANSION * stored + _SMALL_BYTES:
            raise Refusal(
                f"`{name}` must not expand to more than {_MOST_EXPANSION} times its "
                "size and 1 MiB",
                f"{member.file_size} bytes from {stored}",
            )
        if member.flag_bits & 1 or member.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise Refusal(
                f"`{name}` must be stored or deflated",
                f"compression={member.compress_type}, flags={member.flag_bits}",
            )
        if member.compress_type == zipfile.ZIP_STORED and member.file_size != stored:
            raise Refusal(f"`{name}` must have {stored} bytes", member.file_size)
        members[name] = member
    total = sum(member.compress_size for member in members.values())
    if total > path.stat().st_size:
        raise Refusal(
            f"the members must fit into the {path.stat().st_size} bytes of the file",
            f"{total} bytes",
        )
    return members


def find_data(file: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Return where in the file the data of a stored member begin.

    Raises:
        Refusal: If it has no header there.
    """
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
        raise Refusal("a member must begin with its header", repr(header[:4]))
    lengths = (
        int.from_bytes(header[26:28], "little"),
        int.from_bytes(header[28:30], "little"),
    )
    return member.header_offset + _LOCAL_HEADER_BYTES + sum(lengths)


def check_sums(
    path: Path, members: Iterable[zipfile.ZipInfo], entries: Mapping[str, Entry]
) -> dict[str, Entry]:
    """Return the entries so that the first one read checks the members' sums.

    A sum of zero is none: PyTorch may be told to leave them out.
    """

    @functools.cache
    def check() -> None:
        with open(path, "rb", buffering=0) as file:
            for member in members:
                _check_sum(file, member)

    def checked(entry: Entry) -> Entry:
        def read() -> np.ndarray:
            check()
            return entry.read()

        return dataclasses.replace(entry, read=read)

    return {name: checked(entry) for name, entry in entries.items()}


def _check_sum(file: io.FileIO, member: zipfile.ZipInfo) -> None:
    if not member.CRC or member.compress_type != zipfile.ZIP_STORED:
        return  # what is compressed is checked as it is unpacked
    file.seek(find_data(file, member))
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    left, checksum = member.file_size, 0
    while left and (count := file.readinto(buffer[:left])):
        left -= count
        checksum = zlib.crc32(buffer[:count], checksum)
    if checksum != member.CRC:
        raise Refusal("what a member holds must fit its sum", f"`{member.filename}`")


def open_member(
    path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> BinaryIO:
    """Open a member so that any place in it is reached at once.

    One that is compressed is unpacked into a nameless file first.
    """
    if member.compress_type == zipfile.ZIP_STORED:
        with open(path, "rb") as file:
            start = find_data(file, member)
        return cast(BinaryIO, _Window(path, start, member.file_size))
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115
    with archive.open(member) as compressed:
        shutil.copyfileobj(compressed, unpacked, 1 << 20)
    unpacked.seek(0)
    return cast(BinaryIO, unpacked)


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._start = start
        self._size = size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}
        self._place = base[whence] + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        content = memoryview(buffer).cast("B")[: max(self._size - self._place, 0)]
        self._file.seek(self._start + self._place)
        count = self._file.readinto(content) or 0
        self._place += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
