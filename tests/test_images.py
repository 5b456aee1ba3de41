import io

import cv2
import numpy as np
import pytest

from worklab.images import adjust_colour, decode_image, warp

SIZES = [(8, 8), (7, 7), (1, 1), (2, 5)]
FLIPS = [(False, False), (False, True), (True, False), (True, True)]


def photo(height, width, channels=3):
    """Smooth colours, so that interpolation can be compared within few levels."""
    noise = np.random.default_rng(0).uniform(0, 255, (4, 5, 3))
    smooth = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    return smooth[:, :, :channels].astype(np.uint8)


def noise(height, width, channels=3):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def encode(extension, image):
    """Encode an RGB, RGBA or grey image of 8 or 16 bits."""
    if image.shape[2] >= 3:
        image = image[:, :, [2, 1, 0, 3][: image.shape[2]]]
    done, data = cv2.imencode(extension, image)
    assert done
    return data.tobytes()


def difference(one, other):
    assert one.shape == other.shape
    return np.abs(one.astype(float) - other).max()


@pytest.fixture(autouse=True)
def _seeds():
    """Nothing here is Keras's: clearing it after each test would take a minute."""


# Decoding


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tiff"])
def test_colour_order_is_rgb(extension):
    image = noise(6, 7)
    decoded = decode_image(encode(extension, image), 3, "a")
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, image)


def test_jpeg_decodes_to_nearly_the_same_pixels():
    image = photo(40, 60)
    decoded = decode_image(encode(".jpg", image), 3, "a")
    assert np.abs(decoded - image.astype(float)).mean() < 3


def test_grey_becomes_three_equal_channels():
    image = noise(6, 7, 1)
    decoded = decode_image(encode(".png", image), 3, "a")
    assert np.array_equal(decoded, np.repeat(image, 3, axis=2))


def test_grey_stays_one_channel_on_request():
    image = noise(6, 7, 1)
    assert np.array_equal(decode_image(encode(".png", image), 1, "a"), image)


def test_colour_becomes_luma_on_request():
    image = noise(6, 7)
    luma = image @ np.array([0.299, 0.587, 0.114])
    decoded = decode_image(encode(".png", image), 1, "a")
    assert difference(decoded, luma[:, :, None]) < 1.5  # libpng rounds once more


def test_alpha_is_dropped_not_blended():
    image = noise(6, 7, 4)
    decoded = decode_image(encode(".png", image), 3, "a")
    assert np.array_equal(decoded, image[:, :, :3])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_keep_the_upper_8(channels):
    image = np.random.default_rng(0).integers(0, 65536, (6, 7, channels), np.uint16)
    decoded = decode_image(encode(".png", image), 1 if channels == 1 else 3, "a")
    assert np.array_equal(decoded, (image >> 8)[:, :, :3])


def saved_by_pillow(image, mode, file_format, **settings):
    pillow = pytest.importorskip("PIL.Image")
    converted = pillow.fromarray(image).convert(mode)
    file = io.BytesIO()
    converted.save(file, file_format, **settings)
    file.seek(0)
    return file.getvalue(), np.asarray(pillow.open(file).convert("RGB"))


@pytest.mark.parametrize("settings", [{}, {"transparency": 3}])
def test_palette_becomes_colours(settings):
    data, expected = saved_by_pillow(photo(20, 30), "P", "PNG", **settings)
    assert len(np.unique(expected.reshape(-1, 3), axis=0)) > 10
    assert np.array_equal(decode_image(data, 3, "a"), expected)


def test_grey_with_alpha_becomes_three_equal_channels():
    data, expected = saved_by_pillow(photo(20, 30), "LA", "PNG")
    assert np.array_equal(decode_image(data, 3, "a"), expected)


def test_cmyk_jpeg_becomes_rgb():
    data, expected = saved_by_pillow(photo(20, 30), "CMYK", "JPEG", quality=95)
    assert expected.std() > 20
    assert difference(decode_image(data, 3, "a"), expected) <= 2  # two conversions


def with_orientation(jpeg, orientation):
    """Insert an EXIF segment that holds the orientation alone."""
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01" + bytes([0, orientation, 0, 0])
    tiff = b"MM\x00*\x00\x00\x00\x08" + b"\x00\x01" + entry + bytes(4)
    segment = b"Exif\x00\x00" + tiff
    header = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big")
    return jpeg[:2] + header + segment + jpeg[2:]


UPRIGHT = {  # what a viewer does with the pixels of a file; table of EXIF 2.3, 4.6.4
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).transpose(1, 0, 2),
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_honoured(orientation, channels):
    jpeg = encode(".jpg", photo(16, 24))
    plain = decode_image(jpeg, channels, "a")
    turned = decode_image(with_orientation(jpeg, orientation), channels, "a")
    assert np.array_equal(turned, UPRIGHT[orientation](plain))


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_image_is_an_error_with_its_name(extension, share):
    data = encode(extension, noise(20, 30))
    data = data[: int(len(data) * share)]
    match = rf"`cats/1{extension}` is not a readable image.*Received: {len(data)} bytes"
    with pytest.raises(ValueError, match=match):
        decode_image(data, 3, f"cats/1{extension}")


@pytest.mark.parametrize("seed", range(20))
def test_jpeg_whose_end_is_zeros_is_an_error(seed):
    """As a file system leaves it after a crash, here of a file with a preview."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (10, 12, 3), np.uint8), (48, 40))
    data = encode(".jpg", image)
    preview = b"\xff\xe1\x00\x0a" + b"\xff\xd8\xff\xda" + b"\x01\x01\xff\xd9"
    data = data[:2] + preview + data[2:]
    assert decode_image(data, 3, "a.jpg").shape == (40, 48, 3)
    assert decode_image(data + b"motion", 3, "a.jpg").shape == (40, 48, 3)
    zeros = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
    with pytest.raises(ValueError, match=r"`a\.jpg` is not a readable image"):
        decode_image(zeros, 3, "a.jpg")


@pytest.mark.parametrize("data", [b"", b"\x00", b"<html>not found</html>", bytes(999)])
def test_empty_file_and_garbage_are_errors_with_their_name(data):
    match = rf"`a\.png` is not .* Received: {len(data)} bytes beginning with b"
    with pytest.raises(ValueError, match=match):
        decode_image(data, 3, "a.png")


def test_damaged_png_is_an_error():
    data = bytearray(encode(".png", noise(20, 30)))
    data[len(data) // 2] ^= 255
    with pytest.raises(ValueError, match=r"`a\.png` is not a readable image"):
        decode_image(bytes(data), 3, "a.png")


# Warping by whole pixels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_defaults_change_nothing(size, channels):
    image = noise(*size, channels)
    assert np.array_equal(warp(image, size), image)


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_flips_are_exact(size, channels, flip):
    image = noise(*size, channels)
    expected = image[:: -1 if flip[0] else 1, :: -1 if flip[1] else 1]
    assert np.array_equal(warp(image, size, flip=flip), expected)


@pytest.mark.parametrize("turns", [-5, -1, 1, 2, 3, 4])
@pytest.mark.parametrize("side", [1, 7, 8])
def test_quarter_turns_are_exact_and_counter_clockwise(side, turns):
    image = noise(side, side)
    turned = warp(image, (side, side), angle=90 * turns)
    assert np.array_equal(turned, np.rot90(image, turns))


def test_flip_comes_after_the_turn():
    image = noise(8, 8)
    warped = warp(image, (8, 8), angle=90, flip=(False, True))
    assert np.array_equal(warped, np.rot90(image)[:, ::-1])


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize(
    ("shape", "side", "top", "left"),
    [((8, 8), 4, 2, 2), ((7, 7), 4, 1, 1), ((8, 8), 5, 1, 1), ((6, 9), 6, 0, 1)],
)
def test_every_turn_and_flip_sees_the_same_centre(shape, side, top, left, flip, turns):
    image = noise(*shape)
    # At scale 1 the centre is cut; where it lies between pixels, the upper left wins.
    crop = image[top : top + side, left : left + side]
    expected = np.rot90(crop, turns)[:: -1 if flip[0] else 1, :: -1 if flip[1] else 1]
    fraction = side / min(shape)
    warped = warp(
        image, (side, side), crop_fraction=fraction, angle=90 * turns, flip=flip
    )
    assert np.array_equal(warped, expected)


def shifted(image, down, right):
    height, width = image.shape[:2]
    border = max(abs(down), abs(right), 1)
    padded = np.pad(image, ((border, border), (border, border), (0, 0)), "reflect")
    rows, columns = border - down, border - right
    return padded[rows : rows + height, columns : columns + width]


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("down_right", [(0, 3), (2, 0), (-3, 1), (4, -5), (13, -17)])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_shift_moves_whole_pixels_and_reflects(size, down_right, channels, flip):
    image = noise(*size, channels)
    shift = (down_right[0] / size[0], down_right[1] / size[1])
    flipped = image[:: -1 if flip[0] else 1, :: -1 if flip[1] else 1]
    warped = warp(image, size, shift=shift, flip=flip)
    assert np.array_equal(warped, shifted(flipped, *down_right))


def test_shift_is_rounded_to_whole_pixels():
    image = noise(8, 8)
    warped = warp(image, (8, 8), shift=(0.1, -0.2))  # 0.8 and -1.6 pixels
    assert np.array_equal(warped, shifted(image, 1, -2))


# Warping between pixels


def reflected(index, size):
    index = np.abs(index) % max(1, 2 * size - 2)
    return np.where(index >= size, 2 * size - 2 - index, index)


def bilinear(image, rows, columns):
    result = 0.0
    for corner_row in (0, 1):
        for corner_column in (0, 1):
            row, column = np.floor(rows) + corner_row, np.floor(columns) + corner_column
            weight = (1 - abs(rows - row)) * (1 - abs(columns - column))
            row, column = row.astype(int), column.astype(int)
            pixels = image[
                reflected(row, image.shape[0]), reflected(column, image.shape[1])
            ]
            result += weight[:, :, None] * pixels
    return result


def reference_warp(image, size, *, scale, angle, shift, flip):
    """Place each pixel of the result about the centre, step by step, in float64."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(float)
    up = (size[0] - 1) / 2 + shift[0] * size[0] - rows
    right = columns - (size[1] - 1) / 2 - shift[1] * size[1]
    if flip[0]:
        up = -up
    if flip[1]:
        right = -right
    radius, direction = np.hypot(up, right), np.arctan2(up, right)
    direction -= np.radians(angle)  # the content turns counter-clockwise
    return bilinear(
        image,
        (image.shape[0] - 1) / 2 - radius * np.sin(direction) / scale,
        (image.shape[1] - 1) / 2 + radius * np.cos(direction) / scale,
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((40, 40), (40, 40)), ((41, 60), (32, 32)), ((50, 33), (24, 47))],
)
@pytest.mark.parametrize(
    "settings",
    [
        {"zoom": 1.3},
        {"zoom": 0.7},
        {"angle": 17.0},
        {"angle": -100.0, "flip": (False, True)},
        {"shift": (0.13, -0.21), "zoom": 1.1, "angle": 5.0},
        {"shift": (-0.1, 0.2), "zoom": 0.9, "angle": 30.0, "flip": (True, True)},
    ],
)
def test_warp_equals_a_numpy_reference(shape, size, settings, channels):
    image = photo(*shape, channels)
    warped = warp(image, size, **settings)
    settings = {"angle": 0, "shift": (0, 0), "flip": (False, False)} | settings
    scale = max(size[0] / shape[0], size[1] / shape[1]) * settings.pop("zoom", 1)
    expected = reference_warp(image, size, scale=scale, **settings)
    # OpenCV 4 rounds places to 1/32 pixel: a level or two where the slope is steep.
    assert difference(warped, expected) < 2.5
    assert np.abs(warped - expected).mean() < 0.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("shape", "crop", "size"),
    [
        ((40, 40), 40, (40, 40)),
        ((40, 64), 40, (60, 60)),  # up
        ((40, 64), 32, (50, 50)),
        ((65, 41), 41, (33, 33)),  # down
        ((40, 64), 32, (24, 24)),
        ((64, 41), 41, (21, 21)),
    ],
)
def test_centre_equals_a_resized_crop(shape, crop, size, channels):
    image = photo(*shape, channels)
    top, left = (shape[0] - crop) / 2, (shape[1] - crop) / 2
    # getRectSubPix cuts out between pixels, where the remainder is odd.
    cut = cv2.getRectSubPix(
        image, (crop, crop), (left + (crop - 1) / 2, top + (crop - 1) / 2)
    )
    expected = cv2.resize(cut, size[::-1], interpolation=cv2.INTER_LINEAR)
    warped = warp(image, size, crop_fraction=crop / min(shape))
    # The outermost pixels differ, as the crop knows nothing of its neighbours; else
    # one level for each of the two roundings.
    inner = slice(2, -2)
    assert difference(
        warped[inner, inner], expected.reshape(*size, channels)[inner, inner]
    ) <= (2 if top % 1 or left % 1 else 1)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_scale_of_a_power_of_two_averages_areas(factor):
    image = noise(16 * factor, 24 * factor)
    expected = image.reshape(16, factor, 24, factor, 3).mean(axis=(1, 3))
    # Each halving rounds once, so up to half a level for each.
    assert difference(warp(image, (16, 24)), expected) <= np.log2(factor) / 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [21, 35, 50])
def test_scaling_far_down_equals_area_averaging_nearly(side, channels):
    image = photo(301, 401, channels)
    cut = image[:, 50:351]
    expected = cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)
    warped = warp(image, (side, side))
    # Halving and then interpolating weights a square a little differently from its
    # plain mean; a centre misplaced by half a pixel would give 2 levels on average.
    inner = slice(1, -1)
    expected = expected.reshape(side, side, channels)[inner, inner]
    assert difference(warped[inner, inner], expected) < 7
    assert np.abs(warped[inner, inner] - expected.astype(float)).mean() < 0.8


def test_scaling_far_down_averages_instead_of_skipping():
    lines = np.zeros((300, 300, 1), np.uint8)
    lines[:, ::5] = 250  # 50 on average
    warped = warp(lines, (30, 30))
    assert 25 < warped.min() <= warped.max() < 75  # skipping gives 0 and 250


def test_zoom_shows_the_centre_larger():
    image = np.zeros((16, 16, 1), np.uint8)
    image[6:10, 6:10] = 255  # 4x4 in the middle
    zoomed = warp(image, (16, 16), zoom=2.0)
    assert (zoomed[5:11, 5:11] == 255).all()
    assert (zoomed >= 128).sum() == 64  # 8x8
    reduced = warp(image, (16, 16), zoom=0.5)[4:12, 4:12]  # reflections around it
    assert (reduced >= 128).sum() == 4  # 2x2


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 200)])
@pytest.mark.parametrize("zoom", [0.01, 1.0, 3.0])
def test_degenerate_sizes_are_filled(shape, zoom):
    image = np.full((*shape, 3), 77, np.uint8)
    for size in [(1, 1), (8, 8), (3, 5)]:
        warped = warp(image, size, zoom=zoom, angle=3.0, shift=(0.4, 0.4))
        assert warped.shape == (*size, 3)
        assert (warped == 77).all()


@pytest.mark.parametrize("zoom", [0.3, 1.0, 1.2])
def test_views_and_read_only_images_are_taken_and_left_alone(zoom):
    image = noise(20, 30)
    view = image[::-1, ::-2]
    view.flags.writeable = False
    before = image.copy()
    assert np.array_equal(
        warp(view, (10, 10), zoom=zoom), warp(view.copy(), (10, 10), zoom=zoom)
    )
    assert np.array_equal(image, before)


# Colour


def reference_colour(image, brightness, contrast, saturation):
    values = image.astype(float)
    luma = np.array([0.299, 0.587, 0.114] if image.shape[2] == 3 else [1.0])
    grey = (values @ luma)[:, :, None]
    values = saturation * values + (1 - saturation) * grey
    values = contrast * values + (1 - contrast) * grey.mean()
    return np.clip(brightness * values, 0, 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("brightness", "contrast", "saturation"),
    [
        (1.0, 1.0, 1.0),
        (1.3, 1.0, 1.0),
        (0.0, 1.0, 1.0),
        (1.0, 0.4, 1.0),
        (1.0, 0.0, 1.0),
        (1.0, 1.0, 1.7),
        (1.0, 1.0, 0.0),
        (0.7, 1.3, 0.7),
        (1.9, 1.9, 1.9),
    ],
)
def test_colour_equals_the_formula(channels, brightness, contrast, saturation):
    image = noise(13, 17, channels)
    adjusted = adjust_colour(
        image, brightness=brightness, contrast=contrast, saturation=saturation
    )
    expected = reference_colour(image, brightness, contrast, saturation)
    assert adjusted.dtype == np.uint8
    assert difference(adjusted, expected) <= 1  # OpenCV rounds the factors to 1/1024


def test_colour_of_ones_changes_nothing():
    image = noise(13, 17)
    assert np.array_equal(adjust_colour(image), image)
