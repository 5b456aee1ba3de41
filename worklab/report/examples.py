"""Which images of a test a report shows."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from worklab.reader import Reader
from worklab.tester import TestResult
from worklab.thumbnails import data_uri, fitted

_MOST_OF_A_KIND = 24
_MOST_ANSWERS = 5

# Longer sides of the pictures in pixels, of which the first is taken where all of them
# together are small enough to be sent, and how many there are at most.
_SIDES = (160, 112, 80, 56, 40, 28, 20)
_MOST_LETTERS = 1_500_000
_MOST_PICTURES = 1500
_QUALITY = 80


@dataclasses.dataclass(frozen=True)
class Example:
    """An image of a test, and what it was taken for.

    Attributes:
        image: Its name.
        label: Its class.
        answers: The most probable classes with their probabilities 0..1, falling.
        label_probability: That of its class.
        loss: Of the image.
        picture: It, as the source of an `<img>`; None: it cannot be read any more.
    """

    image: str
    label: str
    answers: list[tuple[str, float]]
    label_probability: float
    loss: float
    picture: str | None

    @property
    def is_right(self) -> bool:
        """Whether the most probable class is its own."""
        return self.answers[0][0] == self.label


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images that show what is right and wrong.

    Attributes:
        errors: Wrong answers, those with the highest probability first.
        hits: Right answers, those with the lowest probability first.
        classes: Of each class in label order that has images the one whose own
            probability is in the middle of theirs.
        num_missing: How many of all these have no picture.
    """

    errors: list[Example] = dataclasses.field(default_factory=list)
    hits: list[Example] = dataclasses.field(default_factory=list)
    classes: list[Example] = dataclasses.field(default_factory=list)
    num_missing: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them, without pictures."""
        content = dataclasses.asdict(self)
        for name in ("errors", "hits", "classes"):
            for example in content[name]:
                del example["picture"]
        return content


def choose_examples(test: TestResult, reader: Reader | None) -> Examples:
    """Return images of a test that show what is right and wrong.

    Args:
        test: At least one image.
        reader: Of the tested split, to find images by their names; None: the images
            are shown without pictures.
    """
    right = test.predictions == test.labels
    by_confidence = _by_confidence(test)
    chosen = {
        "errors": by_confidence[~right[by_confidence]][::-1][:_MOST_OF_A_KIND].tolist(),
        "hits": by_confidence[right[by_confidence]][:_MOST_OF_A_KIND].tolist(),
        "classes": [*_typical_images(test)],
    }
    places = dict.fromkeys(place for each in chosen.values() for place in each)
    pictures = _pictures(test, reader, [*places][:_MOST_PICTURES])
    examples = {
        kind: [_example(test, place, pictures.get(place)) for place in each]
        for kind, each in chosen.items()
    }
    return Examples(**examples, num_missing=len(places) - len(pictures))


def _by_confidence(test: TestResult) -> np.ndarray:
    # By name where equal, so that the order of the test says nothing.
    names = np.array(test.names)
    return np.lexsort((names, test.probabilities.max(axis=1)))


def _typical_images(test: TestResult) -> Iterator[int]:
    own = test.probabilities[np.arange(len(test.labels)), test.labels]
    order = np.lexsort((np.array(test.names), own, test.labels))
    labels = test.labels[order]
    for label in range(len(test.class_names)):
        start, end = np.searchsorted(labels, [label, label + 1])
        if start < end:
            yield int(order[(start + end) // 2])


def _pictures(
    test: TestResult, reader: Reader | None, places: list[int]
) -> dict[int, str]:
    if reader is None:
        return {}
    wanted = {test.names[place] for place in places}
    records = {
        name: record
        for record in range(len(reader))
        if (name := reader.name(record)) in wanted
    }
    images = {}
    for place in places:
        record = records.get(test.names[place])
        try:
            image = None if record is None else reader.load(record)
        except (OSError, ValueError):  # the list is there, the image is not
            image = None
        if image is not None:
            images[place] = fitted(image, _SIDES[0])
    return _encode(images)


def _encode(images: Mapping[int, np.ndarray]) -> dict[int, str]:
    """Return images as sources of `<img>`, as large as there is room for."""
    pictures: dict[int, str] = {}
    for side in _SIDES:
        pictures.clear()
        for place, image in images.items():
            small = fitted(image, side)
            # Only small images are sharp to the pixel; a photograph never was.
            lossless = None if small is image else False
            pictures[place] = data_uri(small, quality=_QUALITY, lossless=lossless)
        if sum(map(len, pictures.values())) <= _MOST_LETTERS:
            break
    return pictures


def _example(test: TestResult, place: int, picture: str | None) -> Example:
    probabilities, label = test.probabilities[place], test.labels[place]
    answers = np.argsort(-probabilities, kind="stable")[:_MOST_ANSWERS]
    return Example(
        image=test.names[place],
        label=test.class_names[label],
        answers=[(test.class_names[n], float(probabilities[n])) for n in answers],
        label_probability=float(probabilities[label]),
        loss=float(test.losses[place]),
        picture=picture,
    )
