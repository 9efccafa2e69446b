"""The stored weights of a folder in Hugging Face layout, mapped from disk and validated. No torch.

Reads the safetensors format itself (an eight-byte length, a JSON header, the values), because numpy has no bfloat16 and
the safetensors package cannot return such tensors to it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailora.core.errors import ModelError

SINGLE_FILE = "model.safetensors"
PACKED_FILE = "model.int8.safetensors"  # of Tailora's 8-bit form, whose values transformers would mistake for weights
INDEX_FILE = "model.safetensors.index.json"
_NUMPY_DTYPE = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # the upper half of a float32
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
    "BOOL": "<u1",
}
_MAX_HEADER = 100_000_000  # bytes, the format's own limit


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file.

    Attributes:
        dtype: safetensors' name of the type: "F32", "BF16", …
        raw: its values in its shape, mapped from the file; bfloat16 as unsigned 16-bit integers.
    """

    dtype: str
    raw: NDArray[Any]

    @property
    def floating(self) -> bool:
        """Whether it consists of floating-point numbers."""
        return self.dtype in {"F64", "F32", "F16", "BF16"}


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model's weights: one, or the shards that an index names.

    Raises:
        ModelError: there are none, or the index is broken or names a missing file.
    """
    # In transformers' order: a single file takes precedence over shards.
    for name in (SINGLE_FILE, PACKED_FILE):
        if (folder / name).is_file():
            return [folder / name]
    index = folder / INDEX_FILE
    if not index.is_file():
        if any(folder.glob("*.bin")):
            raise ModelError(
                "the weights are in pickled .bin files, which are not read",
                where=folder,
                hint="save them as model.safetensors: model.save_pretrained(folder) in transformers does it",
            )
        what = f"there is no {SINGLE_FILE} in this folder"
        raise ModelError(what, where=folder, hint="name a folder in Hugging Face layout")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError("is not a safetensors index", where=index, hint="fetch the model again") from error
    if outside or not names:
        what = "names files outside its own folder" if outside else "names no files"
        raise ModelError(f"the index {what}", where=index, hint="fetch the model again")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"the folder lacks {', '.join(missing)}", where=folder, hint="fetch the model again")
    return [folder / name for name in names]


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a model folder by their stored names, mapped but not yet read; 8-bit ones as fp32.

    Raises:
        ModelError: see `weight_files`; or a file is truncated or not safetensors, or a tensor is in two files.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        for name, tensor in _tensors_of(path):
            if name in tensors:
                raise ModelError(f"{name} is also in another shard", where=path, hint="fetch the model again")
            tensors[name] = tensor
    scaled = [name for name in tensors if f"{name}.scale" in tensors and f"{name}.zero" in tensors]
    for name in scaled:
        scale, zero = tensors.pop(f"{name}.scale").raw, tensors.pop(f"{name}.zero").raw
        try:
            values = np.subtract(tensors[name].raw, zero, dtype=np.float32)
            values *= scale
        except ValueError as error:
            raise ModelError(f"the scale of {name} does not fit it", where=folder, hint="quantise it again") from error
        tensors[name] = StoredTensor("F32", values)
    return tensors


def _tensors_of(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise _broken(path)
        header = file.read(length)
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        places = sorted((int(begin), int(end)) for begin, end in (e["data_offsets"] for e in entries.values()))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _broken(path) from error
    edges = [0, *(end for _, end in places)]
    # The tensors fill the rest of the file, without gaps and without bytes that two of them share.
    if [begin for begin, _ in places] != edges[:-1] or 8 + length + edges[-1] != size:
        raise _broken(path)
    values = np.memmap(path, mode="r", dtype=np.uint8) if size else np.empty(0, np.uint8)
    for name, entry in entries.items():
        yield name, _tensor(path, name, entry, values[8 + length :])


def _tensor(path: Path, name: str, entry: dict[str, Any], values: NDArray[np.uint8]) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        expected = math.prod(shape) * np.dtype(_NUMPY_DTYPE[dtype]).itemsize if dtype in _NUMPY_DTYPE else None
        whole = all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end))
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(path) from error
    if expected is None:
        raise ModelError(
            f"tensor {name} is stored as {dtype}, which is not read",
            where=path,
            hint="name an unquantised model",
        )
    if not whole or end - begin != expected:
        raise _broken(path)
    return StoredTensor(dtype, values[begin:end].view(_NUMPY_DTYPE[dtype]).reshape(shape))


def _broken(path: Path) -> ModelError:
    return ModelError("is truncated, or not a safetensors file", where=path, hint="fetch the model again")


def widened(tensor: StoredTensor) -> NDArray[np.float32]:
    """Return a tensor's numbers in fp32."""
    if tensor.dtype == "BF16":
        return (tensor.raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.ascontiguousarray(tensor.raw, dtype=np.float32)
