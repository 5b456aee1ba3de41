"""Random changes of one training image, as `AugmentOptions` says.

Each change is a function of an image and its amounts, or of an image and a random
generator; `augment_image` composes them. Images are uint8 (height, width, channels).
"""

import math

import cv2
import numpy as np

from worklab import slim_preprocessing
from worklab.images import adjust_colour, warp
from worklab.options import (
    AUGMENT_PRESETS,
    AugmentOptions,
    ReaderOptions,
    with_test_form,
)
from worklab.published_policies import augmix, randaugment, trivialaugment

Box = tuple[int, int, int, int]
"""Upper row, left column, height and width."""

# Shapes of the erased rectangle, Zhong et al., Random Erasing, 2017, section 4.2.
_ERASING_ASPECT = (0.3, 1 / 0.3)

# How often a rectangle that does not fit is drawn anew, as in torchvision and timm.
_ATTEMPTS = 10

# A blur below this changes no pixel.
_LEAST_BLUR = 0.1


def augment_image(
    image: np.ndarray,
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    crop_fraction: float,
    options: AugmentOptions,
) -> np.ndarray:
    """Return the training form of an image: places, then colours, then defects.

    Args:
        image: uint8 (height, width, channels), of any size; it is left alone.
        rng: The only source of chance.
        size: Height and width of the result.
        crop_fraction: Share of the shorter side that is seen without a random crop.
        options: Which changes, and their amounts.

    Returns:
        uint8 (size[0], size[1], channels).
    """
    # Drawn at once and always, so that other options leave these numbers alone.
    geometry = rng.uniform(-1, 1, size=4)
    colours = rng.uniform(-1, 1, size=3)
    coins = rng.integers(0, [2, 2, 4])
    image = _change_places(image, rng, size, crop_fraction, options, geometry, coins)
    if options.policy == "randaugment":
        magnitude = 9.0 if options.magnitude is None else options.magnitude
        image = randaugment(image, rng, options.num_operations, magnitude)
    elif options.policy == "trivialaugment":
        image = trivialaugment(image, rng)
    elif options.policy == "augmix":
        severity = 3.0 if options.magnitude is None else options.magnitude
        image = augmix(image, rng, severity)
    if options.preset == "inception":
        image = slim_preprocessing.distort_colour(image, rng)
    image = _change_colours(image, rng, options, colours)
    return _degrade(image, rng, options)


def _change_places(
    image: np.ndarray,
    rng: np.random.Generator,
    size: tuple[int, int],
    crop_fraction: float,
    options: AugmentOptions,
    geometry: np.ndarray,
    coins: np.ndarray,
) -> np.ndarray:
    amount = options.amount
    zoom, turn, down, right = geometry
    shift = amount("shift")
    box = crop_box(image.shape, rng, size, options)
    if box is not None:
        top, left, height, width = box
        image = image[top : top + height, left : left + width]
    return warp(
        image,
        size,
        crop_fraction=crop_fraction if box is None else 1.0,
        zoom=(1 + amount("zoom")) ** zoom,
        angle=turn * amount("rotation") + 90 * options.quarter_turns * coins[2],
        shift=(down * shift, right * shift),
        flip=(
            options.flip_vertical and bool(coins[0]),
            options.flips and bool(coins[1]),
        ),
        stretch=box is not None,
    )


def _change_colours(
    image: np.ndarray,
    rng: np.random.Generator,
    options: AugmentOptions,
    draws: np.ndarray,
) -> np.ndarray:
    brightness, contrast, saturation, hue = (
        options.amount(name) for name in ("brightness", "contrast", "saturation", "hue")
    )
    if not (brightness or contrast or saturation or hue):
        return image
    return adjust_colour(
        image,
        brightness=1 + draws[0] * brightness,
        contrast=1 + draws[1] * contrast,
        saturation=1 + draws[2] * saturation,
        hue=rng.uniform(-hue, hue) if hue else 0.0,
    )


def _degrade(
    image: np.ndarray, rng: np.random.Generator, options: AugmentOptions
) -> np.ndarray:
    if options.blur:
        image = blur(image, rng.uniform(0, options.blur))
    if options.noise:
        image = add_noise(image, rng.uniform(0, options.noise), rng)
    if options.jpeg:
        image = compress(image, round(100 - rng.uniform(0, options.jpeg)))
    if options.erasing and rng.uniform() < options.erasing:
        image = erase(image, rng, options.erasing_area)
    return image


def crop_box(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    size: tuple[int, int],
    options: AugmentOptions,
) -> Box | None:
    """Return the random crop that options draw from an image; None: they draw none."""
    if options.area is not None:
        if options.area == (1, 1):
            return None
        return random_box(shape, rng, options.area, options.aspect)
    if options.preset == "vgg":
        return slim_preprocessing.vgg_box(shape, rng, size)
    if options.preset == "inception":
        return slim_preprocessing.inception_box(shape, rng)
    return None


def random_box(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Box:
    """Draw a box of random area, aspect and place; what torchvision and timm do.

    Args:
        shape: Of the image; height and width come first.
        rng: The only source of chance.
        area: Least and largest share of the image's area; uniform.
        aspect: Least and largest width divided by height; log-uniform.

    Returns:
        A box inside the image. Where ten do not fit, the largest central one whose
        aspect is allowed.

    Source: Szegedy et al., Going Deeper with Convolutions, 2014, section 6.
    """
    rows, columns = shape[:2]
    for _ in range(_ATTEMPTS):
        pixels = rows * columns * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        height, width = (
            round(math.sqrt(pixels / ratio)),
            round(math.sqrt(pixels * ratio)),
        )
        if 0 < height <= rows and 0 < width <= columns:
            top = rng.integers(0, rows - height + 1)
            left = rng.integers(0, columns - width + 1)
            return int(top), int(left), height, width
    ratio = min(max(columns / rows, aspect[0]), aspect[1])
    height = max(1, min(rows, round(columns / ratio)))
    width = max(1, min(columns, round(rows * ratio)))
    return (rows - height) // 2, (columns - width) // 2, height, width


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur by a Gaussian of a standard deviation in pixels."""
    if sigma < _LEAST_BLUR:
        return image
    blurred = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return blurred.reshape(image.shape)


def add_noise(image: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of a standard deviation, apart for each value; clipped."""
    noise = rng.standard_normal(image.shape, np.float32)
    return np.clip(np.rint(image + std * noise), 0, 255).astype(np.uint8)


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """Store as JPEG of a quality 0..100 and read back."""
    colour = image.shape[2] == 3
    if colour:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    flag = cv2.IMREAD_COLOR_RGB if colour else cv2.IMREAD_GRAYSCALE
    return np.reshape(cv2.imdecode(data, flag), image.shape)  # type: ignore[arg-type]


def erase(
    image: np.ndarray, rng: np.random.Generator, area: tuple[float, float]
) -> np.ndarray:
    """Replace a random rectangle by uniform noise.

    Args:
        image: uint8 (height, width, channels).
        rng: The only source of chance.
        area: Least and largest share of the image's area.

    Source: Zhong et al., Random Erasing Data Augmentation, 2017, algorithm 1, RE-R.
    """
    top, left, height, width = random_box(image.shape, rng, area, _ERASING_ASPECT)
    image = image.copy()
    image[top : top + height, left : left + width] = rng.integers(
        0, 256, (height, width, image.shape[2]), np.uint8
    )
    return image


def least_side(reader: ReaderOptions, augment: AugmentOptions) -> int:
    """Return the shorter side below which some crop would be enlarged.

    Args:
        reader: Size and test form.
        augment: Random crops and zooms.
    """
    enlarged = 1 / (with_test_form(reader, augment).crop_fraction or 1.0)
    if augment.area is not None:
        shape = max(augment.aspect[1], 1 / augment.aspect[0])
        enlarged = max(enlarged, math.sqrt(shape / augment.area[0]))
    elif augment.preset == "vgg":
        enlarged = max(enlarged, slim_preprocessing.VGG_LARGEST)
    elif augment.preset == "inception":
        enlarged = max(enlarged, slim_preprocessing.INCEPTION_LARGEST)
    return math.ceil(max(reader.image_size) * enlarged * (1 + augment.amount("zoom")))


def check_amounts(options: AugmentOptions) -> None:
    """Check the options.

    Raises:
        ValueError: If one is out of range.
    """
    choices = {
        "preset": tuple(AUGMENT_PRESETS),
        "policy": ("off", "randaugment", "trivialaugment", "augmix"),
    }
    for name, allowed in choices.items():
        if getattr(options, name) not in allowed:
            raise ValueError(
                f"`{name}` must be one of {list(allowed)}. "
                f"Received: {name}={getattr(options, name)!r}"
            )
    for name in ("area", "aspect", "erasing_area"):
        low, high = getattr(options, name) or (1.0, 1.0)
        if not (0 < low <= high and (high <= 1 or name == "aspect")):
            raise ValueError(
                f"`{name}` is a least and a largest value above 0; shares of the area "
                f"are at most 1. Received: {name}={getattr(options, name)}"
            )
    _check_limits(options)


def _check_limits(options: AugmentOptions) -> None:
    at_most = {
        **dict.fromkeys(("hue", "erasing", "mix_probability"), 1.0),
        **dict.fromkeys(("zoom", "shift", "rotation", "blur", "noise"), math.inf),
        **dict.fromkeys(("brightness", "contrast", "saturation"), math.inf),
        **dict.fromkeys(("mixup", "cutmix"), math.inf),
        "num_operations": math.inf,
        "jpeg": 100.0,
    }
    if options.policy != "off":
        at_most["magnitude"] = 10.0 if options.policy == "augmix" else 30.0
    preset = AUGMENT_PRESETS[options.preset]
    for name, limit in at_most.items():
        value = getattr(options, name)
        value = preset.get(name, 0.0) if value is None else value
        if not 0 <= value <= limit or value == math.inf:
            most = "" if limit == math.inf else f" and at most {limit:g}"
            raise ValueError(
                f"`{name}` is out of range: it is at least 0{most}. "
                f"Received: {name}={value!r}"
            )
