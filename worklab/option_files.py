"""Options as JSON: the record of a run, and one committed file per experiment.

A file has `options`, as the `run.json` of a run does, or faces: `train` for the
launchers that train, `test` for those that test, `cluster` for those that start others
on many machines. So one file describes an experiment; each launcher takes its part.
"""

import contextlib
import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from worklab.files import write_atomically

Options = TypeVar("Options")

Face = Literal["train", "test", "cluster"]
"""Which part of a file of options a launcher takes."""

_FACES = typing.get_args(Face)

_FLAT_LIST = re.compile(r"\[\n *([^\[\]{}]*?)\n *\]")
_LINE_BREAK = re.compile(r"\n *")


def read_options(path: Path, options_class: type[Options], face: Face) -> Options:
    """Return the options that a file has for a launcher.

    Args:
        path: A `run.json`, or a file that `write_options` wrote.
        options_class: Of the launcher.
        face: Of the launcher; not asked for in a `run.json`.

    Raises:
        ValueError: If the file has no such options, or one has another name or type
            than the launcher knows; the option is named.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            "`--config` wants the `run.json` of a run, or a file that `--write-config` "
            f"wrote. Received: `{path}` ({error})"
        ) from error
    found = content if isinstance(content, dict) else {}
    values = found.get("options", found.get(face))
    if not isinstance(values, dict):
        raise ValueError(
            f"`{path}` has no options for this launcher, which takes `{face}` (or "
            "`options`, as a `run.json` has): `--write-config` adds them. "
            f"Received: {list(found) or type(content).__name__}"
        )
    if getattr(options_class, "config_of_any_launcher", False):
        known = typing.get_type_hints(options_class)
        values = {name: value for name, value in values.items() if name in known}
    try:
        return options_from_json(options_class, values)
    except ValueError as error:
        raise ValueError(f"in `{path}`, {error}") from error


def write_options(path: Path, options: Any, face: Face) -> None:
    """Write a launcher's options as its face of a file; the other faces stay.

    Options are sorted by name, so that two files differ where the experiments do.

    Raises:
        ValueError: If the file is there and has no faces, or this face has options of
            another launcher.
    """
    content: dict[str, Any] = {}
    if path.exists():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                "`--write-config` replaces nothing but a file of options. "
                f"Received: `{path}` ({error})"
            ) from error
        if not isinstance(content, dict) or not any(each in content for each in _FACES):
            raise ValueError(
                "`--write-config` replaces nothing but a file of options, which has "
                f"{' or '.join(f'`{each}`' for each in _FACES)}; give another name. "
                f"Received: `{path}`"
            )
        _refuse_others(path, content.get(face), options, face)
    content[face] = _sorted_fields(options)
    faces = {each: content.pop(each) for each in _FACES if each in content}
    text = json.dumps(content | faces, ensure_ascii=False, indent=2) + "\n"
    # A list of numbers on one line; only JSON's own line breaks are real ones.
    text = _FLAT_LIST.sub(lambda list_: f"[{_LINE_BREAK.sub(' ', list_[1])}]", text)
    write_atomically(path, lambda file: file.write(text))


def _refuse_others(path: Path, values: Any, options: Any, face: Face) -> None:
    known = {field.name for field in dataclasses.fields(options)}
    others = sorted(set(values) - known) if isinstance(values, dict) else []
    if others:
        raise ValueError(
            f"the `{face}` part of `{path}` is another launcher's, as it has {others}; "
            f"`--write-config` would lose it, so give another file. Received: `{path}`"
        )


def options_from_json(
    options_class: type[Options], values: Mapping[str, Any]
) -> Options:
    """Return an option dataclass from what `options_to_json` made of one.

    Args:
        options_class: Its fields are annotated; option dataclasses may nest.
        values: By field name; what is missing keeps its default.

    Raises:
        ValueError: If a name is unknown, of which the nearest are suggested, or a value
            has another type than the field.
    """
    return _from_json(options_class, values, "")


def options_to_json(options: Any) -> Any:
    """Return an option dataclass as JSON has it; paths become text."""
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        options = dataclasses.asdict(options)
    if isinstance(options, Mapping):
        return {name: options_to_json(value) for name, value in options.items()}
    if isinstance(options, list | tuple):
        return [options_to_json(value) for value in options]
    return str(options) if isinstance(options, Path) else options


def flatten(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return options by their full names, as the command line has them.

    Example:
        >>> flatten({"reader": {"batch_size": 8, "class_weights": {}}, "run": "r"})
        {'reader.batch_size': 8, 'reader.class_weights': {}, 'run': 'r'}
    """
    flat: dict[str, Any] = {}
    for name, value in options.items():
        # Option dataclasses nest once; a mapping within one is a value.
        if isinstance(value, Mapping) and value and not prefix:
            flat |= flatten(value, f"{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def changed_options(options: Any) -> dict[str, Any]:
    """Return the options that differ from the defaults of their class, by full name."""
    given = flatten(options_to_json(options))
    defaults: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        default = _default(field)
        if default is not dataclasses.MISSING:
            defaults |= flatten({field.name: options_to_json(default)})
    return {
        name: value
        for name, value in given.items()
        if name not in defaults or defaults[name] != value
    }


def _sorted_fields(options: Any) -> Any:
    # The order within a dictionary has a meaning: it is the order of further lists.
    if not dataclasses.is_dataclass(options):
        return options_to_json(options)
    names = sorted(field.name for field in dataclasses.fields(options))
    return {name: _sorted_fields(getattr(options, name)) for name in names}


def _from_json(
    options_class: type[Options],
    values: Any,
    prefix: str,
    default: Any = dataclasses.MISSING,
) -> Options:
    """Return options; what is missing is `default`'s, or else the class's default.

    Raises:
        ValueError: If a name is unknown, or a value is none of its field.
    """
    if not isinstance(values, Mapping):
        raise ValueError(
            f"`{prefix.rstrip('.')}` holds options of its own, by name. "
            f"Received: {prefix.rstrip('.')}={values!r}"
        )
    hints = typing.get_type_hints(options_class)
    fields = {field.name: field for field in dataclasses.fields(options_class)}  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for name, value in values.items():
        full_name = f"{prefix}{name}"
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=3, cutoff=0.0)
            raise ValueError(
                f"`{full_name}` is not an option; the nearest are {near}. "
                f"Received: {full_name}={value!r}"
            )
        hint = hints[name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            # A launcher may have another default than the class, e.g. a learning rate.
            found[name] = _from_json(
                hint, value, f"{full_name}.", _default(fields[name])
            )
            continue
        try:
            found[name] = typed(hint, value)
        except (TypeError, OverflowError):  # an integer may be no float
            raise ValueError(
                f"`{full_name}` must be {describe(hint)}. "
                f"Received: {full_name}={value!r}"
            ) from None
    if default is dataclasses.MISSING:
        return options_class(**found)
    return dataclasses.replace(default, **found)


def _default(field: Any) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def typed(hint: Any, value: Any) -> Any:
    """Return the value as JSON's stand-in for a type means it.

    Raises:
        TypeError: If it is none.
    """
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case types.UnionType | typing.Union:
            for each in arguments:
                with contextlib.suppress(TypeError):
                    return typed(each, value)
        case typing.Literal:
            # True equals 1, but is not meant.
            if any(value == each and type(value) is type(each) for each in arguments):
                return value
        case origin if origin in (tuple, list) and isinstance(value, list | tuple):
            if origin is list or arguments[1:] == (...,):
                arguments = arguments[:1] * len(value)
            if len(arguments) == len(value):
                return origin(map(typed, arguments, value))
        case origin if origin is dict and isinstance(value, Mapping):
            key, each = arguments
            return {typed(key, k): typed(each, v) for k, v in value.items()}
        case None:
            return _typed_plainly(hint, value)
    raise TypeError


def _typed_plainly(hint: Any, value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and not is_number:  # True is an int to Python
        raise TypeError
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is not Any and not isinstance(value, hint):
        raise TypeError
    return value


def describe(hint: Any) -> str:
    """Return a type in words, for a message."""
    if hint is type(None):
        return "null"
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case types.UnionType | typing.Union:
            return " or ".join(map(describe, arguments))
        case typing.Literal:
            return f"one of {', '.join(map(repr, arguments))}"
        case origin if origin in (tuple, list):
            inner = ", ".join("..." if a is ... else describe(a) for a in arguments)
            return f"a list of {inner}"
        case origin if origin is dict:
            return f"names with {describe(arguments[1])}"
    return {Path: "a path", str: "text", float: "a number"}.get(hint, hint.__name__)
