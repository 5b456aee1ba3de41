import io

import pytest
from rich.console import Console

from worklab.output import JsonLines
from worklab.printing import open_console
from worklab.progress import open_display, track


class Clock:
    """Tells the time that a test has set."""

    now = 0.0

    def __call__(self):
        return self.now


NUMBERS = {"loss": 0.12341, "learning_rate": 0.05, "images_per_second": 1234.4}


@pytest.fixture
def clock():
    return Clock()


def text_of(console):
    return console.file.getvalue()


def test_log_has_a_line_every_30_seconds_and_the_first_and_the_last(clock):
    console = open_console(io.StringIO())
    display = open_display(console, clock=clock)
    for step in range(10, 101, 10):  # ten seconds each
        display.update(step, 100, **NUMBERS)
        clock.now += 10
    display.close()
    display.close()
    middle = "loss 0.1234  learning rate 0.05  1234 images/s"
    assert text_of(console) == (
        f"step 10 of 100  {middle}\n"
        f"step 40 of 100  {middle}  0:01:00 left\n"
        f"step 70 of 100  {middle}  0:00:30 left\n"
        f"step 100 of 100  {middle}  0:00:00 left\n"
    )


def test_log_has_no_escape_codes_whatever_the_environment_says(monkeypatch, clock):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    console = open_console(io.StringIO())
    open_display(console, clock=clock).update(1, 2, **NUMBERS)
    console.print("[red]error[/]", 3)
    assert text_of(console).isprintable() is False  # line ends
    assert text_of(console).replace("\n", "").isprintable()
    assert len(text_of(console).splitlines()) == 2


def test_terminal_has_all_numbers_in_a_bar_that_goes_away():
    for width in (80, 200):
        console = Console(file=io.StringIO(), force_terminal=True, width=width)
        display = open_display(console)
        display.update(1200, 5000, **NUMBERS)
        display.close()
        shown = text_of(console)
        for part in ("step 1200 of 5000", "loss 0.1234", "0:00:00", "-:--:--"):
            assert part in shown
        assert "images/s" in shown
        assert ("━" in shown) == (width == 200)
        assert shown.endswith("\x1b[2K")  # the line is deleted


def test_terminal_that_cannot_move_its_cursor_has_lines(monkeypatch, clock):
    monkeypatch.setenv("TERM", "dumb")
    console = Console(file=io.StringIO(), force_terminal=True)
    open_display(console, clock=clock).update(1, 2, loss=1.0)
    assert text_of(console) == "step 1 of 2  loss 1.0000\n"


def test_machine_has_every_step_as_an_event(clock):
    file = io.StringIO()
    console = Console(file=JsonLines(file))
    display = open_display(console, clock=clock)
    display.update(10, 40, loss=float("nan"))
    clock.now = 5.0
    display.update(20, 40, loss=0.5)
    display.close()
    assert file.getvalue() == (
        '{"event": "progress", "step": 10, "end": 40, "loss": null, '
        '"seconds_left": null}\n'
        '{"event": "progress", "step": 20, "end": 40, "loss": 0.5, '
        '"seconds_left": 10.0}\n'
    )
    quiet = Console(file=JsonLines(file), quiet=True)
    open_display(quiet, clock=clock).update(30, 40, loss=0.5)
    assert '"step": 30' not in file.getvalue()


def test_only_what_takes_long_is_tracked(clock):
    console, seen = open_console(io.StringIO()), []
    for number in track(range(8), 8, "testing valid, batch", console, clock=clock):
        seen.append(number)
        clock.now += 0.1
    assert text_of(console) == ""
    for number in track(range(80), 80, "testing valid, batch", console, clock=clock):
        seen.append(number)
        clock.now += 1.0
    assert seen == [*range(8), *range(80)]
    assert text_of(console) == (
        "testing valid, batch 3 of 80\n"
        "testing valid, batch 33 of 80  0:00:47 left\n"
        "testing valid, batch 63 of 80  0:00:17 left\n"
        "testing valid, batch 80 of 80  0:00:00 left\n"
    )
    assert [*track(range(3), 3, "", None)] == [0, 1, 2]


def test_machine_is_told_what_is_tracked(clock):
    file = io.StringIO()
    console = Console(file=JsonLines(file))
    for _ in track(range(3), 3, "reading, file", console, clock=clock):
        clock.now += 2.0
    assert '{"event": "working", "task": "reading, file", "step": 2' in file.getvalue()


def test_tracking_that_is_left_ends_its_display(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    tracked = track(range(9), 9, "reading", console, clock=clock)
    for _ in tracked:
        clock.now += 4.0
        if clock.now > 8:
            break
    tracked.close()
    assert text_of(console).endswith("\x1b[2K")
