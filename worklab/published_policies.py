"""RandAugment, TrivialAugment and AugMix, by the tables of their papers.

Operations take a uint8 image (height, width, channels) and an amount, and return one of
the same shape. What comes from outside the image is grey 128, as in AutoAugment.

Sources: Cubuk et al., AutoAugment, 2018 (table 6: the operations and their ranges) and
RandAugment, 2019 (section 3: 14 of them, 31 magnitudes); Müller and Hutter,
TrivialAugment, 2021 (table 1, "wide"); Hendrycks et al., AugMix, 2019 (algorithm 1, and
`augmentations.py` of google-research/augmix for the ranges).
"""

import math
from collections.abc import Callable, Mapping

import cv2
import numpy as np

from worklab.images import adjust_colour, warp_affine

Operation = Callable[[np.ndarray, float], np.ndarray]
Inverse = tuple[tuple[float, float, float], tuple[float, float, float]]

_FILL = 128

# Magnitudes are 0 to this, in whole steps.
_LEVELS = 30

# Width and depth of AugMix, and both its alphas: section 4.
_NUM_CHAINS, _MOST_OPERATIONS, _ALPHA = 3, 3, 1.0

# Pillow's ImageFilter.SMOOTH, what ImageEnhance.Sharpness calls unsharp.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13


def shear_x(shape: tuple[int, ...], amount: float) -> Inverse:
    """Shift each row by `amount` of its number, to the left."""
    return (1, amount, 0), (0, 1, 0)


def shear_y(shape: tuple[int, ...], amount: float) -> Inverse:
    """Shift each column by `amount` of its number, up."""
    return (1, 0, 0), (amount, 1, 0)


def translate_x(shape: tuple[int, ...], pixels: float) -> Inverse:
    """Shift to the left."""
    return (1, 0, pixels), (0, 1, 0)


def translate_y(shape: tuple[int, ...], pixels: float) -> Inverse:
    """Shift up."""
    return (1, 0, 0), (0, 1, pixels)


def rotate(shape: tuple[int, ...], degrees: float) -> Inverse:
    """Turn counter-clockwise about the centre."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    return (
        (cosine, -sine, x - cosine * x + sine * y),
        (sine, cosine, y - sine * x - cosine * y),
    )


PLACES: Mapping[str, Callable[[tuple[int, ...], float], Inverse]] = {
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
    "rotate": rotate,
}
"""Operations that move pixels: the shape and the amount to where pixels come from."""


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with a smoothed image: 0 smooth, 1 unchanged, 2 sharp; borders stay."""
    if min(image.shape[:2]) < 3:
        return image
    inner = (slice(1, -1), slice(1, -1))
    smooth = cv2.filter2D(image, -1, _SMOOTH).reshape(image.shape)
    result = image.copy()
    result[inner] = cv2.addWeighted(
        image[inner], factor, smooth[inner], 1 - factor, 0
    ).reshape(image[inner].shape)
    return result


def posterize(image: np.ndarray, bits: float) -> np.ndarray:
    """Keep the upper bits of each value, 0 to 8."""
    return image & np.uint8(256 - 2 ** (8 - int(bits)))


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Invert the values from a threshold on; 256 changes nothing."""
    return np.where(image >= threshold, 255 - image, image)


def autocontrast(image: np.ndarray, _: float = 0.0) -> np.ndarray:
    """Stretch each channel to 0..255."""
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    values = np.arange(256)[:, None]
    spread = np.maximum(1, high.astype(int) - low)
    table = np.clip((values - low.astype(int)) * 255 / spread, 0, 255).astype(np.uint8)
    return _by_table(image, np.where(high > low, table, values.astype(np.uint8)))


def equalize(image: np.ndarray, _: float = 0.0) -> np.ndarray:
    """Make the histogram of each channel flat; Pillow's `ImageOps.equalize`."""
    table = np.empty((256, image.shape[2]), np.uint8)
    for channel in range(image.shape[2]):
        counts = np.bincount(image[:, :, channel].ravel(), minlength=256)
        step = (image[:, :, channel].size - counts[counts > 0][-1]) // 255
        if step == 0:  # also where all pixels are equal
            table[:, channel] = np.arange(256)
        else:
            before = np.cumsum(counts) - counts
            table[:, channel] = np.minimum(255, (step // 2 + before) // step)
    return _by_table(image, table)


def _by_table(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return cv2.LUT(image, table[None]).reshape(image.shape)


_COLOURS: Mapping[str, Operation] = {
    "identity": lambda image, _: image,
    "brightness": lambda image, factor: adjust_colour(image, brightness=factor),
    "contrast": lambda image, factor: adjust_colour(image, contrast=factor),
    "colour": lambda image, factor: adjust_colour(image, saturation=factor),
    "sharpness": sharpness,
    "posterize": posterize,
    "solarize": solarize,
    "autocontrast": autocontrast,
    "equalize": equalize,
}

RANDAUGMENT = (*PLACES, *_COLOURS)
"""Names of the 14 operations of RandAugment and TrivialAugment."""

AUGMIX = (*PLACES, "posterize", "solarize", "autocontrast", "equalize")
"""Names of the 9 operations of AugMix, apart from those of ImageNet-C."""


def apply(name: str, image: np.ndarray, amount: float) -> np.ndarray:
    """Return an image after one operation of the tables."""
    if name in PLACES:
        inverse = PLACES[name](image.shape, amount)
        return warp_affine(image, inverse, image.shape[:2], fill=_FILL)
    return _COLOURS[name](image, amount)


def randaugment_amount(name: str, share: float, shape: tuple[int, ...]) -> float:
    """Return an operation's amount at a share 0..1 of the largest magnitude.

    Source: AutoAugment, table 6; the five factors go either way from 1, so that a
    negative share makes images darker, paler and softer.
    """
    return _amount(name, share, (0.3, 30.0, 0.9, 4), (150 / 331) * _side(name, shape))


def trivialaugment_amount(name: str, share: float, shape: tuple[int, ...]) -> float:
    """Return an operation's amount at a share 0..1 of the largest strength.

    Source: TrivialAugment, table 1, the column "wide".
    """
    return _amount(name, share, (0.99, 135.0, 0.99, 6), 32.0)


def _amount(
    name: str, share: float, most: tuple[float, float, float, int], pixels: float
) -> float:
    shear, degrees, factor, bits = most
    if name.startswith("shear"):
        return share * shear
    if name.startswith("translate"):
        return share * pixels
    if name == "rotate":
        return share * degrees
    if name == "posterize":
        return 8 - round(abs(share) * bits)
    if name == "solarize":
        return 256 * (1 - abs(share))
    return 1 + share * factor


def augmix_amount(name: str, level: float, shape: tuple[int, ...]) -> float:
    """Return an operation's amount at a level 0..10; places may have either sign.

    Source: `augmentations.py` of google-research/augmix.
    """
    share = level / 10
    if name == "posterize":
        return 4 - int(abs(share) * 4)
    if name == "solarize":
        return 256 - int(abs(share) * 256)
    if name == "rotate":
        return int(share * 30)
    if name.startswith("translate"):
        return int(share * _side(name, shape) / 3)
    return share * 0.3


def _side(name: str, shape: tuple[int, ...]) -> int:
    return shape[1] if name.endswith("_x") else shape[0]


def randaugment(
    image: np.ndarray, rng: np.random.Generator, num_operations: int, magnitude: float
) -> np.ndarray:
    """Apply some operations, each drawn from the 14, at one magnitude 0..30."""
    for _ in range(num_operations):
        name = RANDAUGMENT[rng.integers(len(RANDAUGMENT))]
        share = magnitude / _LEVELS * rng.choice((-1, 1))
        image = apply(name, image, randaugment_amount(name, share, image.shape))
    return image


def trivialaugment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply one operation, drawn from the 14, at a strength drawn from 31."""
    name = RANDAUGMENT[rng.integers(len(RANDAUGMENT))]
    share = rng.integers(_LEVELS + 1) / _LEVELS * rng.choice((-1, 1))
    return apply(name, image, trivialaugment_amount(name, share, image.shape))


def augmix(image: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
    """Blend an image with three chains of one to three operations each.

    Args:
        image: uint8 (height, width, channels).
        rng: The only source of chance.
        severity: Largest level of an operation, 0..10.
    """
    weights = rng.dirichlet([_ALPHA] * _NUM_CHAINS)
    share = rng.beta(_ALPHA, _ALPHA)
    blended = (1 - share) * image.astype(np.float32)
    for weight in weights:
        chain = image
        for _ in range(rng.integers(1, _MOST_OPERATIONS + 1)):
            name = AUGMIX[rng.integers(len(AUGMIX))]
            level = rng.uniform(min(0.1, severity), severity) * rng.choice((-1, 1))
            chain = apply(name, chain, augmix_amount(name, level, image.shape))
        blended += np.float32(share * weight) * chain
    return np.clip(np.rint(blended), 0, 255).astype(np.uint8)
