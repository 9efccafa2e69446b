from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from networks import gpt2, llama, mixed, outputs, stir, token_ids
from tailora.adapters.adapter import Adapter, changes_nothing
from tailora.adapters.config import LoraConfig
from tailora.core.errors import AdapterError, SettingsError
from tailora.lora.inject import (
    adapted_layers,
    attach,
    attachment_of,
    detach,
    extract,
    merge,
    parameter_table,
    unmerge,
)

CASES: dict[str, Any] = {
    "gpt2 slices": (gpt2, {"targets": ("attention.qv",)}),
    "gpt2 fused": (gpt2, {"targets": ("c_attn",), "bias": "lora_only"}),
    "gpt2 everything": (gpt2, {"targets": ("all-linear", "head", "embedding"), "bias": "all"}),
    "gpt2 DoRA": (gpt2, {"targets": ("attention.qv", "mlp", "head"), "dora": True, "bias": "all"}),
    "gpt2 in bf16": (lambda: gpt2().bfloat16(), {"targets": ("all-linear", "head"), "bias": "all"}),
    "gpt2 DoRA in bf16": (lambda: gpt2().bfloat16(), {"targets": ("attention", "embedding"), "dora": True}),
    "llama": (llama, {"targets": ("attention", "mlp"), "rslora": True, "rank_pattern": {"q_proj": 7}}),
    "llama tied": (llama, {"targets": ("head", "embedding")}),
    "llama untied": (lambda: llama(tied=False), {"targets": ("head", "embedding")}),
    "every kind": (mixed, {"targets": ("embed", "conv1", "conv2", "conv3", "grouped", "shared"), "bias": "all"}),
    "every kind, DoRA": (mixed, {"targets": ("conv1", "conv2", "conv3", "all-linear"), "dora": True}),
}


def digest(model: nn.Module) -> str:
    """SHA-256 of every parameter and buffer with its name."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def adapted(case: str) -> tuple[nn.Module, LoraConfig]:
    make, settings = CASES[case]
    config = LoraConfig(rank=4, alpha=6, **settings)
    model = make()
    attach(model, config, generator=torch.Generator().manual_seed(1))
    return model, config


def tolerance(model: nn.Module) -> float:
    low = any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    return 0.15 if low else 2e-4


@pytest.mark.parametrize("case", CASES)
def test_life_of_an_adapter(case: str) -> None:
    make, _ = CASES[case]
    plain, before = outputs(make()), digest(make())
    model, config = adapted(case)
    fresh = outputs(model)
    torch.testing.assert_close(fresh, plain, atol=tolerance(model), rtol=0)
    stir(model)
    moved = outputs(model)
    assert moved.dtype == plain.dtype
    assert (moved - plain).abs().max() > 1e-2
    adapter = extract(model)
    assert not changes_nothing(adapter)

    merge(model, keep=True)
    merged = outputs(model)
    assert not list(adapted_layers(model))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(merged, moved, atol=tolerance(model), rtol=0)
    unmerge(model)
    assert torch.equal(outputs(model), moved)
    assert extract(model).content_hash == adapter.content_hash

    detach(model)
    assert digest(model) == before
    assert torch.equal(outputs(model), plain)
    assert all(parameter.requires_grad for parameter in model.parameters())
    attach(model, config, adapter)
    assert extract(model).content_hash == adapter.content_hash
    assert torch.equal(outputs(model), moved)
    merge(model)
    assert attachment_of(model) is None
    assert torch.equal(outputs(model), merged)
    assert {name for name, _ in make().named_modules()} == {name for name, _ in model.named_modules()}


@pytest.mark.parametrize("case", [case for case in CASES if "gpt2" in case or "llama" in case])
def test_merged_model_survives_saving_and_loading(case: str, tmp_path: Path) -> None:
    model: Any = adapted(case)[0]
    stir(model)
    merge(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=model.dtype).eval()
    assert torch.equal(outputs(again), outputs(model))


@pytest.mark.parametrize("target", ["head", "embedding"])
@pytest.mark.parametrize("make", [gpt2, llama])
def test_merging_into_a_tied_weight_unties_it_and_unmerging_ties_it_again(make: Any, target: str) -> None:
    model = make()
    tied = model.get_input_embeddings().weight
    attach(model, LoraConfig(targets=(target,)))
    stir(model)
    merge(model, keep=True)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is tied, embedding is tied) == (target == "embedding", target == "head")
    assert model.config.tie_word_embeddings is False
    unmerge(model)
    detach(model)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight is tied
    assert model.config.tie_word_embeddings is True


def test_merging_elsewhere_leaves_the_tie() -> None:
    model = gpt2()
    attach(model, LoraConfig(targets=("mlp",)))
    merge(model)
    assert model.config.tie_word_embeddings is True
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize("case", CASES)
def test_every_trainable_parameter_gets_a_gradient_and_no_other(case: str) -> None:
    model, _ = adapted(case)
    stir(model)
    found = model(token_ids())
    (found if isinstance(found, torch.Tensor) else found.logits).float().square().mean().backward()
    table = parameter_table(model)
    assert table.trainable == extract(model).parameters
    assert table.total == table.trainable + table.frozen
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert not parameter.requires_grad or parameter.dtype == torch.float32, name


def test_counts_as_the_paper_does_not_print_them() -> None:
    with torch.device("meta"):
        medium = GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=24, n_head=16))
    attach(medium, LoraConfig(rank=4, targets=("attention.qv",)))
    table = parameter_table(medium)
    assert (table.total, table.trainable) == (354_823_168 + 393_216, 393_216)
    assert round(table.percent, 4) == 0.1107


def test_paths_are_the_bases_own_and_in_its_order() -> None:
    model = gpt2()
    names = attach(model, LoraConfig(targets=("mlp", "attention.qv")))
    order = ["attn.c_attn", "mlp.c_fc", "mlp.c_proj"]
    assert names == [f"transformer.h.{block}.{end}" for block in (0, 1) for end in order]
    assert [name for name, _ in adapted_layers(model)] == names


def test_a_whole_layer_and_a_slice_of_it_is_the_whole_layer() -> None:
    for targets in (("c_attn", "attention.qv"), ("attention.qv", "c_attn")):
        model = gpt2()
        attach(model, LoraConfig(targets=targets))
        assert [pair.rows for _, layer in adapted_layers(model) for pair in layer.pairs] == [None, None]
    model = gpt2()
    attach(model, LoraConfig(targets=("attention.v", "attention.k")))
    assert [pair.rows for pair in next(adapted_layers(model))[1].pairs] == [(32, 64), (64, 96)]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            ("q_proj",),
            r"target 'q_proj' matches no layer; choose a group \(attention, attention.qv.*attn\.c_attn \(2\).*lm_head",
        ),
        (("c_attn", "nothing"), "target 'nothing' matches no layer"),
        (("attn",), r"target 'attn' matches only what cannot be adapted \(GPT2Attention\)"),
        (("ln_1",), r"matches only what cannot be adapted \(LayerNorm\)"),
    ],
)
def test_a_target_that_matches_nothing_lists_what_there_is(targets: tuple[str, ...], message: str) -> None:
    model = gpt2()
    before = digest(model)
    with pytest.raises(SettingsError, match=message):
        attach(model, LoraConfig(targets=targets))
    assert digest(model) == before
    assert attachment_of(model) is None
    with pytest.raises(SettingsError, match="use another network: no layer of this one can be adapted"):
        attach(nn.Sequential(nn.ReLU()), LoraConfig(targets=("0",)))


def test_the_head_of_a_network_without_one() -> None:
    with pytest.raises(SettingsError, match="target 'head' matches no layer"):
        attach(gpt2().transformer, LoraConfig(targets=("head",)))
    assert attach(gpt2().transformer, LoraConfig(targets=("attention.qv",))) == ["h.0.attn.c_attn", "h.1.attn.c_attn"]


def test_every_misfit_in_one_message_and_nothing_done() -> None:
    model = gpt2()
    attach(model, LoraConfig(rank=4, targets=("attention.qv", "mlp")))
    good = extract(model)
    detach(model)
    layers = dict(good.layers)
    first, second = "transformer.h.0.mlp.c_fc", "transformer.h.1.mlp.c_fc"
    (branch,) = layers[first].branches
    layers[first] = replace(layers[first], branches=(replace(branch, a=branch.a[:, :-1]),))
    layers[second] = replace(layers[second], branches=(replace(branch, b=branch.b * np.nan),))
    layers["transformer.h.0.attn.c_attn"] = replace(
        layers["transformer.h.0.attn.c_attn"], branches=(replace(branch, rows=(90, 120)),), out=100
    )
    layers["transformer.h.1.attn.c_attn"] = replace(layers["transformer.h.1.attn.c_attn"], kind="conv")
    layers["model.layers.0.q_proj"] = layers.pop("transformer.h.0.mlp.c_proj")
    bad = Adapter(good.config, layers, {"transformer.h.9.bias": np.ones(3, np.float32)})
    before = digest(model)
    with pytest.raises(AdapterError) as error:
        attach(model, bad.config, bad)
    for part in (
        "8 problems: ",
        "model.layers.0.q_proj: the network has no such module",
        "transformer.h.0.mlp.c_proj: targeted, but the adapter has no values for it",
        f"{first}: A has shape [4, 31], but the network needs [4, 32]",
        f"{second}: B contains values that are not finite",
        "transformer.h.0.attn.c_attn: the adapter is for 100 outputs, but the layer has 96",
        "rows 90 to 120 lie outside the layer's 96 outputs",
        "transformer.h.1.attn.c_attn: the adapter is for a conv layer, but this is Conv1D",
        "transformer.h.9.bias: the network has no such parameter",
        "use it with the base that it was trained on",
    ):
        assert part in str(error.value), part
    assert digest(model) == before
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert attachment_of(model) is None
    attach(model, good.config, good)


def test_misshapen_and_missing_biases() -> None:
    model = gpt2()
    attach(model, LoraConfig(targets=("c_attn",), bias="lora_only"))
    good = extract(model)
    detach(model)
    first, second = good.biases
    bad = replace(good, biases={first: np.ones(3, np.float32)})
    with pytest.raises(
        AdapterError, match=rf"{second}: trained, but .*{first}: has shape \[3\], but the network needs \[96\]"
    ):
        attach(model, bad.config, bad)


def test_what_cannot_be_done_now_is_said() -> None:
    model = gpt2()
    for act in (extract, detach, merge):
        with pytest.raises(AdapterError, match="the network carries no adapter; attach one first"):
            act(model)
    with pytest.raises(AdapterError, match="no merged adapter that can be unmerged; merge with keep=True"):
        unmerge(model)
    config = LoraConfig(targets=("mlp",))
    attach(model, config)
    with pytest.raises(SettingsError, match="already carries an adapter"):
        attach(model, config)
    with pytest.raises(AdapterError, match="no merged adapter"):
        unmerge(model)
    merge(model, keep=True)
    for act in (extract, detach, merge):
        with pytest.raises(AdapterError, match="merged into the network; unmerge it first"):
            act(model)
    with pytest.raises(SettingsError, match="already carries an adapter"):
        attach(model, config)
    with pytest.raises(SettingsError, match=r"grouped: rank 3 is not a multiple of the convolution's 2 groups"):
        attach(mixed(), LoraConfig(rank=3, targets=("grouped",)))


def test_extracted_values_share_no_memory_and_keep_where_they_come_from() -> None:
    model = llama()
    attach(model, LoraConfig(targets=("attention.qv",)))
    adapter = replace(extract(model), base_fingerprint="f" * 64, base_name="llama", meta={"prompt_form": "paper"})
    digest_before = adapter.content_hash
    stir(model)
    assert replace(adapter).content_hash == digest_before
    detach(model)
    attach(model, adapter.config, adapter)
    again = extract(model)
    assert (again.base_fingerprint, again.base_name, again.meta) == ("f" * 64, "llama", {"prompt_form": "paper"})
    assert changes_nothing(again)


def test_same_seed_same_adapter_and_the_global_stream_is_untouched() -> None:
    def made(seed: int) -> str:
        model = gpt2()
        attach(model, LoraConfig(targets=("attention", "embedding")), generator=torch.Generator().manual_seed(seed))
        return extract(model).content_hash

    state = torch.get_rng_state()
    assert made(1) == made(1) != made(2)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_was_frozen_stays_frozen_after_detaching() -> None:
    model = gpt2()
    model.transformer.wpe.weight.requires_grad_(False)
    attach(model, LoraConfig(targets=("mlp",)))
    detach(model)
    assert [name for name, each in model.named_parameters() if not each.requires_grad] == ["transformer.wpe.weight"]


def test_one_module_in_two_places_is_adapted_in_both() -> None:
    model = mixed()
    attach(model, LoraConfig(targets=("shared",)))
    assert model.again is model.shared
    detach(model)
    assert model.again is model.shared
    assert isinstance(model.shared, nn.Linear)


def test_an_adapted_network_can_be_copied() -> None:
    model, _ = adapted("gpt2 everything")
    stir(model)
    twin = copy.deepcopy(model)
    assert torch.equal(outputs(twin), outputs(model))
    before = outputs(model)
    merge(twin, keep=True)
    unmerge(twin)
    detach(twin)
    assert digest(twin) == digest(gpt2())
    assert torch.equal(outputs(model), before)


def test_a_pattern_for_no_adapted_layer_is_a_slip() -> None:
    model = gpt2()
    before = digest(model)
    for name in ("rank_pattern", "alpha_pattern"):
        with pytest.raises(
            SettingsError, match=rf"{name}: 'c_fc' matches no adapted layer; use an adapted layer \(c_attn"
        ):
            attach(model, LoraConfig(targets=("attention.qv",), **dict[str, Any]({name: {"c_attn": 2, "c_fc": 3}})))
    assert digest(model) == before
