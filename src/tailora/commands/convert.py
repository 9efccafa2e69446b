"""`tailora convert`: write an adapter in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tailora.adapters.formats import ExportFormat
from tailora.core.console import message_console
from tailora.models.settings import BaseSettings


class ConvertSettings(BaseSettings):
    """Settings of `tailora convert`."""

    heading = "adapter"
    headings: ClassVar = {"to": "output", "output": "output"}
    adapter: Path
    """Adapter: a folder, a file (with --base also a .gguf file of llama.cpp) or a run directory."""
    to: ExportFormat
    """Format to write: a folder (peft; openvino-genai, with the scale multiplied in), a .bin file (loralib) or a .gguf
    file for llama.cpp (gguf, which needs the base model). With --base, the logits are compared as well."""
    output: Path
    """Folder or file to write. It must not exist."""


def run(settings: ConvertSettings) -> dict[str, Any]:
    """Convert an adapter and print what was written; see `conversion.convert` for result and errors."""
    from tailora.inference.conversion import convert  # loads PyTorch, which help does not need

    result = convert(settings.adapter, settings.to, settings.output, base=settings.base, force=settings.force)
    message_console().print(
        f"wrote {settings.output}: {result['layers']} layers, {result['bytes'] / 2**20:.1f} MB",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return result
