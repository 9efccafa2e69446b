"""loralib's state dicts: conversions that keep the update, round trips to the bit, and files that must be refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import loralib as peer
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import tailora.loralib as lora
from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.config import LoraConfig
from tailora.adapters.formats import loralib, peft
from tailora.core.errors import AdapterError

C_ATTN = "transformer.h.0.attn.c_attn"
QV = [True, False, True]


def numbers(*shape: Any, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def update(layer: LayerAdapter, out: int) -> np.ndarray:
    """`Σ scale · B A`, [out, in…], in fp64."""
    total = np.zeros((out, *layer.branches[0].a.shape[1:]))
    for branch in layer.branches:
        low, high = branch.rows or (0, out)
        flat = branch.b.reshape(branch.b.shape[:2]).astype(np.float64) @ branch.a.reshape(branch.rank, -1)
        total[low:high] += branch.scale * flat.reshape(high - low, *branch.a.shape[1:])
    return total


def adapter_of(**layers: LayerAdapter) -> Adapter:
    named = {name.replace("__", "."): layer for name, layer in layers.items()}
    return Adapter(LoraConfig(rank=4, alpha=8.0, targets=tuple(named)), named)


def qv_layer(width: int = 6, rank: int = 4, scale: float = 8.0, kind: Any = "gpt2_conv1d") -> LayerAdapter:
    return LayerAdapter(
        kind,
        (
            LowRank(numbers(rank, width, seed=1), numbers(width, rank, seed=2), scale, (0, width)),
            LowRank(numbers(rank, width, seed=3), numbers(width, rank, seed=4), scale, (2 * width, 3 * width)),
        ),
    )


def trained(model: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "bias" in name:
                parameter.normal_()
    return model


def same(left: Adapter, right: Adapter) -> bool:
    return left.content_hash == right.content_hash


class Network(nn.Module):
    """One of each kind of layer, by loralib from PyPI."""

    def __init__(self, library: Any = peer) -> None:
        super().__init__()
        self.wte = library.Embedding(7, 6, r=2, lora_alpha=4)
        self.c_attn = library.MergedLinear(6, 18, r=3, lora_alpha=6, enable_lora=QV, fan_in_fan_out=True)
        self.fc = library.Linear(6, 5, r=2, lora_alpha=4)
        self.norm = nn.LayerNorm(5)


class TestReading:
    def test_updates_are_those_of_loralib(self, tmp_path: Path) -> None:
        model = trained(Network())
        torch.save(peer.lora_state_dict(model), tmp_path / "a.bin")
        adapter = loralib.load(
            tmp_path / "a.bin", alpha={"c_attn": 6, "wte": 4, "fc": 4}, enable_lora=QV, embeddings=["wte"]
        )
        assert {name: layer.kind for name, layer in adapter.layers.items()} == {
            "wte": "embedding", "c_attn": "gpt2_conv1d", "fc": "linear",
        }  # fmt: skip
        before = {name: getattr(model, name).weight.detach().clone() for name in adapter.layers}
        model.eval()
        for name, layer in adapter.layers.items():
            merged = (getattr(model, name).weight - before[name]).detach()
            merged = merged.T if layer.kind != "linear" else merged
            np.testing.assert_allclose(update(layer, merged.shape[0]), merged, rtol=1e-4, atol=1e-5)
        config = adapter.config
        for name, layer in adapter.layers.items():
            rank = config.rank_of(name)
            assert rank == layer.branches[0].rank
            assert config.scale(rank, config.alpha_of(name)) == layer.branches[0].scale

    @pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model_state_dict": state, "epoch": 3}])
    @pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
    def test_bare_wrapped_and_prefixed(self, tmp_path: Path, wrap: Any, prefix: str) -> None:
        state = {f"{prefix}transformer.h.0.fc.lora_{f}": torch.ones(2, 2) for f in "AB"}
        torch.save(wrap(state), tmp_path / "a.pt")
        assert list(loralib.load(tmp_path / "a.pt", alpha=1).layers) == ["transformer.h.0.fc"]

    def test_the_body_of_a_gpt2_gains_its_name(self, tmp_path: Path) -> None:
        torch.save({f"h.3.attn.c_proj.lora_{f}": torch.ones(2, 2) for f in "AB"}, tmp_path / "a.pt")
        assert list(loralib.load(tmp_path / "a.pt", alpha=1).layers) == ["transformer.h.3.attn.c_proj"]

    def test_all_of_query_key_and_value_is_proved_by_the_shapes(self, tmp_path: Path) -> None:
        state = {f"{C_ATTN}.lora_A": torch.ones(6, 4), f"{C_ATTN}.lora_B": torch.ones(12, 2)}
        torch.save(state, tmp_path / "a.pt")
        branches = loralib.load(tmp_path / "a.pt", alpha=1).layers[C_ATTN].branches
        assert [branch.rows for branch in branches] == [(0, 4), (4, 8), (8, 12)]

    @pytest.mark.parametrize("blocks", [1, 2])
    def test_other_slices_are_asked_for(self, tmp_path: Path, blocks: int) -> None:
        state = {f"{C_ATTN}.lora_A": torch.ones(2 * blocks, 4), f"{C_ATTN}.lora_B": torch.ones(4 * blocks, 2)}
        torch.save(state, tmp_path / "a.pt")
        with pytest.raises(AdapterError, match=rf"adapts {blocks} .* 4 outputs wide.*pass enable_lora="):
            loralib.load(tmp_path / "a.pt", alpha=1)
        flags = [True, False, True] if blocks == 2 else [False, True, False]
        branches = loralib.load(tmp_path / "a.pt", alpha=1, enable_lora={"c_attn": flags}).layers[C_ATTN].branches
        assert [branch.rows for branch in branches] == [(4 * i, 4 * i + 4) for i in range(3) if flags[i]]

    def test_half_precision_is_widened(self, tmp_path: Path) -> None:
        state = {f"fc.lora_{f}": torch.full((2, 2), 0.1, dtype=torch.bfloat16) for f in "AB"}
        torch.save(state, tmp_path / "a.pt")
        (layer,) = loralib.load(tmp_path / "a.pt", alpha=1).layers.values()
        assert layer.branches[0].a[0, 0] == torch.tensor(0.1).bfloat16().float().item()

    def test_biases(self, tmp_path: Path) -> None:
        model = trained(Network())
        peer.mark_only_lora_as_trainable(model, bias="lora_only")
        for bias, names in [
            ("lora_only", {"c_attn.bias", "fc.bias"}),
            ("all", {"c_attn.bias", "fc.bias", "norm.bias"}),
        ]:
            torch.save(peer.lora_state_dict(model, bias=bias), tmp_path / "a.pt")
            adapter = loralib.load(tmp_path / "a.pt", alpha=1, enable_lora=QV)
            assert set(adapter.biases) == names
            assert adapter.config.bias == bias

    def test_a_whole_model_only_when_asked(self, tmp_path: Path) -> None:
        torch.save(trained(Network()).state_dict(), tmp_path / "a.pt")
        with pytest.raises(AdapterError, match=r"tensors do not belong to an adapter .*ignore_base=True"):
            loralib.load(tmp_path / "a.pt", alpha=1, enable_lora=QV)
        adapter = loralib.load(tmp_path / "a.pt", alpha=1, enable_lora=QV, ignore_base=True)
        assert set(adapter.layers) == {"wte", "c_attn", "fc"}
        assert not adapter.biases

    def test_paths_that_end_in_one_another(self, tmp_path: Path) -> None:
        state: dict[Any, Any] = {}
        for name, rank in [("fc", 1), ("block.fc", 2), ("other.block.fc", 3)]:
            state |= {f"{name}.lora_A": torch.ones(rank, 4), f"{name}.lora_B": torch.ones(4, rank)}
        torch.save(state, tmp_path / "a.pt")
        config = loralib.load(tmp_path / "a.pt", alpha=2).config
        assert [config.rank_of(name) for name in ("fc", "block.fc", "other.block.fc")] == [1, 2, 3]


class TestConversions:
    def test_there_and_back_to_the_bit(self, tmp_path: Path) -> None:
        adapter = adapter_of(transformer__h__0__attn__c_attn=qv_layer())
        alphas = loralib.save(adapter, tmp_path / "a.bin")
        assert alphas == {C_ATTN: 32.0}
        state = torch.load(tmp_path / "a.bin", weights_only=True)
        assert {key: tuple(value.shape) for key, value in state.items()} == {
            f"{C_ATTN}.lora_A": (8, 6), f"{C_ATTN}.lora_B": (12, 4),
        }  # fmt: skip
        assert same(loralib.load(tmp_path / "a.bin", alpha=alphas, enable_lora=QV), adapter)

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        ranks=st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any),
        scales=st.lists(st.sampled_from([0.5, 2.0, 3.0]), min_size=3, max_size=3),
        seed=st.integers(0, 9),
    )
    def test_any_slices_and_scales_keep_the_update(self, tmp_path: Path, ranks: Any, scales: Any, seed: Any) -> None:
        branches = tuple(
            LowRank(numbers(rank, 4, seed=seed + i), numbers(4, rank, seed=seed + 9 - i), scale, (4 * i, 4 * i + 4))
            for i, (rank, scale) in enumerate(zip(ranks, scales, strict=True))
            if rank
        )
        layer = LayerAdapter("gpt2_conv1d", branches)
        alphas = loralib.save(adapter_of(x__c_attn=layer), tmp_path / "a.pt")
        flags = [bool(rank) for rank in ranks]
        back = loralib.load(tmp_path / "a.pt", alpha=alphas, enable_lora=flags).layers["x.c_attn"]
        np.testing.assert_allclose(update(back, 12), update(layer, 12), rtol=1e-5, atol=1e-5)

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        owners=st.lists(st.sampled_from([0, 1, 2, None, "all"]), min_size=1, max_size=6), seed=st.integers(0, 9)
    )  # fmt: skip
    def test_dense_factors_keep_the_update_and_fit_loralib(self, tmp_path: Path, owners: Any, seed: Any) -> None:
        """Each column of B writes one slice, none, or all of them."""
        a, b = numbers(len(owners), 4, seed=seed), numbers(12, len(owners), seed=seed + 1)
        for column, owner in enumerate(owners):
            if owner != "all":
                keep = np.zeros(12, bool)
                keep[slice(0, 0) if owner is None else slice(4 * owner, 4 * owner + 4)] = True
                b[~keep, column] = 0
        layer = LayerAdapter("gpt2_conv1d", (LowRank(a, b, 1.5),))
        alphas = loralib.save(adapter_of(x__c_attn=layer), tmp_path / "a.pt", wrapped=True)
        back = loralib.load(tmp_path / "a.pt")
        np.testing.assert_allclose(update(back.layers["x.c_attn"], 12), update(layer, 12), rtol=1e-5, atol=1e-5)
        written = {owner for owner in owners if owner is not None}
        flags = [True] * 3 if "all" in written or not written else [index in written for index in range(3)]
        state = torch.load(tmp_path / "a.pt", weights_only=True)["model_state_dict"]
        rank = state["x.c_attn.lora_B"].shape[1]
        c_attn = peer.MergedLinear(4, 12, r=rank, lora_alpha=alphas["x.c_attn"], enable_lora=flags, fan_in_fan_out=True)
        holder = nn.ModuleDict({"x": nn.ModuleDict({"c_attn": c_attn})})
        assert not holder.load_state_dict(state, strict=False).unexpected_keys
        merged = c_attn.merge_AB().T.detach() * c_attn.scaling
        np.testing.assert_allclose(merged, update(layer, 12), rtol=1e-5, atol=1e-5)

    def test_a_plain_layer_by_a_fused_name_stays_plain_when_said_so(self, tmp_path: Path) -> None:
        adapter = adapter_of(x__c_attn=LayerAdapter("gpt2_conv1d", (LowRank(numbers(2, 4), numbers(12, 2), 2.0),)))
        alphas = loralib.save(adapter, tmp_path / "a.pt", slices={})
        assert same(loralib.load(tmp_path / "a.pt", alpha=alphas), adapter)

    def test_several_branches_on_all_outputs_become_one(self, tmp_path: Path) -> None:
        layer = LayerAdapter(
            "linear", (LowRank(numbers(2, 4), numbers(5, 2), 2.0), LowRank(numbers(1, 4), numbers(5, 1), 0.3))
        )
        alphas = loralib.save(adapter_of(fc=layer), tmp_path / "a.pt")
        back = loralib.load(tmp_path / "a.pt", alpha=alphas).layers["fc"]
        assert len(back.branches) == 1
        np.testing.assert_allclose(update(back, 5), update(layer, 5), rtol=1e-5, atol=1e-6)

    def test_rank_stabilised_scales_are_folded(self, tmp_path: Path) -> None:
        config = LoraConfig(rank=4, alpha=8, rslora=True, targets=("fc",))
        scale = config.scale(4, 8)
        adapter = Adapter(config, {"fc": LayerAdapter("linear", (LowRank(numbers(4, 3), numbers(5, 4), scale),))})
        alphas = loralib.save(adapter, tmp_path / "a.pt")
        assert alphas == {"fc": 16.0}
        assert same(loralib.load(tmp_path / "a.pt", alpha=alphas), adapter)

    def test_ranks_and_alphas_by_module(self, tmp_path: Path) -> None:
        layers = {
            f"block.{r}.fc": LayerAdapter("linear", (LowRank(numbers(r, 3), numbers(5, r), 1 / r),)) for r in (1, 2, 3)
        }
        adapter = Adapter(LoraConfig(targets=("fc",)), layers)
        alphas = loralib.save(adapter, tmp_path / "a.pt")
        assert same(loralib.load(tmp_path / "a.pt", alpha=alphas), adapter)

    def test_the_note_answers_what_the_file_lacks(self, tmp_path: Path) -> None:
        layers = {
            C_ATTN: qv_layer(),
            "transformer.wte": LayerAdapter("embedding", (LowRank(numbers(2, 7), numbers(6, 2), 2.0),)),
            "odd": LayerAdapter("gpt2_conv1d", (LowRank(numbers(1, 7), numbers(6, 1), 0.1),)),
        }
        adapter = Adapter(
            LoraConfig(targets=tuple(layers)), layers, {"odd.bias": numbers(6)}, base_fingerprint="f", base_name="n"
        )
        loralib.save(adapter, tmp_path / "a.pt", wrapped=True, prefix="module.")
        back = loralib.load(tmp_path / "a.pt")
        assert same(back, adapter)
        assert (back.base_fingerprint, back.base_name) == ("f", "n")
        state = torch.load(tmp_path / "a.pt", weights_only=True)["model_state_dict"]
        assert all(key.startswith("module.") for key in state)

    def test_views_are_not_saved_with_what_they_are_cut_from(self, tmp_path: Path) -> None:
        big = numbers(2000, 50)
        layer = LayerAdapter("linear", (LowRank(big[:2], numbers(5, 2), 1.0),))
        loralib.save(adapter_of(fc=layer), tmp_path / "a.pt")
        assert (tmp_path / "a.pt").stat().st_size < 20_000


class TestConvolutions:
    @pytest.mark.parametrize(
        ("name", "kernel"), [("Conv2d", 3), ("Conv2d", 1), ("Conv1d", 3), ("Conv3d", 2), ("Conv2d", (3, 2))]
    )
    def test_the_update_is_that_of_the_layer(self, tmp_path: Path, name: str, kernel: Any) -> None:
        layer: Any = trained(getattr(lora, name)(3, 4, kernel, r=2, lora_alpha=3))
        sides = layer.conv.kernel_size
        model = nn.ModuleDict({"features": layer})
        torch.save(lora.lora_state_dict(model, bias="lora_only"), tmp_path / "a.pt")
        adapter = loralib.load(tmp_path / "a.pt", alpha=3, kernels={"features": sides})
        before = layer.conv.weight.detach().clone()
        merged = (layer.eval().conv.weight - before).detach()
        np.testing.assert_allclose(update(adapter.layers["features"], 4), merged, rtol=1e-4, atol=1e-5)
        assert set(adapter.biases) == {"features.bias"}
        assert loralib.save(adapter, tmp_path / "b.pt") == {"features": 3.0}
        first, second = (torch.load(tmp_path / f, weights_only=True) for f in ("a.pt", "b.pt"))
        assert set(first) == set(second)
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_updates_that_loralib_cannot_express(self, tmp_path: Path) -> None:
        def refusal(a: Any, b: Any, branches: int = 1) -> Any:
            layer = LayerAdapter("conv", (LowRank(a, b, 1.0),) * branches)
            with pytest.raises(AdapterError) as caught:
                loralib.save(adapter_of(features=layer), tmp_path / "a.pt")
            assert not (tmp_path / "a.pt").exists()
            return str(caught.value)

        assert "rank 2 on a kernel of [3, 3]" in refusal(numbers(2, 3, 3, 3), numbers(4, 2, 1, 1))
        assert "an update of a [3, 3] kernel that loralib cannot represent" in refusal(
            numbers(9, 3, 3, 3), numbers(4, 9, 1, 1)
        )
        assert "grouped convolution" in refusal(numbers(2, 3, 1, 1), numbers(4, 1, 1, 1))
        assert "2 branches" in refusal(numbers(2, 3, 1, 1), numbers(4, 2, 1, 1), branches=2)


class TestChainThroughPeft:
    @pytest.mark.parametrize("with_record", [True, False])
    def test_query_and_value_of_rank_4(
        self, tmp_path: Path, with_record: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = nn.Sequential()
        model.add_module("c_attn", peer.MergedLinear(6, 18, r=4, lora_alpha=32, enable_lora=QV, fan_in_fan_out=True))
        torch.save({"model_state_dict": peer.lora_state_dict(trained(model))}, tmp_path / "a.pt")
        adapter = loralib.load(tmp_path / "a.pt", alpha=32, enable_lora=QV)
        peft.save(adapter, tmp_path / "folder")
        if not with_record:
            (tmp_path / "folder" / "tailora.json").unlink()
        between = peft.load(tmp_path / "folder")
        if not with_record:
            (branch,) = between.layers["c_attn"].branches
            assert (branch.rank, branch.scale, between.config.alpha) == (8, 8.0, 64.0)
        assert loralib.save(between, tmp_path / "b.pt") == {"c_attn": 32.0}
        back = torch.load(tmp_path / "b.pt", weights_only=True)
        for key, value in peer.lora_state_dict(model).items():
            assert torch.equal(back[key], value), key


def test_importing_the_module_leaves_torch_alone() -> None:
    code = "import sys, tailora.adapters.formats.loralib; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
