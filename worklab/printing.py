"""Text and tables on a console, whatever is in them."""

from rich.console import Console

# A table of layers, or of runs, needs these columns, also where a pipe has none.
_WIDE = 150


def plain(text: str) -> str:
    """Return a text that no terminal takes as a command."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def plain_lines(text: str) -> str:
    """Return a text of several lines that no terminal takes as a command."""
    return "\n".join(map(plain, text.split("\n")))


def wide_console(*, soft_wrap: bool = False) -> Console:
    """Return a console for tables that are wider than a pipe is taken to be.

    Args:
        soft_wrap: Leave it to the terminal to break lines.
    """
    return Console(width=max(_WIDE, Console().width), soft_wrap=soft_wrap)


def print_plainly(console: Console, text: str) -> None:
    """Print a line as it is, however long, but for what a terminal would obey."""
    console.print(plain(text), markup=False, highlight=False, soft_wrap=True)
