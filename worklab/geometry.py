"""Where the operations that move pixels take the points and boxes of an image.

Places are (x, y) in pixels from the upper left corner of the image; the centre of the
first pixel is (0.5, 0.5).
"""

from collections.abc import Sequence

import numpy as np


def matrix_of(inverse: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the matrix of an operation from what `images.warp_affine` takes.

    Args:
        inverse: (2, 3); maps column, row and 1 of the result to those of the image.

    Returns:
        float64 (2, 3), for `move_points`: places of the image to those of the result.
    """
    corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    whole = corner @ np.array([*inverse, (0, 0, 1)]) @ np.linalg.inv(corner)
    return np.linalg.inv(whole)[:2]


def move_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return where points are after an operation.

    Args:
        points: (..., 2), each (x, y).
        matrix: (2, 3), as `images.warp_matrix` returns it.

    Returns:
        float64 (..., 2); those that have left the image lie outside of it.

    Example:
        >>> from worklab.images import warp_matrix
        >>> matrix = warp_matrix((8, 8), (8, 8), flip=(False, True))
        >>> move_points(np.array([1.0, 2.0]), matrix).tolist()
        [7.0, 2.0]
    """
    return np.asarray(points, float) @ matrix[:, :2].T + matrix[:, 2]


def move_boxes(
    boxes: np.ndarray, matrix: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Return the boxes around what boxes hold after an operation.

    A turned box grows: the result is upright and has all four corners inside.

    Args:
        boxes: (..., 4), each left, top, right, bottom.
        matrix: (2, 3), as `images.warp_matrix` returns it.
        size: Height and width of the result; boxes are cut off there.

    Returns:
        float64 (..., 4); a box that has left the image has no area.
    """
    boxes = np.asarray(boxes, float)
    corners = boxes[..., [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (..., 4, 2)
    moved = np.clip(move_points(corners, matrix), 0, (size[1], size[0]))
    return np.concatenate([moved.min(axis=-2), moved.max(axis=-2)], axis=-1)
