"""Attention over prefix trees, for any transformers model that takes its attention from the registry.

All trees of a batch lie in one row of N nodes, so that every other layer runs on [1, N, width] without padding;
attention alone works tree by tree, where the masks stay small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from tailora.data.prefix_tree import TreeBatch, visible
from tailora.errors import ModelError

NAME = "tailora_tree"
"""The name under which transformers finds this attention (`model.set_attn_implementation`)."""


@dataclass(frozen=True, eq=False)
class TreeMasks:
    """Where each tree lies among the nodes, and what its nodes see.

    Attributes:
        spans: half-open node ranges, one a tree.
        masks: [L, L] a tree, 0 where a node sees another and -inf where not.
    """

    spans: Sequence[tuple[int, int]]
    masks: Sequence[Tensor]


def tree_masks(batch: TreeBatch, dtype: torch.dtype, device: torch.device | str = "cpu") -> TreeMasks:
    """The masks of a batch of trees, in the dtype that attention computes in."""
    spans = [(int(low), int(high)) for low, high in zip(batch.starts, batch.starts[1:], strict=False)]
    masks = []
    for tree in range(len(spans)):
        seen = torch.from_numpy(visible(batch, tree)).to(device)
        masks.append(torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf))
    return TreeMasks(spans, masks)


class _TreeAttention(torch.autograd.Function):
    """softmax(scale · q kᵀ + mask) v for each tree; writes every gradient into its place, with no copies between."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, trees: TreeMasks, scale: float) -> Tensor:
        heads, nodes, _ = query.shape  # [heads, N, width]; keys and values [kv_heads, N, width]
        groups = heads // key.shape[0]
        out = query.new_empty(nodes, heads, value.shape[-1])
        kept = []
        for (low, high), mask in zip(trees.spans, trees.masks, strict=True):
            q = _grouped(query[:, low:high], groups)  # [kv_heads, groups · L, width]
            bias = mask.repeat(groups, 1) if groups > 1 else mask
            scores = torch.baddbmm(bias, q, key[:, low:high].transpose(1, 2), alpha=scale)
            weights = torch.softmax(scores, -1)
            kept.append(weights)
            mixed = torch.bmm(weights, value[:, low:high])
            out[low:high] = mixed.view(heads, high - low, -1).transpose(0, 1)
        ctx.trees, ctx.scale = trees, scale
        ctx.save_for_backward(query, key, value, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        groups = query.shape[0] // key.shape[0]
        # Nodes outermost, as the projections have them, so that what follows needs no copy.
        dq, dk, dv = (
            torch.empty_like(t.transpose(0, 1), memory_format=torch.contiguous_format) for t in (query, key, value)
        )
        for (low, high), weights in zip(ctx.trees.spans, kept, strict=True):
            g = _grouped(grad[low:high].transpose(0, 1), groups)
            q, k, v = _grouped(query[:, low:high], groups), key[:, low:high], value[:, low:high]
            dv[low:high] = torch.bmm(weights.transpose(1, 2), g).transpose(0, 1)
            d_weights = torch.bmm(g, v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype).mul_(ctx.scale)
            dq[low:high] = torch.bmm(d_scores, k).view(-1, high - low, q.shape[-1]).transpose(0, 1)
            dk[low:high] = torch.bmm(d_scores.transpose(1, 2), q).transpose(0, 1)
        return dq.transpose(0, 1), dk.transpose(0, 1), dv.transpose(0, 1), None, None


def _grouped(x: Tensor, groups: int) -> Tensor:
    """[heads, L, width] with the query heads of one key head below one another: [kv_heads, groups · L, width]."""
    return x.reshape(x.shape[0] // groups, groups * x.shape[1], x.shape[2])


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    tree: TreeMasks | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention signature: query [1, heads, N, width] to output [1, N, heads, width]."""
    if tree is None:
        raise ModelError("this architecture does not hand the trees to its attention", mend="train another base model")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if tree.masks[0].dtype != query.dtype:  # under autocast the projections are narrower than the parameters
        tree = TreeMasks(tree.spans, [mask.to(query.dtype) for mask in tree.masks])
    with torch.autocast(query.device.type, enabled=False):
        out: Tensor = _TreeAttention.apply(query[0], key[0], value[0], tree, scale)  # type: ignore[no-untyped-call]
    return out[None], None


AttentionInterface.register(NAME, _attend)
