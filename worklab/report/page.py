"""The page of a report, which needs no other file and no network."""

import base64
import functools
import gzip
import re
import shlex
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import markupsafe
import numpy as np
import plotly.offline

from worklab.option_files import flatten
from worklab.report.contents import SPLITS, Contents
from worklab.report.figures import MOST_CURVES, make_charts
from worklab.report.texts import shown
from worklab.report_statistics import DetailedStatistics
from worklab.run_summaries import spell

_MOST_CONFUSIONS = 30
_MOST_VALIDATIONS = 300  # rows of their table, beside those with a remark
_LARGEST_TABLE = 30  # classes whose confusion is a table, too
_FILTERED_FROM = 30  # classes from which on one looks for a name

# What has nothing wrong in an import report, and so comes last.
_PLAIN_ACTIONS = ("copied", "transposed")
_FRESH_ACTIONS = ("skipped", "initialised", "missing", "shape")  # nothing was restored


def make_page(contents: Contents) -> str:
    """Return a report as one HTML page; all texts from files are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("worklab.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The first order of a confusion matrix is the one that is shown first.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters.update(
        percent=_percent,
        fixed=_fixed,
        text=_text,
        with_code=_with_code,
        spell=lambda value: spell(value),
    )
    folder = resources.files("worklab.report") / "templates"
    style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    found = contents.statistics
    return environment.get_template("page.html").render(
        contents=contents,
        record=contents.record,
        summary=contents.summary,
        test=contents.test,
        found=found,
        charts=make_charts(contents),
        points_at_95=[] if found is None else _points_at_95(found),
        confusions=[] if found is None else largest_confusions(found),
        splits=[split for split in SPLITS if split in contents.class_counts],
        validations=_validations(contents),
        imported=_imported(contents.record.get("imported")),
        options=_options(contents),
        environment=_environment(contents.record),
        most_curves=MOST_CURVES,
        largest_table=_LARGEST_TABLE,
        filtered_from=_FILTERED_FROM,
        style=style,
        script=script,
        plotly=_packed_plotly(),
    )


def largest_confusions(found: DetailedStatistics) -> list[dict[str, Any]]:
    """Return pairs of classes by how often the first is called the second."""
    counts = np.array(found.statistics.confusion)
    support = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    rows, columns = np.nonzero(counts)
    order = np.argsort(-counts[rows, columns], kind="stable")[:_MOST_CONFUSIONS]
    return [
        {
            "label": found.classes[row].name,
            "called": found.classes[column].name,
            "count": int(counts[row, column]),
            "share": float(counts[row, column] / support[row]),
        }
        for row, column in zip(rows[order], columns[order], strict=True)
    ]


def _points_at_95(
    found: DetailedStatistics,
) -> list[tuple[float | None, float | None]]:
    """Return each class's sensitivity at 95 % specificity, and the reverse."""
    return [
        (
            next((p.sensitivity for p in at_specificity if p.target == 0.95), None),
            next((p.specificity for p in at_sensitivity if p.target == 0.95), None),
        )
        for at_specificity, at_sensitivity in (
            (each.curves.at_specificity, each.curves.at_sensitivity)
            for each in found.classes
        )
    ]


def _validations(contents: Contents) -> list[dict[str, Any]]:
    """Return a row for each validation, as those who cannot see a chart read it."""
    valid, best = contents.curves.get("valid", {}), contents.summary.best_step
    losses, accuracies = valid.get("loss", {}), valid.get("accuracy", {})
    every = -(-len(losses) // _MOST_VALIDATIONS)
    rows = []
    for number, step in enumerate(sorted(losses)):
        remarks = ["best"] * (step == best)
        remarks += ["rate lowered"] * (step in contents.decays)
        if remarks or number % every == 0:
            row = {"step": step, "loss": losses[step], "remark": ", ".join(remarks)}
            rows.append(row | {"accuracy": accuracies.get(step)})
    return rows


def _imported(report: Any) -> dict[str, Any] | None:
    if not isinstance(report, Mapping):
        return None
    rows = sorted(report["rows"], key=lambda row: row["action"] in _PLAIN_ACTIONS)
    num_restored = sum(row["action"] not in _FRESH_ACTIONS for row in rows)
    return {**report, "rows": rows, "num_restored": num_restored}


def _options(contents: Contents) -> dict[str, dict[str, Any]]:
    changed = contents.record.get("changed", {})
    rest = {
        name: value
        for name, value in flatten(contents.record["options"]).items()
        if name not in changed
    }
    return {"changed": changed, "defaults": rest}


def _environment(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run was made by and on, by what to call it."""
    machine = record.get("machine")
    if isinstance(machine, Mapping):
        machine = {k: v for k, v in machine.items() if v not in (None, [], "")}
    revisions = record.get("revisions") or {}
    facts = {
        "command": shlex.join(map(str, record.get("command", ()))),
        "started": record.get("started"),
        "last start": record.get("time"),
        "seed": record.get("seed"),
        "machine": machine,
        "workers": record.get("num_workers"),
        "revisions": {k: v or "not under git" for k, v in revisions.items()},
        "lists (SHA-256)": {
            k: str(v)[:12] for k, v in flatten(record.get("data", {})).items() if v
        },
        "pretrained (SHA-256)": str(record.get("pretrained") or "")[:12],
        "python": record.get("python"),
        "packages": record.get("versions"),
    }
    return {name: value for name, value in facts.items() if value not in (None, "", {})}


@functools.cache
def _packed_plotly() -> str:
    """Return Plotly's script as the page unpacks it: 1.9 MB in place of 4.9."""
    script = plotly.offline.get_plotlyjs().encode()
    return base64.b64encode(gzip.compress(script, mtime=0)).decode()


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}%}".replace("%", " %")


def _fixed(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _with_code(text: str) -> markupsafe.Markup:
    """Return a text, escaped, in which what stands between backticks is code."""
    escaped = str(markupsafe.escape(_text(text)))  # else it would escape once more
    return markupsafe.Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", escaped))


def _text(value: Any) -> str:
    """Return what is in a file as a text."""
    return shown(str(value))
