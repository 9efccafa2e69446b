"""The optimizer of a run: LoRA+ moves an adapter as PEFT's optimizer does on the same gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft as hf
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from adapters import WARNINGS_OF_PEFT
from networks import gpt2, llama, stir, token_ids
from tailora.adapters import formats
from tailora.core.errors import SettingsError
from tailora.lora.inject import attach
from tailora.training.methods import learning_parameters
from tailora.training.optimizer import (
    LORA_PLUS_EMBEDDING_RATE,
    adamw,
    foreach_on,
    learning_rate,
    set_learning_rate,
)
from tailora.training.run import run
from tailora.training.settings import TrainSettings

STEPS = 8
CASES: dict[str, Any] = {
    "llama": (llama, {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "Conv1D": (gpt2, {"target_modules": ["c_attn", "c_fc"]}),
    "DoRA": (llama, {"target_modules": ["q_proj", "up_proj"], "use_dora": True}),
    "all biases": (gpt2, {"target_modules": ["c_attn"], "bias": "all"}),
    "biases of adapted layers": (gpt2, {"target_modules": ["c_attn"], "bias": "lora_only"}),
    "embedding": (llama, {"target_modules": ["q_proj", "embed_tokens"]}),
    "embedding with DoRA": (gpt2, {"target_modules": ["c_attn", "wte"], "use_dora": True}),
    "head": (gpt2, {"target_modules": ["lm_head", "c_attn"]}),
}
PARTS = {
    "lora_A": ("lora_A.default.weight", "lora_embedding_A.default"),
    "lora_B": ("lora_B.default.weight", "lora_embedding_B.default"),
    "magnitude": ("lora_magnitude_vector.default.weight",),
}


def of_peft(name: str, theirs: dict[str, nn.Parameter]) -> nn.Parameter:
    """PEFT's parameter for one of ours."""
    layer, _, part = name.replace(".branches.0.", ".").rpartition(".")
    names = [f"base_model.model.{layer}.{end}" for end in PARTS.get(part, (part, f"base_layer.{part}"))]
    names += [f"base_model.model.{layer.removesuffix('.base')}.base_layer.{part}"]
    return next(theirs[candidate] for candidate in names if candidate in theirs)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("case", CASES)
@WARNINGS_OF_PEFT[0]
@WARNINGS_OF_PEFT[1]
@WARNINGS_OF_PEFT[3]
@WARNINGS_OF_PEFT[4]
@WARNINGS_OF_PEFT[5]
def test_lora_plus_is_that_of_peft(case: str, weight_decay: float, tmp_path: Path) -> None:
    make, changes = CASES[case]
    peft_model = hf.get_peft_model(make(), hf.LoraConfig(r=4, lora_alpha=6, **changes)).eval()
    stir(peft_model, size=0.2)
    peft_model.save_pretrained(str(tmp_path))
    adapter = formats.load(tmp_path)
    model = make()
    attach(model, adapter.config, adapter)
    ours = learning_parameters(model)
    theirs = {name: p for name, p in peft_model.named_parameters() if p.requires_grad}
    pairs = {name: of_peft(name, theirs) for name in ours}
    assert len({id(p) for p in pairs.values()}) == len(theirs) == len(ours)
    options = {"lr": 1e-3, "loraplus_lr_ratio": 16.0, "loraplus_weight_decay": weight_decay}
    reference = create_loraplus_optimizer(peft_model, torch.optim.AdamW, **options)
    course: dict[str, Any] = {"warmup_steps": 0, "schedule": "linear"}
    falling = torch.optim.lr_scheduler.LambdaLR(
        reference, lambda step: learning_rate(step, STEPS, peak=1.0, **course) if step < STEPS else 0.0
    )
    settings = TrainSettings(data="", learning_rate=1e-3, lora_plus_ratio=16, weight_decay=weight_decay, **course)
    optimizer = adamw(model, settings)
    before = {name: p.detach().clone() for name, p in ours.items()}
    for step in range(STEPS):
        ids = token_ids(step)
        peft_model(input_ids=ids, labels=ids).loss.backward()
        for name, parameter in ours.items():
            gradient = pairs[name].grad
            assert gradient is not None
            parameter.grad = gradient.clone()
        set_learning_rate(optimizer, settings, step, STEPS)
        optimizer.step()
        reference.step()
        falling.step()
        reference.zero_grad()
    for name, parameter in ours.items():
        assert not torch.equal(parameter, before[name]), name
        torch.testing.assert_close(parameter, pairs[name], atol=1e-7, rtol=1e-6)


def test_groups_of_lora_plus() -> None:
    model = gpt2()
    attach(model, targets=("attention", "embedding"), bias="lora_only", dora=True)
    settings = TrainSettings(data="", learning_rate=1e-3, lora_plus_ratio=4, weight_decay=0.1)
    groups = {
        (group["peak"], group["weight_decay"]): len(group["params"]) for group in adamw(model, settings).param_groups
    }
    # Two blocks of two attention layers each, and the token embedding.
    assert groups == {
        (1e-3, 0.1): 4,  # A
        (4e-3, 0.1): 4 + 4 + 1,  # B, magnitudes of attention, magnitude of the embedding
        (4e-3, 0.0): 4,  # biases
        (LORA_PLUS_EMBEDDING_RATE, 0.1): 2,  # A and B of the embedding
    }


def test_lora_plus_is_recorded(tmp_path: Path) -> None:
    """In run.json and in the adapter; a ratio of 1 is plain AdamW, and another one learns something else."""
    common: dict[str, Any] = {"data": "restaurants", "limit": 7, "valid_limit": 2, "max_steps": 3, "precision": "fp32"}
    hashes = {}
    for ratio in (None, 1, 16):
        output = tmp_path / str(ratio)
        result = run(TrainSettings(**common, lora_plus_ratio=ratio, output=output, device="cpu"))
        assert result["settings"]["lora_plus_ratio"] == ratio
        adapter = formats.load(output / "adapter")
        assert adapter.meta.get("lora_plus_ratio") == ratio
        hashes[ratio] = adapter.content_hash
    assert hashes[None] == hashes[1] != hashes[16]
    assert "lora_plus_ratio" in json.loads((tmp_path / "16" / "adapter" / "tailora.json").read_text("utf-8"))["meta"]


def test_a_ratio_below_one_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"lora_plus_ratio|--lora-plus-ratio"):
        TrainSettings(data="", lora_plus_ratio=0.5)


def test_gradients_are_limited_on_every_kind_of_device() -> None:
    """PyTorch refuses lists of tensors on devices without kernels for them, as Apple GPUs are."""
    assert foreach_on(torch.device("cpu")) is foreach_on(torch.device("cuda:1")) is True
    assert foreach_on(torch.device("mps")) is None
    parameter = nn.Parameter(torch.zeros(2, device="meta"))
    parameter.grad = torch.zeros(2, device="meta")
    nn.utils.clip_grad_norm_([parameter], 1.0, foreach=foreach_on(parameter.device))
    with pytest.raises(RuntimeError, match="foreach"):
        nn.utils.clip_grad_norm_([parameter], 1.0, foreach=True)
