"""Named tensors in files: safetensors without torch, and torch's `.bin` for what exists only in it.

Nothing in a file is executed, and a file is read whole or refused. 16-bit values are widened to fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save_file

from tailora.errors import AdapterError, MissingExtraError

Tensor = NDArray[np.float32] | NDArray[np.float64]

LARGEST_FILE = 8 * 2**30
"""Bytes; a file beyond this is no adapter, and is not read into memory to find out."""


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Args:
        path: the file.

    Returns:
        fp32 arrays by name, fp64 where the file holds fp64.

    Raises:
        AdapterError: if it is truncated, malformed or holds other than floating-point tensors.
    """
    _check_size(path)
    try:
        entries = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"not a whole safetensors file: {error}", where=path, mend="fetch or save it again"
        ) from error
    return {name: _array(name, entry, path) for name, entry in entries}


def read_torch(path: Path) -> dict[str, Tensor]:
    """Read a state dict that `torch.save` wrote, with `weights_only=True`; needs torch.

    Args:
        path: the `.bin`, `.pt` or `.pth` file.

    Returns:
        fp32 arrays by name, fp64 where the file holds fp64.

    Raises:
        AdapterError: if it is truncated, holds objects other than tensors, or is no flat dict of them.
        MissingExtraError: if torch is not installed.
    """
    try:
        import torch  # an optional extra at this level
    except ImportError as error:
        raise MissingExtraError("this file needs torch to be read", where=path, mend="install torch") from error
    _check_size(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle raises whatever it pleases
        reason = str(error).partition("\n")[0]
        raise AdapterError(f"not a file of tensors alone: {reason}", where=path, mend="use safetensors") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise AdapterError("holds something other than named tensors", where=path)
    if odd := [str(name) for name, value in state.items() if not value.is_floating_point()]:
        raise AdapterError(f"{odd[0]} is not floating-point", where=path)
    wide = {name: value if value.dtype == torch.float64 else value.float() for name, value in state.items()}
    return {str(name): value.contiguous().numpy() for name, value in wide.items()}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write arrays by name as safetensors, marked as torch's layout as the Hugging Face libraries do."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in sorted(tensors.items())}
    save_file(contiguous, str(path), metadata={"format": "pt"})


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise AdapterError("no such file", where=path)
    if path.stat().st_size > LARGEST_FILE:
        raise AdapterError(f"{path.stat().st_size:,} bytes are too many for an adapter", where=path)


def _array(name: str, entry: Mapping[str, Any], path: Path) -> Tensor:
    data, shape, dtype = entry["data"], entry["shape"], entry["dtype"]
    if dtype == "BF16":  # the upper half of an fp32
        widened: NDArray[np.float32] = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        return widened.reshape(shape)
    formats = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    if dtype not in formats:
        raise AdapterError(f"{name} is stored as {dtype}, not as floating-point numbers", where=path)
    values = np.frombuffer(data, formats[dtype]).reshape(shape)
    return values.astype(np.float64) if dtype == "F64" else values.astype(np.float32)
