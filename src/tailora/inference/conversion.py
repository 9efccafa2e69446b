"""Adapters in the formats of other programs: written, read back and compared with the original."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, changes_nothing
from tailora.adapters.arithmetic import difference, folded
from tailora.adapters.formats import ExportFormat, gguf, loralib
from tailora.core.errors import AdapterError, CheckError, SettingsError
from tailora.core.files import require_new, write_json
from tailora.inference.verification import verify
from tailora.models.catalog import resolve
from tailora.models.config import read_config
from tailora.models.fingerprint import canonical_name, fingerprint_folder
from tailora.models.weights import stored_tensors

ROUNDING = 1e-5
"""Largest accepted difference of updates relative to the largest number of a layer: rounding in fp32."""


def convert(
    place: Path, to: ExportFormat, output: Path, *, base: str | None = None, force: bool = False
) -> dict[str, Any]:
    """Read an adapter, write it in another format, and check that both are the same adapter.

    Args:
        place: the adapter: a folder, a file or a run directory; with a base also a .gguf file of llama.cpp.
        to: the format to write.
        output: the folder (peft, openvino-genai) or file to write.
        base: base model, on which the logits are compared too; gguf needs one, by default that of the adapter.
        force: accept an adapter that was trained on other weights.

    Returns:
        The path, the format, the number of layers, the bytes, and the comparison, which is also written to verify.json.

    Raises:
        SettingsError: the output already exists, or its name does not suit the format.
        AdapterError: the adapter cannot be read, changes nothing, or the format cannot express it.
        MissingExtraError: the format is gguf, and the package gguf is not installed.
        CheckError: the written file is not the same adapter when it is read; it is deleted.
    """
    require_new(output, empty_folder=False)
    suffixes = {"loralib": (".bin", ".pt", ".pth"), "gguf": (".gguf",)}.get(to, ("",))
    if suffixes != ("",) and output.suffix.lower() not in suffixes:
        what = f"is not the name of a {to} file"
        raise SettingsError(what, where=output, hint=f"end the name in {' or '.join(suffixes)}")
    adapter = _read(place, base)
    if changes_nothing(adapter):
        raise AdapterError("the adapter changes nothing: all its updates are zero", where=place)
    own_base = base or adapter.base_name
    if to == "gguf":
        if own_base is None:
            raise SettingsError("the adapter does not name its base model", where="base", hint="name it with --base")
        gguf.save(adapter, output, read_config(resolve(own_base).folder))
    else:
        written = folded(adapter) if to == "openvino-genai" else adapter
        formats.save(written, output, "loralib" if to == "loralib" else "peft")
    try:
        report = _checked(adapter, to, output, own_base, base, force)
    except BaseException:
        shutil.rmtree(output) if output.is_dir() else output.unlink()
        raise
    files = [output] if output.is_file() else sorted(path for path in output.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    write_json(output / "verify.json" if output.is_dir() else output.with_name(output.name + ".verify.json"), report)
    return {"output": str(output), "format": to, "layers": len(adapter.layers), "bytes": size, "verify": report}


def _read(path: Path, base: str | None) -> Adapter:
    if path.suffix.lower() != ".gguf":
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


def _checked(
    adapter: Adapter, to: ExportFormat, output: Path, own_base: str | None, base: str | None, force: bool
) -> dict[str, Any]:
    """Read the written adapter and compare it with the original, on the base `base` too if it is not None.

    Raises:
        CheckError: the updates differ, or have no effect on the base.
    """
    again = _bare_loralib(adapter, output) if to == "loralib" else _read(output, own_base)
    apart = difference(adapter, again)
    report: dict[str, Any] = {"format": to, "largest_relative_difference": apart, "on_base": None}
    if not apart <= ROUNDING:  # also where it is not a number
        what = f"the written updates differ from the adapter's by {apart:.1%} of the largest number in a layer"
        raise CheckError(what, where=output, hint="report this as a bug in Tailora", result=report)
    if base is not None:
        again = replace(again, unknown_base_reported=adapter.unknown_base_reported)
        report["on_base"] = verify(again, base, None, force=force)
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
