"""Range tests: what a training batch's loss is at each learning rate."""

import contextlib
import csv
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from worklab.cli import options_to_json
from worklab.files import replacing, write_atomically, write_json, writing
from worklab.lr_finder import RangeTest, evaluate, find_rates, has_diverged, smooth
from worklab.options import FindOptions
from worklab.schedules import Schedule
from worklab.tensorboard_events import EventFile
from worklab.tensorboard_values import scalar
from worklab.trainer import NonFiniteLoss, Trainer
from worklab.writer import Writer

_NEVER = 2**62


def range_test(trainer: Trainer, options: FindOptions = FindOptions()) -> RangeTest:
    """Train a step at each of some rising learning rates, and take all of it back.

    The steps are those that training would take next: its batches, multipliers, weight
    decay and optimizer. Afterwards every variable, the step and all states are what
    they were, bit for bit, also after Ctrl-C; nothing has been saved or logged. With
    `cache_features` alone the run's folder gets the outputs of frozen layers, as in
    training.

    Args:
        trainer: Whose session has been started.
        options: Rates, and when to stop.

    Raises:
        ValueError: If an option is out of range.
        StopRequested: If a signal came.
    """
    rates = find_rates(options)
    curves = []
    try:
        for repeat in range(options.repeats):
            with trainer.session.trial(), _unseen(trainer):
                trainer.session.step += repeat * len(rates)
                curves.append(_losses(trainer, rates, options))
    finally:
        trainer.enter_stage()  # another may have begun meanwhile
    length = min(map(len, curves))
    losses = np.mean([curve[:length] for curve in curves], axis=0)
    return evaluate(options, trainer.session.step, losses)


def _losses(trainer: Trainer, rates: np.ndarray, options: FindOptions) -> list[float]:
    losses: list[float] = []
    momentum = trainer.schedule.momentum
    if momentum is not None:  # it moves against the rate, which is another here
        momentum = functools.partial(_same, momentum(trainer.session.step))
    end = trainer.session.step + len(rates)
    for rate in rates.tolist():
        trainer.schedule = Schedule(functools.partial(_same, rate), momentum=momentum)
        try:
            means: dict[str, float] = {}
            while not means:  # a step that an earlier rollback skips has none
                means = trainer.train(1, last_step=end)
            losses.append(means["loss"])
        except NonFiniteLoss:
            losses.append(np.nan)
        if has_diverged(smooth(np.array(losses), options.beta), options.stop_at):
            break
    return losses


def _same(value: float, _: int) -> float:
    return value


@contextlib.contextmanager
def _unseen(trainer: Trainer) -> Iterator[None]:
    """Let the trainer write nothing, and stop at the first loss that is not finite."""
    before = trainer.writer, trainer.schedule, trainer.options
    trainer.options = dataclasses.replace(
        trainer.options,
        on_nan="stop",
        log_every=_NEVER,
        log_histograms=0,
        profile=None,
    )
    trainer.writer = Writer(None, console=trainer.writer.console)
    try:
        with trainer.writer:
            yield
    finally:
        trainer.writer, trainer.schedule, trainer.options = before


def save_range_test(found: RangeTest, folder: Path) -> None:
    """Write `curve.csv`, `curve.png`, TensorBoard's curve and `result.json`, the last.

    Args:
        found: What the test has found.
        folder: Where; what an earlier test has left there is replaced.

    Raises:
        OSError: If it cannot be written.
    """
    write_atomically(folder / "curve.csv", lambda file: _write_curve(found, file))
    with writing(folder / "curve.png"), replacing(folder / "curve.png") as path:
        draw(found).savefig(path, format="png", dpi=150)
    with writing(folder / "tensorboard"):
        _write_events(found, folder / "tensorboard")
    content = {
        "suggestion": found.suggestion,
        "suggestions": found.suggestions,
        "reason": found.why_none(),
        "step": found.step,
        "num_rates": len(found.rates),
        "stopped": found.stopped,
        "options": options_to_json(found.options),
    }
    write_json(folder / "result.json", content)


def draw(found: RangeTest) -> Figure:
    """Return the curve as a Matplotlib figure, with a mark for each suggestion."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(found.rates, found.losses, color="0.8", label="loss of a batch")
    axes.plot(found.rates, found.smooth_losses, color="black", label="smoothed")
    for number, (name, rate) in enumerate(found.suggestions.items()):
        if rate is not None:
            loss = np.interp(rate, found.rates, found.smooth_losses)
            axes.plot(rate, loss, "o", color=f"C{number}", label=f"{name} {rate:.2g}")
    axes.set_xscale("linear" if found.options.spacing == "linear" else "log")
    finite = found.smooth_losses[np.isfinite(found.smooth_losses)]
    if len(finite):
        axes.set_ylim(finite.min() - 0.05 * np.ptp(finite) - 1e-9, finite.max() + 1e-9)
    axes.set(xlabel="learning rate", ylabel="training loss")
    axes.legend()
    return figure


def _write_curve(found: RangeTest, file: Any) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["step", "learning_rate", "loss", "smooth_loss"])
    rows = zip(found.rates, found.losses, found.smooth_losses, strict=True)
    for step, row in enumerate(rows):
        writer.writerow([step, *(f"{value:.9g}" for value in row)])


def _write_events(found: RangeTest, folder: Path) -> None:
    for path in folder.glob("events.out.tfevents.*"):
        path.unlink()
    curves = {
        "loss": found.losses,
        "smooth_loss": found.smooth_losses,
        "learning_rate": found.rates,
    }
    file = EventFile(folder)
    for name, values in curves.items():
        for step, value in enumerate(values):
            file.write_values(step, [scalar(f"find_lr/{name}", value)])
