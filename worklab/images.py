"""Pixel operations on one uint8 image, by OpenCV and NumPy.

Images are uint8 arrays (height, width, channels), RGB or grey, values 0..255.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

# The Reader runs one batch per thread; OpenCV's own threads would only contend.
cv2.setNumThreads(0)

# Below this scale bilinear interpolation skips pixels, so the image is halved first.
_MINIMUM_BILINEAR_SCALE = 0.5

# ITU-R BT.601 luma, what JPEG and OpenCV call grey.
_LUMA = (0.299, 0.587, 0.114)


def decode_image(data: bytes, channels: int, name: str) -> np.ndarray:
    """Decode the bytes of an image file to RGB or grey.

    Grey, palette, CMYK and 16-bit images are converted, alpha is dropped (as
    Pillow's `convert("RGB")` does; only that of a TIFF is blended on black), and EXIF
    orientation is applied, so the array is what a viewer shows.

    Args:
        data: Content of a JPEG, PNG, BMP, WebP, TIFF, ... file.
        channels: 3 for RGB, 1 for grey.
        name: What to call the image in an error, usually its path.

    Returns:
        uint8 array (height, width, channels).

    Raises:
        ValueError: If the bytes are not a whole, known image.

    Example:
        >>> import cv2, numpy as np
        >>> _, png = cv2.imencode(".png", np.zeros((4, 6), np.uint8))
        >>> decode_image(png.tobytes(), channels=3, name="zeros.png").shape
        (4, 6, 3)
    """
    flag = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    image = None
    if data:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        except cv2.error:  # e.g. more pixels than OpenCV's own limit
            image = None
    if image is None:
        raise ValueError(
            f"`{name}` is not a readable image: expected a whole JPEG, PNG, BMP, WebP "
            "or TIFF file. Replace the file or take it off the list. "
            f"Received: {len(data)} bytes beginning with {data[:8]!r}"
        )
    return image.reshape(*image.shape[:2], channels)


def warp(
    image: np.ndarray,
    size: tuple[int, int],
    *,
    crop_fraction: float = 1.0,
    zoom: float = 1.0,
    angle: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    flip: tuple[bool, bool] = (False, False),
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

    Returns:
        uint8 array (size[0], size[1], channels).

    Example:
        >>> image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
        >>> bool((warp(image, (2, 2), flip=(False, True)) == image[:, ::-1]).all())
        True
    """
    height, width = size
    scale = zoom * max(height / image.shape[0], width / image.shape[1]) / crop_fraction
    centre_x, centre_y = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
    while scale < _MINIMUM_BILINEAR_SCALE and min(image.shape[:2]) > 1:
        image, scale = _halve(image), 2 * scale
        centre_x, centre_y = (centre_x - 0.5) / 2, (centre_y - 0.5) / 2
    whole_pixels = scale == 1.0 and angle % 90 == 0
    down, right = shift[0] * height, shift[1] * width
    if whole_pixels:
        down, right = round(down), round(right)
    # Maps a pixel of the result to its place in the image, about both centres. In
    # plain numbers, as NumPy would take longer than the warp of a small image.
    cosine, sine = _cosine_and_sine(angle)
    along_x, along_y = (-scale if flip[1] else scale), (-scale if flip[0] else scale)
    xx, xy = cosine / along_x, -sine / along_y
    yx, yy = sine / along_x, cosine / along_y
    x, y = (width - 1) / 2 + right, (height - 1) / 2 + down
    offset_x, offset_y = centre_x - (xx * x + xy * y), centre_y - (yx * x + yy * y)
    if whole_pixels:  # odd against even sizes: half a pixel would blur
        offset_x, offset_y = math.floor(offset_x), math.floor(offset_y)
    return _warp_affine(image, ((xx, xy, offset_x), (yx, yy, offset_y)), size)


def _halve(image: np.ndarray) -> np.ndarray:
    """Average squares of 2x2 pixels; 10 times as fast as any other area."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    even = image[: 2 * height, : 2 * width]
    halved = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
    return halved.reshape(height, width, image.shape[2])


def _warp_affine(
    image: np.ndarray, inverse: Sequence[Sequence[float]], size: tuple[int, int]
) -> np.ndarray:
    colour = image.shape[2] == 3
    if colour:  # OpenCV 5 warps four channels 2.5 times as fast as three, equally
        image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    warped = cv2.warpAffine(
        image,
        np.array(inverse),
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
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
) -> np.ndarray:
    """Change brightness, contrast and saturation in one pass.

    Args:
        image: uint8 array (height, width, channels), RGB or grey.
        brightness: Factor on every value; 0 is black, 1 changes nothing.
        contrast: Factor on the distance from the image's mean grey.
        saturation: Factor on the distance from the pixel's own grey; ignored for
            grey images.

    Returns:
        uint8 array of the same shape, clipped to 0..255.

    Example:
        >>> grey = np.full((2, 2, 3), 100, np.uint8)
        >>> int(adjust_colour(grey, brightness=1.2)[0, 0, 0])
        120
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
    offset = (1 - contrast) * brightness * mean_grey
    matrix = [[*(factor * value for value in row), offset] for row in rows]
    return cv2.transform(image, np.array(matrix)).reshape(image.shape)
