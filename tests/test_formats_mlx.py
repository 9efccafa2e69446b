"""Adapter folders of mlx-lm: read with its own arithmetic, and refused where that has no equivalent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tailora.adapters import formats
from tailora.core.errors import AdapterError

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
SETTINGS: dict[str, Any] = {
    "adapter_path": "adapters",
    "batch_size": 4,
    "fine_tune_type": "lora",
    "lora_parameters": {"rank": 2, "dropout": 0.0, "scale": 20.0},
    "model": "someone/model",
    "num_layers": 16,
}


def save(folder: Path, tensors: dict[str, np.ndarray], **changes: Any) -> Path:
    save_file(tensors, folder / "adapters.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(SETTINGS | changes), encoding="utf-8")
    return folder


def factors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {f"{Q}.lora_a": (8, 2), f"{Q}.lora_b": (2, 6), f"{DOWN}.lora_a": (5, 2), f"{DOWN}.lora_b": (2, 8)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_the_update_is_that_of_mlx(tmp_path: Path) -> None:
    """Its layer returns `linear(x) + scale * (x @ lora_a) @ lora_b`."""
    tensors = factors()
    adapter = formats.load(save(tmp_path, tensors))
    assert (adapter.base_name, adapter.base_fingerprint, list(adapter.layers)) == ("someone/model", None, [Q, DOWN])
    x = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    (branch,) = adapter.layers[Q].branches
    own = branch.scale * x @ branch.a.T @ branch.b.T
    np.testing.assert_allclose(own, 20.0 * (x @ tensors[f"{Q}.lora_a"]) @ tensors[f"{Q}.lora_b"], atol=1e-4)
    formats.save(adapter, tmp_path / "peft")
    assert formats.load(tmp_path / "peft").content_hash == adapter.content_hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fine_tune_type": "dora"}, r"fine_tune_type='dora' of mlx-lm; fuse it .* with `mlx_lm\.fuse`"),
        ({"lora_parameters": {"rank": 2, "alpha": 16.0, "scale": 10.0}}, "no equivalent for alpha of mlx-lm"),
        ({"lora_parameters": {"rank": 2, "scale": -1.0}}, "lora_parameters.scale: "),
        ({"lora_parameters": {"rank": 2, "scale": 1.0, "dropout": 2.0}}, "dropout must be at least 0"),
        ({"lora_parameters": None}, "lora_parameters: "),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        formats.load(save(tmp_path, factors(), **changes))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (f"{Q}.m", np.ones(6, np.float32), f"{Q}: has lora_a, lora_b, m instead of lora_a and lora_b"),
        (f"{Q}.lora_b", np.ones((3, 6), np.float32), r"lora_a \[8, 2\] and lora_b \[3, 6\] are not the factors"),
        (f"{DOWN}.lora_a", np.full((5, 2), np.nan, np.float32), f"{DOWN}: contains values that are not finite"),
        ("norm.weight", np.ones(6, np.float32), "norm: has weight instead of"),
    ],
)
def test_tensors_that_have_no_equivalent_are_named(tmp_path: Path, name: str, values: np.ndarray, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        formats.load(save(tmp_path, factors() | {name: values}))


def test_an_embedding_is_refused(tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.lora_a": np.ones((9, 2), np.float32)}
    tensors["model.embed_tokens.lora_b"] = np.ones((2, 8), np.float32)
    with pytest.raises(AdapterError, match="mlx-lm adapts a tied head along with its embedding"):
        formats.load(save(tmp_path, tensors))
