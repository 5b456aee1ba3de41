"""What TensorBoard shows of a whole test: confusions, errors, precision and recall."""

import io
import logging
import warnings
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from worklab.curves import threshold_counts
from worklab.printing import escape_surrogates
from worklab.reader import Reader
from worklab.tester import TestResult
from worklab.writer import Writer

_MOST_NAMED = 30  # classes whose names and shares can be read
_MOST_ERRORS = 16
_MOST_CURVES = 20
_MOST_CHARACTERS = 24  # of a name beside or above a picture
_COLUMNS = 4

_logger = logging.getLogger(__name__)


def write_test(
    writer: Writer, test: TestResult, reader: Reader, *, split: str = "test"
) -> None:
    """Write the numbers and pictures of a test to a TensorBoard run of its own.

    At its step, these are loss and accuracy, the confusion matrix, the errors that the
    network was most sure of, and the precision-recall curves of the classes with most
    images, 20 at most. A picture that cannot be drawn, as an image has been deleted
    meanwhile, is missing, with a warning.

    Args:
        writer: Where to.
        test: What was found.
        reader: What was tested.
        split: Name of the TensorBoard run.
    """
    if writer.silent:
        return
    found = test.statistics
    points = {"loss": found.loss, "accuracy": found.accuracy}
    writer.write_points(test.step, points, split=split)
    images = _try("confusion matrix", lambda: draw_confusion(test))
    errors = find_errors(test)
    if len(errors):
        images |= _try(
            "most confident errors", lambda: draw_errors(test, reader, errors)
        )
    writer.write_images(test.step, images, split=split)
    counts = np.bincount(test.labels, minlength=len(test.class_names))
    chosen = np.sort(np.argsort(-counts, kind="stable")[:_MOST_CURVES])
    curves = {
        test.class_names[label]: threshold_counts(
            test.labels == label, test.probabilities[:, label]
        )
        for label in chosen
        if counts[label]
    }
    writer.write_pr_curves(test.step, curves, split=split)


def confusion(test: TestResult) -> np.ndarray:
    """Return what share of each class's images is called each class.

    Returns:
        Float (num_classes, num_classes), by label and by answer; rows of classes
        without images are 0.
    """
    size = len(test.class_names)
    counts = np.zeros((size, size))
    np.add.at(counts, (test.labels, test.predictions), 1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def find_errors(test: TestResult) -> np.ndarray:
    """Return which images were called another class, the most probable errors first.

    Returns:
        Rows of the test's arrays, integers (num_errors,), at most 16.
    """
    wrong = np.flatnonzero(test.predictions != test.labels)
    sureness = test.probabilities[wrong].max(axis=1)
    return wrong[np.argsort(-sureness, kind="stable")][:_MOST_ERRORS]


def draw_confusion(test: TestResult) -> Figure:
    """Return the confusion matrix as a figure, named where there are few classes."""
    shares, names = confusion(test), [_shorten(name) for name in test.class_names]
    is_named = len(names) <= _MOST_NAMED
    side = 3 + 0.4 * len(names) if is_named else 8
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot(xlabel="answer", ylabel="class")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if not is_named:
        return figure
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90, parse_math=False)
    axes.set_yticks(places, names, parse_math=False)
    for row, column in zip(*np.nonzero(shares), strict=True):
        share = shares[row, column]
        color = "white" if share > 0.5 else "black"
        text = f"{100 * share:.0f}"
        axes.text(column, row, text, color=color, ha="center", va="center", size=7)
    return figure


def draw_errors(test: TestResult, reader: Reader, errors: np.ndarray) -> Figure:
    """Return a figure of images, with what they are and what they were called.

    Args:
        test: What was found.
        reader: Gives the images, in their test form.
        errors: Rows of the test's arrays, integers (num_errors,), at least one.

    Raises:
        ValueError: If an image cannot be read any more.
    """
    record_of = {reader.name(number): number for number in range(len(reader))}
    num_rows = -(-len(errors) // _COLUMNS)
    figure = Figure(figsize=(2.5 * _COLUMNS, 3 * num_rows), layout="constrained")
    cells = figure.subplots(num_rows, _COLUMNS, squeeze=False).ravel()
    for cell in cells:
        cell.axis("off")
    for cell, row in zip(cells, errors, strict=False):
        image = reader.load(record_of[test.names[row]])
        if image is None:  # it has become unreadable since the test
            continue
        cell.imshow(reader.centre(image), cmap="gray", vmin=0, vmax=255)
        answer = test.predictions[row]
        name, label, called = (
            escape_surrogates(test.names[row])[-30:],
            _shorten(test.class_names[test.labels[row]]),
            _shorten(test.class_names[answer]),
        )
        share = test.probabilities[row, answer]
        title = f"{name}\n{label}, called\n{called} ({share:.1%})"
        cell.set_title(title, size=8, parse_math=False)
    return figure


def _try(name: str, draw: Callable[[], Figure]) -> dict[str, np.ndarray]:
    """Return a picture by its name; nothing, and a warning, if it cannot be drawn."""
    try:
        return {name: _pixels(draw())}
    except Exception as error:  # whatever it is, the test has been made
        _logger.warning(
            "the picture `%s` of the test could not be drawn; all else is complete. "
            "Received: %s: %s",
            name,
            type(error).__name__,
            error,
        )
    return {}


def _shorten(name: str) -> str:
    """Return a name that has room, with its beginning and end."""
    name, half = escape_surrogates(name), _MOST_CHARACTERS // 2
    if len(name) <= _MOST_CHARACTERS:
        return name
    return f"{name[: half - 1]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


def _pixels(figure: Figure) -> np.ndarray:
    """Return a figure as images, uint8 (1, height, width, 3)."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # A character that the font has not is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))[np.newaxis]
