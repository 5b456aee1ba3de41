"""A page of plots of a search, which opens anywhere, also without a network."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from worklab.files import write_atomically
from worklab.search_space import Space
from worklab.trials import Trial, best_trial

_FEWEST = 2  # complete trials from which on one can be compared with another


def write_hyper_page(path: Path, trials: Sequence[Trial]) -> None:
    """Write a page with the validation loss by the value of `hyper`."""
    complete = [trial for trial in trials if trial.loss is not None]
    figure = go.Figure(
        go.Scatter(
            x=[trial.values["hyper"] for trial in complete],
            y=[trial.loss for trial in complete],
            text=[trial.run for trial in complete],
            mode="lines+markers",
        ),
        layout={"xaxis": {"title": "hyper"}, "yaxis": {"title": "valid loss"}},
    )
    _write(path, trials, {"Validation loss": figure})


def write_study_page(
    path: Path, trials: Sequence[Trial], study: Any, space: Space
) -> None:
    """Write a page with Optuna's plots of a study."""
    from optuna import visualization
    from optuna.importance import FanovaImportanceEvaluator

    names = list(space)
    figures = {"History": visualization.plot_optimization_history(study)}
    losses = {trial.loss for trial in trials if trial.loss is not None}
    if len(losses) >= _FEWEST:
        figures["Options together"] = visualization.plot_parallel_coordinate(
            study, params=names
        )
        figures["Option by option"] = visualization.plot_slice(study, params=names)
        importances = _importances(study, FanovaImportanceEvaluator(seed=0))
        if importances is not None:
            figures["Importance"] = importances
    figures["Validations"] = visualization.plot_intermediate_values(study)
    _write(path, trials, figures)


def _importances(study: Any, evaluator: Any) -> Any:
    from optuna import visualization

    try:
        return visualization.plot_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError, ZeroDivisionError):
        return None  # one value was tried alone, or they cannot be told apart


def _write(path: Path, trials: Sequence[Trial], figures: dict[str, Any]) -> None:
    name = html.escape(path.parent.name)
    best = best_trial(trials)
    counts = {
        state: sum(trial.state == state for trial in trials)
        for state in dict.fromkeys(trial.state for trial in trials)
    }
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title>",
        "<body style='font-family: sans-serif; max-width: 1100px; margin: auto'>",
        f"<h1>{name}</h1><p>{len(trials)} trials: "
        + ", ".join(f"{count} {state}" for state, count in counts.items()),
    ]
    if best is not None:
        values = ", ".join(f"{k} = {v}" for k, v in best.values.items())
        parts.append(
            f"<p>The best, with a validation loss of {best.loss:.4f} at step "
            f"{best.best_step}: {html.escape(values)} ({html.escape(best.run)})"
        )
    for number, (title, figure) in enumerate(figures.items()):
        # The script is in the page itself, once.
        body = figure.to_html(full_html=False, include_plotlyjs=number == 0)
        parts.append(f"<h2>{title}</h2>{body}")
    page = "\n".join([*parts, "</body></html>\n"])
    write_atomically(path, lambda file: file.write(page))
