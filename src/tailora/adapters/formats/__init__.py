"""Adapters in files: load and save any format that needs no base model."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Literal, get_args

from tailora.adapters.adapter import Adapter
from tailora.core.errors import AdapterError, SettingsError

Format = Literal["peft", "loralib"]
ExportFormat = Literal["peft", "loralib", "gguf", "openvino-genai"]
_STATE_DICTS = (".bin", ".pt", ".pth")
_PLACES = "name an adapter folder, a run directory, or a loralib .bin or .pt file"


def load(path: str | PathLike[str]) -> Adapter:
    """Read an adapter: a folder as PEFT writes it, or a loralib state dict (`.bin`, `.pt`, `.pth`).

    Raises:
        AdapterError: the path does not exist, or does not hold a whole adapter.
    """
    from tailora.adapters.formats import loralib, peft  # the backend is chosen here

    path = Path(path)
    if path.is_dir():
        return peft.load(path)
    if not path.is_file():
        raise AdapterError("no such adapter", where=path, hint=_PLACES)
    if path.suffix in _STATE_DICTS:
        return loralib.load(path)
    if path.name == peft.WEIGHTS_FILE:
        return peft.load(path.parent)
    what = "is not in a known adapter format"
    raise AdapterError(what, where=path, hint=_PLACES)


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
