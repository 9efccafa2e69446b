"""`tailora quantize`: store a base model, with or without an adapter, in fewer bits, and measure the difference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from rich.table import Table

from tailora.core.console import message_console
from tailora.core.errors import SettingsError
from tailora.core.settings import Unset
from tailora.core.sizes import size
from tailora.inference.probe_settings import LARGEST_RISE, ProbeSettings
from tailora.models.settings import QuantizedType


class QuantizeSettings(ProbeSettings):
    """Settings of `tailora quantize`."""

    heading = "model"
    main = "base"
    headings: ClassVar = {"tolerance": "checks", "to": "output", "output": "output"}
    adapter: Annotated[Path | None, Unset("none")] = None
    """Adapter to store with the base, in its subfolder `adapter`, or to merge: a folder, a file or a run directory."""
    merged: bool = False
    """Merge the adapter in fp32 before rounding."""
    to: QuantizedType
    """Type of the stored weights. int8 has one scale per output channel."""
    tolerance: float = Field(LARGEST_RISE, gt=0)
    """Largest accepted rise of the perplexity, as a fraction."""
    output: Path
    """Folder to write. It must not exist, or be empty."""

    @model_validator(mode="after")
    def _combination(self) -> QuantizeSettings:
        if self.merged and self.adapter is None:
            raise SettingsError("no adapter to merge", where="merged", hint="name one with --adapter")
        return self


def run(settings: QuantizeSettings) -> dict[str, Any]:
    """Quantise a model and print the differences; see `quantization.quantize` for result and errors."""
    from tailora.inference.quantization import (
        Quantization,
        quantize,
    )  # loads PyTorch, which help does not need

    quantization = Quantization(
        settings.base,
        settings.adapter,
        settings.to,
        settings.output,
        merged=settings.merged,
        tolerance=settings.tolerance,
        force=settings.force,
    )
    result = quantize(quantization, settings)
    _print(result, settings.output)
    return result


def _print(result: Mapping[str, Any], output: Path) -> None:
    console = message_console()
    table = Table()
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="right" if heading else "left")
    sizes = result["bytes"]
    table.add_row("weights", *(size(sizes[when], like=sizes["before"]) for when in ("before", "after")))
    perplexity = [result["perplexity"][when] for when in ("before", "after")]
    table.add_row("perplexity", *("–" if value is None else f"{value:.3f}" for value in perplexity))
    speed = [result["tokens_per_second"][when] for when in ("before", "after")]
    rates = ["–" if run["value"] is None else f"{run['value']:,.0f}" for run in speed]
    table.add_row("tokens/s", *rates)
    table.add_row("computed in", *(f"{run['precision']}, {run['backend']}" for run in speed))
    console.print(table)
    change = result["against_before"]
    console.print(
        f"logits differ by at most {change['largest']:.2g} and by {change['mean']:.2g} on average; "
        f"the most likely token is the same at {change['same_token']:.1%} of positions; "
        f"{change['equal_texts']} of {change['texts']} greedy texts are equal",
        highlight=False,
        soft_wrap=True,
    )
    if "drift" in result:
        console.print(f"drift: {result['drift']:.1%} of the adapter's effect", highlight=False)
    console.print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)
