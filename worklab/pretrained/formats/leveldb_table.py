"""The table files that TensorFlow keeps checkpoints in, as far as to check them.

TensorFlow allocates what such a file claims before it looks whether that is there, and
ends the process at some claims. So every claim is checked here first; the values are
read by TensorFlow.

Source: https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from worklab.pretrained.weights_file import Refusal

_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # of a block: its compression and a checksum


def is_table(path: Path) -> bool:
    """Return whether a file ends as a table does."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - len(_MAGIC), 0))
        return size >= _FOOTER_BYTES and file.read() == _MAGIC


def read_table(path: Path) -> Iterator[tuple[bytes, memoryview]]:
    """Yield keys and values in order, as views of the file, checking every size.

    Raises:
        Refusal: If a block is compressed or not within the file; also one whose
            entries are never asked for.
    """
    if not is_table(path):
        raise Refusal("the table must end with its magic number", f"`{path.name}`")
    with open(path, "rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    footer = content[-_FOOTER_BYTES:]
    place = _skip_varints(footer, 0, 2)  # the handle of a block without use
    index = _block(content, footer[place:])
    blocks = [_block(content, handle) for _, handle in _entries(index)]
    for block in blocks:
        yield from _entries(block)


def _block(content: memoryview, handle: memoryview) -> memoryview:
    offset, place = _varint(handle, 0)
    size, _ = _varint(handle, place)
    end = offset + size
    if end + _TRAILER_BYTES > len(content) - _FOOTER_BYTES:
        raise Refusal(
            f"a block must end within the {len(content)} bytes of the table",
            f"offset={offset}, size={size}",
        )
    if content[end] != 0:
        raise Refusal("blocks must not be compressed", f"compression={content[end]}")
    return content[offset:end]


def _entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    place, key = 0, b""
    while place < end:
        shared, place = _varint(block, place)
        rest, place = _varint(block, place)
        size, place = _varint(block, place)
        if shared > len(key) or place + rest + size > end:
            raise Refusal(
                "an entry of the table must end within its block",
                f"shared={shared}, key={rest}, value={size}",
            )
        key = key[:shared] + bytes(block[place : place + rest])
        yield key, block[place + rest : place + rest + size]
        place += rest + size
    if place != end:
        raise Refusal("a block of the table must be filled", f"end={end}")


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise Refusal("a number in the table must have at most ten bytes", "more")


def _skip_varints(data: memoryview, place: int, count: int) -> int:
    for _ in range(count):
        _, place = _varint(data, place)
    return place
