"""Adapters made of adapters: values in, a value out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from tailora.adapters.adapter import Adapter, Array, LayerAdapter, LowRank
from tailora.core.errors import AdapterError, SettingsError

Combination = Literal["concat", "svd"]

_PROMPT_FIELDS = ("prompt_form", "linearization", "bos_token_ids", "end_token_id", "chat_template")


def folded(adapter: Adapter) -> Adapter:
    """The same adapter with one pair of factors a layer, whole outputs, and the scale in B: alpha equals the rank.

    For programs that know no slices, no rank-stabilised scaling, or read alpha as the scale itself. Slices of ranks
    r1, r2, … become one pair of rank r1 + r2 + …, each block of B in its own rows and columns.

    Raises:
        AdapterError: DoRA or trained biases, which such a pair does not express.
    """
    lacking = [name for name, layer in adapter.layers.items() if layer.magnitude is not None]
    if lacking or adapter.biases:
        what = f"DoRA on {lacking[0]}" if lacking else f"a trained bias, {next(iter(adapter.biases))}"
        raise AdapterError(f"has {what}, which plain factors do not express", hint="merge it with `tailora merge`")
    layers = {name: _folded(layer) for name, layer in adapter.layers.items()}
    ranks = {name: layer.branches[0].rank for name, layer in layers.items()}
    most = max(ranks.values())
    others = {name: rank for name, rank in ranks.items() if rank != most}
    config = dataclasses.replace(
        adapter.config,
        rank=most,
        alpha=float(most),
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
    """How far two adapters' updates are apart: the largest difference, over the largest number of that layer's update.

    Of the layers the worst; infinite where they adapt other layers or outputs.

    Raises:
        AdapterError: what `folded` refuses, unless they are equal.
    """
    if one.content_hash == other.content_hash:
        return 0.0
    left, right = folded(one).layers, folded(other).layers
    if left.keys() != right.keys():
        return float("inf")
    worst = 0.0
    for name, layer in left.items():
        updates = [each.branches[0] for each in (layer, right[name])]
        if updates[0].b.shape[0] != updates[1].b.shape[0] or updates[0].a.shape[1:] != updates[1].a.shape[1:]:
            return float("inf")
        pair = [each.scale * each.b.reshape(len(each.b), -1) @ each.a.reshape(len(each.a), -1) for each in updates]
        peak = float(np.abs(pair[0]).max())
        worst = max(worst, float(np.abs(pair[0] - pair[1]).max()) / peak if peak else float(np.abs(pair[1]).max()))
    return worst


def combined(
    adapters: Sequence[Adapter], weights: Sequence[float], *, how: Combination = "concat", rank: int | None = None
) -> Adapter:
    """One adapter whose update of every layer is the weighted sum of the adapters' updates.

    The updates are summed, not the factors: a sum of factors (PEFT's "linear") has terms in which one adapter's A meets
    another's B. "concat" is exact, with the sum of the ranks; "svd" keeps the best approximation of a rank (Eckart and
    Young 1936). One adapter at weight 1 comes back as it is.

    Args:
        adapters: at least one, of one base.
        weights: as many, finite.
        how: see above.
        rank: of "svd".

    Raises:
        SettingsError: the numbers differ, a weight is not finite, or a rank is missing or of no use.
        AdapterError: adapters of different bases or prompts, or what `folded` refuses.
    """
    if not adapters or len(adapters) != len(weights):
        what = f"{len(weights)} weights for {len(adapters)} adapters"
        raise SettingsError(what, where="weights", hint="give one for each, in their order")
    if not np.isfinite(weights).all():
        raise SettingsError("must be finite numbers", where="weights")
    if (how == "svd") != (rank is not None):
        raise SettingsError("goes with svd, and svd with it", where="rank", hint="give both or neither")
    bases = {adapter.base_fingerprint for adapter in adapters} - {None}
    if len(bases) > 1:
        raise AdapterError("the adapters were trained on different bases", hint="combine adapters of one base")
    for name in _PROMPT_FIELDS:
        if len({repr(adapter.meta[name]) for adapter in adapters if name in adapter.meta}) > 1:
            what = f"the adapters were trained on different prompts: their {name} differs"
            raise AdapterError(what, hint="combine adapters that were trained on prompts of one form")
    first = adapters[0]
    if len(adapters) == 1 and weights[0] == 1 and how == "concat":
        return first
    plain = [folded(adapter) for adapter in adapters]
    layers = {}
    for name in dict.fromkeys(name for adapter in plain for name in adapter.layers):
        parts = [
            (weight, each.layers[name]) for weight, each in zip(weights, plain, strict=True) if name in each.layers
        ]
        a = np.concatenate([layer.branches[0].a for _, layer in parts])
        outs = max(layer.out_features for _, layer in parts)
        scaled = [np.float32(weight) * layer.branches[0].b for weight, layer in parts]
        b = np.concatenate([np.pad(each, [(0, outs - len(each)), *[(0, 0)] * (each.ndim - 1)]) for each in scaled], 1)
        if rank is not None:
            a, b = _cut(a, b, rank)
        layers[name] = dataclasses.replace(parts[0][1], branches=(LowRank(a, b, 1.0),), out=outs)
    # Folding once more settles the ranks and alphas of the settings.
    return folded(dataclasses.replace(first, layers=layers))


def _cut(a: Array, b: Array, rank: int) -> tuple[Array, Array]:
    """The factors of the nearest update of a rank; the product itself is never formed."""
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
