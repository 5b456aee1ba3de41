"""Command lines: a function's signature is the table of its options."""

import dataclasses
import inspect
import logging
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console

from worklab.option_files import Face, read_options, write_options
from worklab.option_files import options_from_json as options_from_json
from worklab.option_files import options_to_json as options_to_json
from worklab.printing import plain_lines, print_plainly

Options = TypeVar("Options")

# The commands of `python -m worklab`; a mapping within is a group, `runs list`.
Commands = Mapping[str, "Callable[..., Any] | Mapping[str, Callable[..., Any]]"]

_CONFIG_HELP = (
    "`--config FILE` gives the options of a run (its `run.json`), or of an experiment, "
    "as defaults. `--write-config FILE` writes the options into such a file, to be "
    "committed, and ends."
)


def run(
    main: Callable[[Options], Any],
    arguments: Sequence[str] | None = None,
    *,
    face: Face = "train",
) -> Any:
    """Call a launcher's `main` with the options that the command line gives.

    `--config FILE` takes the options of a `run.json`, or of an experiment's file, as
    defaults, so that a run can be repeated or varied. `--write-config FILE` writes
    such a file in place of calling `main`. Errors that say what to do are shown
    without a traceback.

    Args:
        main: Takes one option dataclass; its fields become the command line.
        arguments: Words of the command line; None takes the process's own.
        face: Part of an experiment's file that is this launcher's.

    Returns:
        What `main` returns.

    Raises:
        SystemExit: With 1 after an error, 2 after a wrong option, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parameter = next(iter(inspect.signature(main).parameters))
    options_class: type[Options] = typing.get_type_hints(main)[parameter]

    def call() -> Any:
        config = _take_word(words, "--config")
        written = _take_word(words, "--write-config")
        given: dict[str, Any] = {}
        if config is not None:
            given["default"] = read_options(Path(config), options_class, face)
        description = f"{options_class.__doc__}\n\n{_CONFIG_HELP}"
        options = tyro.cli(options_class, args=words, description=description, **given)
        if written is None:
            return main(options)
        write_options(Path(written), options, face)
        print_plainly(
            Console(), f"{written}: written, to be read by `--config {written}`"
        )
        return None

    return _showing_errors(call)


def run_commands(
    commands: Commands,
    arguments: Sequence[str] | None = None,
    *,
    program: str = "python -m worklab",
) -> Any:
    """Call the command that the first word names, with the options that follow.

    Args:
        commands: Functions by the word that calls them; in place of a function, the
            commands of a second word.
        arguments: Words of the command line; None takes the process's own.
        program: What stands before the first word.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    group = commands.get(words[0]) if words else None
    if isinstance(group, Mapping):
        return run_commands(group, words[1:], program=f"{program} {words[0]}")
    functions = {
        name: _as_function(command) if isinstance(command, Mapping) else command
        for name, command in commands.items()
    }
    return _showing_errors(
        lambda: tyro.extras.subcommand_cli_from_dict(
            functions, prog=program, args=words
        )
    )


def _as_function(group: Mapping[str, Any]) -> Callable[[], None]:
    """Return what stands for a group in the list of commands."""

    def function() -> None: ...

    function.__doc__ = f"One of: {', '.join(group)}."
    return function


def words_of_options(
    options: Any, default: Any = None, prefix: str = "--"
) -> list[str]:
    """Return the words of a command line that give these options.

    Args:
        options: An option dataclass.
        default: Of the same class; what is equal there needs no word. None: its
            class's own defaults.
        prefix: What the words begin with.

    Example:
        >>> from worklab.options import AugmentOptions
        >>> words_of_options(AugmentOptions(flip=True, area=(0.5, 1)))
        ['--area', '0.5', '1', '--flip']
    """
    default = type(options)() if default is None else default
    hints = typing.get_type_hints(type(options), include_extras=True)
    words: list[str] = []
    for field in dataclasses.fields(options):
        value, usual = getattr(options, field.name), getattr(default, field.name)
        marks = getattr(hints[field.name], "__metadata__", ())
        spelled = [
            e.str_from_instance for e in marks if hasattr(e, "str_from_instance")
        ]
        alone = any(getattr(each, "prefix_name", None) is False for each in marks)
        name = ("--" if alone else prefix) + field.name.replace("_", "-")
        if value == usual:
            continue
        if dataclasses.is_dataclass(value):
            words += words_of_options(value, usual, f"{name}.")
        elif hints[field.name] is bool:
            place, _, last = name.rpartition(".")
            plain = f"{place}." if place else "--"
            words.append(name if value else f"{plain}no-{last.removeprefix('--')}")
        elif spelled:
            words += [name, *spelled[0](value)]
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [name, *map(str, values)]
    return words


def log_to_standard_error() -> None:
    """Show what the library logs, the message alone, as launchers do."""
    logger = logging.getLogger("worklab")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_PlainFormatter())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


class _PlainFormatter(logging.Formatter):
    """Leaves nothing in a message that a terminal would obey, e.g. from a file name."""

    def format(self, record: logging.LogRecord) -> str:
        return plain_lines(super().format(record))


def _showing_errors(call: Callable[[], Any]) -> Any:
    log_to_standard_error()
    try:
        return call()
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        if "Received: " not in str(error):  # a defect, not a message for the user
            raise
        Console(stderr=True, soft_wrap=True).print(
            plain_lines(f"error: {error}"), markup=False, highlight=False
        )
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _take_word(words: list[str], name: str) -> str | None:
    """Take an option and its word out of a command line; None: it is not there.

    Raises:
        ValueError: If no word follows.
    """
    # What stands after `--` is another command's.
    own = words[: words.index("--")] if "--" in words else list(words)
    rest = words[len(own) :]
    own = [
        part
        for word in own
        for part in (word.split("=", 1) if word.startswith(f"{name}=") else [word])
    ]
    if name not in own:
        return None
    place = own.index(name)
    value = own[place + 1] if place + 1 < len(own) else ""
    if not value or value.startswith("--"):
        raise ValueError(f"`{name}` wants the name of a file. Received: {value!r}")
    words[:] = own[:place] + own[place + 2 :] + rest
    return value
