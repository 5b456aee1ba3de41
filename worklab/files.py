"""Files that appear whole or not at all."""

import contextlib
import glob
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of whatever fails inside which file it was, and what to do.

    Raises:
        OSError: If the disk is full or cannot be written.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, SafetensorError, *_tensorflow_errors())):
            raise
        raise OSError(
            f"`{path}` could not be written; what was there is intact. Make room or "
            "give write access, then start the same command again. "
            f"Received: {' '.join(str(error).split())}"
        ) from error


def _tensorflow_errors() -> tuple[type[Exception], ...]:
    # Only where it is imported anyway: it takes three seconds.
    tensorflow = sys.modules.get("tensorflow")
    return () if tensorflow is None else (tensorflow.errors.OpError,)


def write_atomically(path: Path, write: Callable[[Any], Any]) -> None:
    """Write a text file beside its place, then rename it there.

    Args:
        path: Its place; the folder is made when missing.
        write: Called with the open file.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        delete_leftovers(path)
        _write_beside(path, path.with_name(f".{path.name}.{os.getpid()}"), write)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, which becomes `path` where nothing fails.

    Args:
        path: The place of the file; its folder is there. A file that is there already
            is replaced by the whole new one, and untouched by a failure.
    """
    delete_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def delete_leftovers(path: Path) -> None:
    """Delete temporary files of `path` whose writers were killed."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*"):
        if leftover.suffix[1:].isdigit() and not _is_alive(int(leftover.suffix[1:])):
            leftover.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON to a file, whole or not at all."""
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_beside(path: Path, temporary: Path, write: Callable[[Any], Any]) -> None:
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
