"""MixUp and CutMix: images of a batch mixed in pairs, and their labels with them.

Neighbouring rows are partners: 0 and 1, 2 and 3, ... As an epoch is shuffled, that is
as random as any other pairing, and a part of a batch needs at most two rows of its
neighbours. Which rows are mixed, how, and by how much, is drawn for the whole batch
from (seed, step), so a part of it is mixed as in the whole.
"""

import dataclasses
from collections.abc import Mapping

import cv2
import numpy as np

from worklab.options import AugmentOptions


@dataclasses.dataclass(frozen=True)
class Mix:
    """How the rows of a batch are mixed with their partners.

    Attributes:
        shares: What a row keeps of its own image, float32 (batch,); 1: it is not mixed.
        boxes: What CutMix pastes, int64 (batch, 4): upper row, left column, lower row,
            right column; an empty box where there is MixUp, or nothing.
    """

    shares: np.ndarray
    boxes: np.ndarray

    def of_rows(self, rows: np.ndarray) -> "Mix":
        """Return how some of the rows are mixed."""
        return Mix(self.shares[rows], self.boxes[rows])


def partners(size: int) -> np.ndarray:
    """Return the partner of each row of a batch, int64 (size,).

    Example:
        >>> partners(5).tolist()
        [1, 0, 3, 2, 3]
    """
    others = np.arange(size) ^ 1
    others[others >= size] = max(0, size - 2)  # the last of an odd number
    return others


def draw_mix(
    options: AugmentOptions,
    size: int,
    image_size: tuple[int, int],
    rng: np.random.Generator,
) -> Mix:
    """Draw how the rows of a batch are mixed.

    Args:
        options: `mixup`, `cutmix` and `mix_probability`.
        size: Rows of the whole batch.
        image_size: Height and width of the images.
        rng: The only source of chance.

    Source: Zhang et al., mixup, 2017, section 2 (the share is Beta(alpha, alpha)); Yun
    et al., CutMix, 2019, section 3 (equation 2: the box and its place). Both papers
    draw once for a batch; here each row draws for itself.
    """
    height, width = image_size
    mixed = rng.uniform(size=size) < options.mix_probability
    cut = rng.uniform(size=size) < 0.5 if options.mixup else np.ones(size, bool)
    cut &= options.cutmix > 0
    blends = rng.beta(options.mixup or 1, options.mixup or 1, size)
    cuts = rng.beta(options.cutmix or 1, options.cutmix or 1, size)
    side = np.sqrt(1 - cuts)
    rows, columns = rng.uniform(0, height, size), rng.uniform(0, width, size)
    boxes = np.stack(
        [
            rows - side * height / 2,
            columns - side * width / 2,
            rows + side * height / 2,
            columns + side * width / 2,
        ],
        axis=1,
    )
    boxes = np.clip(np.rint(boxes), 0, [height, width, height, width]).astype(int)
    pasted = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    boxes[~(mixed & cut) | (pasted == 0)] = 0
    shares = np.where(cut, 1 - pasted / (height * width), blends)
    return Mix(np.where(mixed, shares, 1.0).astype(np.float32), boxes)


def mix_images(images: np.ndarray, others: np.ndarray, mix: Mix) -> np.ndarray:
    """Return images mixed with those of their partners, uint8 as they are.

    Args:
        images: uint8 (rows, height, width, channels).
        others: The partner of each, of the same shape.
        mix: How, for these rows.
    """
    mixed = images.copy()
    for row, share in enumerate(mix.shares):
        top, left, bottom, right = mix.boxes[row]
        if bottom > top:
            mixed[row, top:bottom, left:right] = others[row, top:bottom, left:right]
        elif share < 1:
            blended = cv2.addWeighted(
                images[row], float(share), others[row], 1 - float(share), 0
            )
            mixed[row] = blended.reshape(images[row].shape)
    return mixed


def mix_rows(
    whole: Mapping[str, np.ndarray],
    rows: np.ndarray,
    others: np.ndarray,
    shares: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return some rows of a batch, but for its images, after they were mixed.

    Where images weigh differently in the loss, each label of a mix keeps the weight of
    its image: `weights` is the sum, `mix` the part of it that the own label has.

    Args:
        whole: The whole batch without its images.
        rows: Which rows, int64 (n,).
        others: The partner of each, int64 (n,).
        shares: What each keeps of its own image, float32 (n,).
    """
    batch = {name: values[rows] for name, values in whole.items()}
    own, other = (whole["weights"][each] for each in (rows, others))
    batch["weights"] = shares * own + (1 - shares) * other
    batch["mixed_labels"] = whole["labels"][others]
    batch["mix"] = shares * own / batch["weights"]
    if "features" in whole:
        share = shares[:, None]
        of_others = whole["features"][others]
        batch["features"] = share * batch["features"] + (1 - share) * of_others
    return batch
