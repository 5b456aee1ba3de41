"""Views of a test image, whose answers are averaged: test-time augmentation."""

import dataclasses
import math
from typing import Literal

import numpy as np

from worklab.images import warp

_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


@dataclasses.dataclass(frozen=True)
class View:
    """One way to see a test image.

    Attributes:
        scale: Factor on the size in which it is seen; above 1 shows less of it.
        corner: Where it is cut, up and left -1, down and right 1; (0, 0) is the centre.
        flip: Whether it is mirrored left-right.
    """

    scale: float = 1.0
    corner: tuple[int, int] = (0, 0)
    flip: bool = False


CENTRE = View()
"""The view of a plain test."""


@dataclasses.dataclass(frozen=True)
class ViewOptions:
    """Views of each test image; the mean of their probabilities is its answer."""

    flip: bool = False
    """Also see each view mirrored left-right; not where that changes the class."""
    crops: Literal[1, 5] = 1
    """5: the four corners and the centre; they differ where the centre cuts off."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes in which to see it: 1.25 shows 0.8 of each side, 0.8 mirrors the edges."""

    def __post_init__(self) -> None:
        """Refuse what is no view.

        Raises:
            ValueError: If a number is out of range.
        """
        finite = all(0.1 <= scale <= 10 for scale in self.scales)
        if not self.scales or not finite or len({*self.scales}) < len(self.scales):
            raise ValueError(
                "`scales` must be numbers in 0.1..10, at least one, none of them "
                f"twice. Received: scales={self.scales}"
            )
        if self.crops not in (1, 5):
            raise ValueError(
                "`crops` must be 1, the centre, or 5, the corners as well. "
                f"Received: crops={self.crops}"
            )

    def views(self) -> list[View]:
        """Return all combinations; the plain test has one, `CENTRE`.

        Example:
            >>> len(ViewOptions(flip=True, crops=5, scales=(1.0, 1.25)).views())
            20
        """
        corners = [(0, 0), *_CORNERS] if self.crops == 5 else [(0, 0)]
        flips = [False, True] if self.flip else [False]
        return [
            View(scale, corner, flip)
            for scale in self.scales
            for corner in corners
            for flip in flips
        ]

    def name(self) -> str:
        """Return what tells the results from those of a plain test, where it is "".

        Example:
            >>> ViewOptions(flip=True, crops=5).name()
            'flip-crops5'
        """
        parts = ["flip"] if self.flip else []
        parts += [f"crops{self.crops}"] if self.crops > 1 else []
        if self.scales != (1.0,):
            parts += ["scales" + "_".join(f"{scale:g}" for scale in self.scales)]
        return "-".join(parts)


PLAIN = ViewOptions()
"""A plain test."""


def cut(
    image: np.ndarray,
    size: tuple[int, int],
    view: View,
    *,
    crop_fraction: float = 1.0,
    stretch: bool = False,
) -> np.ndarray:
    """Return what a view shows of an image, but for its mirroring.

    Args:
        image: uint8 (height, width, channels).
        size: Height and width of the result, in pixels.
        view: Its scale and its corner.
        crop_fraction: As for `images.warp`.
        stretch: As for `images.warp`.

    Returns:
        uint8 (size[0], size[1], channels).
    """
    sides = [side / length for side, length in zip(size, image.shape, strict=False)]
    factors = sides if stretch else [max(sides)] * 2
    shift = []
    for place, factor, side, length in zip(
        view.corner, factors, size, image.shape, strict=False
    ):
        # What the scaled image has beyond the cut, half on either side of the centre.
        beyond = length * factor * view.scale / crop_fraction - side
        shift.append(-place * max(0.0, beyond) / 2 / side)
    return warp(
        image,
        size,
        crop_fraction=crop_fraction,
        zoom=view.scale,
        shift=(_rounded(shift[0], size[0]), _rounded(shift[1], size[1])),
        stretch=stretch,
    )


def _rounded(shift: float, side: int) -> float:
    """Return a shift of whole pixels, towards the centre, so that none is made up."""
    return math.copysign(math.floor(abs(shift) * side + 1e-6), shift) / side
