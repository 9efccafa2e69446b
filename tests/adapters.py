"""Adapters for tests of the file formats: small ones of random values, and what PEFT makes of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft as hf
import pytest
import torch
from torch import nn

from networks import stir
from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.config import LoraConfig
from tailora.lora.inject import attach, extract

# What PEFT itself warns of, and only that: what it corrects by itself, what it saves along, what it cannot merge.
WARNINGS_OF_PEFT = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to"),
    pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`"),
    pytest.mark.filterwarnings("ignore:Could not identify embedding layer"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
]


def peft_model(model: nn.Module, folder: Path) -> nn.Module:
    return hf.PeftModel.from_pretrained(model, str(folder)).eval()  # type: ignore[no-any-return]


def trained(model: nn.Module, config: LoraConfig) -> Adapter:
    attach(model, config, generator=torch.Generator().manual_seed(3))
    stir(model)
    return extract(model)


def small(seed: int = 0, **settings: Any) -> Adapter:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(4, 8)).astype(np.float32), rng.normal(size=(6, 4)).astype(np.float32)
    config = LoraConfig(rank=4, alpha=8, targets=("proj",), **settings)
    return Adapter(config, {"proj": LayerAdapter("linear", (LowRank(a, b, 2.0),), None, 6)})


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def dense(layer: LayerAdapter) -> np.ndarray:
    total = np.zeros((layer.out_features, layer.branches[0].a.shape[1]))
    for branch in layer.branches:
        low, high = branch.rows or (0, layer.out_features)
        total[low:high] += branch.scale * branch.b.astype(np.float64) @ branch.a.astype(np.float64)
    return total
