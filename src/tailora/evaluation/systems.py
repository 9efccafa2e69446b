"""The systems of a comparison: files of texts, and models that write them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tailora.adapters.formats import adapter_place
from tailora.core.errors import DataError, SettingsError
from tailora.data.system_texts import InputRows, read_texts
from tailora.data.trained_reading import TrainedReading
from tailora.inference.setup import trained_reading

_NAMED = re.compile(r"([^=/\\]+)=(.+)")
_PACKED = {".gz", ".bz2", ".xz", ".zst"}
_ADAPTER_DESCRIPTIONS = ("adapter_config.json", "tailora.json")
_ADAPTER_FILES = {".safetensors", ".gguf", ".pt", ".bin"}
_DIFFERENCES = "differences.csv"  # which an evaluation of several systems writes
_USUAL_NAMES = {"outputs", "texts", "predictions", "adapter", "model"}
"""Names of files and folders that say nothing about the system; the folder above has its name."""


@dataclass(frozen=True)
class System:
    """A system of a comparison.

    Attributes:
        name: as tables show it.
        kind: what `path` is: a file of texts, an adapter or its run directory, or the folder of a model.
        path: the file or folder.
    """

    name: str
    kind: Literal["texts", "adapter", "base"]
    path: Path

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by which `tailora evaluate` scores this system alone."""
        value = {"texts": self.path, "adapter": (str(self.path),), "base": str(self.path)}[self.kind]
        return {self.kind: value}


def systems_of(texts: Sequence[str]) -> list[System]:
    """Return systems from texts such as `PATH` or `NAME=PATH`.

    A system without a name is called by its file or folder, or by its path if another system has that name.

    Raises:
        DataError: a file or folder does not exist, or a folder holds neither texts nor a model.
        SettingsError: two systems have the same name.
    """
    named = [_split(text) for text in texts]
    paths = [path for _, path in named]
    short = [_short_name(path) for path in paths]
    names = [
        name or (own if short.count(own) == 1 else str(path)) for (name, path), own in zip(named, short, strict=True)
    ]
    for name in names:
        if names.count(name) > 1:
            hint = "give each its own name, as NAME=PATH"
            raise SettingsError(f"two systems have the name {name}", where="systems", hint=hint)
    return [_system(name, path) for name, path in zip(names, paths, strict=True)]


def reading_of(systems: Sequence[System], base: str | None) -> TrainedReading | None:
    """Return how data was read in the training of the models, if all were trained in the same way, otherwise None.

    Args:
        systems: all systems; files of texts do not matter.
        base: the base model that adapters are used with, if the user named one.
    """
    readings = []
    for system in systems:
        if system.kind == "adapter":
            readings.append(trained_reading(base, {system.name: system.path}))
        elif system.kind == "base":
            readings.append(trained_reading(str(system.path), {}))
    return readings[0] if readings and all(reading == readings[0] for reading in readings) else None


def read_files(systems: Sequence[System], ids: Sequence[str], rows: InputRows, key: str | None) -> dict[str, list[str]]:
    """Return the texts of the systems that are files, by name; see `read_texts`.

    Raises:
        DataError: a file cannot be read, or its texts do not belong to the records.
    """
    files = [system for system in systems if system.kind == "texts"]
    return {system.name: read_texts(system.path, ids, key=key, rows=rows) for system in files}


def files_of(systems: Sequence[System]) -> dict[System, str]:
    """Return the name of the file for the texts of each system that writes them."""
    plain = [re.sub(r"[^\w.-]+", "-", system.name).strip("-.") for system in systems]
    return {
        system: f"{own if own and plain.count(own) == 1 else f'system-{number}'}.outputs.jsonl"
        for number, (system, own) in enumerate(zip(systems, plain, strict=True), start=1)
        if system.kind != "texts"
    }


def _split(text: str) -> tuple[str | None, Path]:
    match = None if os.path.exists(text) else _NAMED.fullmatch(text)
    return (None, Path(text)) if match is None else (match[1], Path(match[2]))


def _short_name(path: Path) -> str:
    plain = Path(path.stem) if path.suffix.lower() in _PACKED else path
    own = path.resolve().name if path.is_dir() else plain.stem
    return path.resolve().parent.name if own.lower() in _USUAL_NAMES else own


def _system(name: str, path: Path) -> System:
    if path.is_dir():
        if (path / _DIFFERENCES).is_file():
            files = ", ".join(file.name for file in sorted(path.glob("*.outputs.jsonl")))
            hint = f"name one of its files of texts: {files}" if files else "name the files of texts that it compares"
            raise DataError("contains the scores of several systems", where=path, hint=hint)
        if (path / "outputs.jsonl").is_file():
            return System(name, "texts", path / "outputs.jsonl")
        if any((adapter_place(path) / file).is_file() for file in _ADAPTER_DESCRIPTIONS):
            return System(name, "adapter", path)
        for folder in (path / "model", path):
            if (folder / "config.json").is_file():
                return System(name, "base", folder)
        if (path / "delta.safetensors").is_file():
            what = "holds changes of a base's own weights, which cannot write texts without the base"
            raise DataError(what, where=path, hint="name a file of its texts")
        if (path / "scores.json").is_file():
            raise DataError("contains scores of texts, not the texts", where=path, hint="name the file of the texts")
        hint = "name a file of texts, a run directory, an adapter, a model, or the output folder of an evaluation"
        raise DataError("is a folder without texts or a model", where=path, hint=hint)
    if not path.exists():
        raise DataError("there is no such file", where=path, hint="check the path")
    is_adapter = path.suffix.lower() in _ADAPTER_FILES
    return System(name, "adapter" if is_adapter else "texts", path)
