"""What a process says: lines for a person, warnings alone, or events for a machine."""

import contextlib
import dataclasses
import io
import json
import math
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

Mode = Literal["lines", "quiet", "json"]
"""`lines` are for people, `quiet` says nothing but warnings, `json` is for machines."""

_mode: Mode = "lines"


def output_mode() -> Mode:
    """Return how this process speaks, e.g. to tell one that it starts."""
    return _mode


@contextlib.contextmanager
def speaking(mode: Mode, **common: Any) -> Iterator[None]:
    """Speak in one way inside.

    With `json` the standard output has events alone: what is printed, by anybody in
    this process, becomes `message` events.

    Args:
        mode: How.
        **common: Values that every event has, e.g. which process it is from.
    """
    global _mode
    before, _mode = _mode, mode
    try:
        if mode != "json":
            yield
            return
        lines = JsonLines(sys.stdout, **common)
        with contextlib.redirect_stdout(lines):
            try:
                yield
            finally:
                lines.end_text()
    finally:
        _mode = before


def emit(event: str, **values: Any) -> None:
    """Write an event, where a machine reads; else do nothing."""
    if isinstance(sys.stdout, JsonLines):
        sys.stdout.event(event, **values)


class JsonLines(io.TextIOBase):
    """A stream of events, one JSON object per line; text that it gets is a `message`.

    The JSON is strict: what is not finite becomes `null`. Each line is flushed.

    Args:
        file: Where the lines go.
        **common: Values that every event has.
    """

    def __init__(self, file: TextIO, **common: Any) -> None:
        self._file = file
        self._common = common
        self._text = ""
        self._lock = threading.RLock()

    def writable(self) -> bool:
        """Return that it takes text."""
        return True

    def write(self, text: str) -> int:
        """Take text; what ends with a line's end is one message."""
        with self._lock:
            self._text += text
            if text.endswith("\n"):
                self.end_text()
        return len(text)

    def end_text(self) -> None:
        """Write what is left of the text, where no line's end came."""
        with self._lock:
            text, self._text = self._text.strip("\n"), ""
            if text:
                self.event("message", text=text)

    def event(self, event: str, **values: Any) -> None:
        """Write an event.

        Args:
            event: What kind.
            **values: Anything that `to_plain` understands.

        Raises:
            OSError: If nobody reads the lines any more.
        """
        content = {"event": event} | to_plain(self._common | values)
        with self._lock:
            self.end_text()  # what was said before comes before
            try:
                self._file.write(json.dumps(content, allow_nan=False) + "\n")
                self._file.flush()
            except BrokenPipeError as error:
                # What is still to be said, and the end of the process, fail no more.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._file.fileno())
                raise OSError(
                    "nobody reads the JSON lines any more. A run goes on from its last "
                    "checkpoint by the same command, with a reader that stays. "
                    f"Received: {error}"
                ) from error


def to_plain(value: Any) -> Any:
    """Return a value as strict JSON has it: no NaN, no NumPy, no dataclass.

    Example:
        >>> to_plain({"loss": float("nan"), "run": Path("runs/x"), 3: (np.int64(1),)})
        {'loss': None, 'run': 'runs/x', '3': [1]}
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "to_json"):
        return to_plain(value.to_json())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {each.name: to_plain(getattr(value, each.name)) for each in fields}
    if isinstance(value, Mapping):
        return {str(name): to_plain(each) for name, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, Path):
        return [to_plain(each) for each in value]
    return str(value)
