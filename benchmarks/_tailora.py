"""Our side: the library's trees, loss and adapters, driven by a loop with the peer's AdamW, clipping and schedule."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from _meter import Meter
from _sample import Sample
from tailora.adapters import formats
from tailora.adapters.config import LoraConfig
from tailora.data.examples import Example
from tailora.data.prefix_tree import TreeBatch, batches, build
from tailora.hardware import bf16_is_faster
from tailora.lora.inject import attach, extract
from tailora.train import int8
from tailora.train.forward import TreeModel

UPDATE = 32


def precision(device: str = "cpu") -> str:
    """The type of the frozen base's products that `tailora train --precision auto` takes on a device."""
    if device == "cpu" and int8.pays():
        return "int8"
    return "bfloat16" if bf16_is_faster(device) else "float32"


def adapt(
    model: nn.Module,
    *,
    targets: Sequence[str],
    rank: int,
    alpha: float,
    dropout: float,
    seed: int = 0,
    precision: str = "float32",
) -> nn.Module:
    """Put our LoRA on a model, adapters in fp32 and the base in fp32 or bf16; for int8 it is given in fp32."""
    config = LoraConfig(rank=rank, alpha=alpha, targets=tuple(targets), dropout=dropout)
    model.to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
    attach(model, config, generator=torch.Generator().manual_seed(seed))
    return model


def save(model: nn.Module, folder: Path) -> None:
    """Write the adapter in PEFT's form."""
    formats.save(extract(model), folder)


def measure(model: nn.Module, sample: Sample, meter: Meter, *, seed: int, quantise: bool = False) -> float:
    """Train until the meter is satisfied, the frozen base in 8 bits if asked; returns the mean training loss."""
    losses: list[float] = []

    def after_update(loss: float) -> bool:
        losses.append(loss)
        return meter.end_update()

    def before_update(batch: TreeBatch) -> None:
        scored = len(set(batch.edge_nodes.tolist()))
        meter.add(examples=batch.examples, body_positions=len(batch), head_positions=scored)

    run(
        model,
        sample.examples,
        learning_rate=lambda _: 2e-4,
        seed=seed,
        after_update=after_update,
        before_update=before_update,
        quantise=quantise,
    )
    return sum(losses) / len(losses)


def run(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    learning_rate: Callable[[int], float],
    seed: int,
    after_update: Callable[[float], bool],
    before_update: Callable[[TreeBatch], None] = lambda _: None,
    quantise: bool = False,
    group_size: int | None = None,
) -> None:
    """Train on trees, the references of a record together: AdamW without decay, gradient norm clipped to 1.

    Args:
        model: the adapted model.
        examples: passed through again and again, in a new order each time.
        learning_rate: the rate of update 0, 1, …
        seed: of the order and of dropout.
        after_update: is given each update's mean loss per completion token; true ends the training.
        before_update: is shown each update's trees.
        quantise: hold the frozen base in 8 bits (`tailora train --precision int8`).
        group_size: texts of a record in an update at most; by default the library's.
    """
    torch.manual_seed(seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate(0), weight_decay=0.0, fused=True)
    model.train()
    head = int8.quantise_frozen(model, build(examples[:UPDATE])) if quantise else None
    with TreeModel(model, head=head) as trees:
        for number, batch in enumerate(_endless(examples, random.Random(seed), group_size)):
            before_update(batch)
            loss = trees.loss(batch) / batch.completion_tokens
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(number)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if after_update(loss.item()):
                return


def _endless(examples: Sequence[Example], rng: random.Random, group_size: int | None) -> Iterator[TreeBatch]:
    """The trees of one update after another; an incomplete last batch of a pass is left out, as the peer's is."""
    for _ in itertools.count():
        for batch in batches(examples, UPDATE, group_size=group_size, rng=rng):
            if len(batch) == min(UPDATE, len(examples)):
                yield build(batch)
