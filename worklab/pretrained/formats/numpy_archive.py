"""`.npz` archives of NumPy arrays; Python objects in them are refused."""

import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from worklab.pretrained.formats.zip_members import find_data
from worklab.pretrained.weights_file import Entry, Refusal, WeightsFile, refusing

FORMAT = "NumPy archive"


def open_numpy(
    path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]
) -> WeightsFile:
    """Open an archive whose members `zip_members.check_members` has found sound."""
    with refusing(path, FORMAT):
        entries = {
            name.removesuffix(".npy"): _entry(path, archive, member)
            for name, member in members.items()
        }
    return WeightsFile(path, FORMAT, entries, close=archive.close)


def _entry(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Entry:
    with archive.open(member) as file:
        version = npy.read_magic(file)
        read_header = {
            (1, 0): npy.read_array_header_1_0,
            (2, 0): npy.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise Refusal("the version of an array must be 1.0 or 2.0", version)
        shape, is_fortran, dtype = read_header(file)
        start = file.tell()
    name = member.filename
    if dtype.kind not in "biufcUS" or not dtype.itemsize:  # objects could be code
        raise Refusal(f"`{name}` must hold plain numbers or text", f"dtype={dtype}")
    size = math.prod(shape) * dtype.itemsize
    if any(n < 0 for n in shape) or start + size != member.file_size:
        raise Refusal(
            f"`{name}` must have the {member.file_size - start} bytes that are there",
            f"shape={shape}, dtype={dtype}",
        )

    def read() -> np.ndarray:
        flat = np.empty(math.prod(shape), dtype)
        _read_into(path, archive, member, flat, start)
        return flat.reshape(shape, order="F" if is_fortran else "C")

    return Entry(shape, dtype, read)


def _read_into(
    path: Path,
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    flat: np.ndarray,
    start: int,
) -> None:
    """Fill an array with what a member has after its header.

    Raises:
        Refusal: If it does not fit its checksum.
    """
    content = flat.view(np.uint8).data
    if member.compress_type != zipfile.ZIP_STORED:
        with archive.open(member) as compressed:
            compressed.read(start)
            place = 0
            while part := compressed.read(1 << 20):  # checks the sum at the end
                content[place : place + len(part)] = part
                place += len(part)
        return
    with open(path, "rb", buffering=0) as file:  # `zipfile` would take thrice as long
        file.seek(find_data(file, member))
        checksum = zlib.crc32(file.read(start))
        place = 0
        while place < len(content) and (count := file.readinto(content[place:])):
            place += count
    if zlib.crc32(content, checksum) != member.CRC:
        raise Refusal("the content must fit its checksum", f"`{member.filename}`")
