"""How far a long work is: a bar, lines in a log, or events for a machine."""

import datetime
import sys
import time
from collections.abc import Callable, Generator, Iterable
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from worklab.output import JsonLines

Item = TypeVar("Item")
Clock = Callable[[], float]

_BAR_WIDTH = 120  # columns of a terminal that has room for a bar beside the numbers
_LINE_SECONDS = 30.0  # between two lines of a log
_PATIENCE_SECONDS = 3.0  # work that is done sooner need not be shown
_UPDATE_SECONDS = 1.0  # between two looks at work of many small parts

_FORMATS = {
    "loss": "loss {:.4f}",
    "learning_rate": "learning rate {:.2g}",
    "images_per_second": "{:.0f} images/s",
}


class Display(Protocol):
    """Shows how far a work is, until it is closed."""

    def update(self, step: int, end: int, **numbers: float) -> None:
        """Show that a step of `end` is done; numbers are loss, learning rate, speed."""

    def close(self) -> None:
        """Show the last step, where that is still to be done, and end."""


def open_display(
    console: Console, task: str = "", *, clock: Clock = time.monotonic
) -> Display:
    """Return the display that suits a console.

    Args:
        console: Where. A terminal, or a notebook that has widgets, gets a bar; another
            file gets a line every 30 seconds, beside the first and the last one.
        task: What is done, and of what it has steps, e.g. "testing valid, batch"; "":
            the steps of a training.
        clock: Tells seconds.
    """
    if console.quiet:
        return _Nothing()
    if isinstance(console.file, JsonLines):
        return _Events(console.file, task, clock)
    widgets = console.is_jupyter and find_spec("ipywidgets") is not None
    if console.is_interactive or widgets:
        return _Bar(console, task)
    return _Lines(console, task, clock)


def track(
    items: Iterable[Item],
    total: int,
    task: str,
    console: Console | None,
    *,
    clock: Clock = time.monotonic,
) -> Generator[Item]:
    """Yield items, and show how far they are, once that has taken some seconds.

    Args:
        items: Any.
        total: How many.
        task: What is done with them, and what they are, e.g. "testing valid, batch".
        console: Where; None shows nothing.
        clock: Tells seconds.
    """
    if console is None:
        yield from items
        return
    display = open_display(console, task, clock=clock)
    due = clock() + _PATIENCE_SECONDS
    try:
        for done, item in enumerate(items, 1):
            yield item
            if clock() >= due:
                display.update(done, total)
                due = clock() + _UPDATE_SECONDS
    finally:
        display.close()


class _Nothing:
    def update(self, step: int, end: int, **numbers: float) -> None: ...

    def close(self) -> None: ...


class _Bar:
    """A bar at the end of a terminal, which leaves nothing behind."""

    def __init__(self, console: Console, task: str) -> None:
        self._task = task or "step"
        self._progress = Progress(
            TextColumn("{task.description} {task.completed} of {task.total}"),
            *([BarColumn()] if task or console.width >= _BAR_WIDTH else []),
            # Where there is little room it has two lines; the times are always seen.
            TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=False)),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            # What is logged on the same terminal comes above the bar.
            redirect_stderr=sys.stderr.isatty(),
        )
        self._number: Any = None

    def update(self, step: int, end: int, **numbers: float) -> None:
        now: dict[str, Any] = {"completed": step, "total": end}
        now["numbers"] = _spell(numbers)
        if self._number is None:
            self._number = self._progress.add_task(self._task, **now)
            self._progress.start()
        else:
            self._progress.update(self._number, **now)

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    """Lines in a log, of which there are few."""

    def __init__(self, console: Console, task: str, clock: Clock) -> None:
        self._console = console
        self._task = task or "step"
        self._clock = clock
        self._pace = _Pace(clock)
        self._due = clock()
        self._waiting = ""

    def update(self, step: int, end: int, **numbers: float) -> None:
        left = self._pace.seconds_left(step, end)
        parts = [f"{self._task} {step} of {end}", _spell(numbers)]
        if left is not None:
            parts.append(f"{datetime.timedelta(seconds=round(left))} left")
        self._waiting = "  ".join(part for part in parts if part)
        if self._clock() >= self._due:
            self._due = self._clock() + _LINE_SECONDS
            self.close()

    def close(self) -> None:
        if self._waiting:
            self._console.print(self._waiting, highlight=False, markup=False)
        self._waiting = ""


class _Events:
    """Events for a machine: `progress` of a training, `working` on something else."""

    def __init__(self, lines: JsonLines, task: str, clock: Clock) -> None:
        self._lines = lines
        self._task = task
        self._pace = _Pace(clock)

    def update(self, step: int, end: int, **numbers: float) -> None:
        left = self._pace.seconds_left(step, end)
        values: dict[str, Any] = {"step": step, "end": end, **numbers}
        if self._task:
            self._lines.event("working", task=self._task, **values, seconds_left=left)
        else:
            self._lines.event("progress", **values, seconds_left=left)

    def close(self) -> None: ...


class _Pace:
    """Tells how long the rest takes, by the steps since the first that it has seen."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def seconds_left(self, step: int, end: int) -> float | None:
        """Return the seconds that are left; None: not known yet."""
        now = self._clock()
        if self._first is None:
            self._first = step, now
        first_step, began = self._first
        if step >= end:
            return 0.0
        if step <= first_step:
            return None
        return (end - step) * (now - began) / (step - first_step)


def _spell(numbers: dict[str, float]) -> str:
    return "  ".join(_FORMATS[name].format(each) for name, each in numbers.items())
