"""Adapters in files: load and save any format that needs no base model."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Literal, get_args

from tailora.adapters.adapter import Adapter
from tailora.adapters.insert import DESCRIPTIONS, AnyAdapter, Insert, InsertKind
from tailora.core.errors import AdapterError, SettingsError

Format = Literal["peft", "loralib"]
ExportFormat = Literal["peft", "loralib", "gguf", "openvino-genai"]
_STATE_DICTS = (".bin", ".pt", ".pth")
_PLACES = "name an adapter folder, a run directory, or a loralib .bin or .pt file"


def load(path: str | PathLike[str]) -> Adapter:
    """Read an adapter: a folder as PEFT or mlx-lm writes it, or a loralib state dict (`.bin`, `.pt`, `.pth`).

    Raises:
        AdapterError: the path does not exist, or does not hold a whole LoRA adapter.
    """
    from tailora.adapters.formats import loralib, mlx, peft  # the backend is chosen here

    path = Path(path)
    if path.is_dir():
        kind = insert_kind(path)
        if kind is not None:
            what = f"contains {DESCRIPTIONS[kind]}, which cannot be merged, converted or combined like a LoRA adapter"
            raise AdapterError(what, where=path, hint="use the folder itself, with generate, evaluate or serve")
        of_mlx = (path / mlx.WEIGHTS_FILE).is_file() and not (path / peft.WEIGHTS_FILE).is_file()
        return mlx.load(path) if of_mlx else peft.load(path)
    if not path.is_file():
        raise AdapterError("no such adapter", where=path, hint=_PLACES)
    if path.suffix.lower() in _STATE_DICTS:
        return loralib.load(path)
    if path.name == peft.WEIGHTS_FILE:
        return peft.load(path.parent)
    what = "is not in a known adapter format"
    raise AdapterError(what, where=path, hint=_PLACES)


def load_any(path: str | PathLike[str]) -> AnyAdapter:
    """Read an adapter as `load` does, or an insert of another method.

    Raises:
        AdapterError: the path does not exist, or does not hold a whole adapter.
    """
    from tailora.adapters.formats import inserts  # the backend is chosen here

    return load(path) if insert_kind(path) is None else inserts.load(Path(path))


def insert_kind(path: str | PathLike[str]) -> InsertKind | None:
    """Return the kind of insert that a folder contains; None for anything else.

    Raises:
        AdapterError: a file of the folder is not JSON.
    """
    from tailora.adapters.formats import inserts  # the backend is chosen here

    return inserts.kind_of_folder(Path(path))


def save_insert(insert: Insert, path: str | PathLike[str]) -> None:
    """Write an insert as a folder.

    Raises:
        AdapterError: it contains values that are not finite.
    """
    from tailora.adapters.formats import inserts  # the backend is chosen here

    inserts.save(insert, Path(path))


def save(adapter: Adapter, path: str | PathLike[str], format: str = "peft") -> None:
    """Write an adapter as a PEFT folder or as a loralib state dict.

    Raises:
        SettingsError: the format is unknown.
        AdapterError: the format cannot represent the adapter.
    """
    from tailora.adapters.formats import loralib, peft  # the backend is chosen here

    if format not in get_args(Format):
        raise SettingsError(f"{format!r} is not an adapter format", where="format", hint="use peft or loralib")
    (peft if format == "peft" else loralib).save(adapter, Path(path))


def adapter_place(path: Path) -> Path:
    """The adapter's own path: the `adapter` folder of a run directory, else the path itself."""
    return path / "adapter" if (path / "adapter").is_dir() else path
