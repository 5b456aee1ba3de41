import dataclasses

import cv2
import numpy as np
import pytest
import tensorflow as tf

from worklab import slim_preprocessing as slim
from worklab.augmentation import (
    add_noise,
    augment_image,
    blur,
    check_amounts,
    compress,
    crop_box,
    erase,
    least_side,
    random_box,
)
from worklab.images import adjust_colour, warp
from worklab.options import AugmentOptions, ReaderOptions, with_test_form
from worklab.readers import ArrayReader, JsonListReader

from .test_images import difference, noise, photo

OFF = AugmentOptions(preset="off")
ALONE = {  # each option that changes pixels by itself
    "area": (0.1, 0.5),
    "zoom": 0.3,
    "shift": 0.3,
    "rotation": 30.0,
    "flip": True,
    "flip_vertical": True,
    "quarter_turns": True,
    "policy": "randaugment",
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "hue": 0.2,
    "blur": 2.0,
    "noise": 20.0,
    "jpeg": 90.0,
    "erasing": 1.0,
}
EVERYTHING = AugmentOptions(
    **(ALONE | {"policy": "augmix", "mixup": 0.4, "cutmix": 1.0}), preset="strong"
)


@pytest.fixture(autouse=True)
def _seeds():
    """Nothing here is Keras's: clearing it after each test would take seconds."""


def augmented(image, options, seed=0, size=(24, 24)):
    rng = np.random.default_rng(seed)
    return augment_image(image, rng, size, crop_fraction=1.0, options=options)


# All together


@pytest.mark.parametrize("name", ALONE)
def test_each_option_alone_changes_the_image(name):
    image = photo(24, 24)
    options = dataclasses.replace(OFF, **{name: ALONE[name]})
    changed = [augmented(image, options, seed) for seed in range(8)]
    assert any(not np.array_equal(each, image) for each in changed)
    assert len({each.tobytes() for each in changed}) > 1  # and it is drawn


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (3, 90), (50, 40)])
@pytest.mark.parametrize(
    "options",
    [
        EVERYTHING,
        AugmentOptions(preset="vgg", policy="trivialaugment"),
        AugmentOptions(preset="inception", policy="randaugment", magnitude=30.0),
    ],
    ids=lambda options: options.preset,
)
def test_any_image_gets_the_form_and_is_left_alone(options, shape, channels):
    image = noise(*shape, channels)
    image.flags.writeable = False
    for seed in range(10):
        changed = augmented(image, options, seed, size=(9, 14))
        assert (changed.shape, changed.dtype) == ((9, 14, channels), np.uint8)
        again = augmented(image, options, seed, size=(9, 14))
        assert np.array_equal(changed, again)
    assert np.array_equal(image, noise(*shape, channels))


def test_new_options_leave_the_draws_of_the_others_alone():
    image = photo(40, 40)
    plain = augmented(image, AugmentOptions(preset="strong", flip=True), 5)
    noisy = augmented(image, AugmentOptions(preset="strong", flip=True, noise=1e-9), 5)
    assert np.array_equal(plain, noisy)


def test_places_come_before_policies_and_colours():
    image = photo(40, 40)
    options = AugmentOptions(preset="off", area=(0.3, 0.3), brightness=0.5)
    rng = np.random.default_rng(3)
    rng.uniform(-1, 1, size=4)
    (brightness, *_), _ = rng.uniform(-1, 1, size=3), rng.integers(0, [2, 2, 4])
    top, left, height, width = random_box(image.shape, rng, (0.3, 0.3), (3 / 4, 4 / 3))
    cut = image[top : top + height, left : left + width]
    cut = cv2.resize(cut, (24, 24), interpolation=cv2.INTER_LINEAR)
    expected = adjust_colour(cut, brightness=1 + 0.5 * brightness)
    assert np.array_equal(augmented(image, options, 3), expected)


# Crops


def test_random_box_is_uniform_in_area_and_place():
    rng = np.random.default_rng(0)
    boxes = np.array(
        [random_box((300, 400), rng, (0.1, 0.5), (3 / 4, 4 / 3)) for _ in range(4000)]
    )
    top, left, height, width = boxes.T
    area = height * width / 120000
    assert 0.099 < area.min() < 0.11
    assert 0.48 < area.max() < 0.502
    # Mean 0.3 and variance 0.4^2 / 12 of a uniform number, in 4,000 draws.
    assert area.mean() == pytest.approx(0.3, abs=4 * 0.4 / np.sqrt(12 * 4000))
    ratio = np.log(width / height)
    assert np.abs(ratio).max() < np.log(4 / 3) + 0.02  # whole pixels
    assert ratio.mean() == pytest.approx(0, abs=4 * 0.3 / np.sqrt(4000))
    for place, room in ((top, 300 - height), (left, 400 - width)):
        assert ((place >= 0) & (place <= room)).all()
        share = place / np.maximum(1, room)
        assert share.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("shape", [(10, 200), (200, 10), (1, 1), (2, 3)])
def test_random_box_of_any_image_lies_inside(shape):
    rng = np.random.default_rng(0)
    for _ in range(50):
        top, left, height, width = random_box(shape, rng, (0.9, 1), (3 / 4, 4 / 3))
        assert min(top, left) >= 0
        assert 1 <= height <= shape[0] - top
        assert 1 <= width <= shape[1] - left


def test_box_that_cannot_fit_is_central_with_an_allowed_aspect():
    box = random_box((10, 200), np.random.default_rng(0), (1, 1), (3 / 4, 4 / 3))
    assert box == (0, 93, 10, 13)


def test_area_of_one_is_no_crop():
    options = AugmentOptions(preset="off", area=(1.0, 1.0))
    image = photo(24, 40)
    assert np.array_equal(augmented(image, options), warp(image, (24, 24)))
    whole = AugmentOptions(preset="vgg", area=(1.0, 1.0))
    assert crop_box((9, 9), np.random.default_rng(0), (4, 4), whole) is None


def test_crop_far_too_large_is_averaged_before_it_is_resized():
    lines = np.zeros((400, 400, 1), np.uint8)
    lines[:, ::5] = 250  # 50 on average
    options = AugmentOptions(preset="off", area=(0.9, 1.0))
    seen = augmented(lines, options, size=(30, 30))
    assert 25 < seen.min() <= seen.max() < 75  # skipping gives 0 and 250


# Defects


def test_noise_has_its_standard_deviation():
    grey = np.full((100, 100, 3), 128, np.uint8)
    noisy = add_noise(grey, 10.0, np.random.default_rng(0)).astype(float)
    assert noisy.mean() == pytest.approx(128, abs=5 * 10 / np.sqrt(30000))
    assert noisy.std() == pytest.approx(10, rel=0.03)
    white = add_noise(grey + 127, 10.0, np.random.default_rng(0))
    assert white.max() == 255  # clipped, not wrapped
    assert white.min() > 200


def test_blur_is_gaussian():
    point = np.zeros((21, 21, 1), np.uint8)
    point[10, 10] = 255
    rows, columns = np.mgrid[-10:11, -10:11]
    bell = np.exp(-(rows**2 + columns**2) / 2 / 1.5**2)
    expected = 255 * bell / bell.sum()
    assert difference(blur(point, 1.5)[:, :, 0], expected) <= 1
    assert np.array_equal(blur(point, 0.05), point)


@pytest.mark.parametrize("channels", [1, 3])
def test_compression_loses_more_at_a_lower_quality(channels):
    image = photo(40, 60, channels)
    losses = [np.abs(compress(image, q) - image.astype(float)).mean() for q in (95, 10)]
    assert losses[0] < 2.5 < losses[1] < 20  # colours are not exchanged, either


def test_erasing_replaces_one_rectangle_by_noise():
    image = np.full((60, 60, 3), 100, np.uint8)
    areas = []
    for seed in range(200):
        changed = erase(image, np.random.default_rng(seed), (0.1, 0.3)) != 100
        rows, columns = np.flatnonzero(changed.any((1, 2))), changed.any((0, 2))
        inside = changed[rows[0] : rows[-1] + 1, columns]
        assert inside.mean() > 0.98  # 1 of 256 is 100 by chance
        areas.append(len(rows) * np.count_nonzero(columns) / 3600)
    assert 0.09 < min(areas) < max(areas) < 0.31
    assert np.mean(areas) == pytest.approx(0.2, abs=0.02)


def test_erasing_happens_as_often_as_said():
    image = np.full((8, 8, 3), 100, np.uint8)
    options = AugmentOptions(preset="off", erasing=0.25)
    erased = [(augmented(image, options, s, (8, 8)) != 100).any() for s in range(1000)]
    # Four standard deviations of a binomial.
    assert np.mean(erased) == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 1000))


# Hue


def test_hue_turns_colours_and_keeps_greys_and_luma():
    grey = np.full((4, 4, 3), 90, np.uint8)
    assert difference(adjust_colour(grey, hue=0.3), grey) <= 1
    image = 64 + noise(9, 12) // 2  # far from black and white, so nothing is clipped
    luma = np.array([0.299, 0.587, 0.114])
    turned = adjust_colour(image, hue=0.1)
    assert difference(image @ luma, turned @ luma) <= 1.5
    assert difference(turned, image) > 20
    assert difference(adjust_colour(turned, hue=-0.1), image) <= 3
    assert difference(adjust_colour(image, hue=1.0), image) <= 1


def test_hue_equals_a_turn_in_yiq():
    image = 64 + noise(9, 12) // 2
    to_yiq = np.array(
        [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
    )
    y, i, q = np.moveaxis(image @ to_yiq.T, 2, 0)
    turned = (i + 1j * q) * np.exp(2j * np.pi * 0.15)
    expected = np.stack([y, turned.real, turned.imag], 2) @ np.linalg.inv(to_yiq).T
    found = adjust_colour(image, hue=0.15)
    assert difference(found, np.clip(expected, 0, 255)) <= 1
    assert np.array_equal(adjust_colour(image[:, :, :1], hue=0.15), image[:, :, :1])


# tf-slim's presets


@pytest.mark.parametrize("order", ["bshc", "sbch", "chbs", "hscb"])
@pytest.mark.parametrize(
    ("brightness", "saturation", "hue", "contrast"),
    [(0.12, 1.5, 0.2, 1.5), (-0.12, 0.5, -0.17, 0.6), (0.05, 1.4, 0.1, 0.5)],
)
def test_inception_colours_equal_those_of_tf_image(
    order, brightness, saturation, hue, contrast
):
    image = noise(24, 20)
    steps = {
        "b": lambda x: tf.image.adjust_brightness(x, brightness),
        "s": lambda x: tf.image.adjust_saturation(x, saturation),
        "h": lambda x: tf.image.adjust_hue(x, hue),
        "c": lambda x: tf.image.adjust_contrast(x, contrast),
    }
    expected = tf.constant(image / np.float32(255), tf.float32)
    for letter in order:
        expected = steps[letter](expected)
    found = slim.change_colour(
        image,
        order=order,
        brightness=brightness,
        saturation=saturation,
        hue=hue,
        contrast=contrast,
    )
    assert difference(found, 255 * np.clip(expected, 0, 1)) < 1


def test_inception_colours_of_grey_images_stay_grey():
    image = noise(9, 12, 1)
    found = slim.distort_colour(image, np.random.default_rng(0))
    assert found.shape == (9, 12, 1)
    assert not np.array_equal(found, image)


def test_inception_boxes_have_the_distribution_of_tf_image():
    shape, count = (120, 200), 3000
    rng = np.random.default_rng(0)
    found = np.array([slim.inception_box(shape, rng) for _ in range(count)])
    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    draw = tf.function(
        lambda seed: tf.image.stateless_sample_distorted_bounding_box(
            [*shape, 3],
            whole,
            seed=seed,
            min_object_covered=0.1,
            aspect_ratio_range=(0.75, 1.33),
            area_range=(0.05, 1.0),
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )[:2]
    )
    theirs = []
    for number in range(count):
        begin, size = draw(tf.constant([number, 1]))
        theirs.append([*begin.numpy()[:2], *size.numpy()[:2]])
    theirs = np.array(theirs)
    for column in range(4):
        one, other = np.sort(found[:, column]), np.sort(theirs[:, column])
        # Kolmogorov and Smirnov: 1.95 sqrt(2 / n) is passed once in a thousand.
        grid = np.arange(200)
        steps = [np.searchsorted(each, grid, "right") / count for each in (one, other)]
        assert np.abs(steps[0] - steps[1]).max() < 1.95 * np.sqrt(2 / count)


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (90, 100)])
def test_vgg_sees_224_of_a_shorter_side_from_256_to_512(shape):
    rng = np.random.default_rng(0)
    boxes = np.array([slim.vgg_box(shape, rng, (224, 224)) for _ in range(500)])
    top, left, height, width = boxes.T
    assert np.abs(height - width).max() <= 1
    sides = 224 * min(shape) / height
    assert sides.min() == pytest.approx(256, rel=0.02)
    assert sides.max() == pytest.approx(512, rel=0.02)
    assert sides.mean() == pytest.approx(384, rel=0.03)
    assert shape[0] - 3 < (top + height).max() <= shape[0]  # places are drawn, too
    assert shape[1] - 3 < (left + width).max() <= shape[1]
    assert max(top.min(), left.min()) < 3


def test_vgg_sides_grow_with_the_size_that_is_seen():
    rng = [np.random.default_rng(4), np.random.default_rng(4)]
    small = slim.vgg_box((3750, 5000), rng[0], (32, 32))
    large = slim.vgg_box((3750, 5000), rng[1], (224, 224))
    assert small == large


@pytest.mark.parametrize("preset", ["vgg", "inception"])
def test_slim_presets_mirror_half_of_the_images(preset):
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    options = AugmentOptions(preset=preset)
    seen = [augmented(ramp, options, seed).astype(int) for seed in range(200)]
    mirrored = np.mean([each[:, 0].sum() > each[:, -1].sum() for each in seen])
    assert mirrored == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(200))


@pytest.mark.parametrize(
    ("preset", "fraction", "stretch"),
    [("light", 1.0, False), ("vgg", 0.875, False), ("inception", 0.875, True)],
)
def test_presets_have_their_test_form(preset, fraction, stretch):
    augment = AugmentOptions(preset=preset)
    image = photo(60, 90)
    options = ReaderOptions(image_size=(35, 35))
    reader = ArrayReader([image], [0], ["x"], options=options, augment=augment)
    assert (reader.options.crop_fraction, reader.options.stretch) == (fraction, stretch)
    expected = warp(image, (35, 35), crop_fraction=fraction, stretch=stretch)
    assert np.array_equal(reader.centre(image), expected)
    given = ReaderOptions(crop_fraction=0.5, stretch=not stretch)
    assert with_test_form(given, augment) == given


def test_stretched_test_form_is_that_of_slim():
    image = photo(80, 120)
    # tf.image.central_crop: 0.875 of both sides, then a resize of both to the size.
    cut = image[5:75, 7:112].astype(np.float32)  # 7.5 is cut to whole pixels there
    expected = tf.image.resize(cut, (48, 48)).numpy()
    found = warp(image, (48, 48), crop_fraction=0.875, stretch=True)
    assert np.abs(found - expected).mean() < 1.5
    assert np.abs(found - expected).max() < 8


# Reduced decoding


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        ({"preset": "off"}, 224),
        ({"preset": "light"}, 247),  # zooms by 1.1
        ({"preset": "off", "area": (0.25, 1.0), "aspect": (1.0, 1.0)}, 448),
        ({"preset": "vgg"}, 512),
    ],
)
def test_least_side_is_what_no_crop_enlarges(augment, expected):
    options = ReaderOptions(image_size=(224, 224))
    assert least_side(options, AugmentOptions(**augment)) == expected


@pytest.mark.parametrize(
    "augment",
    [
        AugmentOptions(preset="inception"),
        AugmentOptions(preset="vgg"),
        AugmentOptions(preset="off", area=(0.08, 1.0)),
    ],
    ids=lambda options: options.preset,
)
@pytest.mark.parametrize("shape", [(1000, 1400), (1400, 1000)])
def test_no_box_of_the_least_image_is_enlarged(augment, shape):
    options = ReaderOptions(image_size=(64, 64))
    side = least_side(options, augment)
    shape = tuple(round(each * side / 1000) for each in shape)
    rng = np.random.default_rng(0)
    boxes = [crop_box(shape, rng, (64, 64), augment) for _ in range(500)]
    assert min(min(box[2:]) for box in boxes) >= 64 - 1  # whole pixels


# Options out of range


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"preset": "wild"}, r"`preset` must be one of \['off', .*preset='wild'"),
        ({"policy": "autoaugment"}, r"`policy` must be one of .*policy='autoaug"),
        ({"area": (0.0, 1.0)}, r"`area` is a least and .*area=\(0\.0, 1\.0\)"),
        ({"area": (0.5, 0.2)}, r"`area` is a least"),
        ({"area": (0.5, 1.2)}, r"`area` is .*at most 1.*area=\(0\.5, 1\.2\)"),
        ({"aspect": (2.0, 1.0)}, r"`aspect` is a least"),
        ({"erasing_area": (0.1, 1.1)}, r"`erasing_area` is a least"),
        ({"erasing": 1.1}, r"`erasing` is out of range: .*at most 1\. .*erasing=1\.1"),
        ({"mix_probability": -0.1}, r"`mix_probability` is out of range"),
        ({"mixup": -1.0}, r"`mixup` is out of range: it is at least 0\. .*mixup=-1"),
        ({"cutmix": float("nan")}, r"`cutmix` is out of range"),
        ({"hue": -0.1}, r"`hue` is out of range"),
        ({"jpeg": 101.0}, r"`jpeg` is out of range: .* at most 100\."),
        ({"blur": -1.0}, r"`blur` is out of range"),
        ({"noise": float("inf")}, r"`noise` is out of range"),
        ({"num_operations": -1}, r"`num_operations` is out of range"),
        ({"policy": "randaugment", "magnitude": 31.0}, r"`magnitude` .*at most 30\."),
        ({"policy": "augmix", "magnitude": 11.0}, r"`magnitude` .*at most 10\."),
    ],
)
def test_amounts_out_of_range(options, match):
    with pytest.raises(ValueError, match=match):
        check_amounts(AugmentOptions(**options))


def test_wide_aspects_are_allowed():
    check_amounts(AugmentOptions(aspect=(0.1, 10.0)))
    check_amounts(EVERYTHING)


@pytest.mark.parametrize("reduced", [False, True])
def test_reader_decodes_reduced_where_it_is_asked_to(tmp_path, reduced):
    data = cv2.imencode(".jpg", photo(400, 600))[1]
    (tmp_path / "a.jpg").write_bytes(data.tobytes())
    (tmp_path / "train.json").write_text('{"a.jpg": 0}')
    options = ReaderOptions((40, 40), batch_size=1, reduced_decoding=reduced)
    reader = JsonListReader(tmp_path / "train.json", ["x"], options=options)
    assert reader._load(0).shape == ((50, 75, 3) if reduced else (400, 600, 3))
    own = JsonListReader(
        tmp_path / "train.json",
        ["x"],
        options=options,
        augment=lambda image, rng: image[:40, :40],
    )
    assert own._load(0).shape == (400, 600, 3)  # nobody knows what it will see
    small = dataclasses.replace(options, max_megapixels=0.1)
    reader = JsonListReader(tmp_path / "train.json", ["x"], options=small)
    with pytest.raises(
        ValueError, match=r"a\.jpg` has 0.24 megapixels, more than the 0\.1"
    ):
        reader.train_batch(0)
