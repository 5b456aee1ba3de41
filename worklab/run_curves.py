"""`python -m worklab runs compare`: curves of several runs in one picture or page."""

import dataclasses
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table
from rich.text import Text

from worklab.files import replacing, write_atomically, writing
from worklab.printing import plain, print_plainly, wide_console
from worklab.run_summaries import (
    Points,
    RunSummary,
    format_number,
    read_curves,
    read_record,
    summarise,
)

CHARTS = {"loss": "loss", "accuracy": "accuracy", "learning_rate": "learning rate"}
"""Titles of the charts, by what they show."""

# Training is noisy, so it stands back.
_STYLES = {"train": ("solid", 0.4), "valid": ("solid", 1.0)}
_OTHER_STYLE = ("dashed", 1.0)

# Of equal distance to the eye, also for most of the colour-blind: Okabe and Ito 2008.
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#000000", "#F0E442"),
)
_INCHES = (10.0, 11.0)
_DOTS_PER_INCH = 120


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        chart: One of `CHARTS`.
        run: What the run is called.
        split: What was measured on.
        colour: The run's.
        points: Values by step.
    """

    chart: str
    run: str
    split: str
    colour: str
    points: Points


def compare(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    /,
    output: Path = Path("runs.html"),
) -> None:
    """Draw loss, accuracy and learning rate of several runs, and list how they ended.

    Args:
        runs: Folders of runs.
        output: Picture `.png`, or page `.html` that answers to the mouse and needs no
            other file, nor a network.

    Raises:
        ValueError: If no run is given, a folder is none, or the output is another kind.
    """
    if not runs:
        raise ValueError("give the folders of runs to compare. Received: none")
    kinds = {".png": draw_png, ".html": draw_html}
    if output.suffix.lower() not in kinds:
        raise ValueError(
            f"`--output` ends with {' or '.join(kinds)}. Received: `{output}`"
        )
    for run in runs:
        read_record(run)
    names = short_names(runs)
    console = wide_console()
    curves = find_curves(runs, names)
    if not curves:
        raise ValueError(
            "there is nothing to draw yet: training writes its first row after "
            f"`--training.log-every` steps. Received: {', '.join(names)}"
        )
    kinds[output.suffix.lower()](curves, output)
    summaries = [summarise(run) for run in runs]
    console.print(_final_numbers(summaries, names))
    print_plainly(console, f"curves: {output}")


def short_names(runs: Sequence[Path]) -> list[str]:
    """Return what to call runs: their folders' names, with more where those are equal.

    Example:
        >>> short_names([Path("a/x"), Path("b/x"), Path("b/y")])
        ['a/x', 'b/x', 'y']
    """
    parts = [run.resolve().parts for run in runs]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        length = next(
            n
            for n in range(1, len(own) + 1)
            if n == len(own) or all(own[-n:] != other[-n:] for other in others)
        )
        names.append("/".join(own[-length:]))
    return names


def find_curves(runs: Sequence[Path], names: Sequence[str]) -> list[Curve]:
    """Return the curves of runs, training before validation, so that it lies below."""
    curves = []
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        colour = _COLOURS[number % len(_COLOURS)]
        for split, charts in sorted(read_curves(run).items()):
            curves += [
                Curve(chart, name, split, colour, points)
                for chart, points in charts.items()
            ]
    return curves


def draw_png(curves: Sequence[Curve], path: Path) -> None:
    """Write a picture of curves, whole or not at all."""
    # Here, as most commands do without, and it takes a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    charts = _charts(curves)
    axes = figure.subplots(len(charts), 1, sharex=True, squeeze=False)[:, 0]
    lines: dict[str, Any] = {}
    for axis, chart in zip(axes, charts, strict=True):
        axis.set_ylabel(CHARTS[chart])
        axis.grid(alpha=0.3)
        for curve in curves:
            if curve.chart == chart:
                style, alpha = _STYLES.get(curve.split, _OTHER_STYLE)
                (line,) = axis.plot(
                    list(curve.points),
                    list(curve.points.values()),
                    color=curve.colour,
                    linestyle=style,
                    alpha=alpha,
                    marker="." if len(curve.points) == 1 else "",
                )
                lines.setdefault(f"{curve.run}, {curve.split}", line)
        if _is_logarithmic(chart, curves):
            axis.set_yscale("log")
    axes[-1].set_xlabel("step")
    # Dollars are mathematics to Matplotlib, and a name that begins with _ is left out.
    titles = [f" {plain(title)}".replace("$", r"\$") for title in lines]
    figure.legend(list(lines.values()), titles, loc="outside upper center", ncols=3)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")


def draw_html(curves: Sequence[Curve], path: Path) -> None:
    """Write a page of curves that needs no other file, whole or not at all."""
    import plotly.graph_objects
    import plotly.subplots

    charts = _charts(curves)
    figure = plotly.subplots.make_subplots(
        rows=len(charts), shared_xaxes=True, vertical_spacing=0.04
    )
    shown = set()
    for curve in curves:
        style, alpha = _STYLES.get(curve.split, _OTHER_STYLE)
        title = f"{curve.run}, {curve.split}"
        line = plotly.graph_objects.Scatter(
            x=list(curve.points),
            y=list(curve.points.values()),
            name=html.escape(plain(title)),
            legendgroup=title,
            showlegend=title not in shown,
            opacity=alpha,
            mode="lines+markers" if len(curve.points) == 1 else "lines",
            line={"color": curve.colour, "dash": style.replace("dashed", "dash")},
        )
        figure.add_trace(line, row=charts.index(curve.chart) + 1, col=1)
        shown.add(title)
    for row, chart in enumerate(charts, 1):
        kind = "log" if _is_logarithmic(chart, curves) else "linear"
        figure.update_yaxes(title_text=CHARTS[chart], type=kind, row=row, col=1)
    figure.update_xaxes(title_text="step", row=len(charts), col=1)
    figure.update_layout(height=330 * len(charts), hovermode="x", template="none")
    page = figure.to_html(include_plotlyjs=True, full_html=True)
    write_atomically(path, lambda file: file.write(page))


def _charts(curves: Sequence[Curve]) -> list[str]:
    return [chart for chart in CHARTS if any(c.chart == chart for c in curves)]


def _is_logarithmic(chart: str, curves: Sequence[Curve]) -> bool:
    """Whether a chart is of numbers above 0, over more than a decade."""
    values = [
        value
        for curve in curves
        if curve.chart == chart
        for value in curve.points.values()
        if not math.isnan(value)
    ]
    if chart == "accuracy" or not values or min(values) <= 0:
        return False
    return max(values) > 10 * min(values)


def _final_numbers(summaries: Sequence[RunSummary], names: Sequence[str]) -> Table:
    titles = ("state", "step", "best step", "valid loss", "valid accuracy")
    table = Table("run", *titles, "test loss", "test accuracy")
    for name, each in zip(names, summaries, strict=True):
        numbers = (
            (each.valid_loss, ".4f"),
            (each.valid_accuracy, ".2%"),
            (each.test_loss, ".4f"),
            (each.test_accuracy, ".2%"),
        )
        cells = (format_number(n, form) for n, form in numbers)
        best = "" if each.best_step is None else str(each.best_step)
        table.add_row(Text(plain(name)), each.state, str(each.step), best, *cells)
    return table
