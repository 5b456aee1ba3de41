"""Small pictures that stand in a page itself, as data URIs."""

import base64

import cv2
import numpy as np

# Smaller images are kept as they are, by PNG; of larger ones JPEG shows enough.
LARGEST_PNG = 96


def fitted(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image whose longer side is at most `side` pixels.

    Args:
        image: uint8 (height, width, channels); returned as it is where it fits.
        side: In pixels.
    """
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = [max(1, round(length * scale)) for length in image.shape[1::-1]]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return resized.reshape(*resized.shape[:2], image.shape[2])


def data_uri(
    image: np.ndarray, *, quality: int = 90, lossless: bool | None = None
) -> str:
    """Return an image as the source of an `<img>`.

    Args:
        image: uint8 (height, width, channels), RGB or grey.
        quality: Of a JPEG, 1..100.
        lossless: PNG, or else JPEG; None: PNG for an image of up to 96 pixels.
    """
    if lossless is None:
        lossless = max(image.shape[:2]) <= LARGEST_PNG
    colour = image.shape[2] == 3
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if colour else image
    if lossless:
        kind, (_, data) = "png", cv2.imencode(".png", pixels)
    else:
        settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
        kind, (_, data) = "jpeg", cv2.imencode(".jpg", pixels, settings)
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"
