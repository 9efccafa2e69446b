"""The peers: PEFT's LoRA, trained by transformers' Trainer or by a minimal plain loop.

Every free choice is made in the peer's favour: no logging, saving or evaluation during training, no key-value cache,
fused AdamW, the loss normalised by transformers' own code, rows padded only to the longest of the batch.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from _meter import Meter
from tailora.data.examples import Example

UPDATE = 32
IGNORED = -100
GOLDEN = 0.6180339887498949

Batch = dict[str, Tensor]
Runner = Literal["trainer", "loop"]
_BASES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_RUNNERS: dict[str, Runner] = {"trainer": "trainer", "loop": "loop"}


@dataclass(frozen=True)
class Setup:
    """How a peer trains.

    Attributes:
        base: the type the frozen base is loaded in.
        autocast: the Trainer's `bf16=True`.
        batch_size: examples a pass; passes accumulate to 32 examples an update.
        grouped: whether a batch holds examples of similar length, or whichever come.
        runner: transformers' Trainer, or the plain loop.
    """

    base: torch.dtype
    autocast: bool
    batch_size: int
    grouped: bool
    runner: Runner

    @property
    def precision(self) -> str:
        """The type that the large matrix products are computed in."""
        return "bfloat16" if self.autocast or self.base == torch.bfloat16 else "float32"

    @classmethod
    def named(cls, arm: str) -> Setup:
        """The setup of an arm: "peft_fp32", "peft_bf16_8x4", "best_bf16_loop_16", …"""
        if arm.startswith("best_"):
            _, base, runner, size = arm.split("_")
            return cls(_BASES[base], False, int(size), grouped=True, runner=_RUNNERS[runner])
        batch_size = 8 if arm.endswith("_8x4") else UPDATE
        return cls(torch.float32, "bf16" in arm, batch_size, grouped=False, runner="trainer")


def adapt(
    model: PreTrainedModel, *, targets: Sequence[str], rank: int, alpha: int, dropout: float, conv1d: bool
) -> PeftModel:
    """Put PEFT's LoRA on a model; adapters are fp32 whatever the base's type (PEFT's default)."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets),
        fan_in_fan_out=conv1d,
    )
    model.config.use_cache = False
    return get_peft_model(model, config)


def collate(examples: Sequence[Example], pad_id: int, device: torch.device | None = None) -> Batch:
    """Pad on the right to the longest example: `input_ids`, `attention_mask` and `labels`, each [rows, longest]."""
    longest = max(map(len, examples))
    shape = (len(examples), longest)
    input_ids, labels = torch.full(shape, pad_id), torch.full(shape, IGNORED)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    for row, example in enumerate(examples):
        input_ids[row, : len(example)] = torch.tensor(example.prompt + example.completion)
        labels[row, len(example.prompt) : len(example)] = torch.tensor(example.completion)
        attention_mask[row, : len(example)] = 1
    batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def grouped(examples: Sequence[Example], batch_size: int, seed: int) -> list[list[Example]]:
    """Batches of similar length, in an order that runs evenly through short and long ones.

    A measured part sees a few dozen batches. Visiting the length quantiles by the golden ratio makes any such stretch
    as long on average as the whole; a random order would add noise, the Trainer's own grouping starts with the longest.
    """
    by_length = sorted(examples, key=len)
    batches = [by_length[i : i + batch_size] for i in range(0, len(by_length) - batch_size + 1, batch_size)]
    offset = random.Random(seed).random()
    quantiles = [(offset + GOLDEN * visit) % 1 for visit in range(len(batches))]
    rank = {visit: place for place, visit in enumerate(sorted(range(len(batches)), key=quantiles.__getitem__))}
    return [batches[rank[visit]] for visit in range(len(batches))]


def shuffled(examples: Sequence[Example], batch_size: int, seed: int) -> list[list[Example]]:
    """Batches of examples in random order, the incomplete last one left out."""
    order = random.Random(seed).sample(examples, len(examples))
    return [order[i : i + batch_size] for i in range(0, len(order) - batch_size + 1, batch_size)]


def split_by_length(examples: Sequence[Example], batch_size: int) -> list[list[Example]]:
    """Split an update into batches of similar length, which leaves its loss and gradient as they are."""
    by_length = sorted(examples, key=len)
    return [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]


def measure_loop(model: PeftModel, batches: Sequence[list[Example]], meter: Meter, *, pad_id: int) -> float:
    """Train by the plain loop until the meter is satisfied; returns the mean training loss."""
    passes = UPDATE // len(batches[0])
    endless = itertools.cycle(batches)
    updates = (list(itertools.islice(endless, passes)) for _ in itertools.count())
    losses: list[float] = []

    def after_update(loss: float) -> bool:
        losses.append(loss)
        return meter.end_update()

    run_loop(model, updates, pad_id=pad_id, learning_rate=lambda _: 2e-4, after_update=after_update)
    return sum(losses) / len(losses)


def count_positions(model: PeftModel, meter: Meter) -> None:
    """Let the meter count every row and padded position that passes through the model."""

    def count(_module: Any, _arguments: Any, named: dict[str, Any]) -> None:
        rows, longest = named["input_ids"].shape
        meter.add(examples=rows, body_positions=rows * longest, head_positions=rows * longest)

    model.register_forward_pre_hook(count, with_kwargs=True)


def run_loop(
    model: PeftModel,
    updates: Iterator[list[list[Example]]],
    *,
    pad_id: int,
    learning_rate: Callable[[int], float],
    after_update: Callable[[float], bool],
) -> None:
    """Train by a plain loop: AdamW without decay, gradient norm clipped to 1, the loss a mean over the update's tokens.

    Args:
        model: the adapted model.
        updates: each update's batches.
        pad_id: the token that fills rows up.
        learning_rate: the rate of update 0, 1, …
        after_update: is given each update's loss; true ends the training.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate(0), weight_decay=0.0, fused=True)
    model.train()
    for number, batches in enumerate(updates):
        scored = sum(len(example.completion) for batch in batches for example in batch)
        loss = 0.0
        for batch in batches:
            part = model(**collate(batch, pad_id, next(model.parameters()).device), num_items_in_batch=scored).loss
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if after_update(loss):
            return


def measure_trainer(
    model: PeftModel, batches: Sequence[list[Example]], setup: Setup, meter: Meter, *, pad_id: int, seed: int
) -> float:
    """Train by transformers' Trainer, where the model lies, until the meter is satisfied; returns its mean loss."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=setup.batch_size,
            gradient_accumulation_steps=UPDATE // setup.batch_size,
            train_sampling_strategy="sequential" if setup.grouped else "random",
            learning_rate=2e-4,
            max_steps=100_000,
            bf16=setup.autocast,
            use_cpu=model.device.type == "cpu",
            seed=seed,
            dataloader_num_workers=0,
            dataloader_drop_last=True,
            remove_unused_columns=False,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=[example for batch in batches for example in batch],
            data_collator=lambda rows: collate(rows, pad_id),
            callbacks=[StopWhenMeasured(meter)],
        )
        return float(trainer.train().training_loss)


@torch.inference_mode()
def mean_loss(model: nn.Module, examples: Sequence[Example], *, pad_id: int, batch_size: int = 16) -> float:
    """The mean loss per completion token, in nats, end-of-text included.

    Args:
        model: a transformers causal language model, adapted by PEFT or bare.
        examples: what to score.
        pad_id: the token that fills rows up.
        batch_size: rows at once; has no influence on the result beyond rounding.
    """
    model.eval()
    total = 0.0
    for batch in split_by_length(examples, batch_size):
        rows = collate(batch, pad_id, next(model.parameters()).device)
        labels_BT = rows.pop("labels")[:, 1:]
        logits_BTV = model(**rows, use_cache=False).logits[:, :-1]
        scored = labels_BT != IGNORED
        total += F.cross_entropy(logits_BTV[scored].float(), labels_BT[scored], reduction="sum").item()
    return total / sum(len(example.completion) for example in examples)


class StopWhenMeasured(TrainerCallback):  # type: ignore[misc]
    """Ends a Trainer's run when the meter is satisfied."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_training_stop = self._meter.end_update()
        return control
