"""What an image file is, as far as training should know before it begins."""

import dataclasses
import hashlib
import os
import stat
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from worklab.images import decode_image
from worklab.near_duplicates import perceptual_hash
from worklab.options import CheckOptions

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
_GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L")
_TIFF_BITS, _ORIENTATION = 258, 274  # tags of TIFF, which EXIF shares

# Where no channel has a larger standard deviation there is nothing to see.
_FLAT = 1.0


@dataclasses.dataclass
class ImageFile:
    """What was found out about one file.

    Attributes:
        notes: What is wrong or unusual, by the kinds of `worklab.checking.KINDS`.
        is_grey: Whether it has one channel; None where that is not known.
        data_digest: Of its bytes.
        pixels_digest: Of its decoded pixels; None where it was not decoded.
        near_hash: Of `perceptual_hash`; None also where there is nothing to see.
        thumbnail: The same.
    """

    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    is_grey: bool | None = None
    data_digest: bytes = b""
    pixels_digest: bytes | None = None
    near_hash: int | None = None
    thumbnail: np.ndarray | None = None


def inspect_image(path: Path, options: CheckOptions = CheckOptions()) -> ImageFile:
    """Read one file and find out what training would make of it; never raises."""
    found = ImageFile()
    data = _read(path, found)
    if data is None:
        return found
    found.data_digest = _digest(data)
    header = _inspect_header(data, path.suffix.lower(), found)
    if "huge" in found.notes:
        return found
    if header is not None:
        pixels = header.width * header.height
        if pixels > options.max_megapixels * 1e6:
            found.notes["huge"] = f"{header.width}x{header.height} pixels"
            return found
    try:
        image = decode_image(data, 3, str(path))
    except ValueError:
        found.notes["unreadable"] = _why_unreadable(data, header)
        return found
    if header is not None and header.format in ("JPEG", "MPO"):
        _inspect_jpeg_data(data, header.mode, found)
    _inspect_pixels(image, options, found)
    return found


def _read(path: Path, found: ImageFile) -> bytes | None:
    try:
        # A pipe would be waited for.
        if not stat.S_ISREG(os.stat(path).st_mode):
            found.notes["missing"] = "is a folder or a device, no file"
            return None
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # a path with a zero is a ValueError
        found.notes["missing"] = getattr(error, "strerror", None) or str(error)
        return None
    if not data:
        found.notes["empty"] = "0 bytes"
        return None
    return data


def _inspect_header(data: bytes, suffix: str, found: ImageFile) -> Any:
    """Note what the header says; return Pillow's image, not loaded, or None."""
    try:
        header = Image.open(BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        found.notes["huge"] = str(error).split(", could")[0]
        return None
    except Exception:  # Pillow raises what it likes at damaged headers
        return None
    found.is_grey = header.mode in _GREY_MODES
    known = "JPEG" if header.format == "MPO" else header.format
    named = Image.registered_extensions().get(suffix)
    if ("JPEG" if named == "MPO" else named) != known:
        found.notes["suffix"] = f"is {known}, called {suffix or 'without suffix'}"
    _note_mode(header, data, found)
    orientation = _orientation(header)
    if orientation != 1:
        found.notes["rotated"] = f"EXIF orientation {orientation}"
    frames = _num_frames(header)
    if frames > 1:
        found.notes["frames"] = f"{frames} frames or pages"
    return header


def _note_mode(header: Any, data: bytes, found: ImageFile) -> None:
    if header.mode == "CMYK":
        found.notes["CMYK"] = "four inks"
    if _bits(header, data) > 8:
        found.notes["16 bits"] = f"{_bits(header, data)} bits a channel"
    if header.mode in _ALPHA_MODES or "transparency" in header.info:
        found.notes["alpha"] = f"mode {header.mode}"
    if header.mode in ("P", "PA") and header.format != "GIF":
        found.notes["palette"] = f"mode {header.mode}"


def _bits(header: Any, data: bytes) -> int:
    if header.format == "PNG":
        return data[24]  # of the header chunk, which is always the first
    if header.format == "TIFF":
        return max(header.tag_v2.get(_TIFF_BITS, (8,)))
    return 8


def _orientation(header: Any) -> int:
    # Not `getexif`: it decodes a PNG, and takes XMP in, which OpenCV does not.
    try:
        if header.format == "TIFF":
            orientation = header.tag_v2.get(_ORIENTATION, 1)
        else:
            exif = Image.Exif()
            exif.load(header.info.get("exif", b""))
            orientation = exif.get(_ORIENTATION, 1)
        return int(orientation) if 1 <= int(orientation) <= 8 else 1
    except Exception:  # Pillow raises what it likes at damaged EXIF
        return 1


def _num_frames(header: Any) -> int:
    try:
        # The second picture of an MPO is the camera's own preview.
        return 1 if header.format == "MPO" else getattr(header, "n_frames", 1)
    except Exception:
        return 1


def _why_unreadable(data: bytes, header: Any) -> str:
    if header is None:
        return f"no image, or cut short: {len(data)} bytes beginning {data[:8]!r}"
    return (
        f"truncated or damaged: begins as {header.format} of "
        f"{header.width}x{header.height}, but its {len(data)} bytes do not decode"
    )


def _inspect_jpeg_data(data: bytes, mode: str, found: ImageFile) -> None:
    """Note what OpenCV reads past: data that end before the picture does, or jump."""
    colours = "CMYK" if mode == "CMYK" else "GRAY"
    try:
        simplejpeg.decode_jpeg(data, colours, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        if "orrupt" in str(error) or "remature" in str(error):
            found.notes["damaged"] = str(error)


def _inspect_pixels(image: np.ndarray, options: CheckOptions, found: ImageFile) -> None:
    height, width = image.shape[:2]
    found.pixels_digest = _digest(f"{height} {width} ".encode(), image)
    shorter, longer = sorted((height, width))
    if shorter < options.min_side:
        found.notes["tiny"] = f"{width}x{height} pixels"
    if longer > options.max_aspect * shorter:
        found.notes["aspect"] = f"{width}x{height} pixels"
    near_hash, thumbnail = perceptual_hash(image)
    means, deviations = cv2.meanStdDev(image)
    if deviations.max() < _FLAT:
        levels = ", ".join(f"{mean:.0f}" for mean in means.ravel())
        found.notes["flat"] = f"all about RGB ({levels})"
    elif options.near_duplicates:
        found.near_hash, found.thumbnail = near_hash, thumbnail


def _digest(*parts: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()
