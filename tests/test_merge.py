"""Merging into a folder: transformers loads it and it computes what base and adapter compute, tied weights included."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bases import KINDS, save_base
from tailora.adapters import formats
from tailora.adapters.config import LoraConfig
from tailora.commands.merge import MergeSettings, run
from tailora.core.errors import SettingsError
from tailora.lora import inject
from tailora.models.load import load_base


def adapted_logits(folder: Path, base: str, targets: tuple[str, ...], tokens: torch.Tensor) -> Any:
    """Save a random adapter; give the logits of the base with it beside the weights."""
    loaded = load_base(base)
    inject.attach(loaded.model, LoraConfig(rank=4, alpha=8, targets=targets))
    torch.manual_seed(1)
    for name, parameter in loaded.model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    made = dataclasses.replace(
        inject.extract(loaded.model), base_fingerprint=loaded.fingerprint, base_name=loaded.name, meta={"note": 1}
    )
    formats.save(made, folder)
    with torch.inference_mode():
        return loaded.model(tokens).logits.float()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [("attention", "mlp"), ("head",), ("embedding",)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_folder_computes_what_the_adapter_does(
    tmp_path: Path, kind: str, targets: tuple[str, ...], dtype: torch.dtype
) -> None:
    save_base(tmp_path / "base", kind, dtype=dtype)
    tokens = torch.tensor([[5, 9, 200, 31, 7]])
    wanted = adapted_logits(tmp_path / "adapter", str(tmp_path / "base"), targets, tokens)
    result = run(MergeSettings(adapter=tmp_path / "adapter", output=tmp_path / "merged"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert theirs.dtype == dtype
    assert theirs.config.tie_word_embeddings == (targets == ("attention", "mlp"))
    with torch.inference_mode():
        error = (theirs(tokens).logits.float() - wanted).norm() / wanted.norm()
    assert error < (1e-5 if dtype == torch.float32 else 3e-2)
    assert load_base(str(tmp_path / "merged")).fingerprint == result["fingerprint"]
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").decode([36, 69]) != ""


def test_the_folder_tells_where_it_came_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_base(tmp_path / "base")
    adapted_logits(tmp_path / "adapter", str(tmp_path / "base"), ("mlp",), torch.tensor([[1]]))
    result = run(MergeSettings(adapter=tmp_path / "adapter", output=tmp_path / "merged"))
    account = json.loads((tmp_path / "merged" / "tailora.json").read_text(encoding="utf-8"))
    assert account["merged"]["base_fingerprint"] == result["base_fingerprint"] != result["fingerprint"]
    assert account["meta"]["note"] == 1
    assert "merged in" in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for output in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(SettingsError, match="already exists; choose another place with --output"):
            run(MergeSettings(adapter=tmp_path / "adapter", output=output))
