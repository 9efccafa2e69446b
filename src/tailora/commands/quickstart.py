"""`tailora quickstart`: training, scoring and merging with the bundled model and a bundled task, offline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from rich.console import Console
from rich.table import Table

from tailora.core.console import message_console
from tailora.core.files import write_json
from tailora.core.settings import Settings, Unset
from tailora.data import records as record_files
from tailora.data.prompts import encode_prompts
from tailora.data.reading import Limit
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
    """Train an adapter; write test texts without it, with it and merged; score them.

    Returns:
        The validation loss, BLEU and slot error rate before and after, how far merged and unmerged agree, and seconds.
    """
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
    try:
        result, records, texts = _scored(settings, trained, folder)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"interrupted; the trained adapter is in {folder / 'adapter'}") from error
    result["seconds"] = time.perf_counter() - began
    write_json(folder / "quickstart.json", result)
    _print(message_console(), result, records, texts)
    return result


def _scored(
    settings: QuickstartSettings, trained: Mapping[str, Any], folder: Path
) -> tuple[dict[str, Any], list[Record], list[str]]:
    """Write and score texts; return the result, the test records and their texts with the adapter."""
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
    }
    return result, records, after


def write(base: Base, records: Sequence[Record]) -> list[str]:
    """Return greedy texts for records, in the prompt form that training uses by default."""
    prompts = encode_prompts(records, base.tokenizer)
    generations = generate(running_on(base), [Prompt(tokens) for tokens in prompts], Decoding(max_new_tokens=80))
    return [generation.text for generation in generations]


@torch.no_grad()
def logits(base: Base, records: Sequence[Record]) -> torch.Tensor:
    """Return the logits for each token of the first record's prompt, [tokens, vocabulary]."""
    prompt = torch.tensor(encode_prompts(records[:1], base.tokenizer))
    return cast(torch.Tensor, cast(Any, base.model)(input_ids=prompt).logits[0])


def scores(records: Sequence[Record], texts: Sequence[str]) -> dict[str, float]:
    """Return BLEU against all references, from 0 to 100, and the slot errors in percent of the facts."""
    return {
        "bleu": 100 * bleu(texts, [record.references for record in records]).value,
        "slot_error_percent": 100 * slot_error_rate(records, texts).value,
    }


def _print(console: Console, result: dict[str, Any], records: Sequence[Record], texts: Sequence[str]) -> None:
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
