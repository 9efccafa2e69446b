"""Arithmetic on adapters: folding, differences and weighted sums. Values in, a value out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from tailora.adapters.adapter import Adapter, Floats, LayerAdapter, LowRank
from tailora.core.errors import AdapterError, SettingsError

Combination = Literal["concat", "svd"]

_PROMPT_FIELDS = ("prompt_form", "linearization", "bos_token_ids", "end_token_id", "chat_template")


def folded(adapter: Adapter) -> Adapter:
    """Return the same adapter with one pair of factors per layer over all outputs, and the scale in B (alpha = rank).

    For programs without slices or rank-stabilised scaling, and for those that read alpha as the scale itself. Slices of
    ranks r1, r2, … become one pair of rank r1 + r2 + …, each block of B in its own rows and columns.

    Raises:
        AdapterError: the adapter has DoRA magnitudes or trained biases, which such a pair cannot represent.
    """
    lacking = [name for name, layer in adapter.layers.items() if layer.magnitude is not None]
    if lacking or adapter.biases:
        what = f"DoRA on {lacking[0]}" if lacking else f"a trained bias, {next(iter(adapter.biases))}"
        what = f"the adapter has {what}, which a plain pair of factors cannot represent"
        raise AdapterError(what, hint="merge it with `tailora merge`")
    layers = {name: _folded(layer) for name, layer in adapter.layers.items()}
    ranks = {name: layer.branches[0].rank for name, layer in layers.items()}
    largest = max(ranks.values())
    others = {name: rank for name, rank in ranks.items() if rank != largest}
    config = dataclasses.replace(
        adapter.config,
        rank=largest,
        alpha=float(largest),
        rslora=False,
        rank_pattern=others,
        alpha_pattern={name: float(rank) for name, rank in others.items()},
    )
    return dataclasses.replace(adapter, config=config, layers=layers)


def _folded(layer: LayerAdapter) -> LayerAdapter:
    a = np.concatenate([branch.a for branch in layer.branches])
    first = layer.branches[0].b
    b = np.zeros((layer.out_features, len(a), *first.shape[2:]), np.float32)
    column = 0
    for branch in layer.branches:
        low, high = branch.rows or (0, layer.out_features)
        b[low:high, column : column + branch.rank] = np.float32(branch.scale) * branch.b
        column += branch.rank
    return dataclasses.replace(layer, branches=(LowRank(a, b, 1.0),))


def difference(one: Adapter, other: Adapter) -> float:
    """Return the largest difference between two adapters' updates, relative to the layer's largest value.

    Returns:
        The difference in the worst layer; infinite where the adapters differ in layers or outputs.

    Raises:
        AdapterError: see `folded`, unless the adapters are equal.
    """
    if one.content_hash == other.content_hash:
        return 0.0
    left, right = folded(one).layers, folded(other).layers
    if left.keys() != right.keys():
        return float("inf")
    worst = 0.0
    for name, layer in left.items():
        first, second = layer.branches[0], right[name].branches[0]
        if first.b.shape[0] != second.b.shape[0] or first.a.shape[1:] != second.a.shape[1:]:
            return float("inf")
        update, compared = _update(first), _update(second)
        peak = float(np.abs(update).max())
        worst = max(worst, float(np.abs(update - compared).max()) / peak if peak else float(np.abs(compared).max()))
    return worst


def _update(branch: LowRank) -> Floats:
    """`scale · B A`, [out, in · kernel]."""
    product: Floats = branch.b.reshape(len(branch.b), -1) @ branch.a.reshape(len(branch.a), -1)
    return np.float32(branch.scale) * product


def combined(
    adapters: Sequence[Adapter], weights: Sequence[float], *, how: Combination = "concat", rank: int | None = None
) -> Adapter:
    """Return one adapter whose update of every layer is the weighted sum of the adapters' updates.

    The updates are summed, not the factors: a sum of factors (PEFT's "linear") contains products of one adapter's A and
    another's B.

    Args:
        adapters: one or more adapters of one base.
        weights: one finite weight per adapter.
        how: "concat" is exact, and its rank is the sum of the ranks; "svd" is the best approximation of a given rank
            (Eckart and Young 1936). A single adapter at weight 1 is returned unchanged.
        rank: the rank for "svd"; None for "concat".

    Raises:
        SettingsError: the number of weights differs from that of adapters, a weight is not finite, or `rank` does not
            go with `how`.
        AdapterError: the adapters were trained on different bases or prompts, or see `folded`.
    """
    if not adapters or len(adapters) != len(weights):
        what = f"{len(weights)} weights for {len(adapters)} adapters"
        raise SettingsError(what, where="weights", hint="give one weight per adapter, in the same order")
    if not np.isfinite(weights).all():
        raise SettingsError("the weights must be finite numbers", where="weights")
    if (how == "svd") != (rank is not None):
        what = 'is required with how="svd" and not allowed otherwise'
        raise SettingsError(what, where="rank", hint="give both or neither")
    bases = {adapter.base_fingerprint for adapter in adapters} - {None}
    if len(bases) > 1:
        raise AdapterError("the adapters were trained on different bases", hint="combine adapters of one base")
    for name in _PROMPT_FIELDS:
        if len({repr(adapter.meta[name]) for adapter in adapters if name in adapter.meta}) > 1:
            what = f"the adapters were trained on different prompts: their {name} differs"
            raise AdapterError(what, hint="combine adapters that were trained with the same prompts")
    first = adapters[0]
    if len(adapters) == 1 and weights[0] == 1 and how == "concat":
        return first
    plain = [folded(adapter) for adapter in adapters]
    layers = {}
    for name in dict.fromkeys(name for adapter in plain for name in adapter.layers):
        pairs = zip(weights, plain, strict=True)
        parts = [(weight, adapter.layers[name]) for weight, adapter in pairs if name in adapter.layers]
        a = np.concatenate([layer.branches[0].a for _, layer in parts])
        out = max(layer.out_features for _, layer in parts)
        blocks = [np.float32(weight) * layer.branches[0].b for weight, layer in parts]
        b = np.concatenate(
            [np.pad(block, [(0, out - len(block)), *[(0, 0)] * (block.ndim - 1)]) for block in blocks], 1
        )
        if rank is not None:
            a, b = _cut(a, b, rank)
        layers[name] = dataclasses.replace(parts[0][1], branches=(LowRank(a, b, 1.0),), out=out)
    drafts = first.drafts if len(adapters) == 1 else None  # of one adapter, the texts are still its own
    # Folding again brings the ranks and alphas of the settings up to date.
    return folded(dataclasses.replace(first, layers=layers, drafts=drafts))


def _cut(a: Floats, b: Floats, rank: int) -> tuple[Floats, Floats]:
    """Factors of the best approximation of `B A` at a rank; the product itself is never formed."""
    shapes = a.shape[1:], b.shape[2:]
    tall_b, r_b = np.linalg.qr(b.reshape(len(b), -1).astype(np.float64))
    tall_a, r_a = np.linalg.qr(a.reshape(len(a), -1).T.astype(np.float64))
    u, values, v = np.linalg.svd(r_b @ r_a.T)
    kept = min(rank, int(np.count_nonzero(values > values[0] * 1e-7)) or 1)
    root = np.sqrt(values[:kept])
    new_a = (root[:, None] * v[:kept]) @ tall_a.T
    new_b = tall_b @ u[:, :kept] * root
    return (
        new_a.astype(np.float32).reshape(kept, *shapes[0]),
        new_b.astype(np.float32).reshape(len(b), kept, *shapes[1]),
    )
