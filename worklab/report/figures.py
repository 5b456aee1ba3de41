"""The charts of a report, as data and layout that Plotly draws in the browser.

Colours of text, grid and background are the page's, so that they follow its theme.
"""

import collections
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.cluster import hierarchy

from worklab.calibration import Reliability
from worklab.report.contents import Contents
from worklab.report.texts import shown
from worklab.report_statistics import ClassStatistics, DetailedStatistics
from worklab.run_summaries import Points

Chart = dict[str, Any]
"""`data` and `layout` of a Plotly figure."""

# On white and on black at least 3:1, and far from each other: after Okabe and Ito 2008.
_COLOURS = (
    *("#2a7fc1", "#d9691e", "#1f9b72", "#c25c9c"),
    *("#a8821a", "#7f6fd3", "#cf4b4b", "#5c8a1e"),
)
_GREY = "#8a8f98"

_MOST_POINTS = 1000  # of a line; a screen shows no more
MOST_CURVES = 20  # classes of a chart; more cannot be told apart
_MOST_NAMED = 60  # classes that have room for their names on an axis
_MOST_WRITTEN = 15  # classes whose confusion has room for its counts
_LONGEST_NAME = 24
_NO_WIDTH = "\N{ZERO WIDTH SPACE}"

_RATES = ("false_positive_rate", "true_positive_rate")

_TITLES = {"loss": "loss", "accuracy": "accuracy"}


def make_charts(contents: Contents) -> dict[str, Chart]:
    """Return the charts of a report by their names in the page, those with content."""
    charts: dict[str, Chart] = {}
    for chart, title in _TITLES.items():
        charts[chart] = training_chart(contents, chart, title)
    rates = contents.layers.get("learning_rate")
    if not rates:
        points = contents.curves.get("train", {}).get("learning_rate", {})
        rates = {"learning rate": points} if points else {}
    charts["learning_rate"] = layer_chart(rates, "learning rate", contents)
    ratios = contents.layers.get("update_to_weight", {})
    charts["update_to_weight"] = layer_chart(ratios, "update to weight", contents)
    found = contents.statistics
    if found is not None:
        charts["confusion"] = confusion_chart(
            found.statistics.confusion, contents.class_names
        )
        if found.groups is not None:
            groups = found.groups
            charts["groups"] = confusion_chart(groups.confusion, groups.names)
        charts["roc"] = roc_chart(found.classes)
        charts["precision_recall"] = precision_recall_chart(found.classes)
        charts["reliability"] = reliability_chart(found)
    charts["class_counts"] = class_counts_chart(
        contents.class_counts, contents.class_names
    )
    return {name: chart for name, chart in charts.items() if chart["data"]}


def training_chart(contents: Contents, chart: str, title: str) -> Chart:
    """Return loss or accuracy by step, of each split, with decays and the best step."""
    data, best = [], contents.summary.best_step
    for number, split in enumerate(["train", "valid"]):
        points = contents.curves.get(split, {}).get(chart, {})
        if points:
            line = {"width": 2 if split == "valid" else 1.5, "color": _COLOURS[number]}
            data.append(_line(split, points, line=line))
    best_points = contents.curves.get("valid", {}).get(chart, {})
    if best in best_points:
        data.append(
            {
                "name": "best",
                "x": [best],
                "y": [_short(best_points[best])],
                "mode": "markers",
                "marker": {"symbol": "star", "size": 14, "color": _COLOURS[4]},
            }
        )
    layout = _layout("step", title, logarithmic=chart == "loss" and _spans(data))
    return {"data": data, "layout": layout | _decay_marks(contents)}


def layer_chart(groups: Mapping[str, Points], title: str, contents: Contents) -> Chart:
    """Return a number of each layer group by step; a group that is 0 is not drawn.

    A group has the same colour in every chart.
    """
    order = [*contents.layers.get("learning_rate", groups)]
    data: list[dict[str, Any]] = []
    for name, points in groups.items():
        learning = {step: value for step, value in points.items() if value}
        if learning and len(data) < MOST_CURVES:
            style = _line_style(order.index(name) if name in order else len(data))
            data.append(_line(name, learning, line=style))
    layout = _layout("step", title, logarithmic=_spans(data))
    return {"data": data, "layout": layout | _decay_marks(contents)}


def confusion_chart(
    confusion: Sequence[Sequence[int]], class_names: Sequence[str]
) -> Chart:
    """Return a confusion matrix, and orders of the classes to choose from.

    The entry `matrix` has the counts that are not 0 as rows, columns and counts, and
    the orders by name, the first of which is shown first; the page makes the heat map
    of the one that is chosen.
    """
    counts = np.array(confusion)
    rows, columns = np.nonzero(counts)
    support = counts.sum(axis=1)
    recall = np.diag(counts) / np.maximum(support, 1)
    orders = {
        "class order": np.arange(len(class_names)),
        "recall, lowest first": np.argsort(
            np.where(support > 0, recall, 2), kind="stable"
        ),
        "images, most first": np.argsort(-support, kind="stable"),
        "name": np.array(sorted(range(len(class_names)), key=lambda n: class_names[n])),
        "confused classes together": _cluster(counts),
    }
    if len(class_names) > _MOST_NAMED:  # the page shows the first so many at a time
        orders = {"recall, lowest first": orders["recall, lowest first"]} | orders
    axis = {"type": "category", "showgrid": False, "ticks": ""}
    return {
        "data": [{"type": "heatmap"}],
        "layout": {
            "xaxis": axis | {"title": {"text": "called"}, "tickangle": -45},
            "yaxis": axis
            | {"title": {"text": "is", "standoff": 12}, "autorange": "reversed"},
        },
        "matrix": {
            "names": _categories(class_names),
            "rows": rows.tolist(),
            "columns": columns.tolist(),
            "counts": counts[rows, columns].tolist(),
            "orders": {name: order.tolist() for name, order in orders.items()},
            "mostNamed": _MOST_NAMED,
            "mostWritten": _MOST_WRITTEN,
        },
    }


def roc_chart(classes: Sequence[ClassStatistics]) -> Chart:
    """Return the ROC curves, of the classes with the smallest areas where many."""
    data = _class_curves(classes, "roc", "roc_auc", _RATES)
    if data:
        data.append(_diagonal("chance"))
    titles = ("false positive rate", "true positive rate")
    return {"data": data, "layout": _unit_layout(*titles)}


def precision_recall_chart(classes: Sequence[ClassStatistics]) -> Chart:
    """Return the precision-recall curves, of the classes with the smallest areas."""
    axes = ("recall", "precision")
    data = _class_curves(classes, "precision_recall", "average_precision", axes)
    return {"data": data, "layout": _unit_layout(*axes)}


def reliability_chart(found: DetailedStatistics) -> Chart:
    """Return accuracy by confidence, before and after the temperature."""
    data = [
        _reliability("as it is", found.calibration.equal_width, _COLOURS[0], "circle")
    ]
    temperature = found.temperature
    if temperature is not None and temperature.after is not None:
        name = f"at temperature {temperature.temperature:.3g}"
        after = temperature.after.equal_width
        data.append(_reliability(name, after, _COLOURS[1], "diamond"))
    data.append(_diagonal("perfect"))
    return {"data": data, "layout": _unit_layout("confidence", "accuracy")}


def class_counts_chart(
    class_counts: Mapping[str, Sequence[int]], class_names: Sequence[str]
) -> Chart:
    """Return how many images each class has in each split, the largest class first."""
    first: Sequence[int] = next(iter(class_counts.values()), ())
    order = sorted(range(len(first)), key=lambda n: (-first[n], n))
    named, names = len(class_names) <= _MOST_NAMED, _categories(class_names)
    data = [
        {
            "type": "bar",
            "name": split,
            "x": [names[n] for n in order],
            "y": [counts[n] for n in order],
            "marker": {"color": _COLOURS[number], "line": {"width": 0}},
        }
        for number, (split, counts) in enumerate(class_counts.items())
    ]
    layout = _layout("", "images", logarithmic=False)
    axis = {"type": "category", "showticklabels": named, "showgrid": False}
    layout["xaxis"] = axis | {"title": {"text": "" if named else "class"}}
    layout |= {"barmode": "group", "bargap": 0.2 if named else 0}
    return {"data": data, "layout": layout}


def _line(name: str, points: Points, **style: Any) -> dict[str, Any]:
    steps = _thinned(points)
    return {
        "name": _safe(name),
        "x": steps,
        "y": [_short(points[step]) for step in steps],
        "mode": "lines+markers" if len(steps) == 1 else "lines",
        **style,
    }


def _thinned(points: Points) -> list[int]:
    """Return the steps to draw: of each stretch its lowest and its highest value."""
    steps = sorted(points)
    if len(steps) <= _MOST_POINTS:
        return steps
    chosen = {steps[0], steps[-1]}
    for stretch in np.array_split(np.array(steps), _MOST_POINTS // 2 - 1):
        values = np.nan_to_num([points[step] for step in stretch.tolist()])
        chosen |= {int(stretch[values.argmin()]), int(stretch[values.argmax()])}
    return sorted(chosen)


def _class_curves(
    classes: Sequence[ClassStatistics], curve: str, area: str, axes: tuple[str, str]
) -> list[dict[str, Any]]:
    """Return a line for each class that has a curve, named with its area.

    Args:
        classes: Of which the worst are drawn, where there are too many.
        curve: Which of `ClassCurves`.
        area: Which of `ClassCurves`.
        axes: What of the curve is its x and its y.
    """
    data: list[dict[str, Any]] = []
    for each in _worst(classes, area):
        points = getattr(each.curves, curve)
        if points is not None:
            x, y = ([_short(value) for value in getattr(points, axis)] for axis in axes)
            name = _safe(f"{each.name} ({getattr(each.curves, area):.3f})")
            line = _line_style(len(data))
            data.append({"name": name, "x": x, "y": y, "mode": "lines", "line": line})
    return data


def _line_style(number: int) -> dict[str, Any]:
    """Return a style for one of several lines; no two of 24 are alike."""
    dash = ("solid", "dash", "dot")[number // len(_COLOURS) % 3]
    return {"color": _COLOURS[number % len(_COLOURS)], "width": 1.5, "dash": dash}


def _diagonal(name: str) -> dict[str, Any]:
    line = {"color": _GREY, "dash": "dash", "width": 1}
    return {"name": name, "x": [0, 1], "y": [0, 1], "mode": "lines", "line": line}


def _reliability(
    name: str, found: Reliability, colour: str, symbol: str
) -> dict[str, Any]:
    bins = [each for each in found.bins if each.num_images]
    largest = max(each.num_images for each in bins)
    # Areas are as the images; a bin of one image is still to be seen.
    sizes = [6 + 18 * (each.num_images / largest) ** 0.5 for each in bins]
    return {
        "name": f"{name}: error {found.expected_calibration_error:.3f}",
        "x": [_short(each.confidence) for each in bins],
        "y": [_short(each.accuracy) for each in bins],
        "text": [f"{each.num_images} images" for each in bins],
        "mode": "lines+markers",
        "cliponaxis": False,
        "marker": {
            "size": sizes,
            "color": colour,
            "symbol": symbol,
            "opacity": 0.75,
            "line": {"width": 0},
        },
        "line": {"color": colour, "width": 1},
    }


def _decay_marks(contents: Contents) -> dict[str, Any]:
    """Return lines at the steps where patience lowered the learning rate."""
    lines = [
        {
            "type": "line",
            **{"x0": step, "x1": step, "y0": 0, "y1": 1, "yref": "paper"},
            "line": {"color": _GREY, "width": 1, "dash": "dot"},
        }
        for step in contents.decays
    ]
    texts = [
        {
            **{"x": step, "y": 1, "yref": "paper", "yanchor": "bottom"},
            "text": "rate lowered",
            "showarrow": False,
            "font": {"size": 10, "color": _GREY},
        }
        for step in contents.decays[:1]  # more would be written over each other
    ]
    return {"shapes": lines, "annotations": texts}


def _layout(x: str, y: str, *, logarithmic: bool) -> dict[str, Any]:
    scale = {"type": "linear"}
    if logarithmic:
        scale = {"type": "log", "exponentformat": "power"}
    return {
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}, **scale},
        "hovermode": "x unified",
    }


def _unit_layout(x: str, y: str) -> dict[str, Any]:
    limits = {"range": [-0.02, 1.02], "constrain": "domain"}
    return {
        "xaxis": {"title": {"text": x}, **limits},
        "yaxis": {"title": {"text": y}, **limits},
        "hovermode": "closest",
    }


def _worst(classes: Sequence[ClassStatistics], area: str) -> list[ClassStatistics]:
    """Return the classes of a chart, in label order where there is room for all."""
    if len(classes) <= MOST_CURVES:
        return [*classes]
    measured = [each for each in classes if getattr(each.curves, area) is not None]
    return sorted(measured, key=lambda each: getattr(each.curves, area))[:MOST_CURVES]


def _cluster(counts: np.ndarray) -> np.ndarray:
    """Return the classes such that those taken for each other are neighbours."""
    size = len(counts)
    if size < 3:
        return np.arange(size)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    distances = 1 - (shares + shares.T) / 2
    tree = hierarchy.linkage(distances[np.triu_indices(size, 1)], "average")
    return np.asarray(hierarchy.leaves_list(tree))


def _spans(data: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether numbers above 0 span more than a decade, and none is below."""
    values = [y for line in data for y in line["y"] if y is not None]
    positive = [value for value in values if value > 0]
    if not positive or min(values) < 0:
        return False
    return max(positive) > 10 * min(positive)


def _short(value: float | None) -> float | None:
    """Return a number with the digits that a chart shows; None for one that is none."""
    if value is None or not np.isfinite(value):
        return None
    return float(f"{value:.5g}")


def _safe(text: str) -> str:
    """Return a name that Plotly shows as it is, not as HTML, cut in its middle."""
    text = shown(text)
    if len(text) > _LONGEST_NAME:
        half = _LONGEST_NAME // 2
        text = f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"
    return html.escape(text)


def _categories(names: Sequence[str]) -> list[str]:
    """Return names for an axis, no two of which are equal.

    Plotly merges equal ones, and loses those that JavaScript has a use for, such as
    `constructor`: spaces without width before them tell them apart.
    """
    count: collections.Counter[str] = collections.Counter()
    categories = []
    for name in map(_safe, names):
        count[name] += 1
        categories.append(_NO_WIDTH * count[name] + name)
    return categories
