"""Estimates of a run's time and memory before its first update: operations over a measured rate, and bytes by kind.

They are labelled as estimates wherever they are shown; the run measures both.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tailora.data.examples import Example
from tailora.lora.targets import head_of
from tailora.models.load import Base
from tailora.training.settings import TrainSettings
from tailora.training.trees.prefix_tree import batches, build

SHARE_REACHED = {"fp32": 0.5, "tf32": 0.5, "bf16": 0.5, "int8": 0.95}
"""Share of the probe's rate that training reaches; the probe of int8 is in fp32. See benchmarks/RESULTS.md."""


@dataclass(frozen=True)
class Workload:
    """The amount of work in an epoch.

    Attributes:
        updates: number of updates.
        nodes: number of tree nodes, which are tokens with common prefixes counted once.
        scored: number of nodes that predict a completion token.
        largest_pass: nodes of the largest forward pass, at most `tokens_per_pass` unless one example is longer.
        largest_update: nodes of the largest update.
        largest_batch: the examples of that update.
    """

    updates: int
    nodes: int
    scored: int
    largest_pass: int
    largest_update: int
    largest_batch: Sequence[Example]


def workload(train: Sequence[Example], settings: TrainSettings) -> Workload:
    """Count the nodes of an epoch's trees, with the examples shuffled as the run shuffles them.

    The order matters, since texts of one record share their prefix only within the same update.
    """
    order = random.Random(settings.seed)
    updates = list(batches(train, settings.batch_size, group_size=settings.group_size, rng=order))
    trees = [build(batch) for batch in updates]
    sizes = list(map(len, trees))
    return Workload(
        updates=len(trees),
        nodes=sum(sizes),
        scored=sum(len(set(tree.edge_nodes.tolist())) for tree in trees),
        largest_pass=min(settings.tokens_per_pass, max(sizes)),
        largest_update=max(sizes),
        largest_batch=updates[sizes.index(max(sizes))],
    )


def arithmetic(base: Base, work: Workload, settings: TrainSettings) -> float:
    """Return the floating-point operations of an epoch: forward, gradients of inputs, and with `full` of weights."""
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
    """Estimate the seconds that a number of operations takes, from a short timing of products on this machine."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return operations / (_product_rate(dtype, device, torch.get_num_threads()) * SHARE_REACHED[precision])


@functools.cache
def _product_rate(dtype: torch.dtype, device: str, threads: int) -> float:
    """Return the operations per second of products, timed once in a process."""
    left, right = (torch.full(shape, 0.5, dtype=dtype, device=device) for shape in ((256, 768), (768, 1536)))
    best, laps = float("inf"), 0
    start = time.perf_counter()
    # A single lap is enough where the type has no instructions and a product takes seconds.
    while laps < 8 and (laps == 0 or time.perf_counter() - start < 0.5):
        began = time.perf_counter()
        (left @ right).sum().item()
        best = min(best, time.perf_counter() - began)
        laps += 1
    return 2 * left.numel() * right.shape[1] / best
