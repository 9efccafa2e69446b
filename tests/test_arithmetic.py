"""Folded adapters: the same updates from one plain pair a layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.arithmetic import folded
from tailora.adapters.config import LoraConfig
from tailora.errors import AdapterError

OUT, IN = 12, 5


def update(layer: LayerAdapter) -> np.ndarray:
    total = np.zeros((layer.out_features, IN))
    for branch in layer.branches:
        low, high = branch.rows or (0, layer.out_features)
        total[low:high] += branch.scale * (branch.b.astype(np.float64) @ branch.a.astype(np.float64))
    return total


@st.composite
def layers(draw: st.DrawFn) -> LayerAdapter:
    random = np.random.default_rng(draw(st.integers(0, 99)))
    slices = draw(st.sampled_from([(None,), ((0, 4),), ((0, 4), (8, 12)), ((4, 8), (0, 4), (8, 12))]))
    branches = []
    for rows in slices:
        rank = draw(st.integers(1, 3))
        height = OUT if rows is None else rows[1] - rows[0]
        a, b = random.normal(size=(rank, IN)), random.normal(size=(height, rank))
        branches.append(LowRank(a.astype(np.float32), b.astype(np.float32), draw(st.floats(0.1, 4)), rows))
    return LayerAdapter("linear", tuple(branches), out=OUT)


@given(st.lists(layers(), min_size=1, max_size=3), st.booleans())
def test_the_updates_are_the_same(chosen: list[LayerAdapter], rslora: bool) -> None:
    adapter = Adapter(LoraConfig(rslora=rslora), {f"block.{n}.q": layer for n, layer in enumerate(chosen)})
    plain = folded(adapter)
    for name, layer in plain.layers.items():
        (branch,) = layer.branches
        assert branch.rows is None
        np.testing.assert_allclose(update(layer), update(adapter.layers[name]), rtol=1e-5, atol=1e-5)
        config = plain.config
        assert config.scale(config.rank_of(name), config.alpha_of(name)) == branch.scale == 1
        assert config.rank_of(name) == branch.rank


def test_what_plain_factors_do_not_express_is_refused() -> None:
    pair = LowRank(np.ones((1, IN), np.float32), np.ones((OUT, 1), np.float32), 1.0)
    dora = Adapter(LoraConfig(), {"q": LayerAdapter("linear", (pair,), magnitude=np.ones(OUT, np.float32))})
    with pytest.raises(AdapterError, match="DoRA on q"):
        folded(dora)
    plain = dataclasses.replace(dora, layers={"q": LayerAdapter("linear", (pair,))}, biases={"q.bias": np.ones(3)})
    with pytest.raises(AdapterError, match=r"a trained bias, q\.bias"):
        folded(plain)
