"""One page of what a network will see: images as they are, in tests and in training."""

import dataclasses
import html
from collections.abc import Mapping, Sequence

import numpy as np

from worklab.reader import Reader
from worklab.thumbnails import LARGEST_PNG, data_uri, fitted

_LARGEST_ORIGINAL = 320

_STYLE = """
body { font: 15px/1.4 sans-serif; margin: 2em; color: #222; background: #fff }
table { border-collapse: collapse; margin-bottom: 2em }
th, td { padding: 3px 6px; text-align: left; font-weight: normal; font-size: 13px }
th { color: #666; border-bottom: 1px solid #ccc }
img { display: block; min-width: 96px; image-rendering: pixelated }
.large img { image-rendering: auto }
"""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Forms of one image.

    Attributes:
        name: What the reader calls it.
        original: uint8, as it was loaded.
        tested: uint8 of `reader.image_shape`, as a test shows it.
        trained: The same, as the first epochs of training show it.
    """

    name: str
    original: np.ndarray
    tested: np.ndarray
    trained: Sequence[np.ndarray]


def take_samples(
    reader: Reader, *, num_images: int, num_draws: int, num_classes: int
) -> dict[str, list[Sample]]:
    """Return some images of each class, in all their forms.

    Classes and images are chosen evenly over their lists. The augmented forms are
    those that training with the same options and seed shows in its first epochs.

    Args:
        reader: Whose images.
        num_images: Of each class, at most.
        num_draws: Epochs.
        num_classes: Classes, at most.

    Raises:
        ValueError: If a number is below 1, or an image cannot be read and the reader
            does not skip it.
    """
    if min(num_images, num_draws, num_classes) < 1:
        raise ValueError(
            "`num_images`, `num_draws` and `num_classes` must be at least 1. Received: "
            f"num_images={num_images}, num_draws={num_draws}, num_classes={num_classes}"
        )
    chosen = {}
    for label in _evenly(len(reader.class_names), num_classes):
        members = np.flatnonzero(reader.labels == label)
        places = _evenly(len(members), num_images)
        chosen[reader.class_names[label]] = [int(members[place]) for place in places]
    records = [record for numbers in chosen.values() for record in numbers]
    # By epochs, as the order of an epoch costs something where records are many.
    trained = {
        (record, epoch): reader.training_form(record, epoch)
        for epoch in range(num_draws)
        for record in records
    }
    samples: dict[str, list[Sample]] = {name: [] for name in chosen}
    for name, numbers in chosen.items():
        for record in numbers:
            original = reader.load(record)
            draws = [trained[record, epoch] for epoch in range(num_draws)]
            shown = [draw for draw in draws if draw is not None]
            if original is not None:
                tested = reader.centre(original)
                sample = Sample(reader.name(record), original, tested, shown)
                samples[name].append(sample)
    return samples


def make_page(
    title: str,
    samples: Mapping[str, Sequence[Sample]],
    counts: Mapping[str, int],
    notes: Sequence[str] = (),
) -> str:
    """Return an HTML page of samples that needs no other file.

    Args:
        title: Of the page.
        samples: By class, as `take_samples` gives them.
        counts: Images of each class.
        notes: Paragraphs that come first.
    """
    parts = [f"<p>{html.escape(note)}</p>" for note in notes]
    for name, rows in samples.items():
        parts.append(f"<h2>{html.escape(name)} ({counts[name]} images)</h2>")
        if rows:
            parts.append(_table(rows))
    title, body = html.escape(title), "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{title}</h1>\n{body}\n</body></html>\n"
    )


def make_strips(samples: Sequence[Sample]) -> np.ndarray:
    """Return samples of one class as strips: the test form, then those of training.

    Returns:
        uint8 (num_samples, height, width, channels).
    """
    return np.array(
        [np.concatenate([each.tested, *each.trained], axis=1) for each in samples]
    )


def _evenly(number: int, most: int) -> list[int]:
    """Return at most so many of the numbers below `number`, evenly spread."""
    return np.linspace(0, number - 1, min(number, most)).round().astype(int).tolist()


def _table(samples: Sequence[Sample]) -> str:
    draws = range(1, 1 + max(len(sample.trained) for sample in samples))
    titles = ["file", "as it is", "in a test", *(f"epoch {n}" for n in draws)]
    head = "".join(f"<th>{title}</th>" for title in titles)
    lines = [f"<tr>{head}</tr>"]
    for sample in samples:
        height, width = sample.original.shape[:2]
        name = f"{html.escape(sample.name)}<br>{width}x{height}"
        original = fitted(sample.original, _LARGEST_ORIGINAL)
        images = [original, sample.tested, *sample.trained]
        cells = "".join(f'<td><img src="{data_uri(image)}"></td>' for image in images)
        lines.append(f"<tr><td>{name}</td>{cells}</tr>")
    large = max(samples[0].tested.shape[:2]) > LARGEST_PNG
    return f'<table class="{"large" if large else "small"}">{"".join(lines)}</table>'
