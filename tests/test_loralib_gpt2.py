"""tailora.loralib in a whole network: the LoRA paper's kind of GPT-2 trains, saves and loads as with loralib 0.1.2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import loralib as peer
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tailora.loralib as lora


class Attention(nn.Module):
    """GPT-2's attention as the LoRA paper adapts it: query and value inside the fused projection."""

    def __init__(self, nx: Any, heads: Any, library: Any) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = library.MergedLinear(
            nx, 3 * nx, r=4, lora_alpha=32, lora_dropout=0.1, enable_lora=[True, False, True],
            fan_in_fan_out=True, merge_weights=False,
        )  # fmt: skip
        self.c_proj = nn.Linear(nx, nx)

    def forward(self, x: Any) -> Any:
        batch, length, nx = x.shape
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.c_attn(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(batch, length, nx))


class Block(nn.Module):
    def __init__(self, nx: Any, heads: Any, library: Any) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(nx), nn.LayerNorm(nx)
        self.attn = Attention(nx, heads, library)
        self.mlp = nn.Sequential(nn.Linear(nx, 4 * nx), nn.GELU(), nn.Linear(4 * nx, nx))

    def forward(self, x: Any) -> Any:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class SmallGPT2(nn.Module):
    def __init__(self, library: Any, vocabulary: int = 50, nx: int = 24, layers: int = 2) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, nx), nn.Embedding(16, nx)
        self.h = nn.ModuleList(Block(nx, 2, library) for _ in range(layers))
        self.ln_f = nn.LayerNorm(nx)

    def forward(self, ids: Any) -> Any:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.T


def train_small_gpt2(library: Any, steps: int = 12) -> tuple[Any, ...]:
    torch.manual_seed(0)
    model = SmallGPT2(library)
    library.mark_only_lora_as_trainable(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    ids = torch.randint(0, 50, (4, 12))
    losses = []
    for _ in range(steps):
        model.train()
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        model.eval()
    return model, ids, losses


def test_the_papers_kind_of_gpt2_trains_saves_and_loads(tmp_path: Path) -> None:
    model, ids, losses = train_small_gpt2(lora)
    assert losses[-1] < losses[0]
    _, _, peer_losses = train_small_gpt2(peer)
    assert losses == pytest.approx(peer_losses, rel=1e-4)

    path = tmp_path / "model.pt"
    torch.save({"model_state_dict": lora.lora_state_dict(model)}, path)
    torch.manual_seed(0)
    fresh = SmallGPT2(lora)
    report = fresh.load_state_dict(torch.load(path, weights_only=True)["model_state_dict"], strict=False)
    assert not report.unexpected_keys
    assert not [name for name in report.missing_keys if "lora_" in name]
    assert torch.equal(fresh.eval()(ids), model.eval()(ids))
    theirs = SmallGPT2(peer)
    theirs.load_state_dict(model.state_dict())
    torch.testing.assert_close(theirs.eval()(ids), model(ids), rtol=1e-4, atol=1e-5)
