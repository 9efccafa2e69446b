"""Adapters made of adapters: values in, a value out."""

from __future__ import annotations

import dataclasses

import numpy as np

from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.errors import AdapterError


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
        raise AdapterError(f"has {what}, which plain factors do not express", mend="merge it with `tailora merge`")
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
