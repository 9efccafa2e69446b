"""A demonstration on the bundled model: an adapter is trained on a bundled task, its texts are scored, it is merged."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from tailora.core.files import write_json
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


def demonstrate(task: str, **settings: Any) -> tuple[dict[str, Any], list[Record], list[str]]:
    """Train an adapter; write test texts without it, with it and merged; score them.

    Args:
        task: name of a bundled sample task.
        settings: of the training run: limit, epochs, seed and output.

    Returns:
        The content of quickstart.json (the validation loss, BLEU and slot error rate before and after, how far merged
        and unmerged agree, and the seconds), the test records, and their texts with the adapter.

    Raises:
        KeyboardInterrupt: on Ctrl-C; once the adapter is trained, the message names its folder.
    """
    began = time.perf_counter()
    recipe: dict[str, Any] = {
        "targets": ("all-linear",),
        "rank": 16,
        "alpha": 32.0,
        "learning_rate": 5e-3,
        "device": "cpu",
    }
    trained = train(TrainSettings(data=task, base="tiny", **recipe, **settings))
    folder = Path(trained["run"])
    try:
        result, records, texts = _scored(task, trained, folder)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"interrupted; the trained adapter is in {folder / 'adapter'}") from error
    result["seconds"] = time.perf_counter() - began
    write_json(folder / "quickstart.json", result)
    return result, records, texts


def _scored(task: str, trained: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], list[Record], list[str]]:
    """Write and score texts; return the result, the test records and their texts with the adapter."""
    records = record_files.read(task, split="test")
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
