"""Named tensors in files: safetensors without torch, and torch's `.bin` with it.

Nothing in a file is executed, and a file is read whole or refused. 16-bit values are widened to fp32.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save_file

from tailora.core.errors import AdapterError, MissingExtraError

Tensor = NDArray[np.float32] | NDArray[np.float64]

LARGEST_FILE = 8 * 2**30
"""Bytes; a larger file is not an adapter, and is refused without being read."""

LARGEST_HEADER = 32 * 2**20
"""Bytes of a safetensors file's JSON: some 200,000 tensors."""


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Args:
        path: the file.

    Returns:
        fp32 arrays by name, fp64 where the file holds fp64.

    Raises:
        AdapterError: the file is missing, truncated or malformed, or holds tensors of another type.
    """
    _check_size(path)
    _check_header(path)
    try:
        entries = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"is not a complete safetensors file: {error}", where=path, hint="download or save it again"
        ) from error
    return {name: _array(name, entry, path) for name, entry in entries}


def load_torch(path: Path) -> Any:
    """What `torch.save` wrote, read with `weights_only=True`, so that nothing in it runs; needs torch.

    Raises:
        AdapterError: the file is missing, too large or damaged, or holds more than tensors and plain containers.
        MissingExtraError: torch is not installed.
    """
    try:
        import torch  # an optional package at this level
    except ImportError as error:
        raise MissingExtraError("reading this file needs torch", where=path, hint="pip install torch") from error
    _check_size(path)
    _check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle can raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            reason = "it contains something other than tensors, which could run code, or it is not a torch file"
        raise AdapterError(
            f"cannot be read as tensors: {reason[:200]}", where=path, hint="save it again, as safetensors"
        ) from error


def read_torch(path: Path) -> dict[str, Tensor]:
    """Read a state dict that `torch.save` wrote; needs torch.

    Args:
        path: the `.bin`, `.pt` or `.pth` file.

    Returns:
        fp32 arrays by name, fp64 where the file holds fp64.

    Raises:
        AdapterError: see `load_torch`; or the file is not a flat dict of dense floating-point tensors.
        MissingExtraError: torch is not installed.
    """
    state = load_torch(path)
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and hasattr(value, "is_floating_point") for name, value in state.items()
    ):
        hint = "save the adapter's state dict, as safetensors"
        raise AdapterError("contains something other than named tensors", where=path, hint=hint)
    check_claims(state.values(), path)
    arrays = {}
    for name, value in state.items():
        try:
            arrays[name] = torch_array(value)
        except ValueError as error:
            raise AdapterError(f"{name} {error}", where=path) from error
    return arrays


def torch_array(tensor: Any) -> Tensor:
    """A tensor of a file as fp32, or as fp64 if it is.

    Raises:
        ValueError: the tensor is not dense floating-point numbers, or claims more of them than the file holds: a
            crafted tensor stretches one stored number over terabytes, which widening would write out.
    """
    is_dense = str(tensor.layout) == "torch.strided" and not (tensor.is_nested or tensor.is_quantized)
    if not is_dense or tensor.device.type != "cpu" or not tensor.is_floating_point():
        raise ValueError(f"is not a dense floating-point tensor ({tensor.dtype})")
    if tensor.element_size() < 2:
        raise ValueError(f"is stored as {tensor.dtype}, which is not read")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("claims more numbers than the file contains")
    values = tensor.detach().resolve_neg()
    wide = values if values.element_size() == 8 else values.float()
    array: Tensor = np.ascontiguousarray(wide.numpy())
    return array


def check_claims(tensors: Iterable[Any], path: Path) -> None:
    """Refuse a file whose tensors, sharing their numbers, would be far larger in memory than it is."""
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if claimed > 4 * path.stat().st_size:
        what = f"claims more numbers than the file contains ({claimed:,} bytes of tensors)"
        raise AdapterError(what, where=path, hint="save it again, as safetensors")


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write arrays by name as safetensors, marked as torch's layout as the Hugging Face libraries do."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in sorted(tensors.items())}
    save_file(contiguous, str(path), metadata={"format": "pt"})


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise AdapterError("there is no such file", where=path, hint="check the path, or save the adapter again")
    if path.stat().st_size > LARGEST_FILE:
        what = f"is too large for an adapter: {path.stat().st_size:,} bytes (limit {LARGEST_FILE:,})"
        raise AdapterError(what, where=path, hint="name the adapter's own file, not the model's")


def _check_header(path: Path) -> None:
    """Refuse a header that is too large for an adapter, before parsing takes many times its size in memory."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > LARGEST_HEADER:
        what = f"is not a complete safetensors file: its header claims {length:,} bytes"
        raise AdapterError(what, where=path, hint="download or save it again")


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that unpacks to far more than it takes: torch stores its tensors uncompressed."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        what = "cannot be read as tensors: the archive is damaged"
        raise AdapterError(what, where=path, hint="download or save it again") from error
    if size > 2 * path.stat().st_size + (1 << 20):
        what = f"would unpack from {path.stat().st_size:,} to {size:,} bytes"
        raise AdapterError(what, where=path, hint="save it again, as safetensors")


def _array(name: str, entry: Mapping[str, Any], path: Path) -> Tensor:
    data, shape, dtype = entry["data"], entry["shape"], entry["dtype"]
    if dtype == "BF16":  # the upper half of an fp32
        widened: NDArray[np.float32] = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        return widened.reshape(shape)
    formats = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    if dtype not in formats:
        what = f"{name} is stored as {dtype}, not as floating-point numbers of 16 bits or more"
        raise AdapterError(what, where=path, hint="save it as F32, F16 or BF16")
    values = np.frombuffer(data, formats[dtype]).reshape(shape)
    return values.astype(np.float64) if dtype == "F64" else values.astype(np.float32)
