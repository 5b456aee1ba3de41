"""Command lines: a function's signature is the table of its options."""

import dataclasses
import inspect
import logging
import signal
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console

from worklab.option_files import Face, read_options, write_options
from worklab.option_files import options_from_json as options_from_json
from worklab.option_files import options_to_json as options_to_json
from worklab.output import Mode, emit, output_mode, speaking, to_plain
from worklab.printing import open_console, plain_lines, print_plainly

Options = TypeVar("Options")

# The commands of `python -m worklab`; a mapping within is a group, `runs list`.
Commands = Mapping[str, "Callable[..., Any] | Mapping[str, Callable[..., Any]]"]

_CONFIG_HELP = (
    "`--config FILE` gives the options of a run (its `run.json`), or of an experiment, "
    "as defaults. `--write-config FILE` writes the options into such a file, to be "
    "committed, and ends."
)

_FILES = ("--config", "--write-config")

_MODES: dict[str, Mode] = {"--quiet": "quiet", "--json-lines": "json"}

_MODES_HELP = (
    "`--quiet` shows warnings and errors alone, and what is asked for as output. "
    "`--json-lines` writes one JSON object per line to the standard output, and "
    "nothing else, for programs."
)

_STOPPED = {128 + number: number.name for number in (signal.SIGINT, signal.SIGTERM)}


def run(
    main: Callable[[Options], Any],
    arguments: Sequence[str] | None = None,
    *,
    face: Face = "train",
) -> Any:
    """Call a launcher's `main` with the options that the command line gives.

    `--config FILE` takes the options of a `run.json`, or of an experiment's file, as
    defaults, so that a run can be repeated or varied. `--write-config FILE` writes
    such a file in place of calling `main`. `--quiet` and `--json-lines` are no options
    of the run: they say how the process speaks. Errors that say what to do are shown
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
        _check_names(options_class)
        config, written = (_take_word(words, name) for name in _FILES)
        given: dict[str, Any] = {}
        if config is not None:
            given["default"] = read_options(Path(config), options_class, face)
        description = f"{options_class.__doc__}\n\n{_CONFIG_HELP}\n\n{_MODES_HELP}"
        options = tyro.cli(options_class, args=words, description=description, **given)
        if written is None:
            return main(options)
        write_options(Path(written), options, face)
        print_plainly(
            open_console(), f"{written}: written, to be read by `--config {written}`"
        )
        return None

    return _speaking_as_told(words, call)


def run_commands(
    commands: Commands,
    arguments: Sequence[str] | None = None,
    *,
    program: str = "python -m worklab",
) -> Any:
    """Call the command that the first word names, with the options that follow.

    `--quiet` and `--json-lines`, anywhere, say how the process speaks.

    Args:
        commands: Functions by the word that calls them; in place of a function, the
            commands of a second word.
        arguments: Words of the command line; None takes the process's own.
        program: What stands before the first word.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    return _speaking_as_told(words, lambda: _call_command(commands, words, program))


def _call_command(commands: Commands, words: Sequence[str], program: str) -> Any:
    group = commands.get(words[0]) if words else None
    if isinstance(group, Mapping):
        return _call_command(group, words[1:], f"{program} {words[0]}")
    functions = {
        name: _as_function(command) if isinstance(command, Mapping) else command
        for name, command in commands.items()
    }
    return tyro.extras.subcommand_cli_from_dict(
        functions, prog=program, description=_MODES_HELP, args=words
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
    """Show what the library logs, the message alone, as launchers do.

    A process that speaks quietly shows nothing below a warning.
    """
    logger = logging.getLogger("worklab")
    if not logger.handlers:
        handler = _StandardError()
        handler.setFormatter(_PlainFormatter())
        handler.addFilter(
            lambda record: output_mode() != "quiet" or record.levelno >= logging.WARNING
        )
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


class _StandardError(logging.StreamHandler[Any]):
    """Writes to what standard error is now, which is above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _PlainFormatter(logging.Formatter):
    """Leaves nothing in a message that a terminal would obey, e.g. from a file name."""

    def format(self, record: logging.LogRecord) -> str:
        return plain_lines(super().format(record))


def _speaking_as_told(words: list[str], call: Callable[[], Any]) -> Any:
    log_to_standard_error()
    try:
        with speaking(_take_mode(words)):
            return _telling_the_end(call)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        if "Received: " not in str(error):  # a defect, not a message for the user
            raise
        Console(stderr=True, soft_wrap=True).print(
            plain_lines(f"error: {error}"), markup=False, highlight=False
        )
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _telling_the_end(call: Callable[[], Any]) -> Any:
    """Call, and write the event that is the last, where a machine reads."""
    try:
        result = call()
    except BaseException as error:
        _emit_end(error)
        raise
    if output_mode() == "json":
        emit("result", **_content(result))
    return result


def _content(result: Any) -> dict[str, Any]:
    """Return what the last event has of a result: that by name, or of a list."""
    if isinstance(result, list):
        return {"results": result}
    if isinstance(result, Iterator):  # not to be used up before the caller has it
        return {}
    content = to_plain(result)
    return content if isinstance(content, dict) else {}


def _emit_end(error: BaseException) -> None:
    code: Any = 1
    if isinstance(error, SystemExit):
        code = error.code
    elif isinstance(error, KeyboardInterrupt):
        code = 128 + signal.SIGINT
    if code in _STOPPED:
        message = f"stopped by {_STOPPED[code]}; the same command goes on"
        emit("stopped", message=message, exit_code=code)
    elif code:
        said = not isinstance(error, SystemExit) and str(error)
        emit("error", message=said or "standard error says why", exit_code=code)
    else:  # after `--help`
        emit("result")


def _check_names(options_class: type) -> None:
    """Check that no option has the name of what is taken off the command line.

    Raises:
        ValueError: If one has.
    """
    taken = {name.removeprefix("--").replace("-", "_") for name in (*_MODES, *_FILES)}
    names = {field.name for field in dataclasses.fields(options_class)} & taken
    if names:
        raise ValueError(
            f"`{options_class.__name__}` must have other names for options than "
            f"{sorted(taken)}, which each launcher has. Received: {sorted(names)}"
        )


def _take_mode(words: list[str]) -> Mode:
    """Take how to speak out of a command line.

    Raises:
        ValueError: If two ways are given.
    """
    end = _end_of_own(words)
    given = [name for name in _MODES if name in words[:end]]
    if len(given) > 1:
        raise ValueError(
            "nothing can be quiet and write JSON lines; give one of both. "
            f"Received: {' '.join(given)}"
        )
    words[:end] = [word for word in words[:end] if word not in _MODES]
    return _MODES[given[0]] if given else "lines"


def _end_of_own(words: Sequence[str]) -> int:
    """Return where the words end that are not those of another command."""
    return words.index("--") if "--" in words else len(words)


def _take_word(words: list[str], name: str) -> str | None:
    """Take an option and its word out of a command line; None: it is not there.

    Raises:
        ValueError: If no word follows.
    """
    end = _end_of_own(words)
    own, rest = words[:end], words[end:]
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
