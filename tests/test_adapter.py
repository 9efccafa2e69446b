from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank, changes_nothing
from tailora.adapters.config import LoraConfig


def branch(rows: tuple[int, int] | None = None, out: int = 6) -> LowRank:
    rng = np.random.default_rng(0)
    return LowRank(rng.normal(size=(2, 5)).astype(np.float32), rng.normal(size=(out, 2)).astype(np.float32), 1.5, rows)


def adapter(**changes: Any) -> Adapter:
    layers = {"one": LayerAdapter("linear", (branch(),)), "two": LayerAdapter("linear", (branch((2, 8)),))}
    return replace(Adapter(LoraConfig(), layers, {"one.bias": np.ones(6, np.float32)}), **changes)


def test_counts_every_number() -> None:
    assert adapter().parameters == 2 * (10 + 12) + 6


def test_hash_ignores_what_changes_no_result() -> None:
    whole = adapter()
    stored_otherwise = {name: replace(layer, kind="gpt2_conv1d", out=8) for name, layer in whole.layers.items()}
    for same in (
        adapter(layers=dict(reversed(list(whole.layers.items())))),
        adapter(layers=stored_otherwise),
        adapter(config=LoraConfig(dropout=0.5), base_name="x", meta={"a": 1}),
    ):
        assert same.content_hash == whole.content_hash


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: replace(layer, branches=(replace(layer.branches[0], scale=1.25),)),
        lambda layer: replace(layer, branches=(replace(layer.branches[0], rows=(0, 6)),)),
        lambda layer: replace(layer, branches=(replace(layer.branches[0], a=layer.branches[0].a + 1e-6),)),
        lambda layer: replace(layer, magnitude=np.ones(6, np.float32)),
        lambda layer: replace(layer, kind="embedding"),
    ],
)
def test_hash_sees_what_changes_a_result(change: Any) -> None:
    whole = adapter()
    changed = adapter(layers={**whole.layers, "one": change(whole.layers["one"])})
    assert changed.content_hash != whole.content_hash


def test_an_adapter_that_changes_nothing() -> None:
    dead = LayerAdapter("linear", (replace(branch(), b=np.zeros((6, 2), np.float32)),))
    dead_embedding = LayerAdapter("embedding", (replace(branch(), a=np.zeros((2, 5), np.float32)),))
    nothing = Adapter(LoraConfig(), {"one": dead, "two": dead_embedding})
    assert changes_nothing(nothing)
    assert not changes_nothing(adapter())
    assert not changes_nothing(replace(nothing, biases={"one.bias": np.zeros(6, np.float32)}))
    assert not changes_nothing(replace(nothing, layers={"one": replace(dead, magnitude=np.ones(6, np.float32))}))
    assert not changes_nothing(replace(nothing, layers={"one": LayerAdapter("linear", (dead.branches[0], branch()))}))


def test_outputs_of_a_layer_known_by_its_slices_only() -> None:
    assert LayerAdapter("linear", (branch((2, 8)),)).out_features == 8
    assert LayerAdapter("linear", (branch((2, 8)),), out=20).out_features == 20
    assert LayerAdapter("linear", (branch(),)).out_features == 6
