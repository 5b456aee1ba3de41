"""What a search may change: option names, each with its choices or its range."""

import dataclasses
import difflib
import itertools
import json
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from worklab.option_files import describe, options_from_json, options_to_json, typed
from worklab.options import SearchOptions

Options = TypeVar("Options")

# Other images would make other losses, and the rest is not the trial's to decide.
_FIXED = ("run", "data.folder", "data.valid", "data.test", "session.time_limit")

_RANGE = {"low", "high", "log", "step"}


@dataclasses.dataclass(frozen=True)
class Choices:
    """Values to choose from, in no order.

    Attributes:
        values: As JSON has them.
    """

    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers between two, both of them included.

    Attributes:
        low: The least.
        high: The largest.
        log: Whether as many are drawn between 1 and 10 as between 10 and 100.
        step: What numbers differ by; None: 1 for whole numbers, else anything.
        whole: Whether the option takes whole numbers alone.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False


Space = dict[str, Choices | Range]
"""Choices and ranges by the name of the option, `layers.weight_decay`."""


def read_space(words: Sequence[str], options_class: type) -> Space:
    """Return the space that a JSON file or words describe, checked.

    Args:
        words: Path of one file, or `name=a,b,c`, `name=low:high`, `name=low:high:log`
            and `name=low:high:step`.
        options_class: Dataclass that has these names.

    Raises:
        ValueError: If an option is unknown or cannot be searched, or a value does not
            suit it.
    """
    if len(words) == 1 and "=" not in words[0]:
        described = _read_file(Path(words[0]))
    else:
        described = dict(_described_by(word) for word in words)
    hints = option_types(options_class)
    return {
        name: _checked(name, description, hints)
        for name, description in (
            (name.replace("-", "_"), value) for name, value in described.items()
        )
    }


def option_types(options_class: type) -> dict[str, Any]:
    """Return the type of each option by its name with dots."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(options_class).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            inner = option_types(hint)
            found |= {f"{name}.{key}": value for key, value in inner.items()}
        else:
            found[name] = hint
    return found


def with_values(options: Options, values: Mapping[str, Any]) -> Options:
    """Return options with values, as JSON has them, in the place of their own."""
    plain = options_to_json(options)
    for name, value in values.items():
        *parents, leaf = name.split(".")
        place = plain
        for parent in parents:
            place = place[parent]
        place[leaf] = value
    return options_from_json(type(options), plain)


def grid(space: Space) -> list[dict[str, Any]]:
    """Return every combination, the last option changing first.

    Raises:
        ValueError: If a range has neither steps nor whole numbers.
    """
    values = [list(_grid_values(name, each)) for name, each in space.items()]
    return [
        dict(zip(space, point, strict=True)) for point in itertools.product(*values)
    ]


def check_space(space: Space, options: SearchOptions) -> None:
    """Check the numbers of a search in a space.

    Raises:
        ValueError: If there are no trials to be made, or a grid has no steps.
    """
    if options.num_trials is not None and options.num_trials < 1:
        raise ValueError(
            "`num_trials` must be at least 1. "
            f"Received: num_trials={options.num_trials}"
        )
    if options.sampler == "grid":
        grid(space)


def space_to_json(space: Space) -> dict[str, Any]:
    """Return a space as JSON has it, to be compared."""
    return {name: dataclasses.asdict(each) for name, each in space.items()}


def _grid_values(name: str, parameter: Choices | Range) -> Iterator[Any]:
    if isinstance(parameter, Choices):
        yield from parameter.values
        return
    step = parameter.step or (1 if parameter.whole else None)
    if step is None:
        raise ValueError(
            "a grid wants choices, or ranges with a step: `a,b,c` or `low:high:step`. "
            f"Received: {name}={parameter.low}:{parameter.high}"
        )
    # In decimals, as 0.1 is not a tenth; so Optuna counts, too.
    low, high, step_ = (Decimal(str(n)) for n in (parameter.low, parameter.high, step))
    for number in range(int((high - low) // step_) + 1):
        value = low + number * step_
        yield int(value) if parameter.whole else float(value)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content:
            return content
        problem = "it is not an object with names of options"
    except (OSError, ValueError) as error:
        problem = str(error)
    raise ValueError(
        "`--search.space` wants a JSON file such as "
        '`{"optimizer.name": ["sgd", "adam"]}`, or words such as '
        f"`optimizer.name=sgd,adam`. Received: {str(path)!r} ({problem})"
    )


def _described_by(word: str) -> tuple[str, Any]:
    name, equals, text = word.partition("=")
    if not equals or text.count(":") > 2:
        raise ValueError(
            "each word of `--search.space` is `name=a,b,c`, `name=low:high`, "
            f"`name=low:high:log` or `name=low:high:step`. Received: {word!r}"
        )
    if ":" not in text:
        return name, [_value(part) for part in text.split(",")]
    low, high, *rest = map(_value, text.split(":"))
    description: dict[str, Any] = {"low": low, "high": high}
    if rest == ["log"]:
        return name, description | {"log": True}
    return name, description | ({"step": rest[0]} if rest else {})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _checked(name: str, description: Any, hints: Mapping[str, Any]) -> Choices | Range:
    if name not in hints or name in _FIXED:
        known = sorted(set(hints).difference(_FIXED))
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        reason = "cannot be searched" if name in _FIXED else "is not an option"
        raise ValueError(f"`{name}` {reason}; the nearest are {near}. Received: {name}")
    if isinstance(description, list) and description:
        for value in description:
            if not _suits(hints[name], value):
                raise ValueError(
                    f"`{name}` takes {describe(hints[name])}. Received: {value!r}"
                )
        return Choices(tuple(description))
    return _checked_range(name, description, hints[name])


def _checked_range(name: str, description: Any, hint: Any) -> Range:
    if not isinstance(description, dict) or not {"low", "high"} <= set(description) <= (
        _RANGE
    ):
        raise ValueError(
            f"`{name}` wants a list of choices, or an object with `low`, `high` and "
            f"maybe `log` or `step`. Received: {description!r}"
        )
    kinds = set(typing.get_args(hint) or (hint,))
    whole = int in kinds and float not in kinds
    given = Range(**description, whole=whole)
    numbers = [given.low, given.high] + [given.step] * (given.step is not None)
    if not kinds & {int, float} or not all(
        _is_finite(each) and _suits(hint, each) for each in numbers
    ):
        raise ValueError(
            f"`{name}` takes {describe(hint)}, and a range is one of finite numbers. "
            f"Received: {description!r}"
        )
    good = {
        "`low` is below `high`": given.low < given.high,
        "`step` is above 0": given.step is None or given.step > 0,
        "`log` is true or false": isinstance(given.log, bool),
        "`log` wants `low` above 0": not given.log or given.low > 0,
        "`log` and `step` exclude each other": not given.log or given.step is None,
    }
    for rule, holds in good.items():
        if not holds:
            raise ValueError(f"in a range {rule}. Received: {name}={description!r}")
    return given


def _suits(hint: Any, value: Any) -> bool:
    try:
        typed(hint, value)
    except TypeError:
        return False
    return True


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and -math.inf < value < math.inf
