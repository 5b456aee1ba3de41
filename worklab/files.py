"""Files that appear whole or not at all."""

import glob
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Any], Any]) -> None:
    """Write a text file beside its place, then rename it there.

    Args:
        path: Its place; the folder is made when missing.
        write: Called with the open file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*"):
        leftover.unlink(missing_ok=True)  # of a process that was killed
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # A file name that is not Unicode has lone surrogates: escaped, as JSON does.
        with open(
            temporary, "w", encoding="utf-8", errors="backslashreplace", newline=""
        ) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON to a file, whole or not at all."""
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text))
