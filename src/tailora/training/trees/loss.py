"""The loss over a batch of trees: cross-entropy of completion tokens, without a matrix of all logits.

The vocabulary projection runs only on the nodes that predict a completion token, a chunk at a time. If the head is
frozen, the same pass computes the gradient with respect to the hidden states, so that no logits need to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tailora.training.trees.prefix_tree import TreeBatch

CHUNK = 128  # scored nodes at once: 25 MB of fp32 logits for GPT-2's vocabulary
GPU_CHUNK = 2048  # 400 MB; with smaller chunks, launching kernels would take most of the time


@dataclass(frozen=True, eq=False)
class Scored:
    """The scored nodes and edges of a batch of trees: S nodes, E edges.

    Attributes:
        nodes: [S] the nodes that predict a completion token.
        rows: [E] each edge's index into `nodes`, ascending.
        tokens: [E] each edge's token.
        weights: [E] each edge's weight: how many sequences run through it.
        chunks: half-open ranges of `nodes`, each with the slice of the edges that start in it.
    """

    nodes: Tensor
    rows: Tensor
    tokens: Tensor
    weights: Tensor
    chunks: Sequence[tuple[int, int, slice]]


def scored(batch: TreeBatch, device: torch.device | str = "cpu") -> Scored:
    """Return the scored nodes and edges of a batch as tensors."""
    nodes, rows = np.unique(batch.edge_nodes, return_inverse=True)
    chunks = _chunks(rows, CHUNK if torch.device(device).type == "cpu" else GPU_CHUNK)

    def on_device(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(device)

    edges = on_device(batch.edge_tokens), on_device(batch.edge_weights)
    return Scored(on_device(nodes), on_device(rows), *edges, chunks)


def _chunks(rows: NDArray[np.int64], size: int) -> list[tuple[int, int, slice]]:
    """Return `Scored.chunks` of at most `size` nodes for the ascending row of each edge."""
    count = int(rows[-1]) + 1 if len(rows) else 0
    bounds = [*range(0, count, size), count]
    edges = np.searchsorted(rows, bounds).tolist()
    return [(low, high, slice(*edges[i : i + 2])) for i, (low, high) in enumerate(pairwise(bounds))]


@dataclass(frozen=True)
class LogitsForm:
    """What an architecture does to the outputs of its vocabulary projection.

    Attributes:
        factor: what they are multiplied by.
        cap: if positive, they become cap · tanh(logits / cap) afterwards.
    """

    factor: float = 1.0
    cap: float = 0.0

    @classmethod
    def of(cls, config: Any) -> LogitsForm:
        """Read the fields of Granite, Cohere and Gemma from a transformers configuration."""
        divisor, factor = getattr(config, "logits_scaling", None), getattr(config, "logit_scale", None)
        cap = getattr(config, "final_logit_softcapping", None)
        return cls((factor or 1.0) / (divisor or 1.0), cap or 0.0)

    def __call__(self, logits: Tensor) -> Tensor:
        """Apply the cap."""
        return torch.tanh(logits / self.cap) * self.cap if self.cap else logits


class FrozenHead(Protocol):
    """A vocabulary projection that does not learn."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of [rows, width]: [rows, vocabulary], which the caller may overwrite."""

    def back(self, exponentials: Tensor) -> Tensor:
        """Multiply [rows, vocabulary] by the weight: [rows, width].

        The values are in [0, 1], with a 1 in each row, and may be overwritten.
        """

    def weight_rows(self, tokens: Tensor) -> Tensor:
        """Return the weight's rows of some tokens, [tokens, width]."""

    @property
    def mean_row(self) -> Tensor:
        """The mean of the weight's rows, [width]."""


class PlainHead:
    """A frozen linear head in its own dtype; products accumulate in fp32."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()

    def logits(self, hidden: Tensor) -> Tensor:
        """See `FrozenHead`."""
        return F.linear(hidden.to(self.weight.dtype), self.weight, self.bias)

    def back(self, exponentials: Tensor) -> Tensor:
        """See `FrozenHead`."""
        return exponentials.to(self.weight.dtype) @ self.weight

    def weight_rows(self, tokens: Tensor) -> Tensor:
        """See `FrozenHead`."""
        return self.weight[tokens]

    @cached_property
    def mean_row(self) -> Tensor:
        """See `FrozenHead`."""
        return self.weight.mean(0, dtype=_exact(self.weight.dtype))


def frozen_head_loss(hidden: Tensor, head: FrozenHead, scored: Scored, label_smoothing: float = 0.0) -> Tensor:
    """Return the weighted sum of the losses of all edges; divided by the sum of weights it is the mean per token.

    With smoothing ε, the target of an edge has 1 - ε on its token and ε spread evenly over the vocabulary.

    Args:
        hidden: [N, width] the states of all nodes after the last normalisation.
        head: the frozen projection.
        scored: the scored nodes and edges.
        label_smoothing: ε in [0, 1).

    Returns:
        A scalar in nats, in at least fp32.
    """
    loss: Tensor = _FrozenHeadLoss.apply(hidden, head, scored, label_smoothing)  # type: ignore[no-untyped-call]
    return loss


class _FrozenHeadLoss(torch.autograd.Function):
    """The loss and, in the same pass, its gradient with respect to the states.

    With e = exp(logits - peak), Z their sum and m the number of sequences through a node, the gradient of its state is
    m/Z · e W - (1 - ε) Σ weight · W[token] - ε m · mean row. So e W needs one product, which is normalised afterwards.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: FrozenHead, scored: Scored, smoothing: float) -> Tensor:
        exact = _exact(hidden.dtype)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        gradient = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        for low, high, edges in scored.chunks:
            nodes = scored.nodes[low:high]
            logits = head.logits(hidden[nodes]).to(exact)
            rows, tokens, weights = scored.rows[edges] - low, scored.tokens[edges], scored.weights[edges].to(exact)
            mass = logits.new_zeros(len(nodes)).index_add_(0, rows, weights)  # sequences through each node
            total -= (1 - smoothing) * (weights * logits[rows, tokens]).sum()
            if smoothing:
                total -= smoothing * (mass * logits.mean(-1)).sum()
            peak = logits.amax(-1)
            exponentials = logits.sub_(peak[:, None]).exp_()
            z = exponentials.sum(-1)
            total += (mass * (z.log() + peak)).sum()
            if gradient is not None:
                slope = head.back(exponentials).to(exact) * (mass / z)[:, None]
                slope.index_add_(0, rows, head.weight_rows(tokens).to(exact) * (-(1 - smoothing) * weights)[:, None])
                if smoothing:
                    slope.addcmul_(mass[:, None], head.mean_row, value=-smoothing)
                gradient[nodes] = slope.to(gradient.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad.to(gradient.dtype), None, None, None


def general_head_loss(
    hidden: Tensor, head: Callable[[Tensor], Tensor], scored: Scored, label_smoothing: float = 0.0
) -> Tensor:
    """Return the loss of `frozen_head_loss` for a head that learns or carries an adapter.

    Each chunk is computed again for its gradient.
    """

    def chunk_loss(states: Tensor, rows: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
        log_p = F.log_softmax(head(states).to(_exact(hidden.dtype)), -1)
        loss = -(1 - label_smoothing) * log_p[rows, tokens]
        if label_smoothing:
            loss = loss - label_smoothing * log_p.mean(-1)[rows]
        return (weights.to(loss.dtype) * loss).sum()

    total = torch.zeros((), dtype=_exact(hidden.dtype), device=hidden.device)
    for low, high, edges in scored.chunks:
        chunk = (hidden[scored.nodes[low:high]], scored.rows[edges] - low, scored.tokens[edges], scored.weights[edges])
        total = total + checkpoint(chunk_loss, *chunk, use_reentrant=False)
    return total


def _exact(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which losses are summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32
