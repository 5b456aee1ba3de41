"""Pixel operations on one uint8 image, by OpenCV and NumPy.

Images are uint8 arrays (height, width, channels), RGB or grey, values 0..255.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import simplejpeg

from worklab.geometry import matrix_of
from worklab.image_headers import JPEG, is_plain_jpeg, read_size

# The Reader runs one batch per thread; OpenCV's own threads would only contend.
cv2.setNumThreads(0)

# Below this scale bilinear interpolation skips pixels, so the image is halved first.
_MINIMUM_BILINEAR_SCALE = 0.5

# ITU-R BT.601 luma, what JPEG and OpenCV call grey.
_LUMA = (0.299, 0.587, 0.114)


# Rows: luma and the two axes of colour of YIQ (FCC, NTSC 1953), for turning hues.
_YIQ = np.array([_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])

MAX_MEGAPIXELS = 100.0
"""Pixels that an image may have if nothing else is said, in millions."""


def decode_image(
    data: bytes,
    channels: int,
    name: str,
    *,
    max_megapixels: float = MAX_MEGAPIXELS,
    least_side: int | None = None,
) -> np.ndarray:
    """Decode the bytes of an image file to RGB or grey.

    Grey, palette, CMYK and 16-bit images are converted, alpha is dropped (as
    Pillow's `convert("RGB")` does; only that of a TIFF is blended on black), and EXIF
    orientation is applied, so the array is what a viewer shows.

    Args:
        data: Content of a JPEG, PNG, BMP, WebP, TIFF, ... file.
        channels: 3 for RGB, 1 for grey.
        name: What to call the image in an error, usually its path.
        max_megapixels: Most pixels, in millions, by the header, before anything is
            decoded: a small file may claim to be larger than the memory.
        least_side: A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which is much
            faster, while its shorter side keeps this many pixels; None: at its size.

    Returns:
        uint8 array (height, width, channels).

    Raises:
        ValueError: If the bytes are not a whole, known image, or it is too large.

    Example:
        >>> import cv2, numpy as np
        >>> _, png = cv2.imencode(".png", np.zeros((4, 6), np.uint8))
        >>> decode_image(png.tobytes(), channels=3, name="zeros.png").shape
        (4, 6, 3)
    """
    flag = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    size = read_size(data)
    if size is not None and size[0] * size[1] > 1e6 * max_megapixels:
        raise ValueError(
            f"`{name}` has {size[0] * size[1] / 1e6:.3g} megapixels, more than the "
            f"{max_megapixels:g} that are let in. If that is no mistake, give a larger "
            "`--reader.max-megapixels`, or store it smaller. "
            f"Received: {size[0]}x{size[1]} pixels in {len(data)} bytes"
        )
    if size is not None and least_side is not None and data.startswith(JPEG):
        flag |= _reduction(min(size) / least_side)
    image = None
    whole = bool(data) and not _is_cut_jpeg(data)
    if whole and not flag & _REDUCED and is_plain_jpeg(data):
        try:  # the same pixels as OpenCV's, 5 % sooner
            return simplejpeg.decode_jpeg(data, "RGB" if channels == 3 else "GRAY")
        except ValueError:  # damaged, maybe so that OpenCV can go on
            pass
    if whole:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        except cv2.error:  # e.g. more pixels than OpenCV's own limit
            image = None
    if image is None:
        raise ValueError(
            f"`{name}` is not a readable image: expected a whole JPEG, PNG, BMP, WebP "
            "or TIFF file. Replace the file or take it off the list; `python -m "
            "worklab check` names all such files. "
            f"Received: {len(data)} bytes beginning with {data[:8]!r}"
        )
    return image.reshape(*image.shape[:2], channels)


_REDUCED = (
    cv2.IMREAD_REDUCED_GRAYSCALE_2
    | cv2.IMREAD_REDUCED_GRAYSCALE_4
    | cv2.IMREAD_REDUCED_GRAYSCALE_8
)


def _reduction(factor: float) -> int:
    """Return the flag of the largest reduction up to a factor, for grey and colour."""
    for divisor, flag in (
        (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
        (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
        (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    ):
        if factor >= divisor:
            return int(flag)
    return 0


def _is_cut_jpeg(data: bytes) -> bool:
    """Return whether the end marker of a JPEG is missing.

    OpenCV asks for it where the data end too early, but not where a crash of the
    machine left zeros that happen to decode as the rest of the picture. In the data of
    the picture the marker cannot stand; in a preview before them it can.
    """
    if data[:2] != b"\xff\xd8":
        return False
    place = 2
    while data[place : place + 1] == b"\xff":
        marker = data[place + 1 : place + 2]
        if marker == b"\xda":  # the picture begins
            return data.rfind(b"\xff\xd9", place) < 0
        fill = marker == b"\xff"
        size = int.from_bytes(data[place + 2 : place + 4], "big")
        place += 1 if fill else 2 + size
    return False  # not in order: the decoder will tell


def warp(
    image: np.ndarray,
    size: tuple[int, int],
    *,
    crop_fraction: float = 1.0,
    zoom: float = 1.0,
    angle: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    flip: tuple[bool, bool] = (False, False),
    stretch: bool = False,
) -> np.ndarray:
    """Cut `size` out of the image with zoom, rotation, shift and flips in one warp.

    With the defaults this is the test transform: the image is scaled, aspect kept,
    until `size` covers `crop_fraction` of its shorter side, and the centre is cut.
    What lies outside the image is filled by reflection. Where the scale is 1, shifts,
    flips and quarter turns move whole pixels, so nothing is blurred.

    Args:
        image: uint8 array (height, width, channels).
        size: Height and width of the result, in pixels.
        crop_fraction: Share of the shorter side that is seen, in (0, 1].
        zoom: Factor on the scale; 2.0 shows half of what 1.0 shows.
        angle: Counter-clockwise rotation in degrees.
        shift: Down and right, as fractions of the result's height and width.
        flip: Whether to mirror up-down and left-right.
        stretch: Scale height and width apart, so that `crop_fraction` of both is seen.

    Returns:
        uint8 array (size[0], size[1], channels).

    Example:
        >>> image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
        >>> bool((warp(image, (2, 2), flip=(False, True)) == image[:, ::-1]).all())
        True
    """
    moved = angle or any(shift) or any(flip) or not zoom == crop_fraction == 1
    if image.shape[:2] == tuple(size) and not moved:
        return image.copy()
    halvings, inverse = _place(
        image.shape, size, crop_fraction, zoom, angle, shift, flip, stretch
    )
    whole = stretch and zoom == crop_fraction == 1 and angle == 0 and shift == (0, 0)
    if whole and not halvings:  # as below, faster; a halved image may lack a row
        return _resize(image, size, flip)
    for _ in range(halvings):
        image = _halve(image)
    return warp_affine(image, inverse, size)


def warp_matrix(
    shape: tuple[int, ...],
    size: tuple[int, int],
    *,
    crop_fraction: float = 1.0,
    zoom: float = 1.0,
    angle: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    flip: tuple[bool, bool] = (False, False),
    stretch: bool = False,
) -> np.ndarray:
    """Return where `warp` moves the places of an image, for `worklab.geometry`.

    Args:
        shape: Of the image; height and width come first.
        size: As for `warp`, and so are the other arguments.
        crop_fraction: See `warp`.
        zoom: See `warp`.
        angle: See `warp`.
        shift: See `warp`.
        flip: See `warp`.
        stretch: See `warp`.

    Returns:
        float64 (2, 3): a place (x, y, 1) of the image to (x, y) in the result.
    """
    halvings, inverse = _place(
        shape, size, crop_fraction, zoom, angle, shift, flip, stretch
    )
    matrix = matrix_of(inverse)
    matrix[:, :2] /= 2**halvings
    return matrix


def _place(
    shape: tuple[int, ...],
    size: tuple[int, int],
    crop_fraction: float,
    zoom: float,
    angle: float,
    shift: tuple[float, float],
    flip: tuple[bool, bool],
    stretch: bool,
) -> tuple[int, tuple[tuple[float, float, float], tuple[float, float, float]]]:
    """Return how often to halve, and where each pixel of the result then comes from."""
    height, width = size
    rows, columns, halvings = *shape[:2], 0
    scales = height / rows, width / columns
    if not stretch:
        scales = (max(scales), max(scales))
    scale_y, scale_x = (zoom * scale / crop_fraction for scale in scales)
    centre_x, centre_y = (columns - 1) / 2, (rows - 1) / 2
    while max(scale_x, scale_y) < _MINIMUM_BILINEAR_SCALE and min(rows, columns) > 1:
        scale_x, scale_y, halvings = 2 * scale_x, 2 * scale_y, halvings + 1
        rows, columns = rows // 2, columns // 2
        centre_x, centre_y = (centre_x - 0.5) / 2, (centre_y - 0.5) / 2
    whole_pixels = scale_x == scale_y == 1.0 and angle % 90 == 0
    down, right = shift[0] * height, shift[1] * width
    if whole_pixels:
        down, right = round(down), round(right)
    # Maps a pixel of the result to its place in the image, about both centres. In
    # plain numbers, as NumPy would take longer than the warp of a small image.
    cosine, sine = _cosine_and_sine(angle)
    flip_x, flip_y = (-1 if flip[1] else 1), (-1 if flip[0] else 1)
    xx, xy = cosine / (flip_x * scale_x), -sine / (flip_y * scale_x)
    yx, yy = sine / (flip_x * scale_y), cosine / (flip_y * scale_y)
    x, y = (width - 1) / 2 + right, (height - 1) / 2 + down
    offset_x, offset_y = centre_x - (xx * x + xy * y), centre_y - (yx * x + yy * y)
    if whole_pixels:  # odd against even sizes: half a pixel would blur
        offset_x, offset_y = math.floor(offset_x), math.floor(offset_y)
    return halvings, ((xx, xy, offset_x), (yx, yy, offset_y))


def _resize(
    image: np.ndarray, size: tuple[int, int], flip: tuple[bool, bool]
) -> np.ndarray:
    channels = image.shape[2]
    image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    if any(flip):
        image = cv2.flip(image, {(1, 0): 0, (0, 1): 1, (1, 1): -1}[flip])
    return image.reshape(*size, channels)


def _halve(image: np.ndarray) -> np.ndarray:
    """Average squares of 2x2 pixels; 10 times as fast as any other area."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    even = image[: 2 * height, : 2 * width]
    halved = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
    return halved.reshape(height, width, image.shape[2])


def warp_affine(
    image: np.ndarray,
    inverse: Sequence[Sequence[float]],
    size: tuple[int, int],
    *,
    fill: int | None = None,
) -> np.ndarray:
    """Take each pixel of the result from its place in the image, between pixels.

    Args:
        image: uint8 array (height, width, channels).
        inverse: (2, 3); maps column, row and 1 of the result to column and row there.
        size: Height and width of the result.
        fill: Grey of what lies outside the image; None: its reflection.

    Returns:
        uint8 array (size[0], size[1], channels).
    """
    colour = image.shape[2] == 3
    if colour:  # OpenCV 5 warps four channels 2.5 times as fast as three, equally
        image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    warped = cv2.warpAffine(
        image,
        np.array(inverse, np.float64),
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101 if fill is None else cv2.BORDER_CONSTANT,
        borderValue=(fill or 0,) * 4,
    )
    if colour:
        warped = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    return warped.reshape(*size, -1)


def _cosine_and_sine(angle: float) -> tuple[float, float]:
    if angle % 90 == 0:  # exact, so that quarter turns move whole pixels
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(angle // 90) % 4]
    return math.cos(math.radians(angle)), math.sin(math.radians(angle))


def adjust_colour(
    image: np.ndarray,
    *,
    brightness: float = 1.0,
    contrast: float = 1.0,
    saturation: float = 1.0,
    hue: float = 0.0,
) -> np.ndarray:
    """Change brightness, contrast, saturation and hue in one pass.

    Args:
        image: uint8 array (height, width, channels), RGB or grey.
        brightness: Factor on every value; 0 is black, 1 changes nothing.
        contrast: Factor on the distance from the image's mean grey.
        saturation: Factor on the distance from the pixel's own grey; ignored for
            grey images.
        hue: Turn of the colours about the grey axis, 1 is once round; keeps the
            luma, unlike a turn in HSV. Ignored for grey images.

    Returns:
        uint8 array of the same shape, clipped to 0..255.

    Example:
        >>> grey = np.full((2, 2, 3), 100, np.uint8)
        >>> int(adjust_colour(grey, brightness=1.2)[0, 0, 0])
        120

    Source: P. Haeberli, Matrix Operations for Image Processing, 1993.
    """
    # In plain numbers, as NumPy would take longer than the pixels of a small image.
    means, factor, rows = cv2.mean(image), brightness * contrast, [[1.0]]
    mean_grey = means[0]
    if image.shape[2] == 3:
        mean_grey = sum(luma * mean for luma, mean in zip(_LUMA, means, strict=False))
        greying = [(1 - saturation) * luma for luma in _LUMA]
        rows = [[*greying] for _ in range(3)]
        for channel in range(3):
            rows[channel][channel] += saturation
        if hue:
            rows = (_hue_turn(hue) @ rows).tolist()
    offset = (1 - contrast) * brightness * mean_grey
    matrix = [[*(factor * value for value in row), offset] for row in rows]
    return cv2.transform(image, np.array(matrix)).reshape(image.shape)


def _hue_turn(turn: float) -> np.ndarray:
    cosine, sine = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    rotation = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return np.linalg.inv(_YIQ) @ rotation @ _YIQ
