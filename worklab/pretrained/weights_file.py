"""A weights file of any format as a lazy mapping from names to arrays."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

_LONGEST_REASON = 300  # characters; libraries append whole stacks


class Refusal(ValueError):
    """Why a file is not read; `refusing` adds which file it is.

    Args:
        reason: What is wrong and what is expected.
        received: What stands there instead.
    """

    def __init__(self, reason: str, received: object) -> None:
        super().__init__(f"{reason}. Received: {received}")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a file, not read yet.

    Attributes:
        shape: Its shape.
        dtype: Its type in the file.
        read: Reads its values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class WeightsFile(Mapping[str, np.ndarray]):
    """The arrays of a weights file by their names, each read when it is asked for.

    Types that NumPy does not have come as the next larger one it has, with the same
    values: bfloat16 as float32. An array may be read-only, and stays usable after the
    file is closed. Also a context manager.

    Attributes:
        path: The file, or what a TensorFlow checkpoint is called without `.index`.
        format: Its name for people, such as `PyTorch`.
        class_names: Names in label order, where the file has them; otherwise empty.
        layout: Form of a canonical network that this project's file is of, or "".

    Args:
        path: See above.
        format: See above.
        entries: The arrays by name.
        class_names: See above.
        layout: See above.
        close: Called once, when the file is closed.
    """

    def __init__(
        self,
        path: Path,
        format: str,
        entries: Mapping[str, Entry],
        *,
        class_names: Sequence[str] = (),
        layout: str = "",
        close: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.format = format
        self.class_names = list(class_names)
        self.layout = layout
        self._entries = dict(entries)
        self._close = close
        self._closed = False

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array without reading it."""
        return self._entries[name].shape

    def dtype(self, name: str) -> np.dtype:
        """Return the type an array will have, without reading it."""
        return _plain_dtype(self._entries[name].dtype)

    def close(self) -> None:
        """Close the file; no more arrays can be read."""
        if not self._closed and self._close is not None:
            self._close()
        self._closed = True

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        if self._closed:
            raise RuntimeError(
                "the weights file is closed; read its arrays before. "
                f"Received: {name!r} of `{self.path}`"
            )
        with refusing(self.path, self.format):
            array = entry.read()
            if array.shape != entry.shape:
                raise Refusal(
                    f"`{name}` must have the shape {entry.shape} that the file says",
                    f"shape={array.shape}",
                )
            return array.astype(self.dtype(name), copy=False)

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # Mapping's own would read the values

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@contextlib.contextmanager
def refusing(path: Path, format: str) -> Iterator[None]:
    """Say of whatever fails inside which file it was, in one line.

    Raises:
        ValueError: If anything fails; a broken file makes libraries raise anything.
    """
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if len(text) > _LONGEST_REASON:
            text = f"{text[:_LONGEST_REASON]}..."
        if not isinstance(error, Refusal):
            text = f"get it again from its source. Received: {text}"
        raise ValueError(f"`{path}` is not a whole {format} file: {text}") from error


def _plain_dtype(dtype: np.dtype) -> np.dtype:
    if dtype.kind == "V" and dtype.names is None:  # as ml_dtypes has its own
        return np.dtype(np.int8 if "int" in dtype.name else np.float32)
    return dtype.newbyteorder("=")
