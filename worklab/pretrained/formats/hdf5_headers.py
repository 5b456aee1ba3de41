"""How long the texts are that an HDF5 group claims to have as attributes.

HDF5 takes the memory for such a text, up to 4 GiB, before it looks whether it is there.

Source: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, IV.A.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

_PREFIX_BYTES = 16
_ATTRIBUTE, _CONTINUATION = 12, 16  # kinds of messages
_VARIABLE_LENGTH = 9  # a class of types
_MOST_BLOCKS = 100


def longest_text(raw: BinaryIO, address: int, attribute: str) -> int | None:
    """Return how long the longest text of an attribute claims to be, in bytes.

    Args:
        raw: The file.
        address: Where the header of the group is.
        attribute: A name.

    Returns:
        None if the attribute is not found, as in headers of a later version than Keras
        writes.
    """
    for kind, body in _messages(raw, address):
        if kind == _ATTRIBUTE and len(body) >= 8:
            name, lengths = _attribute(body)
            if name == attribute.encode():
                return max(lengths, default=None)
    return None


def _messages(raw: BinaryIO, address: int) -> Iterator[tuple[int, bytes]]:
    raw.seek(address)
    prefix = raw.read(_PREFIX_BYTES)
    if len(prefix) < _PREFIX_BYTES or prefix[0] != 1:  # the version
        return
    blocks = [(address + _PREFIX_BYTES, int.from_bytes(prefix[8:12], "little"))]
    for start, size in blocks:  # grows on the way
        raw.seek(start)
        block = raw.read(size)
        place = 0
        while place + 8 <= len(block):
            kind, length = struct.unpack_from("<HH", block, place)
            body = block[place + 8 : place + 8 + length]
            place += 8 + length
            if kind == _CONTINUATION and len(body) >= 16 and len(blocks) < _MOST_BLOCKS:
                blocks.append(struct.unpack_from("<QQ", body))
            yield kind, body


def _attribute(body: bytes) -> tuple[bytes, list[int]]:
    """Return an attribute's name, and the lengths of its texts of variable length."""
    version, flags, *sizes = struct.unpack_from("<BBHHH", body)
    if flags and version > 1:  # its type is kept elsewhere
        return b"", []
    place = 9 if version == 3 else 8
    parts: list[bytes] = []
    for size in sizes:  # of name, type and shape
        parts.append(body[place : place + size])
        place += -(-size // 8) * 8 if version == 1 else size
    name, kind = parts[0].rstrip(b"\0"), parts[1][:1]
    if not kind or kind[0] & 0x0F != _VARIABLE_LENGTH:
        return name, []
    starts = range(place, len(body) - 15, 16)
    return name, [struct.unpack_from("<I", body, start)[0] for start in starts]
