"""The size of an image from the first bytes of its file, before it is decoded."""

import struct

JPEG = b"\xff\xd8"
"""What every JPEG file begins with."""

# Markers of JPEG that begin a frame, ITU-T T.81 table B.1: C0-CF without DHT, JPG, DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# Markers without a length: TEM and RST0-7.
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})

# Types of a TIFF field that a size may have, by their number: SHORT and LONG.
_TIFF_TYPES = {3: "H", 4: "I"}


def read_size(data: bytes) -> tuple[int, int] | None:
    """Return height and width as the header of an image file has them.

    EXIF orientation is not applied. Only the first image of a file counts.

    Args:
        data: Content of a file, or its beginning.

    Returns:
        None where the format is another than JPEG, PNG, GIF, BMP, WebP and TIFF, or
        the header is damaged; nothing of the file is trusted.

    Example:
        >>> read_size(b"GIF89a" + bytes([4, 0, 3, 0]))
        (3, 4)
    """
    try:
        if data.startswith(JPEG):
            frame = _find_frame(data)
            if frame is None:
                return None
            height, width = struct.unpack_from(">HH", data, frame + 5)
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", data, 16)
        elif data.startswith((b"GIF87a", b"GIF89a")):
            width, height = struct.unpack_from("<HH", data, 6)
        elif data.startswith(b"BM"):
            width, height = _bmp(data)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            width, height = _webp(data)
        elif data.startswith((b"II*\0", b"MM\0*")):
            return _tiff(data)
        else:
            return None
    except (struct.error, IndexError):  # the header ends too early
        return None
    return abs(height), width  # a BMP from top to bottom has a negative height


def is_plain_jpeg(data: bytes) -> bool:
    """Return whether a file is a JPEG of grey or YCbCr, with no word of its rotation.

    Any decoder shows it as it is; what remains is CMYK, EXIF and other formats.
    """
    try:
        frame = _find_frame(data) if data.startswith(JPEG) else None
        if frame is None or data[frame + 9] not in (1, 3):
            return False
        return data.find(b"Exif", 0, frame) < 0 and data.find(b"Adobe", 0, frame) < 0
    except (struct.error, IndexError):
        return False


def _find_frame(data: bytes) -> int | None:
    place = 2
    while True:
        marker = data[place + 1]
        if data[place] != 0xFF:
            return None
        if marker == 0xFF:  # filling
            place += 1
        elif marker in _BARE:
            place += 2
        elif marker in _FRAMES:
            return place
        elif marker in (0xD9, 0xDA):  # end, or pixels, before any frame
            return None
        else:
            place += 2 + max(2, struct.unpack_from(">H", data, place + 2)[0])


def _bmp(data: bytes) -> tuple[int, int]:
    old = struct.unpack_from("<I", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
    return width, height


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":  # RFC 9649, 2.7
        parts = struct.unpack_from("<HBHB", data, 24)
        return parts[0] + (parts[1] << 16) + 1, parts[2] + (parts[3] << 16) + 1
    if kind == b"VP8L":  # RFC 9649, 3.4: 14 bits each
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)  # RFC 6386, 9.1
    return width & 0x3FFF, height & 0x3FFF


def _tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    found = {}
    for number in range(min(count, 512)):
        place = start + 2 + 12 * number
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        if tag in (256, 257) and kind in _TIFF_TYPES:  # ImageWidth, ImageLength
            (found[tag],) = struct.unpack_from(
                order + _TIFF_TYPES[kind], data, place + 8
            )
    return (found[257], found[256]) if len(found) == 2 else None
