"""Text and tables on a console, whatever is in them."""

import sys
from typing import Any, TextIO

from rich.console import Console

from worklab.output import JsonLines, output_mode

# A table of layers, or of runs, needs these columns, also where a pipe has none.
_WIDE = 150


def plain(text: str) -> str:
    """Return a text that no terminal takes as a command."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def plain_lines(text: str) -> str:
    """Return a text of several lines that no terminal takes as a command."""
    return "\n".join(map(plain, text.split("\n")))


def escape_surrogates(text: str) -> str:
    r"""Return a text that UTF-8 can have, also of a file name that is not Unicode.

    Example:
        >>> print(escape_surrogates(chr(0xDCE9) + ".png"))
        \udce9.png
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def open_console(
    file: TextIO | None = None, *, soft_wrap: bool = True, quiet: bool = False
) -> Console:
    """Return a console that speaks as this process does: lines, nothing or events.

    What is no terminal gets no escape codes, whatever the environment says, and room
    for tables.

    Args:
        file: Where lines go; None: the standard output, as do all events.
        soft_wrap: Leave it to the terminal to break lines.
        quiet: Show nothing, in any case.
    """
    if isinstance(sys.stdout, JsonLines):
        file = None
    terminal = (file or sys.stdout).isatty()
    console = Console(
        file=file,
        soft_wrap=soft_wrap,
        quiet=quiet or output_mode() == "quiet",
        force_terminal=None if terminal else False,
    )
    if not terminal and not console.is_jupyter:
        console.width = max(_WIDE, console.width)
    return console


def wide_console(*, soft_wrap: bool = False) -> Console:
    """Return a console for tables that were asked for, also of a quiet process.

    They may be wider than a terminal.

    Args:
        soft_wrap: Leave it to the terminal to break lines.
    """
    console = open_console(soft_wrap=soft_wrap)
    console.quiet = False
    console.width = max(_WIDE, console.width)
    return console


def print_plainly(console: Console, text: str) -> None:
    """Print a line as it is, however long, but for what a terminal would obey."""
    console.print(plain(text), markup=False, highlight=False, soft_wrap=True)


def print_event(console: Console, line: str, event: str, **values: Any) -> None:
    """Print a line for a person, or for a machine an event with the numbers in it.

    Args:
        console: Where.
        line: What a person sees.
        event: What kind of event it is.
        **values: Of the event.
    """
    if not isinstance(console.file, JsonLines):
        console.print(line, highlight=False)
    elif not console.quiet:
        console.file.event(event, **values)
