import struct

import cv2
import numpy as np
import pytest

from worklab.image_headers import is_plain_jpeg, read_size
from worklab.images import decode_image

from .test_images import encode, noise, photo, saved_by_pillow, with_orientation


@pytest.fixture(autouse=True)
def _seeds():
    """Nothing here is Keras's: clearing it after each test would take seconds."""


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (513, 20)])
@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_size_is_that_of_the_pixels(extension, shape, channels):
    assert read_size(encode(extension, noise(*shape, channels))) == shape


@pytest.mark.parametrize(
    ("file_format", "settings"),
    [
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"lossless": False}),
        ("WEBP", {"exif": b"Exif\0\0" + bytes(8)}),  # the extended form, VP8X
        ("JPEG", {"progressive": True}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_size_in_other_forms_of_a_file(file_format, settings):
    mode = "P" if file_format == "GIF" else "RGB"
    data, expected = saved_by_pillow(photo(23, 41), mode, file_format, **settings)
    assert read_size(data) == expected.shape[:2] == (23, 41)


def test_size_comes_after_segments_and_filling():
    jpeg = encode(".jpg", noise(9, 11))
    filled = jpeg[:2] + b"\xff" + with_orientation(jpeg, 6)[2:]
    assert read_size(filled) == (9, 11)


def test_bitmap_from_top_to_bottom_has_a_negative_height():
    header = b"BM" + bytes(12) + struct.pack("<Iii", 40, 5, -4)
    assert read_size(header) == (4, 5)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_any_beginning_and_any_damage_is_a_size_or_none(extension):
    data = encode(extension, noise(9, 11))
    rng = np.random.default_rng(0)
    for length in range(min(len(data), 200)):
        assert read_size(data[:length]) in (None, (9, 11))
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(0, min(len(data), 60), 4):
            damaged[place] = rng.integers(256)
        assert read_size(bytes(damaged)) is None or len(read_size(bytes(damaged))) == 2


def test_other_files_have_no_size():
    assert read_size(b"") is None
    assert read_size(b"<html></html>") is None
    assert read_size(b"\xff\xd8\xff\xd9") is None


def bomb(width, height):
    """Return a small PNG file that claims a size."""
    data = bytearray(encode(".png", noise(2, 2)))
    data[16:24] = struct.pack(">II", width, height)
    return bytes(data)


def test_image_of_too_many_pixels_is_refused_by_its_header():
    match = (
        r"`a\.png` has 400 megapixels, more than the 100 .*`--reader.max-megapixels`.*"
        r"Received: 20000x20000 pixels in \d+ bytes$"
    )
    with pytest.raises(ValueError, match=match):
        decode_image(bomb(20000, 20000), 3, "a.png")


def test_limit_of_pixels_is_an_option():
    data = encode(".png", noise(40, 50))
    assert decode_image(data, 3, "a", max_megapixels=0.002).shape == (40, 50, 3)
    with pytest.raises(
        ValueError, match="has 0.002 megapixels, more than the 0.0019 that"
    ):
        decode_image(data, 3, "a", max_megapixels=0.0019)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("least", "factor"), [(None, 1), (33, 1), (32, 2), (17, 2), (16, 4), (8, 8), (1, 8)]
)
def test_jpeg_is_reduced_while_the_shorter_side_suffices(channels, least, factor):
    data = encode(".jpg", photo(64, 96))
    whole = decode_image(data, channels, "a")
    reduced = decode_image(data, channels, "a", least_side=least)
    assert reduced.shape == (64 // factor, 96 // factor, channels)
    size = (96 // factor, 64 // factor)
    mean = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    mean = mean.reshape(reduced.shape)
    assert np.abs(mean.astype(float) - reduced).mean() < 1.5  # and RGB stays RGB


def test_reduced_jpeg_is_turned_upright():
    jpeg = encode(".jpg", photo(64, 96))
    plain = decode_image(jpeg, 3, "a", least_side=32)
    turned = decode_image(with_orientation(jpeg, 6), 3, "a", least_side=32)
    assert np.array_equal(turned, np.rot90(plain, -1))


def test_other_formats_are_never_reduced():
    data = encode(".png", photo(64, 96))
    assert decode_image(data, 3, "a", least_side=8).shape == (64, 96, 3)


# Two decoders


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [10, 75, 97])
@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("subsampling", ["420", "422", "440", "444"])
def test_both_decoders_of_jpeg_give_the_same_pixels(
    channels, quality, progressive, subsampling
):
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{subsampling}")
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR]
    settings += [factor, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    image = photo(77, 91, channels) // 2 + noise(77, 91, channels) // 4
    _, data = cv2.imencode(".jpg", image, settings)
    assert is_plain_jpeg(data.tobytes())
    for wanted, flag in ((3, cv2.IMREAD_COLOR_RGB), (1, cv2.IMREAD_GRAYSCALE)):
        found = decode_image(data.tobytes(), wanted, "a")
        expected = cv2.imdecode(data, flag).reshape(77, 91, wanted)
        assert np.array_equal(found, expected)


def test_jpeg_of_other_colours_or_rotation_is_not_plain():
    assert not is_plain_jpeg(with_orientation(encode(".jpg", noise(9, 11)), 6))
    assert not is_plain_jpeg(saved_by_pillow(photo(9, 11), "CMYK", "JPEG")[0])
    assert not is_plain_jpeg(encode(".png", noise(9, 11)))
    assert not is_plain_jpeg(b"")
    assert not is_plain_jpeg(encode(".jpg", noise(9, 11))[:30])
