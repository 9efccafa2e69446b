"""`tailora merge`: merge adapters into their base model, and write a model folder that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from tailora.core.console import message_console
from tailora.core.settings import Unset, Verbatim
from tailora.core.sizes import size
from tailora.models.settings import BaseSettings


class MergeSettings(BaseSettings):
    """Settings of `tailora merge`."""

    heading = "adapter"
    main = "adapter"
    adapter: Annotated[tuple[Path, ...], Verbatim()]
    """Adapter: a folder, a file or a run directory of any method. Repeat the flag to add several adapters."""
    weights: Annotated[tuple[float, ...], Unset("1 for each")] = ()
    """Factors by which the adapters are multiplied, in the order of --adapter, separated by commas."""
    svd: Annotated[int | None, Field(ge=1), Unset("the exact sum, whose rank is the sum of the ranks")] = None
    """Rank at which the sum of the adapters is approximated (SVD)."""
    check: bool = True
    """Compare the written model with base + adapter, and write the measurements to verify.json."""
    output: Path
    """Folder to write. It must not exist, or be empty."""

    @field_validator("adapter", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value


def run(settings: MergeSettings) -> dict[str, Any]:
    """Merge adapters, write the model and print what it is; see `merged_model.write_merged` for result and errors."""
    from tailora.inference.merged_model import write_merged  # loads PyTorch, which help does not need

    result = write_merged(
        settings.adapter,
        settings.output,
        weights=settings.weights,
        svd=settings.svd,
        base=settings.base,
        force=settings.force,
        check=settings.check,
    )
    merged = " and ".join(map(str, settings.adapter))
    message_console().print(
        f"wrote {settings.output}: {result['base']} with {merged} merged into it, {result['parameters']:,} parameters "
        f"in {result['dtype']}, {size(result['bytes'])}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return result
