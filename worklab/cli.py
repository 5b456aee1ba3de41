"""Command lines: a function's signature is the table of its options."""

import dataclasses
import difflib
import inspect
import json
import logging
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console

Options = TypeVar("Options")

_CONFIG_HELP = "`--config RUN/run.json` gives the options of a run as defaults."


def run(main: Callable[[Options], Any], arguments: Sequence[str] | None = None) -> Any:
    """Call a launcher's `main` with the options that the command line gives.

    `--config FILE` takes the options of a `run.json` as defaults, so that a run can
    be repeated or varied. Errors that say what to do are shown without a traceback.

    Args:
        main: Takes one option dataclass; its fields become the command line.
        arguments: Words of the command line; None takes the process's own.

    Returns:
        What `main` returns.

    Raises:
        SystemExit: With 1 after an error, 2 after a wrong option, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parameter = next(iter(inspect.signature(main).parameters))
    options_class: type[Options] = typing.get_type_hints(main)[parameter]

    def call() -> Any:
        default = _take_config(options_class, words)
        description = f"{options_class.__doc__}\n\n{_CONFIG_HELP}"
        if default is None:
            return main(tyro.cli(options_class, args=words, description=description))
        return main(
            tyro.cli(
                options_class, default=default, args=words, description=description
            )
        )

    return _showing_errors(call)


def run_commands(
    commands: Mapping[str, Callable[..., Any]], arguments: Sequence[str] | None = None
) -> Any:
    """Call the command that the first word names, with the options that follow.

    Args:
        commands: Functions by the word that calls them.
        arguments: Words of the command line; None takes the process's own.
    """
    return _showing_errors(
        lambda: tyro.extras.subcommand_cli_from_dict(
            dict(commands), prog="python -m worklab", args=arguments
        )
    )


def options_from_json(
    options_class: type[Options], values: Mapping[str, Any]
) -> Options:
    """Return an option dataclass from what `options_to_json` made of one.

    Args:
        options_class: Its fields are annotated; option dataclasses may nest.
        values: By field name; what is missing keeps its default.

    Raises:
        ValueError: If a name is unknown; the nearest are suggested.
    """
    hints = typing.get_type_hints(options_class)
    for name in values:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=3, cutoff=0.0)
            raise ValueError(
                f"`{name}` is not an option; the nearest are {near}. "
                f"Received: {name}={values[name]!r}"
            )
    return options_class(**{k: _typed(hints[k], value) for k, value in values.items()})


def options_to_json(options: Any) -> Any:
    """Return an option dataclass as JSON has it; paths become text."""
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        options = dataclasses.asdict(options)
    if isinstance(options, Mapping):
        return {name: options_to_json(value) for name, value in options.items()}
    if isinstance(options, list | tuple):
        return [options_to_json(value) for value in options]
    return str(options) if isinstance(options, Path) else options


def _showing_errors(call: Callable[[], Any]) -> Any:
    logger = logging.getLogger("worklab")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())  # the message alone, to stderr
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        return call()
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        if "Received: " not in str(error):  # a defect, not a message for the user
            raise
        Console(stderr=True, soft_wrap=True).print(
            f"error: {error}", markup=False, highlight=False
        )
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _take_config(options_class: type[Options], words: list[str]) -> Options | None:
    words[:] = [part for word in words for part in _split_config(word)]
    if "--config" not in words:
        return None
    place = words.index("--config")
    path = Path(words[place + 1] if place + 1 < len(words) else "")
    del words[place : place + 2]
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`--config` wants the `run.json` of a run. Received: `{path}` ({error})"
        ) from error
    return options_from_json(options_class, values)


def _split_config(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith("--config=") else [word]


def _typed(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return options_from_json(hint, value)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is None:
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is tuple:
        return tuple(value)
    return Path(value) if hint is Path else value
