"""NumPy's `.npz` files, read without trust in what they say of themselves."""

import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

# What deflate can make of a byte at most; more than that is not in the file.
DEFLATE_RATIO = 1032


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file; their sizes are compared with the file's first.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is none of arrays, or damaged; nothing in it is executed.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                member.filename.removesuffix(".npy"): _read(archive, member, size)
                for member in archive.infolist()
            }
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise ValueError(
            f"`{path}` is not a whole `.npz` file ({error}). Write it again by "
            f"`numpy.savez`. Received: {size} bytes"
        ) from error


def check_size(name: str, claimed: int, size: int) -> None:
    """Refuse a claim that a file holds more than it can, before memory is taken.

    Args:
        name: Of what is claimed, for the error.
        claimed: Bytes that it says it has.
        size: Bytes that are there, compressed by deflate at best.

    Raises:
        ValueError: If the claim is impossible.
    """
    if not 0 <= claimed <= DEFLATE_RATIO * size:
        raise ValueError(
            f"{name} claims more than its file can hold, so it is damaged or made to "
            f"harm. Get it again. Received: {claimed} bytes in a file of {size}"
        )


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> np.ndarray:
    where = f"`{member.filename}` in `{archive.filename}`"
    check_size(where, member.file_size, min(size, member.compress_size or size))
    with archive.open(member) as file:
        shape, dtype = _read_header(file, member.filename)
    claimed = dtype.itemsize
    for length in shape:
        claimed *= length
    check_size(where, claimed, size)
    if dtype.hasobject or claimed > member.file_size:
        raise ValueError(
            f"{where} is not a whole array of numbers or text. Write it again by "
            f"`numpy.savez`. Received: {dtype} {shape} in {member.file_size} bytes"
        )
    with archive.open(member) as file:
        return npy.read_array(file, allow_pickle=False)


def _read_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype]:
    try:
        first = npy.read_magic(file) == (1, 0)
        read = npy.read_array_header_1_0 if first else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    except ValueError as error:
        raise zipfile.BadZipFile(f"{name}: {error}") from error
    return shape, dtype
