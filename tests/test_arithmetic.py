"""Folded adapters: the same updates from one plain pair a layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.arithmetic import combined, folded
from tailora.adapters.config import LoraConfig
from tailora.core.errors import AdapterError, SettingsError

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
    plain = dataclasses.replace(
        dora, layers={"q": LayerAdapter("linear", (pair,))}, biases={"q.bias": np.ones(3, np.float32)}
    )
    with pytest.raises(AdapterError, match=r"a trained bias, q\.bias"):
        folded(plain)


def adapter_of(seed: int, names: tuple[str, ...] = ("q", "v"), rank: int = 2) -> Adapter:
    random = np.random.default_rng(seed)

    def layer() -> LayerAdapter:
        a, b = random.normal(size=(rank, IN)), random.normal(size=(OUT, rank))
        return LayerAdapter("linear", (LowRank(a.astype(np.float32), b.astype(np.float32), 0.5),), out=OUT)

    return Adapter(LoraConfig(rank=rank, alpha=rank / 2), {name: layer() for name in names}, base_fingerprint="same")


def test_updates_are_summed_without_cross_terms() -> None:
    one, two = adapter_of(1), adapter_of(2, ("v", "o"), rank=3)
    both = combined([one, two], [0.25, -2.0])
    assert set(both.layers) == {"q", "v", "o"}
    zero = np.zeros((OUT, IN))
    for name, layer in both.layers.items():
        parts = [update(each.layers[name]) if name in each.layers else zero for each in (one, two)]
        np.testing.assert_allclose(update(layer), 0.25 * parts[0] - 2 * parts[1], rtol=1e-5, atol=1e-5)
        assert layer.branches[0].rank == both.config.rank_of(name)


def test_one_adapter_at_weight_one_is_itself() -> None:
    one = adapter_of(1)
    assert combined([one], [1.0]).content_hash == one.content_hash
    exact = combined([one], [1.0], how="svd", rank=2)
    for name, layer in exact.layers.items():
        np.testing.assert_allclose(update(layer), update(one.layers[name]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_svd_keeps_the_nearest_update_of_a_rank(rank: int) -> None:
    adapters = [adapter_of(1), adapter_of(2)]
    cut, whole = combined(adapters, [1.0, 1.0], how="svd", rank=rank), combined(adapters, [1.0, 1.0])
    for name, layer in cut.layers.items():
        wanted = update(whole.layers[name])
        u, values, v = np.linalg.svd(wanted)
        nearest = u[:, :rank] * values[:rank] @ v[:rank]
        np.testing.assert_allclose(update(layer), nearest, rtol=1e-4, atol=1e-4)
        assert layer.branches[0].rank == rank


def test_combinations_that_cannot_be() -> None:
    one = adapter_of(1)
    with pytest.raises(SettingsError, match="1 weights for 2 adapters"):
        combined([one, one], [1.0])
    with pytest.raises(SettingsError, match="finite"):
        combined([one], [float("nan")])
    with pytest.raises(SettingsError, match=r"rank: is required with .*svd.* and not allowed otherwise"):
        combined([one], [1.0], rank=3)
    with pytest.raises(AdapterError, match="different bases"):
        combined([one, dataclasses.replace(one, base_fingerprint="other")], [1.0, 1.0])
    forms = [dataclasses.replace(one, meta={"prompt_form": form}) for form in ("paper", "arrow")]
    with pytest.raises(AdapterError, match="different prompts: their prompt_form differs"):
        combined(forms, [1.0, 1.0])
    assert combined([one, forms[1]], [1.0, 1.0]).layers.keys() == one.layers.keys()
