"""Source of a network class, whether it is in a file or in a notebook."""

import ast
import contextlib
import inspect
import linecache
import logging
import symtable
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_logger = logging.getLogger(__name__)


def find_file(network_class: type) -> Path | None:
    """Return the file that a class is defined in; None for one of a notebook."""
    with contextlib.suppress(OSError, TypeError):
        file = inspect.getsourcefile(network_class)
        if file is not None and Path(file).is_file():
            return Path(file)
    return None


def find_source(network_class: type) -> str | None:
    """Return source that defines a class, to be kept with its run.

    It is the whole text of the class's file. In a notebook it is the class alone, after
    the imports, functions, classes and constants of other cells that it uses: running
    whole cells again would run what else is in them.

    Returns:
        None where nobody keeps the text, as for a class made by `exec`.
    """
    file = find_file(network_class)
    if file is not None:
        return file.read_text(encoding="utf-8")
    module = sys.modules.get(network_class.__module__)
    if module is None or _definition(network_class) is None:
        return None
    parts: dict[str, str] = {}
    _collect(network_class.__name__, vars(module), parts)
    return "\n\n".join(part for part in parts.values() if part) + "\n"


def _collect(name: str, namespace: Mapping[str, Any], parts: dict[str, str]) -> None:
    """Add what defines a name of the notebook, after what it uses itself."""
    if name in parts or name not in namespace:  # done, or one of Python's own
        return
    value = namespace[name]
    parts[name] = ""  # so that what uses itself ends
    if isinstance(value, ModuleType):
        parts[name] = f"import {value.__name__} as {name}"
    elif _is_imported(value, namespace):
        parts[name] = f"from {value.__module__} import {value.__name__} as {name}"
    elif not isinstance(value, type | FunctionType):
        with contextlib.suppress(ValueError, SyntaxError):
            if ast.literal_eval(repr(value)) == value:
                parts[name] = f"{name} = {value!r}"
                return
        _warn(name)
    elif (text := _definition(value)) is not None:
        for used in _globals(text):
            _collect(used, namespace, parts)
        del parts[name]
        parts[name] = text
    else:
        _warn(name)


def _warn(name: str) -> None:
    _logger.warning(
        "the source of %s, which the network uses, is not known, so the run's copy of "
        "the network lacks it: write both to a file",
        name,
    )


def _globals(text: str) -> Iterator[str]:
    """Yield the names that source takes from its module, other than its own locals."""
    tables = [symtable.symtable(text, "cell", "exec")]
    for table in tables:
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and symbol.is_global():
                yield symbol.get_name()


def _is_imported(value: Any, namespace: Mapping[str, Any]) -> bool:
    home = sys.modules.get(getattr(value, "__module__", None) or "")
    if home is None or vars(home) is namespace:
        return False
    return getattr(home, getattr(value, "__name__", ""), None) is value


def _definition(value: type | FunctionType) -> str | None:
    """Return how a cell defines a class or function; None where no text is kept."""
    methods = vars(value).values() if isinstance(value, type) else [value]
    # Notebooks keep the text of a cell in `linecache`, for tracebacks.
    for code in (m.__code__ for m in methods if isinstance(m, FunctionType)):
        text = _find_definition(code.co_filename, value, code.co_firstlineno)
        if text is not None:
            return text
    if isinstance(value, type):  # without methods of its own
        for cell in reversed(list(linecache.cache)):
            text = None if Path(cell).is_file() else _find_definition(cell, value)
            if text is not None:
                return text
    return None


def _find_definition(
    cell: str, value: type | FunctionType, line: int | None = None
) -> str | None:
    """Return what defines a class or function in a cell, around a line if given."""
    lines = linecache.getlines(cell)
    kind = ast.ClassDef if isinstance(value, type) else ast.FunctionDef
    with contextlib.suppress(SyntaxError):
        for node in ast.parse("".join(lines)).body:
            if not isinstance(node, kind) or node.name != value.__name__:
                continue
            first = min(each.lineno for each in (node, *node.decorator_list))
            last = node.end_lineno or first
            if line is None or first <= line <= last:
                return "".join(lines[first - 1 : last])
    return None
