"""PyTorch files of tensors by name: zip archives, and streams from before 1.6."""

import importlib
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from worklab.pretrained.formats.zip_members import check_sums
from worklab.pretrained.weights_file import Entry, Refusal, WeightsFile, refusing

FORMAT = "PyTorch"
# Under what training scripts put the tensors, the likeliest first.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "model_ema")
_PARALLEL = "module."  # what `DataParallel` puts before every name
# What a dictionary of tensors is made of. PyTorch allows more, such as `bytearray`,
# which fills the memory when it is called with a large number.
_GLOBALS = re.compile(
    r"collections (OrderedDict|defaultdict|Counter)|_codecs encode|"
    r"torch\._utils _rebuild_(tensor|tensor_v[23]|parameter|parameter_with_state)|"
    r"torch\._tensor _rebuild_from_type_v2|"
    r"torch\.nn\.parameter (Parameter|Buffer)|torch\.serialization _get_layout|"
    r"torch(\.storage|\.cuda)? \w*Storage|torch ([a-z]\w*|Size)|"
    r"(__builtin__|builtins) (set|dict|complex)"
)
_STREAM_PICKLES = 5  # number, version, system, content, keys of the storages
# A pickle of PyTorch's own number 0x1950A86A20F9469CFC6C.
_STREAM_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"


def is_torch_stream(path: Path) -> bool:
    """Return whether a file starts as those of PyTorch before 1.6 do."""
    with open(path, "rb") as file:
        return file.read(len(_STREAM_START)) == _STREAM_START


def is_torch_zip(members: Mapping[str, zipfile.ZipInfo]) -> bool:
    """Return whether the members of a zip archive are those of a PyTorch file."""
    return any(name.endswith("/data.pkl") for name in members)


def open_torch_zip(
    path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]
) -> WeightsFile:
    """Open an archive whose members `zip_members.check_members` has found sound.

    Raises:
        ValueError: If `torch` is not installed, or the file has more than tensors.
    """
    with refusing(path, FORMAT), archive:
        _check_stored(members)
        for name, member in members.items():
            if name.lower().endswith("data.pkl"):  # PyTorch ignores the case
                with archive.open(member) as file:
                    _check_globals(file)
    return _open(path, list(members.values()))


def open_torch_stream(path: Path) -> WeightsFile:
    """Open a file from before 1.6; all of it is read at once.

    Raises:
        ValueError: If `torch` is not installed, or the file has more than tensors.
    """
    with refusing(path, FORMAT), open(path, "rb") as file:
        for _ in range(_STREAM_PICKLES):
            _check_globals(file)
    return _open(path, None)


def _open(path: Path, members: list[zipfile.ZipInfo] | None) -> WeightsFile:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise ValueError(
            f"`{path}` is a PyTorch file, and PyTorch is not installed; install it by "
            "`pip install 'worklab[torch]'`, or save the weights as .safetensors where "
            f"it is. Received: {error}"
        ) from error
    with refusing(path, FORMAT):
        # `weights_only` never runs what the pickle in the file says.
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=members is not None
        )
        tensors = _shorten(dict(_tensors(torch, _unwrap(torch, content), "")))
        if not tensors:
            raise Refusal("it must have tensors by name", type(content).__name__)
        entries = {name: _entry(torch, name, t) for name, t in tensors.items()}
        entries = check_sums(path, members or [], entries)
        storages = {t.untyped_storage() for t in tensors.values()}
        sizes = {s.data_ptr(): s.nbytes() for s in storages}
        if sum(sizes.values()) > path.stat().st_size:
            raise Refusal(
                f"its tensors must fit into its {path.stat().st_size} bytes",
                f"{sum(sizes.values())} bytes",
            )
    return WeightsFile(path, FORMAT, entries)


def _check_stored(members: Mapping[str, zipfile.ZipInfo]) -> None:
    compressed = [name for name, member in members.items() if member.compress_type]
    if compressed:
        raise Refusal("no member may be compressed", f"`{compressed[0]}`")


def _check_globals(file: IO[bytes]) -> None:
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument)):
            raise Refusal(
                "it must have tensors alone; where it was made, save the state "
                "dictionary by itself",
                str(argument).replace(" ", "."),
            )


def _unwrap(torch: Any, content: Any) -> Any:
    for wrapper in _WRAPPERS:
        inner = content.get(wrapper) if isinstance(content, dict) else None
        if isinstance(inner, dict) and any(_tensors(torch, inner, "")):
            return inner
    return content


def _tensors(torch: Any, content: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of dictionaries in dictionaries by joined names."""
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value
        else:
            yield from _tensors(torch, value, f"{prefix}{key}.")


def _shorten(tensors: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in tensors if name != "n_averaged"]  # of `AveragedModel`
    if all(name.startswith(_PARALLEL) for name in names):
        return {name.removeprefix(_PARALLEL): t for name, t in tensors.items()}
    return tensors


def _entry(torch: Any, name: str, tensor: Any) -> Entry:
    size = tensor.numel() * tensor.element_size()
    is_plain = tensor.layout == torch.strided and not tensor.is_quantized
    if not is_plain or tensor.device.type != "cpu":
        raise Refusal(
            f"`{name}` must be a dense tensor of plain numbers",
            f"{tensor.layout}, {tensor.dtype}, {tensor.device}",
        )
    if size > tensor.untyped_storage().nbytes():  # one number seen many times
        raise Refusal(
            f"`{name}` must not claim more than is stored: "
            f"{tensor.untyped_storage().nbytes()} bytes",
            f"shape={tuple(tensor.shape)}, stride={tensor.stride()}",
        )
    is_known_to_numpy = not tensor.is_floating_point() or tensor.dtype in (
        torch.float16,
        torch.float32,
        torch.float64,
    )
    dtype = torch.float32 if not is_known_to_numpy else tensor.dtype
    plain: np.ndarray = torch.empty(0, dtype=dtype).numpy()
    return Entry(
        tuple(tensor.shape), plain.dtype, lambda: tensor.to(dtype).numpy(force=True)
    )
