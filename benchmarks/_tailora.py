"""Tailora's arms of `training.py`: the library's trees, loss and adapters, with the peer's optimizer and schedule."""

from __future__ import annotations

import itertools
import math
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from _meter import Meter
from _sample import Sample
from tailora.adapters import formats
from tailora.adapters.config import LoraConfig
from tailora.data.examples import Example
from tailora.lora.inject import attach, extract
from tailora.models.load import outline
from tailora.training.block_timing import precision_seconds
from tailora.training.int8 import Int8Head
from tailora.training.loop import first_batch
from tailora.training.methods import prepare
from tailora.training.pass_memory import without_values
from tailora.training.precision import Arithmetic, apply, available
from tailora.training.precision_choice import choose
from tailora.training.settings import TrainSettings
from tailora.training.trees.forward import TreeModel, training_mode
from tailora.training.trees.prefix_tree import TreeBatch, batches, build
from tailora.training.vocabulary import keep_used_rows, used_tokens

UPDATE = 32


def adapt(
    model: nn.Module,
    *,
    targets: Sequence[str],
    rank: int,
    alpha: float,
    dropout: float,
    seed: int = 0,
) -> nn.Module:
    """Put our LoRA on a model in fp32."""
    config = LoraConfig(rank=rank, alpha=alpha, targets=tuple(targets), dropout=dropout)
    attach(model, config, generator=torch.Generator().manual_seed(seed))
    return model


def fastest_precision(network: PreTrainedModel, examples: Sequence[Example], tokenizer: str) -> str:
    """The precision that `tailora train` would take for updates of this size.

    Args:
        network: the network without an adapter.
        examples: the examples to train on.
        tokenizer: the folder of its tokenizer.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings(data="", base=folder, batch_size=UPDATE)
        batch, device = first_batch(examples, settings), str(network.device)

        def timed(names: Sequence[str]) -> dict[str, float]:
            shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
            network.save_pretrained(folder)
            with without_values():
                base = outline(folder)
                prepare(base, settings)
            return precision_seconds(base, batch, settings, device, names)

        return choose(network, batch, settings, device, math.inf, available("lora", device), timed).precision


def put_into(model: nn.Module, examples: Sequence[Example], precision: str) -> Arithmetic:
    """Put an adapted model into a precision."""
    settings = TrainSettings(data="", batch_size=UPDATE)
    arithmetic = apply(model, precision, settings, build(first_batch(examples, settings)))
    if isinstance(arithmetic.head, Int8Head):
        keep_used_rows(model, arithmetic.head, used_tokens(examples))
    return arithmetic


def save(model: nn.Module, folder: Path) -> None:
    """Write the adapter in PEFT's form."""
    formats.save(extract(model), folder)


def measure(model: nn.Module, sample: Sample, meter: Meter, arithmetic: Arithmetic, *, seed: int) -> float:
    """Train until the meter is satisfied; returns the mean training loss."""
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
        arithmetic,
        learning_rate=lambda _: 2e-4,
        seed=seed,
        after_update=after_update,
        before_update=before_update,
    )
    return sum(losses) / len(losses)


def run(
    model: nn.Module,
    examples: Sequence[Example],
    arithmetic: Arithmetic,
    *,
    learning_rate: Callable[[int], float],
    seed: int,
    after_update: Callable[[float], bool],
    before_update: Callable[[TreeBatch], None] = lambda _: None,
    group_size: int | None = None,
) -> None:
    """Train on trees, the references of a record together: AdamW without decay, gradient norm clipped to 1.

    Args:
        model: the adapted model.
        examples: passed through again and again, in a new order each time.
        arithmetic: how the model computes.
        learning_rate: the rate of update 0, 1, …
        seed: of the order and of dropout.
        after_update: is given each update's mean loss per completion token; true ends the training.
        before_update: is shown each update's trees.
        group_size: texts of a record in an update at most; by default the library's.
    """
    torch.manual_seed(seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate(0), weight_decay=0.0, fused=True)
    training_mode(model)
    with arithmetic.products(), TreeModel(model, head=arithmetic.head) as trees:
        for number, batch in enumerate(_endless(examples, random.Random(seed), group_size)):
            before_update(batch)
            with arithmetic.autocast():
                loss = trees.loss(batch) / batch.completion_tokens
            loss.backward()
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
