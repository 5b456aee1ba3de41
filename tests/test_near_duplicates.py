import cv2
import numpy as np
import pytest

from worklab.near_duplicates import (
    NEAR_BITS,
    THUMBNAIL_SIDE,
    near_groups,
    perceptual_hash,
)

from .defects import smooth


@pytest.fixture(autouse=True)
def _seeds():
    """Nothing here is Keras's."""


def groups_of(images):
    hashes, thumbnails = zip(*map(perceptual_hash, images), strict=True)
    return near_groups(np.array(hashes, np.uint64), np.array(thumbnails)).tolist()


def encoded_anew(image):
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR_BGR)


@pytest.mark.parametrize(
    "change",
    [
        encoded_anew,
        lambda image: cv2.resize(image, None, fx=0.5, fy=0.5),
        lambda image: cv2.resize(image, (100, 100)),
        lambda image: np.clip(image * 0.9 + 20, 0, 255).astype(np.uint8),
        lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None],
    ],
    ids=["quality", "half", "aspect", "contrast", "grey"],
)
def test_the_same_scene_is_found_again(change):
    images = [smooth(seed, 150, 200) for seed in range(20)]
    changed = [change(image) for image in images]
    assert groups_of([*images, *changed]) == [*range(20), *range(20)]


def test_other_scenes_mirrored_and_inverted_ones_are_others():
    image = smooth(0, 150, 200)
    assert groups_of([image, image[:, ::-1].copy(), 255 - image, smooth(1)]) == [
        *range(4)
    ]


def planted(num_images, num_pairs, most_bits, seed=0):
    """Random hashes; the last `num_pairs` are of the first, but for a few bits."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**63, num_images).astype(np.uint64)
    shape = (num_images, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    thumbnails = rng.integers(0, 256, shape, np.uint8)
    for number in range(num_pairs):
        flips = rng.permutation(63)[: rng.integers(0, most_bits + 1)]
        mask = np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=0)
        hashes[-1 - number] = hashes[number] ^ np.uint64(mask)
        thumbnails[-1 - number] = thumbnails[number]
    return hashes, thumbnails


def test_every_pair_that_differs_in_few_bits_is_found():
    groups = near_groups(*planted(5000, 1000, NEAR_BITS))
    assert np.array_equal(groups[::-1][:1000], np.arange(1000))
    assert np.array_equal(groups[:4000], np.arange(4000))


def test_alike_in_hash_or_in_thumbnail_alone_is_not_alike():
    hashes, thumbnails = planted(100, 50, 3)
    assert len(set(near_groups(hashes, thumbnails[::-1]).tolist())) == 50  # symmetric
    others = np.random.default_rng(1).integers(0, 256, thumbnails.shape, np.uint8)
    assert len(set(near_groups(hashes, others).tolist())) == 100
    shuffled = np.roll(hashes, 7)
    assert len(set(near_groups(shuffled, thumbnails).tolist())) == 100


def test_groups_join_through_a_third_image():
    hashes, thumbnails = planted(3, 0, 0)
    thumbnails[:] = thumbnails[0]
    hashes[1] = hashes[0] ^ np.uint64(0b11111)
    hashes[2] = hashes[0] ^ np.uint64(0b1111100000)  # 10 bits from the second
    assert near_groups(hashes[[1, 2]], thumbnails[:2]).tolist() == [0, 1]
    assert near_groups(hashes[[1, 2, 0]], thumbnails).tolist() == [0, 0, 0]


def test_very_many_alike_are_one_group():
    hashes, thumbnails = planted(1, 0, 0)
    groups = near_groups(hashes.repeat(2000), thumbnails.repeat(2000, axis=0))
    assert not groups.any()
