"""HDF5 without what could lead outside the file or fill the memory."""

import math
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import h5py
import numpy as np
import tensorflow as tf

from worklab.pretrained.formats.hdf5_headers import longest_text
from worklab.pretrained.weights_file import Entry, Refusal

_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
}
_MOST_EXPANSION = 20  # as of a zip archive
_SMALL_BYTES = 1 << 20
_LONGEST_NAME = 10_000


def child(group: Any, path: str) -> Any:
    """Return the group or dataset at a path in a group, by hard links alone.

    Raises:
        Refusal: If it is missing, or a link on the way could lead elsewhere.
    """
    for name in path.split("/"):
        link = group.get(name, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise Refusal("a name listed in the file must be there", f"`{path}`")
        if not isinstance(link, h5py.HardLink):
            raise Refusal(
                "links that could lead out of the file are not followed",
                f"{type(link).__name__} `{path}`",
            )
        group = group[name]
    return group


def objects(group: Any) -> Iterator[tuple[str, Any]]:
    """Yield all groups and datasets in a group by their paths; each group once."""
    stack, seen = [("", group)], set()
    while stack:
        path, item = stack.pop()
        if isinstance(item, h5py.Group):
            address = h5py.h5o.get_info(item.id).addr  # a group may hold itself
            if address in seen:
                continue
            seen.add(address)
            stack += [
                (f"{path}/{name}".lstrip("/"), child(item, name))
                for name in reversed(list(item))
            ]
        yield path, item


def entry(dataset: Any) -> Entry:
    """Return a dataset as an array to be read, if it is all in the file.

    Raises:
        Refusal: If it is not of numbers, lies outside, is compressed by other means
            than gzip, or is larger than what is stored accounts for.
    """
    if dataset.shape is None:
        raise Refusal(f"`{dataset.name}` must have a shape", "none")
    if dataset.is_virtual or dataset.external:
        raise Refusal(
            f"`{dataset.name}` must lie in the file itself", "data in other files"
        )
    dtype = dataset.dtype
    is_bfloat16 = dtype == np.dtype("V2") and "dtype" in dataset.attrs  # as in Keras 3
    if is_bfloat16:
        dtype = np.dtype(tf.bfloat16.as_numpy_dtype)
    elif dtype.kind not in "biufc":
        raise Refusal(f"`{dataset.name}` must hold numbers", f"dtype={dtype}")
    _check_stored(dataset)

    def read() -> np.ndarray:
        if dataset.chunks and dataset.id.get_create_plist().get_nfilters():
            _check_chunks(dataset)
        array = np.empty(dataset.shape, dataset.dtype)
        if array.size:
            dataset.read_direct(array)
        return array.view(dtype) if is_bfloat16 else array

    return Entry(tuple(dataset.shape), dtype, read)


def name(raw: BinaryIO, group: Any) -> str | None:
    """Return the attribute `name` of a group, or None if it is not there, or no name.

    Args:
        raw: The file.
        group: A group of it.

    Raises:
        Refusal: If it claims to be longer than names are.
    """
    if "name" not in group.attrs:
        return None
    if h5py.h5a.open(group.id, b"name").get_type().is_variable_str():
        length = longest_text(raw, h5py.h5o.get_info(group.id).addr, "name")
        if length is None:
            return None
        if length > _LONGEST_NAME:
            raise Refusal(f"a name must have at most {_LONGEST_NAME} bytes", length)
    text = group.attrs["name"]
    text = text.decode() if isinstance(text, bytes) else text
    return text if isinstance(text, str) else None


def check_total(entries: Iterable[Entry], file_bytes: int) -> None:
    """Refuse a file in which many names share few values.

    Raises:
        Refusal: If the arrays together are more than 20 times the file and 1 MiB.
    """
    total = sum(math.prod(each.shape) * each.dtype.itemsize for each in entries)
    if total > _MOST_EXPANSION * file_bytes + _SMALL_BYTES:
        raise Refusal(f"its arrays must fit into its {file_bytes} bytes", total)


def _check_stored(dataset: Any) -> None:
    stored = dataset.id.get_storage_size()
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    plist = dataset.id.get_create_plist()
    filters = {plist.get_filter(n)[0] for n in range(plist.get_nfilters())}
    if filters - _FILTERS:
        raise Refusal(
            f"`{dataset.name}` must be stored plainly or by gzip", f"filters={filters}"
        )
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else 0
    most = _MOST_EXPANSION * stored + _SMALL_BYTES if filters else stored
    # The last chunks reach over the edge; small arrays may be one large chunk.
    if size > most or chunk > max(most, _SMALL_BYTES) or not stored and size:
        raise Refusal(
            f"`{dataset.name}` must not claim more than is stored: {stored} bytes",
            f"shape={dataset.shape}, dtype={dataset.dtype}, chunks={dataset.chunks}",
        )


def _check_chunks(dataset: Any) -> None:
    """Refuse chunks that inflate to more than they claim: HDF5 would not stop.

    Raises:
        Refusal: If there is one.
    """
    plist = dataset.id.get_create_plist()
    order = [plist.get_filter(n)[0] for n in range(plist.get_nfilters())]
    if h5py.h5z.FILTER_DEFLATE not in order:
        return
    deflate = order.index(h5py.h5z.FILTER_DEFLATE)
    most = math.prod(dataset.chunks) * dataset.dtype.itemsize + 4  # and a checksum
    for number in range(dataset.id.get_num_chunks()):
        place = dataset.id.get_chunk_info(number).chunk_offset
        mask, raw = dataset.id.read_direct_chunk(place)
        if mask & 1 << deflate:  # this one is stored as it is
            continue
        if len(zlib.decompressobj().decompress(raw, most + 1)) > most:
            raise Refusal(
                f"a chunk of `{dataset.name}` must inflate to at most {most} bytes",
                f"chunk {number} goes on",
            )
