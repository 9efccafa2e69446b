"""One layer in loralib's form, to and from `LayerAdapter`. Numpy only; `loralib.py` has names and files.

loralib (version 0.1.2) has three forms: a plain layer with A [r, in] and B [out, r]; `MergedLinear`, with the blocks of
its g adapted slices one below the other, A [g·r, in] and B [g·width, r]; and convolutions, whose product B A, reshaped,
is the update of the kernel weight. Every conversion gives the same update: to the bit where the factors are only moved;
where branches of different scales have to share one, their B is rescaled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailora.adapters.adapter import Floats, LayerAdapter, LayerKind, LowRank


@dataclass(frozen=True, eq=False)
class LoralibLayer:
    """One layer in loralib's form.

    Attributes:
        a: lora_A, float32 [rows of A, columns of A].
        b: lora_B, float32 [rows of B, columns of B].
        alpha: the `lora_alpha` to build the layer with.
        enable_lora: the adapted slices of a `MergedLinear`, possibly without those after the last adapted one; None for
            any other layer.
        kernel: the sides of a convolution's kernel; None for any other layer.
    """

    a: Floats
    b: Floats
    alpha: float
    enable_lora: tuple[bool, ...] | None = None
    kernel: tuple[int, ...] | None = None


def from_plain(a: Floats, b: Floats, alpha: float, kind: LayerKind) -> LayerAdapter:
    """A [r, in] and B [out, r] as one branch."""
    return LayerAdapter(kind, (LowRank(a, b, alpha / a.shape[0]),))


def from_merged_linear(
    a: Floats, b: Floats, alpha: float, kind: LayerKind, enable_lora: Sequence[bool]
) -> LayerAdapter:
    """A [g·r, in] and B [g·width, r] as one branch per adapted slice."""
    enabled = [index for index, flag in enumerate(enable_lora) if flag]
    rank, width = b.shape[1], b.shape[0] // len(enabled)
    if len(enable_lora) == 1:
        return from_plain(a, b, alpha, kind)
    branches = [
        LowRank(
            a[block * rank : (block + 1) * rank],
            b[block * width : (block + 1) * width],
            alpha / rank,
            (index * width, (index + 1) * width),
        )
        for block, index in enumerate(enabled)
    ]
    return LayerAdapter(kind, tuple(branches))


def from_convolution(a: Floats, b: Floats, alpha: float, kernel: Sequence[int]) -> LayerAdapter:
    """A [r·k, in·k] and B [out·m, r·k] of an ungrouped convolution, k its last side and m the product of the others.

    loralib reshapes B A as it lies in memory, so each output owns m rows of B, and the row p of them fills the p-th of
    m equal parts of the flattened kernel. Written as one pair of factors this is A repeated down a block diagonal.
    """
    *others, last = kernel
    parts = math.prod(others)
    inner, columns = a.shape
    wide_a = np.zeros((parts, inner, parts, columns), np.float32)
    for part in range(parts):
        wide_a[part, :, part] = a
    out = b.shape[0] // parts
    rank = parts * inner
    wide_b = b.reshape(out, rank, *[1] * len(kernel))
    scale = alpha / (inner // last)
    return LayerAdapter("conv", (LowRank(wide_a.reshape(rank, columns // last, *kernel), wide_b, scale),))


def to_loralib(layer: LayerAdapter, slices: int | None) -> LoralibLayer:
    """A layer in loralib's form.

    Args:
        layer: the adapter of the layer.
        slices: the number of slices of a `MergedLinear`'s outputs; None for any other layer, unless the branches write
            slices themselves.

    Raises:
        ValueError: loralib cannot represent the layer; the message continues a sentence that begins with its path.
    """
    if layer.magnitude is not None:
        raise ValueError("has a DoRA magnitude, which loralib cannot represent")
    if layer.kind == "conv":
        return _to_convolution(layer)
    if slices is None and all(branch.rows is None for branch in layer.branches):
        pairs, scale = _with_one_scale(layer.branches)
        a, b = (np.concatenate(factors, axis) for axis, factors in enumerate(zip(*pairs, strict=True)))
        return LoralibLayer(a, b, scale * a.shape[0])
    return _to_merged_linear(layer, slices)


def _with_one_scale(branches: Sequence[LowRank]) -> tuple[list[tuple[Floats, Floats]], float]:
    """The factors of branches, B rescaled where a scale differs from the first that is not zero."""
    scale = next((branch.scale for branch in branches if branch.scale), 1.0)
    rescaled = [
        branch.b if branch.scale == scale else (branch.b * np.float64(branch.scale / scale)).astype(np.float32)
        for branch in branches
    ]
    return [(branch.a, b) for branch, b in zip(branches, rescaled, strict=True)], scale


def _to_merged_linear(layer: LayerAdapter, slices: int | None) -> LoralibLayer:
    width = _slice_width(layer.branches, slices)
    pairs, scale = _with_one_scale(layer.branches)
    by_slice: dict[int, list[tuple[Floats, Floats]]] = {}
    for branch, (a, b) in zip(layer.branches, pairs, strict=True):
        first = 0 if branch.rows is None else branch.rows[0] // width
        for index, part in _split(a, b, width):
            by_slice.setdefault(first + index, []).append(part)
    rank = max(sum(a.shape[0] for a, _ in parts) for parts in by_slice.values())
    blocks = [_stack(by_slice[index], rank) for index in sorted(by_slice)]
    flags = tuple(index in by_slice for index in range(slices or max(by_slice) + 1))
    a, b = (np.concatenate(factors) for factors in zip(*blocks, strict=True))
    return LoralibLayer(a, b, scale * rank, enable_lora=flags)


def _slice_width(branches: Sequence[LowRank], slices: int | None) -> int:
    """The common width of the slices, checked against every branch."""
    ranges = [branch.rows for branch in branches if branch.rows is not None]
    whole = next((branch.b.shape[0] for branch in branches if branch.rows is None), None)
    if whole and slices and whole % slices:
        raise ValueError(f"has {whole} outputs, which {slices} equal slices cannot share")
    width = whole // slices if whole and slices else min(high - low for low, high in ranges)
    bounds = [bound for rows in ranges for bound in rows] + ([] if whole is None else [whole])
    if any(bound % width for bound in bounds) or (slices is not None and max(bounds) > slices * width):
        ranges_text = ", ".join(f"{low}:{high}" for low, high in ranges)
        raise ValueError(f"adapts the outputs {ranges_text}, which are not equal slices as in MergedLinear")
    return width


def _split(a: Floats, b: Floats, width: int) -> list[tuple[int, tuple[Floats, Floats]]]:
    """The slices that a branch writes, each with its factors.

    Where every column of B writes one slice at most, as in PEFT's dense equivalent of a slice-wise adapter, each slice
    takes its columns; else every slice takes all of A.
    """
    rank, count = a.shape[0], b.shape[0] // width
    blocks = b.reshape(count, width, rank)
    written = blocks.any(axis=1)  # [count, rank]
    if written.sum(axis=0).max(initial=0) != 1:
        return [(index, (a, blocks[index])) for index in range(count)]
    owner = np.where(written.any(axis=0), written.argmax(axis=0), -1)  # [rank]
    used = np.unique(owner[owner >= 0])
    for column in np.flatnonzero(owner < 0):  # a column of zeros goes to the smallest slice: ranks stay equal
        owner[column] = used[np.argmin([(owner == index).sum() for index in used])]
    return [(int(index), (a[owner == index], blocks[index][:, owner == index])) for index in used]


def _stack(parts: Sequence[tuple[Floats, Floats]], rank: int) -> tuple[Floats, Floats]:
    """The branches of one slice as one pair, padded with zeros to a rank."""
    a = np.concatenate([a for a, _ in parts])
    b = np.concatenate([b for _, b in parts], axis=1)
    missing = rank - a.shape[0]
    return np.pad(a, ((0, missing), (0, 0))), np.pad(b, ((0, 0), (0, missing)))


def _to_convolution(layer: LayerAdapter) -> LoralibLayer:
    """The inverse of `from_convolution`; other adapters of convolutions only where the kernel has one element."""
    if len(layer.branches) != 1:
        raise ValueError(f"has {len(layer.branches)} branches on a convolution, where loralib has one")
    (branch,) = layer.branches
    rank, channels, *kernel = branch.a.shape
    *others, last = kernel
    parts = math.prod(others)
    if branch.b.shape[1] != rank:
        raise ValueError("is a grouped convolution, where loralib's factors have another meaning")
    inner = rank // parts
    if rank % parts or inner % last:
        raise ValueError(f"has rank {rank} on a kernel of {kernel}, which loralib cannot represent")
    columns = channels * last
    blocks = branch.a.reshape(parts, inner, parts, columns)
    a = blocks[0, :, 0]
    expected = np.zeros_like(blocks)
    for part in range(parts):
        expected[part, :, part] = a
    if not np.array_equal(blocks, expected):
        raise ValueError(f"has an update of a {kernel} kernel that loralib cannot represent")
    b = branch.b.reshape(-1, inner)
    return LoralibLayer(np.ascontiguousarray(a), b, branch.scale * (inner // last), kernel=tuple(kernel))
