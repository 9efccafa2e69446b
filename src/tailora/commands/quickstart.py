"""`tailora quickstart`: training, scoring and merging with the bundled model and a bundled task, offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field
from rich.table import Table

from tailora.core.console import message_console
from tailora.core.settings import Settings, Unset
from tailora.data.reading import Limit
from tailora.data.values import Record

SHOWN = 3


class QuickstartSettings(Settings):
    """Settings of `tailora quickstart`."""

    heading = "data"
    headings: ClassVar = {"epochs": "optimisation", "seed": "optimisation", "output": "output"}
    task: str = "restaurants"
    """Bundled sample task to learn: restaurants, products or trains."""
    limit: Limit = None
    epochs: int = Field(2, ge=1)
    """Number of epochs: passes over the training data."""
    seed: int = 0
    """Seed of the adapter's initial values and of the order of the examples."""
    output: Annotated[Path | None, Unset("runs/TASK-lora-N")] = None
    """Run directory to create."""


def run(settings: QuickstartSettings) -> dict[str, Any]:
    """Train, write, score and merge, and print the result; see `experiments.quickstart.demonstrate`."""
    from tailora.experiments.quickstart import demonstrate  # loads PyTorch, which help does not need

    result, records, texts = demonstrate(settings.task, **settings.model_dump(exclude={"task"}))
    _print(result, records, texts)
    return result


def _print(result: dict[str, Any], records: Sequence[Record], texts: Sequence[str]) -> None:
    console = message_console()
    table = Table(title=f"{result['records']} test records")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="left" if not heading else "right")
    loss = result["validation_loss"]
    table.add_row("validation loss, nats per token", f"{loss['before']:.3f}", f"{loss['after']:.3f}")
    table.add_row("BLEU", f"{result['before']['bleu']:.1f}", f"{result['after']['bleu']:.1f}")
    errors = [f"{result[when]['slot_error_percent']:.1f}" for when in ("before", "after")]
    table.add_row("slot errors, % of facts", *errors)
    console.print(table)
    merged = result["merged"]
    console.print(
        f"merged into the base: {merged['equal_texts']} of {result['records']} texts equal, "
        f"logits differ by at most {merged['largest_logit_difference']:.1e}",
        highlight=False,
    )
    for record, text in list(zip(records, texts, strict=True))[:SHOWN]:
        facts = " | ".join(f"{fact.attribute} : {fact.value}" for fact in record.facts)
        console.print(f"\n{facts}\n  → {text}", highlight=False, markup=False)
    console.print(
        f"\ntook {result['seconds']:.0f} s; the adapter and the loss plot are in {result['run']}", highlight=False
    )
