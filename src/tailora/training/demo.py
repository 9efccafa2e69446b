"""What the scripts of examples/NLG share: their texts, a plain padded training loop, and LoRA's accounts.

The loop is the one of the textbooks, over any network from token ids to logits, so that LoRA and full fine-tuning of
the demonstration network can be read side by side. Tailora's own trainer works on prefix trees instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailora.adapters.config import LoraConfig
from tailora.core.errors import SettingsError
from tailora.data.examples import Example, build_examples
from tailora.data.records import read
from tailora.data.tokenizer import Tokenizer
from tailora.models import demo
from tailora.models.catalog import TINY_FOLDER
from tailora.models.load import load_base
from tailora.training.trees.forward import evaluation

MEGABYTE = 2**20
_UNSCORED = -100


@dataclass(frozen=True)
class Accounts:
    """LoRA beside full fine-tuning, in parameters and in fp32 megabytes of 2^20 bytes.

    Attributes:
        base: parameters of the network, all of which full fine-tuning trains and saves.
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
        """Trainable with LoRA, in percent of the total."""
        return 100 * self.adapter / self.total

    @property
    def fewer_percent(self) -> float:
        """How many percent fewer parameters LoRA trains than full fine-tuning."""
        return 100 * (1 - self.adapter / self.base)

    @property
    def times_smaller(self) -> float:
        """How many times the adapter goes into the network."""
        return self.base / self.adapter

    @property
    def base_megabytes(self) -> float:
        """What full fine-tuning saves."""
        return self.base * 4 / MEGABYTE

    @property
    def adapter_megabytes(self) -> float:
        """What LoRA saves."""
        return self.adapter * 4 / MEGABYTE


@dataclass(frozen=True)
class Step:
    """One update: its number from 1, its mean loss in nats per completion token, and its seconds."""

    number: int
    loss: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to demonstrate on.

    Attributes:
        network: in eval mode, nothing attached.
        tokenizer: the one its token ids are of.
        config: LoRA as the demonstration does it on this network.
        name: what it is called.
        fingerprint: of its weights.
    """

    network: nn.Module
    tokenizer: Tokenizer
    config: LoraConfig
    name: str
    fingerprint: str


def subject(model: str | None, rank: int = 16) -> Subject:
    """The demonstration network, or a base model by name or path.

    Args:
        model: see `models.load.load_base`; None means the demonstration network, with the bundled tokenizer.
        rank: of the adapter.

    Raises:
        SettingsError: on a rank that cannot be.
        ModelError: if the network cannot be had.
    """
    if model is None:
        config = demo.lora_config(rank)
        tokenizer = Tokenizer.from_folder(TINY_FOLDER)
        return Subject(demo.build(), tokenizer, config, demo.NAME, demo.FINGERPRINT)
    config = LoraConfig(rank=rank, alpha=2.0 * rank, targets=("attention.qv",))
    base = load_base(model, dtype=torch.float32)
    return Subject(base.model, base.tokenizer, config, base.name, base.fingerprint)


def sample_examples(
    tokenizer: Tokenizer, train: int = 50, validation: int = 12, max_length: int | None = None
) -> tuple[list[Example], list[Example]]:
    """The first records of the bundled restaurants, each with the first of its texts.

    Args:
        tokenizer: the network's.
        train: training examples.
        validation: validation examples.
        max_length: tokens an example may have; longer ones are cut.

    Raises:
        SettingsError: if the sample has not that many records.
    """
    found = []
    for split, wanted in (("train", train), ("valid", validation)):
        records = read("restaurants", split=split)
        if not 1 <= wanted <= len(records):
            raise SettingsError(
                f"there are {len(records)} {split} records, and {wanted} were asked for",
                hint="ask for fewer, 1 at least",
            )
        examples, _ = build_examples(records[:wanted], tokenizer, max_length=max_length, overlong="cut")
        first = {example.record_id: example for example in reversed(examples)}
        found.append([first[record.id] for record in records[:wanted] if record.id in first])
    return found[0], found[1]


def padded(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Token ids and, for each position, the token that follows it if it is a completion token: both [batch, length].

    Padding stands at the end, where it is not scored and, with causal attention or none, changes nothing before it.
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
    """The logits of a network that returns them, or of one of transformers', [batch, length, vocabulary]."""
    output: Any = network(ids)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


def summed_loss(network: nn.Module, examples: Sequence[Example]) -> tuple[Tensor, int]:
    """The loss summed over the completion tokens, in nats, and their number."""
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
    """Train what requires a gradient with AdamW, the rate falling linearly to zero; yields after each update.

    Args:
        network: any network from token ids to logits.
        examples: shuffled anew for each epoch.
        epochs: how often each is seen.
        batch_size: examples per update.
        learning_rate: the first.
        seed: of the order.

    Raises:
        SettingsError: on a number that is not positive.
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
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        yield Step(number, loss.item() / tokens, time.perf_counter() - start)
    network.eval()
