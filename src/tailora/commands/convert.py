"""`tailora convert`: write an adapter in the format of another program."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, changes_nothing
from tailora.adapters.arithmetic import difference, folded
from tailora.adapters.formats import gguf, loralib
from tailora.core.console import message_console
from tailora.core.errors import AdapterError, CheckError, SettingsError
from tailora.core.files import require_new, write_json
from tailora.inference.verification import verify
from tailora.models.catalog import resolve
from tailora.models.config import read_config
from tailora.models.fingerprint import canonical_name, fingerprint_folder
from tailora.models.settings import BaseSettings
from tailora.models.weights import stored_tensors

ROUNDING = 1e-5
"""Largest accepted difference of updates relative to the largest number of a layer: rounding in fp32."""


class ConvertSettings(BaseSettings):
    """Settings of `tailora convert`."""

    heading = "adapter"
    headings: ClassVar = {"to": "output", "output": "output"}
    adapter: Path
    """Adapter: a folder, a file (with --base also a .gguf file of llama.cpp) or a run directory."""
    to: Literal["peft", "loralib", "gguf", "openvino-genai"]
    """Format to write: a folder (peft; openvino-genai, with the scale multiplied in), a .bin file (loralib) or a .gguf
    file for llama.cpp (gguf, which needs the base model). With --base, the logits are compared as well."""
    output: Path
    """Folder or file to write. It must not exist."""


def run(settings: ConvertSettings) -> dict[str, Any]:
    """Read an adapter, write it in another format, and check that both are the same adapter.

    Raises:
        SettingsError: the output exists already, or its name does not suit the format.
        AdapterError: the adapter cannot be read, changes nothing, or the format cannot express it.
        MissingExtraError: the format is gguf, and the package gguf is not installed.
        CheckError: the written file is not the same adapter when it is read; it is deleted.
    """
    output, to = settings.output, settings.to
    require_new(output, empty_folder=False)
    suffixes = {"loralib": (".bin", ".pt", ".pth"), "gguf": (".gguf",)}.get(to, ("",))
    if suffixes != ("",) and output.suffix not in suffixes:
        raise SettingsError(
            f"is not the name of a {to} file", where=output, hint=f"end the name in {' or '.join(suffixes)}"
        )
    adapter = _read(settings.adapter, settings.base)
    if changes_nothing(adapter):
        raise AdapterError("the adapter changes nothing: all its updates are zero", where=settings.adapter)
    base = settings.base or adapter.base_name
    if to == "gguf":
        if base is None:
            raise SettingsError("the adapter does not name its base model", where="base", hint="name it with --base")
        gguf.save(adapter, output, read_config(resolve(base).folder))
    else:
        written = folded(adapter) if to == "openvino-genai" else adapter
        formats.save(written, output, "loralib" if to == "loralib" else "peft")
    try:
        report = _checked(adapter, settings, base)
    except BaseException:
        shutil.rmtree(output) if output.is_dir() else output.unlink()
        raise
    files = [output] if output.is_file() else sorted(path for path in output.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    write_json(output / "verify.json" if output.is_dir() else output.with_name(output.name + ".verify.json"), report)
    message_console().print(
        f"wrote {output}: {len(adapter.layers)} layers, {size / 2**20:.1f} MB",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return {"output": str(output), "format": to, "layers": len(adapter.layers), "bytes": size, "verify": report}


def _read(path: Path, base: str | None) -> Adapter:
    if path.suffix != ".gguf":
        return formats.load(formats.adapter_place(path))
    if base is None:
        raise SettingsError(
            "a .gguf file does not name the layers of its base model", where="base", hint="name the model with --base"
        )
    folder = resolve(base).folder
    modules = [canonical_name(n).removesuffix(".weight") for n in stored_tensors(folder) if n.endswith(".weight")]
    adapter = gguf.load(path, read_config(folder), modules)
    if adapter.base_fingerprint is not None:
        return adapter
    return replace(adapter, base_name=base, base_fingerprint=fingerprint_folder(folder))


def _checked(adapter: Adapter, settings: ConvertSettings, base: str | None) -> dict[str, Any]:
    """Read the written adapter and compare it with the original, on the base too if --base names one.

    Raises:
        CheckError: the updates differ, or have no effect on the base.
    """
    again = _bare_loralib(adapter, settings.output) if settings.to == "loralib" else _read(settings.output, base)
    apart = difference(adapter, again)
    report: dict[str, Any] = {"format": settings.to, "largest_relative_difference": apart, "on_base": None}
    if apart > ROUNDING:
        what = f"the written updates differ from the adapter's by {apart:.1%} of the largest number in a layer"
        raise CheckError(what, where=settings.output, hint="report this as a bug in Tailora", result=report)
    if settings.base is not None:
        again = replace(again, unknown_base_reported=adapter.unknown_base_reported)
        report["on_base"] = verify(again, settings.base, None, force=settings.force)
    return report


def _bare_loralib(adapter: Adapter, path: Path) -> Adapter:
    """Read a loralib file, with the scales and slices of the adapter, which such a file does not contain."""
    with tempfile.TemporaryDirectory() as folder:
        annotated = Path(folder) / "annotated.bin"
        loralib.save(adapter, annotated, wrapped=True)
        wanted = torch.load(annotated, weights_only=True)["model_state_dict"]
        written = torch.load(path, weights_only=True)
        if wanted.keys() != written.keys() or any(not torch.equal(written[name], wanted[name]) for name in wanted):
            raise CheckError("its tensors are not the ones that were written", where=path, hint="check the disk")
        return loralib.load(annotated)
