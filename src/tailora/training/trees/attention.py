"""Attention over prefix trees, for any transformers model that takes its attention from the registry.

All trees of a batch form one row of N nodes, so that every other layer runs on [1, N, width] without padding. Only
attention separates the trees, which keeps masks small. On a CPU it computes one tree after another. On a GPU, where
launching many small kernels would take most of the time, it computes all trees at once, padded to the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from tailora.core.errors import ModelError
from tailora.training.trees.prefix_tree import TreeBatch, visible

NAME = "tailora_tree"
"""The name under which transformers finds this attention (`model.set_attn_implementation`)."""


@dataclass(frozen=True, eq=False)
class TreeMasks:
    """The nodes of each tree, and which of them each node sees.

    Attributes:
        spans: half-open node ranges, one per tree.
        masks: one [L, P + L] per tree, 0 where a node sees another or one of P virtual tokens, and -inf elsewhere.
    """

    spans: Sequence[tuple[int, int]]
    masks: Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class PaddedTrees:
    """The trees padded to one length: T trees of L places, N of which are occupied by a node.

    Attributes:
        nodes: [T, L] the node in each place; 0 in empty places.
        places: [rows] each node's place in the flattened [T · L]; arbitrary for padding rows.
        mask: [T, 1, L, P + L], 0 where a place sees another or one of the virtual tokens, and -inf elsewhere; an empty
            place sees itself. P is the number of virtual tokens, filled up to a multiple of 8.
    """

    nodes: Tensor
    places: Tensor
    mask: Tensor


def tree_masks(
    batch: TreeBatch, dtype: torch.dtype, device: torch.device | str = "cpu", *, rows: int = 0, prefix: int = 0
) -> TreeMasks | PaddedTrees:
    """Return the masks of a batch of trees in the form that suits the device.

    Args:
        batch: the trees.
        dtype: dtype of the model; on a CPU, attention and its masks use at least fp32.
        device: device of the masks.
        rows: on a GPU, number of rows to pad the nodes to.
        prefix: number of virtual tokens, which every node sees.
    """
    if torch.device(device).type == "cpu":
        return masks_one_by_one(batch, torch.promote_types(dtype, torch.float32), device, prefix=prefix)
    return masks_side_by_side(batch, dtype, device, rows=rows, prefix=prefix)


def masks_side_by_side(
    batch: TreeBatch, dtype: torch.dtype, device: torch.device | str = "cpu", *, rows: int = 0, prefix: int = 0
) -> PaddedTrees:
    """Return the masks of a batch as one tensor whose sides are a multiple of 8, as the kernels require."""
    sizes = np.diff(batch.starts)
    places = -(-int(sizes.max()) // 8) * 8
    nodes = batch.starts[:-1, None] + np.arange(places)
    occupied = np.arange(places) < sizes[:, None]  # [T, L]
    seen = np.broadcast_to(np.eye(places, dtype=bool), (len(sizes), places, places)).copy()
    for tree, size in enumerate(sizes):
        seen[tree, :size, :size] = visible(batch, tree)
    filled = np.broadcast_to(np.arange(-(-prefix // 8) * 8) < prefix, (*seen.shape[:2], -(-prefix // 8) * 8))
    seen = np.concatenate([filled, seen], 2)
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    return PaddedTrees(
        torch.from_numpy(np.where(occupied, nodes, 0)).to(device),
        torch.from_numpy(np.pad(np.flatnonzero(occupied), (0, max(0, rows - len(batch))))).to(device),
        mask.masked_fill_(~torch.from_numpy(seen).to(device), -torch.inf)[:, None],
    )


def masks_one_by_one(
    batch: TreeBatch, dtype: torch.dtype, device: torch.device | str = "cpu", *, prefix: int = 0
) -> TreeMasks:
    """Return the masks of a batch, one tensor per tree."""
    spans = [(int(low), int(high)) for low, high in zip(batch.starts, batch.starts[1:], strict=False)]
    masks = []
    for tree in range(len(spans)):
        seen = F.pad(torch.from_numpy(visible(batch, tree)).to(device), (prefix, 0), value=True)
        masks.append(torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf))
    return TreeMasks(spans, masks)


class _TreeAttention(torch.autograd.Function):
    """softmax(scale · q kᵀ + mask) v for each tree; every gradient is written to its place without copies."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, trees: TreeMasks, scale: float) -> Tensor:
        heads, nodes, _ = query.shape  # [heads, N, width]; keys and values [kv_heads, P + N, width]
        groups = heads // key.shape[0]
        out = query.new_empty(nodes, heads, value.shape[-1])
        attention_weights = []
        for (low, high), mask in zip(trees.spans, trees.masks, strict=True):
            q = _grouped(query[:, low:high], groups)  # [kv_heads, groups · L, width]
            bias = mask.repeat(groups, 1) if groups > 1 else mask
            scores = torch.baddbmm(bias, q, _seen(key, low, high, nodes).transpose(1, 2), alpha=scale)
            weights = torch.softmax(scores, -1)
            attention_weights.append(weights)
            mixed = torch.bmm(weights, _seen(value, low, high, nodes))
            out[low:high] = mixed.view(heads, high - low, -1).transpose(0, 1)
        ctx.trees, ctx.scale = trees, scale
        ctx.save_for_backward(query, key, value, *attention_weights)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *attention_weights = ctx.saved_tensors
        groups, nodes = query.shape[0] // key.shape[0], query.shape[1]
        prefix = key.shape[1] - nodes
        # Nodes are the outermost dimension, as in the projections, so that the next operation needs no copy.
        dq, dk, dv = (
            torch.empty_like(t.transpose(0, 1), memory_format=torch.contiguous_format) for t in (query, key, value)
        )
        dk[:prefix] = 0
        dv[:prefix] = 0
        for (low, high), weights in zip(ctx.trees.spans, attention_weights, strict=True):
            g = _grouped(grad[low:high].transpose(0, 1), groups)
            q = _grouped(query[:, low:high], groups)
            k, v = (_seen(states, low, high, nodes) for states in (key, value))
            _put(dv, torch.bmm(weights.transpose(1, 2), g), prefix, low)
            d_weights = torch.bmm(g, v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype).mul_(ctx.scale)
            dq[low:high] = torch.bmm(d_scores, k).view(-1, high - low, q.shape[-1]).transpose(0, 1)
            _put(dk, torch.bmm(d_scores.transpose(1, 2), q), prefix, low)
        return dq.transpose(0, 1), dk.transpose(0, 1), dv.transpose(0, 1), None, None


def _seen(states: Tensor, low: int, high: int, nodes: int) -> Tensor:
    """Return a tree's keys or values of [kv_heads, P + N, width], those of the virtual tokens before them."""
    prefix = states.shape[1] - nodes
    own = states[:, prefix + low : prefix + high]
    return torch.cat([states[:, :prefix], own], 1) if prefix else own


def _put(target: Tensor, gradient: Tensor, prefix: int, low: int) -> None:
    """Write a tree's gradient [kv_heads, P + L, width] to [P + N, kv_heads, width], adding that of the prefix."""
    by_node = gradient.transpose(0, 1)
    target[prefix + low : len(by_node) + low] = by_node[prefix:]
    target[:prefix] += by_node[:prefix]


def _side_by_side(query: Tensor, key: Tensor, value: Tensor, trees: PaddedTrees, scale: float) -> Tensor:
    """Compute the attention of all padded trees at once: query [heads, N, width] to [N, heads, width]."""
    groups = query.shape[0] // key.shape[0]
    prefix = key.shape[1] - query.shape[1]
    q, k, v = (
        states[:, states.shape[1] - query.shape[1] :].transpose(0, 1)[trees.nodes].transpose(1, 2)
        for states in (query, key, value)
    )  # [T, heads, L, width]
    if prefix:
        room = trees.mask.shape[-1] - k.shape[2] - prefix
        k, v = (
            torch.cat([F.pad(states[:, :prefix], (0, 0, 0, room)).expand(len(own), -1, -1, -1), own], 2)
            for states, own in ((key, k), (value, v))
        )
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=trees.mask.to(q.dtype), scale=scale)
    return mixed.transpose(1, 2).flatten(0, 1)[trees.places]


def _grouped(x: Tensor, groups: int) -> Tensor:
    """Reshape [heads, L, width] so that the query heads of one key head are stacked: [kv_heads, groups · L, width]."""
    return x.reshape(x.shape[0] // groups, groups * x.shape[1], x.shape[2])


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    tree: TreeMasks | PaddedTrees | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute tree attention, in transformers' signature: query [1, heads, N, width] to [1, N, heads, width]."""
    if tree is None:
        raise ModelError(
            "this architecture does not pass the trees on to its attention", hint="train another base model"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    dtype = _output_dtype(value)
    # The GPU's kernel keeps scores in fp32 in any dtype; on a CPU, 16-bit products would round them to 16 bits.
    exact = dtype if isinstance(tree, PaddedTrees) else torch.promote_types(dtype, torch.float32)
    q, k, v = (states[0].to(exact) for states in (query, key, value))
    with torch.autocast(query.device.type, enabled=False):
        if isinstance(tree, PaddedTrees):
            return _side_by_side(q, k, v, tree, scale)[None], None
        out: Tensor = _TreeAttention.apply(q, k, v, tree, scale)  # type: ignore[no-untyped-call]
    return out[None].to(dtype), None


def _output_dtype(value: Tensor) -> torch.dtype:
    """Return the dtype of the output: that of autocast if it is on, as in PyTorch's attention, else that of the values.

    Queries and keys may have another dtype, since the rotations and norms before attention compute in fp32. Values
    come straight from their projection, in the dtype that the output projection expects.
    """
    device = value.device.type
    if torch.is_autocast_enabled(device) and value.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return value.dtype


AttentionInterface.register(NAME, _attend)
