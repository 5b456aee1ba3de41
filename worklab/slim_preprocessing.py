"""The crops and colours that tf-slim trained its VGG and Inception networks with.

Source: `vgg_preprocessing.py` and `inception_preprocessing.py` of tensorflow/models,
research/slim. Slim's first resize is bilinear without averaging; here images are halved
first where they are much too large. Slim's Inception draws one of four ways to resize;
here it is always bilinear, as in slim's `fast_mode`.
"""

import math

import cv2
import numpy as np

# vgg_preprocessing: _RESIZE_SIDE_MIN and _RESIZE_SIDE_MAX, for images of 224.
_VGG_SIDES = (256, 512)
_VGG_SIZE = 224

# inception_preprocessing.distorted_bounding_box_crop.
_AREA, _ASPECT, _LEAST_COVERED = (0.05, 1.0), (0.75, 1.33), 0.1
_ATTEMPTS = 100

VGG_LARGEST = _VGG_SIDES[1] / _VGG_SIZE
"""What the shorter side is enlarged to at most, in sides of what the network sees."""

INCEPTION_LARGEST = math.sqrt(_ASPECT[1] / _LEAST_COVERED)
"""The same for the Inception networks."""

# inception_preprocessing.distort_color: the orders, and the largest changes.
_ORDERS = ("bshc", "sbch", "chbs", "hscb")
_BRIGHTNESS, _HUE, _FACTORS = 32 / 255, 0.2, (0.5, 1.5)

# Larger than what brightness and contrast take below zero, where HSV has no meaning.
_LIFT = 1.0


def vgg_box(
    shape: tuple[int, ...], rng: np.random.Generator, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Draw the box that slim's VGG networks see in training.

    The shorter side is scaled to between 256 and 512, and 224 are cut anywhere; sides
    grow and shrink with another size.

    Args:
        shape: Of the image; height and width come first.
        rng: The only source of chance.
        size: Height and width of what the network sees.

    Returns:
        Upper row, left column, height and width.
    """
    rows, columns = shape[:2]
    side = rng.integers(_VGG_SIDES[0], _VGG_SIDES[1] + 1) * max(size) / _VGG_SIZE
    scale = side / min(rows, columns)
    height = min(rows, max(1, round(size[0] / scale)))
    width = min(columns, max(1, round(size[1] / scale)))
    top = rng.integers(0, rows - height + 1)
    left = rng.integers(0, columns - width + 1)
    return int(top), int(left), height, width


def inception_box(
    shape: tuple[int, ...], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw the box that slim's Inception networks see in training.

    It is that of `tf.image.sample_distorted_bounding_box` for the whole image: uniform
    in aspect and in height, not in area, and never below a tenth of the image.

    Args:
        shape: Of the image; height and width come first.
        rng: The only source of chance.

    Returns:
        Upper row, left column, height and width; the whole image where none fits.
    """
    rows, columns = shape[:2]
    least, most = (share * rows * columns for share in _AREA)
    for _ in range(_ATTEMPTS):
        aspect = rng.uniform(*_ASPECT)
        lowest = round(math.sqrt(least / aspect))
        highest = min(round(math.sqrt(most / aspect)), rows)
        if round(highest * aspect) > columns:
            highest = int((columns + 0.5 - 1e-7) / aspect)
        lowest = min(lowest, highest)
        height = int(rng.integers(lowest, highest + 1))
        width = round(height * aspect)
        if not least <= width * height <= most or width > columns or not height:
            continue
        if width * height < _LEAST_COVERED * rows * columns:
            continue
        top = rng.integers(0, rows - height + 1)
        left = rng.integers(0, columns - width + 1)
        return int(top), int(left), height, width
    return 0, 0, rows, columns


def distort_colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the colours of an image as slim's Inception networks saw them."""
    return change_colour(
        image,
        order=_ORDERS[rng.integers(len(_ORDERS))],
        brightness=rng.uniform(-_BRIGHTNESS, _BRIGHTNESS),
        saturation=rng.uniform(*_FACTORS),
        hue=rng.uniform(-_HUE, _HUE),
        contrast=rng.uniform(*_FACTORS),
    )


def change_colour(
    image: np.ndarray,
    *,
    order: str,
    brightness: float,
    saturation: float,
    hue: float,
    contrast: float,
) -> np.ndarray:
    """Change colours by the operations of `tf.image`, clipped once, at the end.

    Args:
        image: uint8 (height, width, channels), RGB or grey.
        order: First letters of brightness, saturation, hue and contrast.
        brightness: What is added to values 0..1.
        saturation: Factor on the saturation of HSV; not for grey images.
        hue: What is added to the hue of HSV, 1 is once round; not for grey images.
        contrast: Factor on the distance from each channel's mean.
    """
    colour = image.shape[2] == 3
    values = image.astype(np.float32) * np.float32(1 / 255)
    for letter in order:
        if letter == "b":
            values += np.float32(brightness)
        elif letter == "c":
            means = values.mean(axis=(0, 1), keepdims=True)
            values = (values - means) * np.float32(contrast) + means
        elif letter == "s" and colour:
            values = _saturate(values, saturation)
        elif letter == "h" and colour:
            values = _turn_hue(values, hue)
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def _saturate(values: np.ndarray, factor: float) -> np.ndarray:
    high = values.max(axis=2, keepdims=True)
    spread = high - values.min(axis=2, keepdims=True)
    saturation = np.divide(spread, high, out=np.zeros_like(high), where=high > 0)
    wanted = np.clip(saturation * np.float32(factor), 0, 1)
    ratio = np.divide(wanted, saturation, out=np.zeros_like(high), where=saturation > 0)
    return high - (high - values) * ratio


def _turn_hue(values: np.ndarray, turn: float) -> np.ndarray:
    hsv = cv2.cvtColor(values + np.float32(_LIFT), cv2.COLOR_RGB2HSV)
    hsv[:, :, 0] = (hsv[:, :, 0] + 360 * turn) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) - np.float32(_LIFT)
