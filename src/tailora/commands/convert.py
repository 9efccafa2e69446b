"""`tailora convert`: write an adapter, or its merged model, in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import model_validator

from tailora.adapters.formats import ExportFormat
from tailora.core.console import message_console
from tailora.core.errors import SettingsError
from tailora.core.settings import Unset
from tailora.core.sizes import size
from tailora.inference.gguf_export import GgufType
from tailora.models.settings import BaseSettings


class ConvertSettings(BaseSettings):
    """Settings of `tailora convert`."""

    heading = "adapter"
    main = "adapter"
    headings: ClassVar = dict.fromkeys(("to", "merged", "storage", "output"), "output")
    adapter: Path
    """Adapter: a folder, a file (with --base also a .gguf file of llama.cpp) or a run directory."""
    to: ExportFormat
    """Format to write: a folder (peft; openvino-genai, with the scale multiplied in), a .bin file (loralib) or a .gguf
    file for llama.cpp (gguf, which needs the base model). With --base, the logits are compared as well."""
    merged: bool = False
    """With --to gguf: write a folder with the whole model, the adapter merged into it, and an Ollama Modelfile. Runs of
    any method can be written."""
    storage: Annotated[GgufType | None, Unset("f16")] = None
    """Type of the matrices of a merged GGUF model: f32, f16 or q8_0."""
    output: Path
    """Folder or file to write. It must not exist."""

    @model_validator(mode="after")
    def _merged_as_gguf(self) -> Self:
        if self.merged and self.to != "gguf":
            hint = "use --to gguf, or merge the adapter with `tailora merge`"
            raise SettingsError("only a GGUF model is written merged", where="merged", hint=hint)
        if self.storage is not None and not self.merged:
            what = "only the type of a merged model can be chosen"
            raise SettingsError(what, where="storage", hint="add --merged")
        return self


def run(settings: ConvertSettings) -> dict[str, Any]:
    """Convert an adapter and print what was written.

    See `conversion.convert` and `merged_gguf.write_merged_gguf` for results and errors.
    """
    if settings.merged:
        return _merged(settings)
    from tailora.inference.conversion import convert  # loads PyTorch, which help does not need

    result = convert(settings.adapter, settings.to, settings.output, base=settings.base, force=settings.force)
    message_console().print(
        f"wrote {settings.output}: {result['layers']} layers, {size(result['bytes'])}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return result


def _merged(settings: ConvertSettings) -> dict[str, Any]:
    from tailora.inference.merged_gguf import write_merged_gguf  # loads PyTorch, which help does not need

    to = settings.storage or "f16"
    result = write_merged_gguf(settings.adapter, settings.output, to, base=settings.base, force=settings.force)
    message_console().print(
        f"wrote {settings.output}: {result['tensors']} tensors, {size(result['bytes'])} in {to}, and a "
        f"Modelfile (ollama create NAME -f {settings.output / 'Modelfile'})",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return result
