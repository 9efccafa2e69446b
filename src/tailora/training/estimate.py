"""What a run will take, said before its first step: arithmetic over a measured rate, and bytes by kind.

Estimates, and called so wherever they are shown; the run measures both as it goes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tailora.core.hardware.memory import rss
from tailora.data.examples import Example
from tailora.lora.targets import head_of
from tailora.models.load import Base
from tailora.training.settings import TrainSettings
from tailora.training.trees.loss import CHUNK
from tailora.training.trees.prefix_tree import batches, build

SHARE_REACHED = {"fp32": 0.5, "tf32": 0.5, "bf16": 0.5, "int8": 0.95}
"""What training reaches of the rate of the probe's products, which are fp32 for int8: see benchmarks/RESULTS.md."""


@dataclass(frozen=True)
class Workload:
    """An epoch in numbers.

    Attributes:
        updates: of the parameters.
        nodes: tokens after sharing prefixes.
        scored: of them, those that predict a completion token.
        largest_pass: nodes of the largest forward pass, at most `tokens_per_pass` unless one example is longer.
    """

    updates: int
    nodes: int
    scored: int
    largest_pass: int


def workload(train: Sequence[Example], settings: TrainSettings) -> Workload:
    """Count an epoch's trees, in an order as the run's: texts of a record that are apart share nothing."""
    order = random.Random(settings.seed)
    updates = batches(train, settings.batch_size, group_size=settings.group_size, rng=order)
    trees = [build(batch) for batch in updates]
    return Workload(
        updates=len(trees),
        nodes=sum(map(len, trees)),
        scored=sum(len(set(tree.edge_nodes.tolist())) for tree in trees),
        largest_pass=min(settings.tokens_per_pass, max(map(len, trees))),
    )


def arithmetic(base: Base, work: Workload, settings: TrainSettings) -> float:
    """Operations of an epoch: forward and the gradients of the inputs, and with `full` those of the weights as well."""
    model: Any = base.model
    projection = head_of(model)
    assert projection is not None, "a causal language model has one"
    head = sum(parameter.numel() for parameter in projection.parameters())
    embedding = model.get_input_embeddings().weight
    tied = embedding is getattr(projection, "weight", None)
    everything = sum(parameter.numel() for parameter in model.parameters())
    body = everything - head - (0 if tied else embedding.numel())
    per_weight = 6 if settings.method == "full" else 4  # forward 2, gradients of inputs 2, of weights 2
    return float(per_weight * (body * work.nodes + head * work.scored))


def seconds(operations: float, precision: str, device: str) -> float:
    """Estimate the seconds that a number of operations takes, by a short probe of this machine's products."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(512, 768, dtype=dtype, device=device), torch.randn(768, 3072, dtype=dtype, device=device)
    best, laps = float("inf"), 0
    start = time.perf_counter()
    # One turn has to do where the type has no instructions and takes seconds.
    while laps < 8 and (laps == 0 or time.perf_counter() - start < 0.5):
        began = time.perf_counter()
        (left @ right).sum().item()
        best = min(best, time.perf_counter() - began)
        laps += 1
    rate = 2 * 512 * 768 * 3072 / best
    return operations / (rate * SHARE_REACHED[precision])


def peak_bytes(model: Any, largest_pass: int, trainable: int) -> int | None:
    """Peak memory on a CPU: what the process holds now, activations, one chunk of logits, gradients and moments."""
    resident = rss()
    if resident is None:
        return None
    config = model.config
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
    # What norms, projections and attention take and give is kept for the gradient, for each node and layer.
    activations = 4 * largest_pass * config.num_hidden_layers * (10 * width + 3 * inner)
    logits = 3 * 4 * CHUNK * int(model.get_input_embeddings().weight.shape[0])
    return int(resident + activations + logits + 12 * trainable)
