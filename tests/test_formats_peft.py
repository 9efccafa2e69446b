"""Adapter folders computed by PEFT itself: ours there, theirs here, of each kind and from each version."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft as hf
import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters import WARNINGS_OF_PEFT, peft_model, small, trained
from bases import save_adapter, save_base
from networks import gpt2, llama, mixed, outputs, stir
from tailora.adapters import formats
from tailora.adapters.config import LoraConfig
from tailora.adapters.formats import peft
from tailora.core.errors import AdapterError
from tailora.lora.inject import attach

pytestmark = WARNINGS_OF_PEFT


CASES: dict[str, Any] = {
    "slices": (gpt2, {"targets": ("attention.qv",)}),
    "one slice in the middle": (gpt2, {"targets": ("attention.k",)}),
    "slices with rsLoRA": (gpt2, {"targets": ("attention.qv",), "rslora": True}),
    "slices with DoRA": (gpt2, {"targets": ("attention.qv",), "dora": True}),
    "Conv1D": (gpt2, {"targets": ("c_attn", "mlp")}),
    "Conv1D with DoRA": (gpt2, {"targets": ("all-linear",), "dora": True}),
    "patterns": (
        gpt2,
        {"targets": ("all-linear",), "rank_pattern": {r"h\.0\.mlp\.c_fc": 7}, "alpha_pattern": {"c_proj": 3.5}},
    ),
    "patterns with rsLoRA": (
        llama,
        {"targets": ("attention.qv", "mlp"), "rslora": True, "rank_pattern": {"v_proj": 2, "layers.1.mlp.up_proj": 5}},
    ),
    "llama": (llama, {"targets": ("attention", "mlp")}),
    "llama with DoRA": (llama, {"targets": ("attention", "mlp"), "dora": True}),
    "tied head": (gpt2, {"targets": ("head",)}),
    "tied head and embedding": (llama, {"targets": ("head", "embedding", "attention")}),
    "embedding with DoRA": (gpt2, {"targets": ("embedding", "attention"), "dora": True}),
    "all biases": (gpt2, {"targets": ("attention",), "bias": "all"}),
    "biases of adapted layers": (gpt2, {"targets": ("c_attn",), "bias": "lora_only"}),
    "convolutions": (mixed, {"targets": ("conv2", "conv3", "embed")}),
    "convolutions with DoRA": (mixed, {"targets": ("conv2", "conv3"), "dora": True}),
    "a grouped convolution": (mixed, {"targets": ("grouped",)}),
}


@pytest.mark.parametrize("case", CASES)
def test_peft_computes_what_we_compute_and_we_read_back_exactly(case: str, tmp_path: Path) -> None:
    make, settings_ = CASES[case]
    model = make()
    plain = outputs(model)
    adapter = trained(model, LoraConfig(rank=4, alpha=6, dropout=0.1, **settings_))
    ours = outputs(model)
    assert (ours - plain).abs().max() > 1e-2
    peft.save(adapter, tmp_path / "adapter")
    again = peft.load(tmp_path / "adapter")
    assert again.content_hash == adapter.content_hash
    assert again.config == adapter.config
    assert {name: layer.kind for name, layer in again.layers.items()} == {
        name: layer.kind for name, layer in adapter.layers.items()
    }
    theirs = outputs(peft_model(make(), tmp_path / "adapter"))
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
    (tmp_path / "adapter" / "tailora.json").unlink()
    foreign = peft.load(tmp_path / "adapter")
    other = make()
    attach(other, foreign.config, foreign)
    torch.testing.assert_close(outputs(other), ours, atol=1e-4, rtol=0)


PEFT_CASES: dict[str, Any] = {
    "Conv1D": (gpt2, {"target_modules": ["c_attn", "c_fc"]}),
    "rank and alpha patterns": (
        llama,
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 6, "down_proj": 2},
            "alpha_pattern": {"^model.layers.0.self_attn.v_proj": 32},
        },
    ),
    "rsLoRA": (gpt2, {"target_modules": ["c_attn"], "use_rslora": True, "rank_pattern": {"h.0.attn.c_attn": 9}}),
    "DoRA": (gpt2, {"target_modules": ["c_attn", "wte"], "use_dora": True}),
    "DoRA on Llama": (llama, {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}),
    "expression": (llama, {"target_modules": r".*layers\.1\..*_proj"}),
    "layers to transform": (llama, {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "excluded": (llama, {"target_modules": ["q_proj"], "exclude_modules": r".*layers\.0.*"}),
    "all linear": (llama, {"target_modules": "all-linear"}),
    "targets of other families": (llama, {"target_modules": ["q_proj", "v_proj", "query_key_value", "c_attn"]}),
    "head": (gpt2, {"target_modules": ["lm_head"]}),
    "bias all": (gpt2, {"target_modules": ["c_attn"], "bias": "all"}),
    "bias lora_only": (gpt2, {"target_modules": ["c_attn", "c_fc"], "bias": "lora_only"}),
    "convolution": (mixed, {"target_modules": ["conv2", "conv3", "embed"]}),
    "convolution with DoRA": (mixed, {"target_modules": ["conv2"], "use_dora": True}),
}


@pytest.mark.parametrize("case", PEFT_CASES)
def test_what_peft_trained_computes_the_same_here(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, settings_ = PEFT_CASES[case]
    config = hf.LoraConfig(r=4, lora_alpha=6, lora_dropout=0.1, **settings_)
    theirs = hf.get_peft_model(make(), config).eval()
    stir(theirs, size=0.2)
    theirs.save_pretrained(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        adapter = formats.load(tmp_path)
    assert "was not written by Tailora" in caplog.text
    assert adapter.base_fingerprint is None
    model = make()
    attach(model, adapter.config, adapter)
    torch.testing.assert_close(outputs(model), outputs(theirs), atol=1e-4, rtol=0)


def rename(folder: Path, change: Callable[[str], str]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = {change(key): tensor for key, tensor in load_file(file).items()}
    file.unlink()
    save_file(tensors, file)


def named(key: str, adapter: str = "default") -> str:
    for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"):
        key = key.replace(f".{part}", f".{part}.{adapter}")
    return key


RENAMED: dict[str, Callable[[str], str]] = {
    "compiled before": lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."),
    "compiled after": lambda key: f"_orig_mod.{key}",
    "compiled by blocks": lambda key: re.sub(r"(\.layers\.\d+|\.h\.\d+)\.", r"\1._orig_mod.", key),
    "data-parallel": lambda key: f"module.{key}",
    "data-parallel inside": lambda key: key.replace("base_model.model.", "base_model.model.module."),
    "both": lambda key: f"module._orig_mod.{key}",
    "FSDP": lambda key: "_fsdp_wrapped_module." + key.replace(".mlp.", ".mlp._fsdp_wrapped_module."),
    "checkpointing": lambda key: re.sub(r"(\.\d+)\.", r"\1._checkpoint_wrapped_module.", key),
    "doubled prefix": lambda key: f"base_model.model.{key}",
    "no prefix": lambda key: key.removeprefix("base_model.model."),
    "name of the adapter": named,
    "another name and the prefix": lambda key: "module." + named(key, "my_adapter"),
    "DoRA's weight": lambda key: f"{key}.weight" if key.endswith("lora_magnitude_vector") else key,
}


@pytest.mark.parametrize("case", RENAMED)
@pytest.mark.parametrize("settings_", [{"target_modules": ["q_proj", "down_proj", "embed_tokens"], "use_dora": True}])
def test_names_that_wrappers_leave_behind(case: str, settings_: dict[str, Any], tmp_path: Path) -> None:
    theirs = hf.get_peft_model(llama(), hf.LoraConfig(r=4, lora_alpha=6, **settings_)).eval()
    stir(theirs, size=0.2)
    theirs.save_pretrained(str(tmp_path))
    rename(tmp_path, RENAMED[case])
    adapter = formats.load(tmp_path)
    model = llama()
    attach(model, adapter.config, adapter)
    torch.testing.assert_close(outputs(model), outputs(theirs), atol=1e-4, rtol=0)


def test_two_adapters_in_one_file_are_an_error(tmp_path: Path) -> None:
    theirs = hf.get_peft_model(llama(), hf.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    theirs.save_pretrained(str(tmp_path))
    rename(tmp_path, lambda key: named(key, "first" if "q_proj" in key else "second"))
    with pytest.raises(AdapterError, match=r"contains several adapters \(first, second\)"):
        formats.load(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_pissa_converted_by_peft_belongs_on_the_base_itself(tmp_path: Path) -> None:
    made = hf.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights="pissa")
    theirs = hf.get_peft_model(llama(), made).eval()
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(str(tmp_path / "initial"))
    theirs.peft_config["default"].init_lora_weights = "pissa"
    stir(theirs, size=0.05)
    wanted = outputs(theirs)
    initial = str(tmp_path / "initial")
    theirs.save_pretrained(str(tmp_path / "plain"), path_initial_model_for_weight_conversion=initial)
    adapter = formats.load(tmp_path / "plain")
    model = llama()
    attach(model, adapter.config, adapter)
    torch.testing.assert_close(outputs(model), wanted, atol=1e-4, rtol=0)


EARLY = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["c_attn"],
    "lora_dropout": 0,
    "merge_weights": False,
    "fan_in_fan_out": True,
    "enable_lora": None,
    "bias": "none",
    "modules_to_save": None,
    "inference_mode": True,
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": None,
}


@pytest.mark.parametrize("enabled", [[True, False, True], [True, True, True], [False, True, False], None])
def test_enable_lora_of_the_first_versions(tmp_path: Path, enabled: list[bool] | None) -> None:
    """Its B is a grouped convolution [rows of the adapted slices, r, 1], its A has r rows for each of them."""
    tmp_path.joinpath("adapter_config.json").write_text(json.dumps(EARLY | {"enable_lora": enabled}), encoding="utf-8")
    adapted = sum(enabled) if enabled else 0
    generator = torch.Generator().manual_seed(2)
    tensors: dict[str, Any] = {}
    model = gpt2()
    with torch.no_grad():
        for block in range(2):
            a = torch.randn(4 * max(adapted, 1), 32, generator=generator)
            b = torch.randn(*((32 * adapted, 4, 1) if enabled else (96, 4)), generator=generator)
            prefix = f"base_model.model.transformer.h.{block}.attn.c_attn.lora_"
            tensors |= {f"{prefix}A.weight": a, f"{prefix}B.weight": b}
            update = torch.zeros(96, 32)
            if enabled is None:
                update = b @ a
            for number, place in enumerate(place for place, on in enumerate(enabled or []) if on):
                part = b[32 * number : 32 * number + 32, :, 0] @ a[4 * number : 4 * number + 4]
                update[32 * place : 32 * place + 32] = part
            model.transformer.h[block].attn.c_attn.weight += 8 / 4 * update.T
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    adapter = formats.load(tmp_path)
    other = gpt2()
    attach(other, adapter.config, adapter)
    torch.testing.assert_close(outputs(other), outputs(model), atol=1e-3, rtol=1e-4)


def test_enable_lora_that_does_not_fit_its_tensors(tmp_path: Path) -> None:
    peft.save(small(), tmp_path)
    (tmp_path / "tailora.json").unlink()
    file = tmp_path / "adapter_config.json"
    settings_ = json.loads(file.read_text(encoding="utf-8")) | {"enable_lora": [True, False]}
    file.write_text(json.dumps(settings_), encoding="utf-8")
    with pytest.raises(AdapterError, match=r"proj: lora_A \[4, 8\] and lora_B \[6, 4\] do not fit enable_lora"):
        formats.load(tmp_path)


PATTERNS: dict[str, Any] = {
    "a dot is any letter": {"rank_pattern": {"layers.0.self_attn.q.proj": 6}, "alpha_pattern": {"self.attn.v_proj": 9}},
    "an expression": {"rank_pattern": {r".*\.0\..*(q|v)_proj": 6}, "alpha_pattern": {r"model\.layers\.1\..*": 9}},
    "anchored": {"rank_pattern": {"^model.layers.1.self_attn.q_proj": 3}, "alpha_pattern": {"q_proj$": 10}},
    "with rsLoRA": {"rank_pattern": {"v_proj": 5}, "alpha_pattern": {"q_proj": 2}, "use_rslora": True},
}


@pytest.mark.parametrize("case", PATTERNS)
@pytest.mark.filterwarnings("ignore")
def test_patterns_match_as_peft_matches_them(case: str, tmp_path: Path) -> None:
    made = hf.LoraConfig(r=4, lora_alpha=6, target_modules=r".*\.(q|v|down)_proj", **PATTERNS[case])
    theirs = hf.get_peft_model(llama(), made).eval()
    stir(theirs, size=0.2)
    theirs.save_pretrained(str(tmp_path))
    adapter = formats.load(tmp_path)
    model = llama()
    attach(model, adapter.config, adapter)
    torch.testing.assert_close(outputs(model), outputs(theirs), atol=1e-4, rtol=0)


def test_slices_become_one_pair_of_twice_the_rank_and_alpha(tmp_path: Path) -> None:
    adapter = trained(gpt2(), LoraConfig(rank=4, alpha=32, targets=("attention.qv",)))
    peft.save(adapter, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (8, 64, True)
    b = tensors["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"]
    assert b.shape == (96, 8)
    q, v = adapter.layers["transformer.h.0.attn.c_attn"].branches
    assert torch.equal(b[:32, :4], torch.from_numpy(q.b))
    assert torch.equal(b[64:, 4:], torch.from_numpy(v.b))
    assert not b[32:64].any()
    assert not b[:32, 4:].any()


def test_peft_loads_ours_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    base = save_base(tmp_path / "base", "llama")
    save_adapter(tmp_path / "adapter", "base")
    monkeypatch.chdir(tmp_path / "elsewhere")
    theirs = hf.AutoPeftModelForCausalLM.from_pretrained("../adapter").eval()
    tokens = torch.tensor([[1, 2, 3]])
    adapter = formats.load("../adapter")
    attach(base, adapter.config, adapter)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(tokens).logits, base(tokens).logits, atol=1e-4, rtol=0)
