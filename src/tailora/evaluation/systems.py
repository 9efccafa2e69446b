"""The systems of a comparison: files of texts, and models that write them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tailora.adapters.formats import adapter_place
from tailora.core.errors import DataError, SettingsError
from tailora.core.files import read_json_object
from tailora.data.system_texts import InputRows, read_texts
from tailora.data.trained_reading import TrainedReading
from tailora.inference.setup import trained_reading
from tailora.models.catalog import CATALOG

_NAMED = re.compile(r"([^=/\\]+)=(.+)")
_PACKED = {".gz", ".bz2", ".xz", ".zst"}
_ADAPTER_DESCRIPTIONS = ("adapter_config.json", "tailora.json")
_ADAPTER_FILES = {".safetensors", ".gguf", ".pt", ".bin"}
_DELTA = "delta.safetensors"
"""What a run of method bitfit or top2 saves; see `training.methods`, which loads PyTorch."""
_USUAL_NAMES = {"outputs", "texts", "predictions", "adapter", "model", "adapter_model", "pytorch_lora_weights", "delta"}
"""Names of files and folders that say nothing about the system; the folder above has its name."""


@dataclass(frozen=True)
class System:
    """A system of a comparison.

    Attributes:
        name: as tables show it.
        kind: what `path` is: a file of texts, an adapter or its run directory, the folder of a model, or a run
            directory with changed weights of its base.
        path: the file or folder.
        model: folder of the whole model, for a run with changed weights.
    """

    name: str
    kind: Literal["texts", "adapter", "base", "delta"]
    path: Path
    model: Path | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by which `tailora evaluate` scores this system alone."""
        if self.kind == "texts":
            return {"texts": self.path}
        if self.kind == "adapter":
            return {"adapter": (str(self.path),)}
        return {"base": str(self.model or self.path)}


def systems_of(texts: Sequence[str]) -> list[System]:
    """Return systems from texts such as `PATH` or `NAME=PATH`.

    A system without a name is called by its file or folder, or by its path if another system has that name. The output
    folder of an evaluation of several systems stands for all of them.

    Raises:
        DataError: a file or folder does not exist, or a folder holds neither texts nor a model.
        SettingsError: two systems have the same name.
    """
    named = [one for text in texts for one in _each(*_split(text))]
    short = [own for _, own, _ in named]
    names = [name or (own if short.count(own) == 1 else str(path)) for name, own, path in named]
    for name in names:
        if names.count(name) > 1:
            hint = "give each its own name, as NAME=PATH"
            raise SettingsError(f"two systems have the name {name}", where="systems", hint=hint)
    return [_system(name, path) for name, (_, _, path) in zip(names, named, strict=True)]


def reading_of(systems: Sequence[System], base: str | None) -> TrainedReading | None:
    """Return how data was read in the training of the models, if all were trained in the same way, otherwise None.

    Args:
        systems: all systems; files of texts do not matter.
        base: the base model that adapters are used with, if the user named one.
    """
    readings: list[TrainedReading | None] = []
    for system in systems:
        if system.kind == "adapter":
            readings.append(trained_reading(base, {system.name: system.path}))
        elif system.kind != "texts":
            readings.append(trained_reading(system.settings["base"], {}))
    return readings[0] if readings and all(reading == readings[0] for reading in readings) else None


def read_files(systems: Sequence[System], ids: Sequence[str], rows: InputRows, key: str | None) -> dict[str, list[str]]:
    """Return the texts of the systems that are files, by name; see `read_texts`.

    Raises:
        DataError: a file cannot be read, or its texts do not belong to the records.
    """
    files = [system for system in systems if system.kind == "texts"]
    return {system.name: read_texts(system.path, ids, key=key, rows=rows) for system in files}


def files_of(names: Sequence[str]) -> dict[str, str]:
    """Return the name of the file for the texts of each system, by the system's name."""
    plain = [re.sub(r"[^\w.-]+", "-", name).strip("-.") for name in names]
    return {
        name: f"{own if own and plain.count(own) == 1 else f'system-{number}'}.outputs.jsonl"
        for number, (name, own) in enumerate(zip(names, plain, strict=True), start=1)
    }


@contextlib.contextmanager
def whole_models(systems: Sequence[System], folder: Path, base: str | None, *, force: bool) -> Iterator[list[System]]:
    """Write the models of systems that are changed weights of a base into a folder, for the time of the context.

    Args:
        systems: of any kind.
        folder: for the models; it is deleted before and after.
        base: base model that the runs are used with; None for the one that each names.
        force: accept runs of other weights than the base has.

    Raises:
        ModelError: a run cannot be read, or its base cannot be found or is another one.
    """
    shutil.rmtree(folder, ignore_errors=True)
    whole = []
    try:
        for number, system in enumerate(systems):
            if system.kind == "delta":
                from tailora.inference.merged_model import write_merged  # loads PyTorch

                system = replace(system, model=folder / str(number))
                write_merged((system.path,), folder / str(number), base=base, force=force, check=False)
            whole.append(system)
        yield whole
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _each(name: str | None, path: Path) -> list[tuple[str | None, str, Path]]:
    """Return (chosen name, short name, place) of the system, or of those in the output folder of an evaluation."""
    record = path / "scores.json"
    if record.is_file() and not (path / "outputs.jsonl").exists():
        systems = read_json_object(record, DataError, hint="evaluate the systems again").get("systems")
        if isinstance(systems, dict):
            files = {own: path / file for own, file in files_of(list(systems)).items()}
            return [(None if name is None else f"{name}/{own}", own, file) for own, file in files.items()]
    return [(name, _short_name(path), path)]


def _split(text: str) -> tuple[str | None, Path]:
    match = None if os.path.exists(text) else _NAMED.fullmatch(text)
    return (None, Path(text)) if match is None else (match[1], Path(match[2]))


def _short_name(path: Path) -> str:
    plain = Path(path.stem) if path.suffix.lower() in _PACKED else path
    own = path.resolve().name if path.is_dir() else plain.stem
    above = path.resolve().parents
    return next((name for name in (own, *(place.name for place in above)) if name.lower() not in _USUAL_NAMES), own)


def _system(name: str, path: Path) -> System:
    if path.is_dir():
        if (path / "outputs.jsonl").is_file():
            return System(name, "texts", path / "outputs.jsonl")
        place = adapter_place(path)
        described = any((place / file).is_file() for file in _ADAPTER_DESCRIPTIONS)
        if (
            described and not (place / "config.json").is_file()
        ):  # models that were merged or rounded have tailora.json too
            return System(name, "adapter", path)
        for folder in (path / "model", path):
            if (folder / "config.json").is_file():
                return System(name, "base", folder)
        if (path / _DELTA).is_file():
            return System(name, "delta", path)
        hint = "name a file of texts, a run directory, an adapter, a model, or the output folder of an evaluation"
        raise DataError("is a folder without texts or a model", where=path, hint=hint)
    if not path.exists():
        if str(path) in CATALOG:
            return System(name, "base", path)
        raise DataError("there is no such file", where=path, hint="check the path")
    if path.name == _DELTA:
        return System(name, "delta", path.parent)
    if path.suffix.lower() == ".whl":
        return System(name, "base", path)
    is_adapter = path.suffix.lower() in _ADAPTER_FILES
    return System(name, "adapter" if is_adapter else "texts", path)
