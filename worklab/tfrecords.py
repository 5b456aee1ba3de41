"""TFRecord files without TensorFlow: checked records, read in order or at a place.

A record is its length (8 bytes), a checksum of that, the data, and a checksum of
them. Source: tensorflow/core/lib/io/record_writer.h.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import google_crc32c

from worklab.shards import read_at

HEADER_BYTES, FOOTER_BYTES = 12, 4


def write_record(file: IO[bytes], data: bytes) -> None:
    """Append a record to an open file."""
    length = struct.pack("<Q", len(data))
    file.write(length + _checksum(length) + data + _checksum(data))


def scan_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the place of each record's data in a file, and the data.

    Raises:
        ValueError: If the file is no TFRecord file, or is damaged; names the record.
    """
    size, place, number = os.path.getsize(path), 0, 0
    with open(path, "rb") as file:
        while place < size:
            where = f"`{path}`, record {number},"
            header = file.read(HEADER_BYTES)
            length = _length(header, where)
            if place + HEADER_BYTES + length + FOOTER_BYTES > size:
                raise ValueError(
                    f"{where} is cut off: the file ends before it does. Copy or pack "
                    f"the file again. Received: {length} bytes at {place} of {size}"
                )
            data = file.read(length)
            _check(data, file.read(FOOTER_BYTES), where)
            yield place + HEADER_BYTES, data
            place += HEADER_BYTES + length + FOOTER_BYTES
            number += 1


def read_record(path: Path, place: int, length: int, where: str) -> bytes:
    """Return the data of one record, whose checksum is compared.

    Args:
        path: The file.
        place: Of the data, as `scan_records` gives it.
        length: Of the data.
        where: What to call the record in an error.

    Raises:
        ValueError: If the file is damaged there, or has become shorter.
    """
    both = read_at(path, place, length + FOOTER_BYTES)
    _check(both[:length], both[length:], where)
    return both[:length]


def looks_like_records(head: bytes) -> bool:
    """Return whether bytes can be the beginning of a TFRecord file."""
    return len(head) >= HEADER_BYTES and _checksum(head[:8]) == head[8:12]


def _length(header: bytes, where: str) -> int:
    if not looks_like_records(header):
        compressed = header[:2] in (b"\x1f\x8b", b"\x78\x9c")
        reason = "is compressed as a whole" if compressed else "is damaged"
        raise ValueError(
            f"{where} {reason}, or the file is no TFRecord file. Write it again, not "
            "compressed, so that records can be read in any order. "
            f"Received: {header!r}"
        )
    return int(struct.unpack("<Q", header[:8])[0])


def _check(data: bytes, footer: bytes, where: str) -> None:
    if _checksum(data) != footer:
        raise ValueError(
            f"{where} is damaged: its checksum is another one. Copy or pack the file "
            f"again. Received: {len(data)} bytes beginning with {data[:8]!r}"
        )


def _checksum(data: bytes) -> bytes:
    # "Masked", as the format's authors found plain ones of checksums troublesome.
    value = google_crc32c.value(data)
    masked = (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.pack("<I", masked)
