from __future__ import annotations

import copy
import json
import logging
import math
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft as hf
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from bases import save_adapter, save_base
from networks import gpt2, llama, mixed, outputs, stir
from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.config import LoraConfig
from tailora.adapters.formats import peft
from tailora.adapters.formats.loralib import load as load_loralib
from tailora.core.errors import AdapterError, SettingsError
from tailora.inference.attached import load_adapted
from tailora.lora.inject import attach, extract

# What PEFT itself warns of, and only that: what it corrects by itself, what it saves along, what it cannot merge.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to"),
    pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`"),
    pytest.mark.filterwarnings("ignore:Could not identify embedding layer"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
]

CASES = {
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


def peft_model(model: nn.Module, folder: Path) -> nn.Module:
    return hf.PeftModel.from_pretrained(model, str(folder)).eval()


def trained(model: nn.Module, config: LoraConfig) -> Adapter:
    attach(model, config, generator=torch.Generator().manual_seed(3))
    stir(model)
    return extract(model)


def small(seed: int = 0, **settings: object) -> Adapter:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(4, 8)).astype(np.float32), rng.normal(size=(6, 4)).astype(np.float32)
    config = LoraConfig(rank=4, alpha=8, targets=("proj",), **settings)
    return Adapter(config, {"proj": LayerAdapter("linear", (LowRank(a, b, 2.0),), None, 6)})


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


PEFT_CASES = {
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
def test_names_that_wrappers_leave_behind(case: str, settings_: dict[str, object], tmp_path: Path) -> None:
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
    with pytest.raises(AdapterError, match=r"holds several adapters \(first, second\)"):
        formats.load(tmp_path)


MERGED = r"merge it with PEFT \(on its base, merge_and_unload, save_pretrained\)"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, rf"modules_to_save=\['embed_tokens', 'lm_head'\]; {MERGED}"),
        ({"trainable_token_indices": [1, 2]}, rf"trainable_token_indices=\[1, 2\]; {MERGED}"),
        ({"trainable_token_indices": {"embed_tokens": [3]}}, rf"trainable_token_indices=.*; {MERGED}"),
        ({"lora_bias": True}, rf"lora_bias=True; {MERGED}"),
        ({"layer_replication": [(0, 2), (1, 2)]}, rf"layer_replication=.*; {MERGED}"),
        (
            {"init_lora_weights": "pissa"},
            r"init_lora_weights='pissa'.* convert it with PEFT: save_pretrained with path_initial",
        ),
        (
            {"init_lora_weights": "pissa_niter_2"},
            r"init_lora_weights='pissa_niter_2'.*path_initial_model_for_weight_conversion",
        ),
        ({"init_lora_weights": "olora"}, r"init_lora_weights='olora'.*path_initial_model_for_weight_conversion"),
        ({"alora_invocation_tokens": [1, 2]}, r"alora_invocation_tokens=\[1, 2\]; use it with PEFT"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_peft_makes_and_has_no_equivalent_names_the_field_and_the_way_out(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    made = hf.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **config)
    hf.get_peft_model(llama(tied=False), made).save_pretrained(str(tmp_path))
    with pytest.raises(AdapterError, match=message) as caught:
        formats.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["LoHaConfig", "LoKrConfig", "IA3Config", "PrefixTuningConfig", "PromptTuningConfig"])
@pytest.mark.filterwarnings("ignore")
def test_other_kinds_of_adapters_are_named_with_their_way_out(tmp_path: Path, kind: str) -> None:
    prompts = {"num_virtual_tokens": 3} if "Tuning" in kind else {"target_modules": ["q_proj", "down_proj"]}
    if kind == "IA3Config":
        prompts["feedforward_modules"] = ["down_proj"]
    made = getattr(hf, kind)(task_type="CAUSAL_LM", **prompts)
    hf.get_peft_model(llama(), made).save_pretrained(str(tmp_path))
    way = "use it with PEFT" if "Tuning" in kind else MERGED
    with pytest.raises(AdapterError, match=f"only LoRA adapters can be read; .*{way}"):
        formats.load(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_resized_vocabulary_names_the_way_out(tmp_path: Path) -> None:
    model = llama(tied=False)
    model.resize_token_embeddings(70)
    theirs = hf.get_peft_model(model, hf.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    theirs.save_pretrained(str(tmp_path), save_embedding_layers=True)
    with pytest.raises(AdapterError, match=rf"embed_tokens.weight \[70, 32\] is a whole weight.*; {MERGED}"):
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
    tensors, model = {}, gpt2()
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


@pytest.mark.parametrize("field", ["lora_dropout", "bias", "use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern"])
@pytest.mark.parametrize("how", ["null", "missing"])
def test_missing_and_null_fields_have_peft_s_defaults(tmp_path: Path, field: str, how: str) -> None:
    peft.save(small(), tmp_path)
    (tmp_path / "tailora.json").unlink()
    file = tmp_path / "adapter_config.json"
    settings_ = json.loads(file.read_text(encoding="utf-8")) | {field: None}
    if how == "missing":
        del settings_[field]
    file.write_text(json.dumps(settings_), encoding="utf-8")
    assert formats.load(tmp_path).layers["proj"].branches[0].scale == 2.0


PATTERNS = {
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


@st.composite
def sliced_layers(draw: st.DrawFn) -> LayerAdapter:
    inputs = draw(st.integers(1, 5))
    out = draw(st.integers(2, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    branches = []
    for _ in range(draw(st.integers(1, 3))):
        low = draw(st.integers(0, out - 1))
        rows = draw(st.none() | st.tuples(st.just(low), st.integers(low + 1, out)))
        rank = draw(st.integers(1, 4))
        scale = draw(st.floats(1e-3, 1e3))
        a = rng.normal(size=(rank, inputs)).astype(np.float32)
        b = rng.normal(size=(out if rows is None else rows[1] - rows[0], rank)).astype(np.float32)
        branches.append(LowRank(a, b, scale, rows))
    magnitude = draw(st.sampled_from([None, rng.normal(size=out).astype(np.float32)]))
    return LayerAdapter(draw(st.sampled_from(["linear", "gpt2_conv1d"])), tuple(branches), magnitude, out)


def dense(layer: LayerAdapter) -> np.ndarray:
    total = np.zeros((layer.out_features, layer.branches[0].a.shape[1]))
    for branch in layer.branches:
        low, high = branch.rows or (0, layer.out_features)
        total[low:high] += branch.scale * branch.b.astype(np.float64) @ branch.a.astype(np.float64)
    return total


@given(layer=sliced_layers(), rslora=st.booleans(), name=st.sampled_from(["h.0.c_attn", "proj"]))
@settings(max_examples=60, deadline=None)
def test_any_slices_scales_and_ranks_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, layer: LayerAdapter, rslora: bool, name: str
) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    adapter = Adapter(LoraConfig(targets=(name,), rslora=rslora), {name: layer}, base_fingerprint="f" * 64)
    peft.save(adapter, folder)
    again = peft.load(folder)
    assert again.content_hash == adapter.content_hash
    assert again.base_fingerprint == "f" * 64
    (folder / "tailora.json").unlink()
    plain = peft.load(folder).layers[name]
    np.testing.assert_allclose(dense(plain), dense(layer), rtol=1e-4, atol=1e-4 * np.abs(dense(layer)).max())


NAMES_AND_HUB_IDS = [
    ("gpt2", "openai-community/gpt2"),
    ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ("tiny", None),
    ("someone/model", "someone/model"),
    ("someone/model@v1", "someone/model"),
    ("gpt2@refs/pr/2", "openai-community/gpt2"),
    ("/models/mine", "/models/mine"),
]


@pytest.mark.parametrize(("name", "wanted"), NAMES_AND_HUB_IDS)
def test_other_programs_find_the_base_and_the_kind_of_task(tmp_path: Path, name: str, wanted: str | None) -> None:
    scores = {"scores": {"validation_loss": 1.2345678, "bleu": 61.5}, "prompt_form": "paper"}
    peft.save(replace(small(), base_name=name, base_fingerprint="ab" * 32, meta=scores), tmp_path)
    config = hf.PeftConfig.from_pretrained(str(tmp_path))
    assert (config.base_model_name_or_path, config.task_type) == (wanted, "CAUSAL_LM")
    assert config.revision == (name.partition("@")[2] or None)
    assert re.fullmatch(r"\d+\.\d+\.\d+", config.peft_version)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata.get("base_model") == (None if name.startswith("/") else wanted)
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("peft", "text-generation")
    assert f"| Base fingerprint (SHA-256) | {'ab' * 32} |" in card
    assert "| validation_loss | 1.235 |\n| bleu | 61.5 |" in card
    assert "| Prompt form | paper |" in card


@pytest.mark.parametrize(
    ("base", "revision", "wanted"),
    [
        ("someone/model", "v1", "someone/model@v1"),
        ("someone/model", "main", "someone/model"),
        ("someone/model", None, "someone/model"),
        ("/models/mine", "v1", "/models/mine"),
        (None, "v1", None),
    ],
)
def test_the_revision_that_peft_names_is_the_base_s(
    tmp_path: Path, base: str | None, revision: str | None, wanted: str | None
) -> None:
    peft.save(small(), tmp_path)
    (tmp_path / "tailora.json").unlink()
    edit_config(tmp_path, base_model_name_or_path=base, revision=revision)
    assert peft.load(tmp_path).base_name == wanted


@pytest.mark.parametrize("task", ["FEATURE_EXTRACTION", "SEQ_CLS", "TOKEN_CLS", "SEQ_2_SEQ_LM", "QUESTION_ANS"])
def test_adapters_of_other_tasks_are_named_with_their_way_out(tmp_path: Path, task: str) -> None:
    model = llama()
    hf.get_peft_model(model.model if task == "FEATURE_EXTRACTION" else model, hf.LoraConfig(r=2)).save_pretrained(
        str(tmp_path)
    )
    edit_config(tmp_path, task_type=task)
    with pytest.raises(
        AdapterError, match=rf"adapter_config\.json: has no equivalent here: task_type='{task}'.*train it"
    ):
        peft.load(tmp_path)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_a_name_does_not_break_out_of_the_card(tmp_path: Path) -> None:
    name = 'a: "b"\n---\n# x | <script>'
    peft.save(replace(small(), base_name=name), tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "base_model" not in yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert "<script>" not in card.split("\n---\n", 1)[1]


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


@pytest.mark.parametrize("form", ["peft", "loralib"])
def test_an_adapter_of_unknown_base_is_one_warning(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    save_base(tmp_path / "base")
    place = save_adapter(tmp_path / "adapter", str(tmp_path / "base"), base_fingerprint=None)
    (place / "tailora.json").unlink()
    if form == "loralib":
        adapter = formats.load(place)
        place = tmp_path / "lora.bin"
        formats.save(adapter, place, "loralib")
        loralib = {"alpha": 8.0, "fan_in_fan_out": True, "enable_lora": {"c_attn": (True, True, True)}}
        caplog.clear()
        load_adapted(load_loralib(place, **loralib), str(tmp_path / "base"))
    else:
        caplog.clear()
        load_adapted(place, str(tmp_path / "base"))
    (record,) = caplog.records
    assert "only shapes are checked" in record.getMessage()


def test_meta_and_names_travel(tmp_path: Path) -> None:
    base = small()
    adapter = Adapter(
        base.config, base.layers, {}, "ab" * 32, "gpt2", {"prompt_form": "paper", "scores": {"bleu": 61.5}}
    )
    formats.save(adapter, tmp_path / "a")
    again = formats.load(tmp_path / "a")
    assert (again.base_fingerprint, again.base_name, again.meta) == ("ab" * 32, "gpt2", adapter.meta)
    assert formats.load(tmp_path / "a" / "adapter_model.safetensors").content_hash == adapter.content_hash


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_widths_are_read_as_fp32(tmp_path: Path, dtype: torch.dtype) -> None:
    peft.save(small(), tmp_path)
    (tmp_path / "tailora.json").unlink()
    file = tmp_path / "adapter_model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    found = peft.load(tmp_path).layers["proj"].branches[0]
    assert found.a.dtype == np.float32
    assert np.array_equal(found.a, tensors["base_model.model.proj.lora_A.weight"].float().numpy())


def test_torch_file_is_read_when_it_is_all_there_is(tmp_path: Path) -> None:
    adapter = small()
    peft.save(adapter, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(file), tmp_path / "adapter_model.bin")
    file.unlink()
    assert peft.load(tmp_path).content_hash == adapter.content_hash


STRETCHED: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
    "one number over 32 GB": lambda: {"proj.lora_A.weight": torch.zeros(1).expand(1 << 17, 1 << 16)},
    "one number in each row": lambda: {"proj.lora_A.weight": torch.zeros(1 << 17, 1).expand(-1, 1 << 16)},
    "windows that overlap": lambda: {"proj.lora_A.weight": torch.zeros(1 << 17).as_strided((1 << 16, 1 << 16), (1, 1))},
    "many names for one": lambda: dict.fromkeys((f"proj.{n}.lora_A.weight" for n in range(999)), torch.zeros(1 << 16)),
    "16 bits": lambda: {"proj.lora_A.weight": torch.zeros(1, dtype=torch.bfloat16).expand(1 << 17, 1 << 16)},
}


@pytest.mark.parametrize("case", STRETCHED)
@pytest.mark.parametrize("form", ["peft", "loralib", "loralib wrapped"])
def test_a_small_file_that_asks_for_gigabytes_is_one_error(tmp_path: Path, case: str, form: str) -> None:
    state = STRETCHED[case]()
    if form == "peft":
        peft.save(small(), tmp_path)
        (tmp_path / "adapter_model.safetensors").unlink()
        file = tmp_path / "adapter_model.bin"
    else:
        file = tmp_path / "lora.bin"
        state = {name.removesuffix(".weight"): tensor for name, tensor in state.items()}
    torch.save({"model_state_dict": state} if form == "loralib wrapped" else state, file)
    assert file.stat().st_size < 1 << 20
    with pytest.raises(AdapterError, match="more numbers than the file holds"):
        formats.load(tmp_path if form == "peft" else file)


def test_an_archive_that_unpacks_to_much_more_is_one_error(tmp_path: Path) -> None:
    torch.save({"proj.lora_A": torch.zeros(1 << 24)}, tmp_path / "whole.bin")
    bomb = tmp_path / "lora.bin"
    with zipfile.ZipFile(tmp_path / "whole.bin") as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(AdapterError, match=r"would unpack from [\d,]+ to 67,\d+,\d+ bytes"):
        formats.load(bomb)


class Boom:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x04\x95", {"x": Boom()}, {"x": 3}, [1, 2]])
def test_hostile_torch_file_is_one_error_and_runs_nothing(
    tmp_path: Path, content: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    peft.save(small(), tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    file = tmp_path / "a" / "adapter_model.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(AdapterError, match=r"adapter_model\.bin"):
        peft.load(tmp_path / "a")
    assert not (tmp_path / "executed").exists()


HOSTILE = {
    "empty": b"",
    "short": b"\x01\x02",
    "header of a gigabyte": struct.pack("<Q", 2**30) + b"{}",
    "nested header": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "huge header": struct.pack("<Q", 2**62) + b"{}",
    "header beyond the file": struct.pack("<Q", 5000) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"abcd",
    "offsets beyond": struct.pack("<Q", 66) + b'{"a":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}      ',
    "overflowing shape": struct.pack("<Q", 90)
    + b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}'.ljust(90),
    "integers": struct.pack("<Q", 60) + b'{"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}'.ljust(60) + b"\0" * 4,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_safetensors_is_one_error(tmp_path: Path, case: str) -> None:
    peft.save(small(), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(HOSTILE[case])
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors: "):
        peft.load(tmp_path)


@given(cut=st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_truncated_file_is_one_error(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    peft.save(small(), folder)
    file = folder / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(AdapterError):
        peft.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "only LoRA adapters"),
        ({"peft_type": None}, "only LoRA adapters"),
        ({"r": "8"}, "r: "),
        ({"r": True}, "r: "),
        ({"r": 0}, "r: "),
        ({"r": 5}, r"rank 4, but adapter_config.json says 5"),
        ({"lora_alpha": -1}, "alpha must be a positive number"),
        ({"lora_dropout": 1.5}, "dropout"),
        ({"target_modules": 3}, "target_modules"),
        ({"target_modules": "("}, "not a regular expression"),
        ({"rank_pattern": {"(": 3}}, "not a regular expression"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"bias": "some"}, "bias"),
        ({"modules_to_save": ["score"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"target_parameters": ["experts.gate_up_proj"]}, r"target_parameters=\['experts.gate_up_proj'\]; merge it"),
        ({"arrow_config": {"top_k": 2}}, "arrow_config=.*; use it with PEFT"),
        ({"use_qalora": True}, "use_qalora=True; merge it"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora=.*; merge it"),
        ({"megatron_config": {"tensor_model_parallel_size": 2}}, "megatron_config="),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights='lora_ga'.*; convert it"),
        ({"init_lora_weights": "corda"}, "init_lora_weights='corda'.*; convert it"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq'.*; convert it"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"a_setting_of_tomorrow": 7}, "a_setting_of_tomorrow"),
        ({"use_dora": True}, "no magnitude"),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    peft.save(small(), tmp_path)
    (tmp_path / "tailora.json").unlink()
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(AdapterError, match=message):
        peft.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"peft_type": "LORA"}', "\ud800"])
def test_config_that_is_no_config(tmp_path: Path, text: str) -> None:
    peft.save(small(), tmp_path)
    for name in ("adapter_config.json", "tailora.json"):
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(AdapterError):
            peft.load(tmp_path)


def test_all_problems_of_the_tensors_in_one_message(tmp_path: Path) -> None:
    peft.save(small(), tmp_path)
    prefix = "base_model.model."
    save_file(
        {
            f"{prefix}x.lora_A.weight": torch.ones(4, 8),
            f"{prefix}y.lora_A.weight": torch.ones(4, 8),
            f"{prefix}y.lora_B.weight": torch.ones(8, 3),
            f"{prefix}z.lora_A.weight": torch.full((4, 8), math.nan),
            f"{prefix}z.lora_B.weight": torch.ones(8, 4),
            f"{prefix}score.modules_to_save.weight": torch.ones(2, 2),
            "../../etc/passwd": torch.ones(1),
        },
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(AdapterError) as error:
        peft.load(tmp_path)
    for part in ("x: has no lora_B", "y: lora_A [4, 8] and lora_B [8, 3]", "z.lora_A.weight holds", "modules_to_save"):
        assert part in str(error.value)
    assert "../../etc/passwd is not part" in str(error.value)


def test_changed_tensors_beside_an_old_record_are_refused(tmp_path: Path) -> None:
    peft.save(small(0), tmp_path / "a")
    peft.save(small(1), tmp_path / "b")
    record = (tmp_path / "a" / "tailora.json").read_bytes()
    (tmp_path / "b" / "tailora.json").write_bytes(record)
    with pytest.raises(AdapterError, match=r"not those it was written with; restore the folder, or remove this file"):
        peft.load(tmp_path / "b")


def test_rows_outside_the_layer_in_the_record(tmp_path: Path) -> None:
    peft.save(small(), tmp_path)
    record = json.loads((tmp_path / "tailora.json").read_text(encoding="utf-8"))
    record["layers"]["proj"]["branches"][0]["rows"] = [0, 700]
    (tmp_path / "tailora.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(AdapterError, match="rows outside the layer's 6 outputs"):
        peft.load(tmp_path)


def test_what_cannot_be_written_is_said_and_leaves_what_was_there(tmp_path: Path) -> None:
    good = small()
    peft.save(good, tmp_path / "a")
    bad = copy.deepcopy(good)
    bad.layers["proj"].branches[0].a[0, 0] = math.inf
    with pytest.raises(AdapterError, match="proj holds values that are not finite"):
        peft.save(bad, tmp_path / "a")
    with pytest.raises(AdapterError, match="the adapter has no layers"):
        peft.save(Adapter(LoraConfig(), {}), tmp_path / "a")
    magnitude = np.ones(6, np.float32)
    some = {"proj": good.layers["proj"], "b": LayerAdapter("linear", good.layers["proj"].branches, magnitude)}
    with pytest.raises(AdapterError, match="DoRA for all layers or for none"):
        peft.save(Adapter(LoraConfig(), some), tmp_path / "a")
    assert peft.load(tmp_path / "a").content_hash == good.content_hash


def test_paths_that_hold_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no adapter there; name an adapter folder"):
        formats.load(tmp_path / "nothing")
    with pytest.raises(AdapterError, match=r"no adapter folder: it has no adapter_config\.json"):
        formats.load(tmp_path)
    (tmp_path / "text.txt").write_text("x", encoding="utf-8")
    with pytest.raises(AdapterError, match="no adapter format that is known"):
        formats.load(tmp_path / "text.txt")
    with pytest.raises(SettingsError, match="'gguf' is no adapter format; use peft or loralib"):
        formats.save(small(), tmp_path / "a", format="gguf")


def test_patterns_are_anchored_where_one_path_ends_another(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def layer(rank: int) -> LayerAdapter:
        a, b = rng.normal(size=(rank, 3)).astype(np.float32), rng.normal(size=(3, rank)).astype(np.float32)
        return LayerAdapter("linear", (LowRank(a, b, 1.0),), None, 3)

    layers = {"proj": layer(2), "inner.proj": layer(4), "inner.other": layer(4)}
    peft.save(Adapter(LoraConfig(targets=("proj",)), layers), tmp_path)
    (tmp_path / "tailora.json").unlink()
    again = peft.load(tmp_path)
    assert {name: each.branches[0].rank for name, each in again.layers.items()} == {
        "proj": 2,
        "inner.proj": 4,
        "inner.other": 4,
    }
    assert {each.branches[0].scale for each in again.layers.values()} == {1.0}
