"""`tailora quickstart`: the whole job on the bundled model and task, with no network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field
from rich.console import Console
from rich.table import Table

from tailora.core.files import write_json
from tailora.core.settings import Settings
from tailora.data import records as record_files
from tailora.data.prompts import encode_prompts
from tailora.data.values import Record
from tailora.engine.decoding import Decoding
from tailora.inference.attached import load_adapted, running_on
from tailora.inference.texts import Prompt, generate
from tailora.lora import inject
from tailora.metrics.bleu import bleu
from tailora.metrics.slots import slot_error_rate
from tailora.models.load import Base, load_base
from tailora.training.run import run as train
from tailora.training.settings import TrainSettings

SHOWN = 3


class QuickstartSettings(Settings):
    """Settings of `tailora quickstart`."""

    task: str = "restaurants"
    """Bundled sample task to learn."""
    output: Path | None = None
    """Run directory to make; by default runs/TASK-lora-N."""
    epochs: int = Field(2, ge=1)
    """Passes over the training records."""
    limit: int | None = Field(None, ge=1)
    """Train on so many records only."""
    seed: int = 0
    """Of the run."""


def run(settings: QuickstartSettings) -> dict[str, Any]:
    """Train an adapter, write held-out texts without it, with it and merged, and score them.

    Returns:
        Held-out loss, BLEU and slot error rate before and after, whether merged and unmerged texts agree, and seconds.
    """
    console = Console(stderr=True)
    began = time.perf_counter()
    recipe: dict[str, Any] = {
        "targets": ("all-linear",),
        "rank": 16,
        "alpha": 32.0,
        "learning_rate": 5e-3,
        "device": "cpu",
    }
    chosen = settings.model_dump(exclude={"task"})
    trained = train(TrainSettings(data=settings.task, base="tiny", **recipe, **chosen))
    folder = Path(trained["run"])
    records = record_files.read(settings.task, split="test")
    bare = load_base("tiny", dtype=torch.float32)
    before = write(bare, records)
    adapted = load_adapted(folder / "adapter", dtype=torch.float32).base
    after = write(adapted, records)
    beside = logits(adapted, records)
    inject.merge(adapted.model)
    merged = write(adapted, records)
    difference = float((logits(adapted, records) - beside).abs().max())
    result = {
        "run": str(folder),
        "records": len(records),
        "validation_loss": trained["validation_loss"],
        "before": scores(records, before),
        "after": scores(records, after),
        "merged": {
            "equal_texts": sum(one == other for one, other in zip(after, merged, strict=True)),
            "largest_logit_difference": difference,
        },
        "seconds": time.perf_counter() - began,
    }
    write_json(folder / "quickstart.json", result)
    _tell(console, result, records, after)
    return result


def write(base: Base, records: Sequence[Record]) -> list[str]:
    """Greedy texts for records, in the prompt form that training uses by default."""
    prompts = encode_prompts(records, base.tokenizer)
    generations = generate(running_on(base), [Prompt(tokens) for tokens in prompts], Decoding(max_new_tokens=80))
    return [generation.text for generation in generations]


@torch.no_grad()
def logits(base: Base, records: Sequence[Record]) -> torch.Tensor:
    """The next token's logits after the first record's prompt, [tokens, vocabulary]."""
    prompt = torch.tensor(encode_prompts(records[:1], base.tokenizer))
    return cast(torch.Tensor, cast(Any, base.model)(input_ids=prompt).logits[0])


def scores(records: Sequence[Record], texts: Sequence[str]) -> dict[str, float]:
    """BLEU against all references, in percent, and slot errors in percent of the facts."""
    return {
        "bleu": 100 * bleu(texts, [record.references for record in records]).value,
        "slot_error_percent": 100 * slot_error_rate(records, texts).value,
    }


def _tell(console: Console, result: dict[str, Any], records: Sequence[Record], texts: Sequence[str]) -> None:
    table = Table(title=f"{result['records']} held-out records")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="left" if not heading else "right")
    loss = result["validation_loss"]
    table.add_row("validation loss, nats a token", f"{loss['before']:.3f}", f"{loss['after']:.3f}")
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
    console.print(f"\n{result['seconds']:.0f} s; the run with its loss plot: {result['run']}", highlight=False)
