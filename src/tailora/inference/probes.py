"""Probes: texts on which two models are compared, and the distance of the results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from tailora.core.errors import CheckError
from tailora.data import records as record_files
from tailora.data.examples import Example, build_examples
from tailora.data.prompts import PromptFormat
from tailora.data.values import Record
from tailora.engine.decoding import Decoding
from tailora.inference.attached import running_on
from tailora.inference.probe_settings import PROBES
from tailora.inference.texts import Prompt, generate
from tailora.models.config import context_of
from tailora.models.load import Base

_LARGEST_LOSS = 700.0  # nats per token; the perplexity of a larger one is beyond the range of a float


@dataclass(frozen=True)
class Reading:
    """The results of a model on the probes.

    Attributes:
        logits: [positions, vocabulary] of all probes, in fp32.
        perplexity: per token of the texts, conditioned on their prompts; None if no text fits into the context.
        texts: greedy continuations of the prompts, as token ids.
    """

    logits: torch.Tensor
    perplexity: float | None
    texts: tuple[tuple[int, ...], ...]


def probes_of(records: Sequence[Record], base: Base, meta: Mapping[str, Any]) -> list[Example]:
    """Return one text per record (of bundled records if there are none), with the prompts of an adapter's training."""
    chosen = records or record_files.read("restaurants", split="test")[:PROBES]
    one = [Record(r.id, r.facts, r.references[:1], prompt=r.prompt, messages=r.messages) for r in chosen]
    prompts = PromptFormat.of_meta(meta, base.tokenizer, base.folder)
    return build_examples(one, base.tokenizer, prompts=prompts)[0]


@torch.no_grad()
def reading_of(base: Base, probes: Sequence[Example], new_tokens: int) -> Reading:
    """Run a model on the probes, in the type in which it is loaded."""
    model = cast(Any, base.model)
    context = context_of(model.config)
    parts, loss, scored = [], 0.0, 0
    for probe in probes:
        tokens = torch.tensor((*probe.prompt, *probe.completion)[:context])
        logits = model(input_ids=tokens[None]).logits[0].float()
        first = len(probe.prompt) - 1
        if first + 1 < len(tokens):
            log_probabilities = torch.log_softmax(logits[first:-1], -1)
            loss -= float(log_probabilities.gather(1, tokens[first + 1 :, None]).sum())
            scored += len(tokens) - first - 1
        parts.append(logits)
    fitting = [probe for probe in probes if context is None or len(probe.prompt) + new_tokens <= context]
    prompts = [Prompt(probe.prompt) for probe in fitting]
    generations = generate(running_on(base), prompts, Decoding(max_new_tokens=new_tokens))
    texts = tuple(generation.token_ids for generation in generations)
    perplexity = math.exp(min(loss / scored, _LARGEST_LOSS)) if scored else None
    return Reading(torch.cat(parts), perplexity, texts)


def distance(one: Reading, other: Reading) -> dict[str, Any]:
    """Return the distance between the results of two models on the same probes.

    Raises:
        CheckError: the vocabularies differ in size.
    """
    if one.logits.shape != other.logits.shape:
        raise CheckError(
            f"the vocabularies differ: {one.logits.shape[-1]} and {other.logits.shape[-1]} tokens",
            where="model",
            hint="name the base from which the model was created",
        )
    change = (one.logits - other.logits).abs()
    return {
        "largest": float(change.max()),
        "mean": float(change.mean()),
        "same_token": float((one.logits.argmax(-1) == other.logits.argmax(-1)).float().mean()),
        "equal_texts": sum(a == b for a, b in zip(one.texts, other.texts, strict=True)),
        "texts": len(one.texts),
    }
