"""What the three scripts share: their texts, a plain padded training loop, and parameter counts.

The loop is the textbook one, for any network that maps token ids to logits, so that LoRA and full fine-tuning can be
compared line by line. Tailora's own trainer works on prefix trees instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import demo_network
from tailora.adapters.config import LoraConfig
from tailora.core.errors import SettingsError
from tailora.data.examples import Example, build_examples
from tailora.data.records import read
from tailora.data.tokenizer import Tokenizer
from tailora.models.catalog import TINY_FOLDER
from tailora.models.load import load_base
from tailora.training.trees.forward import evaluation

MEGABYTE = 2**20
_UNSCORED = -100


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of LoRA and of full fine-tuning; sizes are fp32, in megabytes of 2^20 bytes.

    Attributes:
        base: parameters of the network; full fine-tuning trains and saves all of them.
        adapter: parameters that LoRA adds, trains and saves.
    """

    base: int
    adapter: int

    @property
    def total(self) -> int:
        """Parameters of the network with its adapter."""
        return self.base + self.adapter

    @property
    def percent(self) -> float:
        """Parameters that LoRA trains, in percent of the total."""
        return 100 * self.adapter / self.total

    @property
    def fewer_percent(self) -> float:
        """Reduction of the trainable parameters by LoRA, in percent."""
        return 100 * (1 - self.adapter / self.base)

    @property
    def times_smaller(self) -> float:
        """Size of the network divided by the size of the adapter."""
        return self.base / self.adapter

    @property
    def base_megabytes(self) -> float:
        """Size of the file that full fine-tuning saves."""
        return self.base * 4 / MEGABYTE

    @property
    def adapter_megabytes(self) -> float:
        """Size of the file that LoRA saves."""
        return self.adapter * 4 / MEGABYTE


@dataclass(frozen=True)
class Step:
    """One update: its number (from 1), its mean loss in nats per completion token, and its duration in seconds."""

    number: int
    loss: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Experiment:
    """A network and its LoRA configuration.

    Attributes:
        network: in eval mode, without an adapter.
        tokenizer: the tokenizer of the network.
        config: the LoRA configuration for this network.
        name: the name that the scripts print.
        fingerprint: SHA-256 of the network's weights.
    """

    network: nn.Module
    tokenizer: Tokenizer
    config: LoraConfig
    name: str
    fingerprint: str


def load_experiment(model: str | None, rank: int = 16) -> Experiment:
    """Load the demonstration network, or a base model by name or path.

    Args:
        model: see `models.load.load_base`; None means the demonstration network with the bundled tokenizer.
        rank: rank of the adapter.

    Raises:
        SettingsError: the rank is below 1.
        ModelError: the model cannot be loaded.
    """
    if model is None:
        config = demo_network.lora_config(rank)
        tokenizer = Tokenizer.from_folder(TINY_FOLDER)
        return Experiment(demo_network.build(), tokenizer, config, demo_network.NAME, demo_network.FINGERPRINT)
    config = LoraConfig(rank=rank, alpha=2.0 * rank, targets=("attention.qv",))
    base = load_base(model, dtype=torch.float32)
    return Experiment(base.model, base.tokenizer, config, base.name, base.fingerprint)


def sample_examples(
    tokenizer: Tokenizer, train: int = 50, validation: int = 12, max_length: int | None = None
) -> tuple[list[Example], list[Example]]:
    """Build training and validation examples from the bundled restaurants, each record with its first text.

    Args:
        tokenizer: the tokenizer of the network.
        train: number of training examples.
        validation: number of validation examples.
        max_length: largest number of tokens of an example; longer examples are cut.

    Raises:
        SettingsError: the data have fewer records.
    """
    splits = []
    for split, wanted in (("train", train), ("valid", validation)):
        records = read("restaurants", split=split)
        if not 1 <= wanted <= len(records):
            raise SettingsError(
                f"{wanted} {split} records were requested, but there are {len(records)}",
                hint=f"request 1 to {len(records)} records",
            )
        examples, _ = build_examples(records[:wanted], tokenizer, max_length=max_length, overlong="cut")
        first = {example.record_id: example for example in reversed(examples)}
        splits.append([first[record.id] for record in records[:wanted] if record.id in first])
    return splits[0], splits[1]


def padded(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Pad examples into token ids and targets, both [batch, length].

    The target of a position is the next token if that is a completion token, and -100 otherwise. Padding is at the end:
    it is not scored and, with causal attention or without attention, does not affect earlier positions.
    """
    length = max(len(example) for example in examples) - 1
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    targets = torch.full((len(examples), length), _UNSCORED)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.prompt + example.completion)
        ids[row, : len(tokens) - 1] = tokens[:-1]
        scored = slice(len(example.prompt) - 1, len(tokens) - 1)
        targets[row, scored] = tokens[len(example.prompt) :]
    return ids, targets


def logits_of(network: nn.Module, ids: Tensor) -> Tensor:
    """The logits [batch, length, vocabulary] of a plain network or of a transformers model."""
    output: Any = network(ids)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


def summed_loss(network: nn.Module, examples: Sequence[Example]) -> tuple[Tensor, int]:
    """The loss in nats, summed over the completion tokens, and the number of these tokens."""
    ids, targets = padded(examples)
    logits = logits_of(network, ids).flatten(0, 1).float()
    loss = F.cross_entropy(logits, targets.flatten(), ignore_index=_UNSCORED, reduction="sum")
    return loss, int((targets != _UNSCORED).sum())


def validation_loss(network: nn.Module, examples: Sequence[Example], batch_size: int = 8) -> float:
    """The mean loss in nats per completion token, end-of-text included."""
    total, tokens = 0.0, 0
    with evaluation(network):
        for start in range(0, len(examples), batch_size):
            loss, count = summed_loss(network, examples[start : start + batch_size])
            total, tokens = total + loss.item(), tokens + count
    return total / tokens


def train_steps(
    network: nn.Module,
    examples: Sequence[Example],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
) -> Iterator[Step]:
    """Train all parameters that require a gradient with AdamW; yield after each update.

    Args:
        network: any network that maps token ids to logits.
        examples: training examples, reshuffled in each epoch.
        epochs: number of passes over the examples.
        batch_size: examples per update.
        learning_rate: initial learning rate; it decreases linearly to zero.
        seed: seed of the example order.

    Raises:
        SettingsError: `epochs`, `batch_size` or `learning_rate` is not positive.
    """
    for name, value in (("num_epochs", epochs), ("batch_size", batch_size), ("lr", learning_rate)):
        if not value > 0:
            raise SettingsError(f"must be positive, not {value}", where=name)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(examples), generator=generator).tolist() for _ in range(epochs)]
    batches = [order[start : start + batch_size] for order in orders for start in range(0, len(order), batch_size)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(batches))
    network.train()
    for number, chosen in enumerate(batches, 1):
        start = time.perf_counter()
        loss, tokens = summed_loss(network, [examples[i] for i in chosen])
        optimizer.zero_grad()
        (loss / tokens).backward()
        optimizer.step()
        schedule.step()
        yield Step(number, loss.item() / tokens, time.perf_counter() - start)
    network.eval()
