"""Attention over prefix trees, for any transformers model that takes its attention from the registry.

All trees of a batch form one row of N nodes, so that every other layer runs on [1, N, width] without padding. Only
attention separates the trees, which keeps masks small. On a CPU it computes one tree after another. On a GPU, where
launching many small kernels would take most of the time, it computes all trees at once, padded to the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True, eq=False, kw_only=True)
class TreeMasks:
    """Which nodes each node of the trees sees.

    Attributes:
        masks: [..., L, P + L] 0 where a node sees another or one of P virtual tokens, and -inf elsewhere.
        depths: [..., L] the position of each node in its sequences, for each mask.
        prefix: number of virtual tokens, which are before position 0.
        length: largest number of tokens in a sequence, the virtual ones included.
        windows: the windows of the layers whose attention has asked for masks so far; None for layers without one.
    """

    masks: Sequence[Tensor]
    depths: Sequence[Tensor]
    prefix: int
    length: int
    windows: list[int | None] = field(default_factory=list)
    _narrowed: dict[int, Sequence[Tensor]] = field(default_factory=dict)

    def within(self, window: int | None) -> Sequence[Tensor]:
        """Return the masks of a layer in which a node sees the last tokens of its sequence only, itself included.

        Args:
            window: number of those tokens; None for all.
        """
        self.windows.append(window)
        if window is None or window >= self.length:
            return self.masks
        if window not in self._narrowed:
            pairs = zip(self.masks, self.depths, strict=True)
            self._narrowed[window] = [_narrowed(mask, depths, self.prefix, window) for mask, depths in pairs]
        return self._narrowed[window]


def _narrowed(mask: Tensor, depths: Tensor, prefix: int, window: int) -> Tensor:
    virtual = torch.arange(mask.shape[-1] - depths.shape[-1], device=mask.device) - prefix
    places = torch.cat([virtual.expand(*depths.shape[:-1], -1), depths], -1)  # [..., P + L]
    return mask.masked_fill(depths[..., None] - places[..., None, :] >= window, -torch.inf)


@dataclass(frozen=True, eq=False, kw_only=True)
class SeparateTrees(TreeMasks):
    """The trees one by one, with a mask for each.

    Attributes:
        spans: half-open node ranges, one per tree.
    """

    spans: Sequence[tuple[int, int]]


@dataclass(frozen=True, eq=False, kw_only=True)
class PaddedTrees(TreeMasks):
    """The trees padded to one length, with one mask: T trees of L places, N of which are occupied by a node.

    The mask is [T, 1, L, P + L]; an empty place sees itself, and P is filled up to a multiple of 8.

    Attributes:
        nodes: [T, L] the node in each place; 0 in empty places.
        places: [rows] each node's place in the flattened [T · L]; arbitrary for padding rows.
    """

    nodes: Tensor
    places: Tensor


def tree_masks(
    batch: TreeBatch, dtype: torch.dtype, device: torch.device | str = "cpu", *, rows: int = 0, prefix: int = 0
) -> TreeMasks:
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
    filled_nodes = np.where(occupied, nodes, 0)
    return PaddedTrees(
        masks=[mask.masked_fill_(~torch.from_numpy(seen).to(device), -torch.inf)[:, None]],
        depths=[torch.from_numpy(batch.positions[filled_nodes]).to(device)[:, None]],
        prefix=prefix,
        length=_length(batch, prefix),
        nodes=torch.from_numpy(filled_nodes).to(device),
        places=torch.from_numpy(np.pad(np.flatnonzero(occupied), (0, max(0, rows - len(batch))))).to(device),
    )


def masks_one_by_one(
    batch: TreeBatch, dtype: torch.dtype, device: torch.device | str = "cpu", *, prefix: int = 0
) -> SeparateTrees:
    """Return the masks of a batch, one tensor per tree."""
    spans = [(int(low), int(high)) for low, high in zip(batch.starts, batch.starts[1:], strict=False)]
    masks = []
    for tree in range(len(spans)):
        seen = F.pad(torch.from_numpy(visible(batch, tree)).to(device), (prefix, 0), value=True)
        masks.append(torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf))
    depths = [torch.from_numpy(batch.positions[low:high]).to(device) for low, high in spans]
    return SeparateTrees(masks=masks, depths=depths, prefix=prefix, length=_length(batch, prefix), spans=spans)


def _length(batch: TreeBatch, prefix: int) -> int:
    return prefix + int(batch.positions.max()) + 1


class _TreeAttention(torch.autograd.Function):
    """softmax(scale · q kᵀ + mask) v for each tree; every gradient is written to its place without copies."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        spans: Sequence[tuple[int, int]],
        masks: Sequence[Tensor],
        scale: float,
    ) -> Tensor:
        heads, nodes, _ = query.shape  # [heads, N, width]; keys and values [kv_heads, P + N, width]
        groups = heads // key.shape[0]
        out = query.new_empty(nodes, heads, value.shape[-1])
        attention_weights = []
        for (low, high), mask in zip(spans, masks, strict=True):
            q = _grouped(query[:, low:high], groups)  # [kv_heads, groups · L, width]
            bias = mask.repeat(groups, 1) if groups > 1 else mask
            scores = torch.baddbmm(bias, q, _seen(key, low, high, nodes).transpose(1, 2), alpha=scale)
            weights = torch.softmax(scores, -1)
            attention_weights.append(weights)
            mixed = torch.bmm(weights, _seen(value, low, high, nodes))
            out[low:high] = mixed.view(heads, high - low, -1).transpose(0, 1)
        ctx.spans, ctx.scale = spans, scale
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
        for (low, high), weights in zip(ctx.spans, attention_weights, strict=True):
            g = _grouped(grad[low:high].transpose(0, 1), groups)
            q = _grouped(query[:, low:high], groups)
            k, v = (_seen(states, low, high, nodes) for states in (key, value))
            _put(dv, torch.bmm(weights.transpose(1, 2), g), prefix, low)
            d_weights = torch.bmm(g, v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype).mul_(ctx.scale)
            dq[low:high] = torch.bmm(d_scores, k).view(-1, high - low, q.shape[-1]).transpose(0, 1)
            _put(dk, torch.bmm(d_scores.transpose(1, 2), q), prefix, low)
        return dq.transpose(0, 1), dk.transpose(0, 1), dv.transpose(0, 1), None, None, None


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


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, trees: SeparateTrees, masks: Sequence[Tensor], scale: float, cap: float
) -> Tensor:
    """Compute attention with capped scores, tree by tree: query [heads, N, width] to [N, heads, width]."""
    nodes = query.shape[1]
    parts = []
    for (low, high), mask in zip(trees.spans, masks, strict=True):
        k, v = (_seen(states, low, high, nodes) for states in (key, value))
        parts.append(_capped(query[:, low:high], k, v, mask, scale, cap).transpose(0, 1))
    return torch.cat(parts)


def _side_by_side(
    query: Tensor, key: Tensor, value: Tensor, trees: PaddedTrees, mask: Tensor, scale: float, cap: float | None
) -> Tensor:
    """Compute the attention of all padded trees at once: query [heads, N, width] to [N, heads, width]."""
    groups = query.shape[0] // key.shape[0]
    prefix = key.shape[1] - query.shape[1]
    q, k, v = (
        states[:, states.shape[1] - query.shape[1] :].transpose(0, 1)[trees.nodes].transpose(1, 2)
        for states in (query, key, value)
    )  # [T, heads, L, width]
    if prefix:
        room = mask.shape[-1] - k.shape[2] - prefix
        k, v = (
            torch.cat([F.pad(states[:, :prefix], (0, 0, 0, room)).expand(len(own), -1, -1, -1), own], 2)
            for states, own in ((key, k), (value, v))
        )
    if cap is not None:
        mixed = _capped(q, k, v, mask, scale, cap)
        return mixed.transpose(1, 2).flatten(0, 1)[trees.places]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype), scale=scale)
    return mixed.transpose(1, 2).flatten(0, 1)[trees.places]


def _capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, cap: float) -> Tensor:
    """Compute attention whose scores s become cap · tanh(s / cap), in [..., heads, L, width], in fp32 or wider."""
    groups = query.shape[-3] // key.shape[-3]
    k, v = (states.repeat_interleave(groups, -3) for states in (key, value))
    scores = (query @ k.transpose(-1, -2)).to(torch.promote_types(query.dtype, torch.float32)) * scale
    weights = torch.softmax(torch.tanh(scores / cap) * cap + mask, -1)
    return weights.to(v.dtype) @ v


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
    tree: TreeMasks | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute tree attention, in transformers' signature: query [1, heads, N, width] to [1, N, heads, width]."""
    if tree is None:
        raise ModelError(
            "this architecture does not pass the trees on to its attention", hint="train another base model"
        )
    _require_plain(kwargs)
    masks = tree.within(sliding_window)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    dtype = _output_dtype(value)
    # The GPU's kernel keeps scores in fp32 in any dtype; on a CPU, 16-bit products would round them to 16 bits.
    exact = dtype if isinstance(tree, PaddedTrees) else torch.promote_types(dtype, torch.float32)
    q, k, v = (states[0].to(exact) for states in (query, key, value))
    with torch.autocast(query.device.type, enabled=False):
        if isinstance(tree, PaddedTrees):
            return _side_by_side(q, k, v, tree, masks[0], scale, softcap)[None], None
        assert isinstance(tree, SeparateTrees)
        if softcap is not None:
            out = _one_by_one(q, k, v, tree, masks, scale, softcap)
        else:
            out = _TreeAttention.apply(q, k, v, tree.spans, masks, scale)  # type: ignore[no-untyped-call]
    return out[None].to(dtype), None


_POSITIONS = ("position_ids", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k")


def _require_plain(inputs: Mapping[str, Any]) -> None:
    """Raise if the architecture gives its attention tensors that change the scores, such as sinks or a bias."""
    for name, value in inputs.items():
        if isinstance(value, Tensor) and name not in _POSITIONS:
            what = f"the architecture's attention has an input {name}, which attention over prefix trees does not know"
            raise ModelError(what, hint="train another base model")


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
