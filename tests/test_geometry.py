import numpy as np
import pytest

from worklab.geometry import matrix_of, move_boxes, move_points
from worklab.images import warp, warp_affine, warp_matrix
from worklab.published_policies import PLACES

SETTINGS = [
    {},
    {"flip": (False, True)},
    {"flip": (True, True)},
    {"angle": 90.0},
    {"angle": 17.0, "zoom": 1.2},
    {"shift": (0.1, -0.2)},
    {"crop_fraction": 0.8, "zoom": 0.9, "angle": -8.0, "flip": (True, False)},
    {"stretch": True},
    {"stretch": True, "angle": 12.0, "flip": (False, True)},
]


@pytest.fixture(autouse=True)
def _seeds():
    """Nothing here is Keras's: clearing it after each test would take seconds."""


def centre_of_mass(image):
    """Return the place (x, y) of a blob, in pixels from the corner."""
    weights = image[:, :, 0].astype(float)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


def blob(shape, x, y, sigma):
    """Return a black image with a soft round spot."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    square = (columns - x) ** 2 + (rows - y) ** 2
    return np.uint8(250 * np.exp(-square / 2 / sigma**2))[:, :, None]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(
    ("shape", "size"), [((120, 160), (96, 96)), ((401, 300), (64, 96))]
)
def test_points_go_where_their_pixels_go(shape, size, settings):
    place = np.array([shape[1] * 0.55, shape[0] * 0.45])
    spot = blob(shape, *place, 0.03 * min(shape))
    found = centre_of_mass(warp(spot, size, **settings))
    expected = move_points(place, warp_matrix(shape, size, **settings))
    # A tenth of a pixel from rounding to levels; halving drops a row where odd.
    np.testing.assert_allclose(found, expected, atol=0.15)


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        ("shear_x", 0.2),
        ("shear_y", -0.1),
        ("translate_x", 7.0),
        ("translate_y", -5.0),
        ("rotate", 25.0),
    ],
)
def test_points_go_where_the_operations_of_policies_take_them(name, amount):
    spot = blob((64, 64), 30.0, 36.0, 2.5)
    inverse = PLACES[name](spot.shape, amount)
    found = centre_of_mass(warp_affine(spot, inverse, (64, 64), fill=0))
    moved = move_points(np.array([30.0, 36.0]), matrix_of(inverse))
    np.testing.assert_allclose(found, moved, atol=0.1)


def test_boxes_are_moved_with_their_corners_and_cut_off():
    boxes = np.array([[10.0, 20.0, 30.0, 40.0], [60.0, 70.0, 80.0, 90.0]])
    flip = warp_matrix((100, 100), (50, 50), flip=(False, True))
    assert move_boxes(boxes, flip, (50, 50)).tolist() == [
        [35, 10, 45, 20],
        [10, 35, 20, 45],
    ]
    turn = warp_matrix((100, 100), (100, 100), angle=90)  # counter-clockwise
    assert move_boxes(boxes[0], turn, (100, 100)).tolist() == [20, 70, 40, 90]
    zoom = warp_matrix((100, 100), (100, 100), zoom=2.0)  # sees 25 to 75
    assert move_boxes(boxes, zoom, (100, 100)).tolist() == [
        [0, 0, 10, 30],
        [70, 90, 100, 100],
    ]


def test_box_that_leaves_the_image_has_no_area():
    zoom = warp_matrix((100, 100), (100, 100), zoom=2.0)
    left, top, right, bottom = move_boxes([0, 0, 20, 20], zoom, (100, 100))
    assert (right - left) * (bottom - top) == 0


def test_box_grows_around_what_is_turned():
    turn = warp_matrix((100, 100), (100, 100), angle=45)
    box = move_boxes([40, 40, 60, 60], turn, (100, 100))
    half = 10 * np.sqrt(2)
    np.testing.assert_allclose(box, [50 - half, 50 - half, 50 + half, 50 + half])
