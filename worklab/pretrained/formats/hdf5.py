"""HDF5 without what could lead outside the file or fill the memory."""

import math
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import h5py
import numpy as np
import tensorflow as tf

from worklab.pretrained.weights_file import Entry, Refusal

_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
}
_MOST_EXPANSION = 20  # as of a zip archive
_SMALL_BYTES = 1 << 20


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


def groups(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all groups below a group with their paths, each once, and it itself."""
    stack, seen = [(path, group)], set()
    while stack:
        path, group = stack.pop()
        address = h5py.h5o.get_info(group.id).addr  # a group may hold itself
        if address in seen:
            continue
        seen.add(address)
        yield path, group
        for name in reversed(list(group)):
            below = child(group, name)
            if isinstance(below, h5py.Group):
                stack.append((f"{path}/{name}".strip("/"), below))


def entry(dataset: Any) -> Entry:
    """Return a dataset as an array to be read, if it is all in the file.

    Raises:
        Refusal: If it is not of numbers, lies outside, is compressed by other means
            than gzip, or is larger than what is stored accounts for.
    """
    name = dataset.name if isinstance(dataset, h5py.Dataset) else str(dataset)
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise Refusal(f"`{name}` must be a dataset", type(dataset).__name__)
    if dataset.is_virtual or dataset.external:
        raise Refusal(f"`{name}` must lie in the file itself", "data in other files")
    dtype = dataset.dtype
    is_bfloat16 = text(dataset.attrs.get("dtype")) == "bfloat16"  # Keras 3's mark
    if is_bfloat16 and dtype == np.dtype("V2"):
        dtype = np.dtype(tf.bfloat16.as_numpy_dtype)
    elif dtype.kind not in "biufc":
        raise Refusal(f"`{name}` must hold numbers", f"dtype={dtype}")
    _check_stored(dataset)

    def read() -> np.ndarray:
        if dataset.chunks and dataset.id.get_create_plist().get_nfilters():
            _check_chunks(dataset)
        array = np.empty(dataset.shape, dataset.dtype)
        if array.size:
            dataset.read_direct(array)
        return array.view(dtype) if is_bfloat16 else array

    return Entry(tuple(dataset.shape), dtype, read)


def names(group: Any, attribute: str) -> list[str] | None:
    """Return a list of names that Keras keeps in an attribute, or in numbered ones."""
    if attribute in group.attrs:
        return [str(text(name)) for name in group.attrs[attribute]]
    found: list[str] = []
    number = 0
    while f"{attribute}{number}" in group.attrs:
        found += [str(text(name)) for name in group.attrs[f"{attribute}{number}"]]
        number += 1
    return found if number else None


def text(value: Any) -> Any:
    """Return an attribute's text, which older files have as bytes."""
    return value.decode() if isinstance(value, bytes) else value


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
