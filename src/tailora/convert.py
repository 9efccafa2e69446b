"""`tailora convert`: an adapter in the form that another program reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from tailora.adapters import formats
from tailora.adapters.adapter import changes_nothing
from tailora.adapters.arithmetic import folded
from tailora.adapters.formats import gguf
from tailora.engine.architecture import read_config
from tailora.errors import AdapterError, SettingsError
from tailora.models.catalog import resolve
from tailora.settings import Settings


class ConvertSettings(Settings):
    """Settings of `tailora convert`."""

    adapter: Path
    """The adapter: its folder or file, or a run directory."""
    to: Literal["peft", "loralib", "gguf", "openvino-genai"]
    """peft, openvino-genai (folders; the latter with the scale folded in), loralib (a .bin) or gguf (for llama.cpp)."""
    output: Path
    """The folder or file to write; it must not exist yet."""
    base: str | None = None
    """Base model, which gguf asks for; by default the one that the adapter names."""


def run(settings: ConvertSettings) -> dict[str, Any]:
    """Read an adapter and write it in another form, exactly.

    Raises:
        SettingsError: the output exists already, or its name does not suit the form.
        AdapterError: the adapter cannot be read, changes nothing, or the form cannot express it.
        MissingExtraError: gguf without the package of that name.
    """
    output, to = settings.output, settings.to
    if output.exists():
        raise SettingsError("exists already", where=output, mend="name another place with --output")
    suffixes = {"loralib": (".bin", ".pt", ".pth"), "gguf": (".gguf",)}.get(to, ("",))
    if suffixes != ("",) and output.suffix not in suffixes:
        raise SettingsError(f"{to} is a file of its own", where=output, mend=f"end its name in {' or '.join(suffixes)}")
    adapter = formats.load(formats.adapter_place(settings.adapter))
    if changes_nothing(adapter):
        raise AdapterError("the adapter changes nothing: all its updates are zero", where=settings.adapter)
    match to:
        case "gguf":
            base = settings.base or adapter.base_name
            if base is None:
                raise SettingsError(
                    "the adapter does not name its base model", where="base", mend="name it with --base"
                )
            gguf.save(adapter, output, read_config(resolve(base).folder))
        case "openvino-genai":
            formats.save(folded(adapter), output)
        case _:
            formats.save(adapter, output, to)
    files = [output] if output.is_file() else sorted(path for path in output.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    Console(stderr=True).print(
        f"wrote {output}: {len(adapter.layers)} layers, {size / 2**20:.1f} MB",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return {"output": str(output), "format": to, "layers": len(adapter.layers), "bytes": size}
