"""The base fingerprint: the same for a file and the network in it, in whatever layout; another for other weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bases import KINDS, save_base
from tailora.core.errors import ModelError
from tailora.models.fingerprint import canonical_name, fingerprint_folder, fingerprint_tensors
from tailora.models.load import fingerprint_module
from tailora.models.weights import StoredTensor, stored_tensors


def rewrite(folder: Path, change: Any) -> str:
    """Save the folder's tensors anew after a change; give the fingerprint."""
    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    path.unlink()  # the file may still be mapped
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return fingerprint_folder(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_file_and_its_network_agree(tmp_path: Path, kind: str, tied: bool, dtype: torch.dtype) -> None:
    model = save_base(tmp_path, kind, dtype=dtype, tied=tied)
    assert fingerprint_folder(tmp_path) == fingerprint_module(model)


def test_precision_of_the_same_values_does_not_matter(tmp_path: Path) -> None:
    half = save_base(tmp_path, dtype=torch.bfloat16)
    assert fingerprint_folder(tmp_path) == fingerprint_module(half.float())


def test_the_headless_layout_of_the_hubs_gpt2_agrees(tmp_path: Path) -> None:
    before = fingerprint_module(save_base(tmp_path))

    def as_on_the_hub(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        bare["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
        bare["h.1.attn.masked_bias"] = torch.tensor(-1e4)
        bare["lm_head.weight"] = bare["wte.weight"].clone()
        return bare

    assert rewrite(tmp_path, as_on_the_hub) == before


@pytest.mark.parametrize("name", ["transformer.h.0.attn.c_attn.bias", "transformer.wpe.weight"])
def test_one_value_makes_another(tmp_path: Path, name: str) -> None:
    before = fingerprint_module(save_base(tmp_path))

    def nudge(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[name].view(-1)[0] += 1e-3
        return tensors

    assert rewrite(tmp_path, nudge) != before


def test_an_untied_head_counts() -> None:
    wte = StoredTensor("F32", np.arange(6, dtype=np.float32).reshape(2, 3))
    other = StoredTensor("F32", wte.raw + 1)
    tied = fingerprint_tensors({"wte.weight": wte})
    assert fingerprint_tensors({"lm_head.weight": wte, "wte.weight": wte}) == tied
    assert fingerprint_tensors({"lm_head.weight": other, "wte.weight": wte}) != tied


def test_shapes_and_names_count() -> None:
    values = np.arange(6, dtype=np.float32)
    prints = {
        fingerprint_tensors({name: StoredTensor("F32", values.reshape(shape))})
        for name in ("h.0.mlp.c_fc.weight", "h.1.mlp.c_fc.weight")
        for shape in ((2, 3), (3, 2), (6,))
    }
    assert len(prints) == 6


def test_canonical_names() -> None:
    assert canonical_name("h.0.ln_1.weight") == canonical_name("transformer.h.0.ln_1.weight")
    assert canonical_name("layers.3.mlp.up_proj.weight") == "model.layers.3.mlp.up_proj.weight"
    assert canonical_name("lm_head.weight") == "lm_head.weight"


def test_it_is_kept_until_the_file_changes(tmp_path: Path, cache: Path) -> None:
    save_base(tmp_path)
    first = fingerprint_folder(tmp_path)
    (kept,) = cache.glob("fingerprints/*.json")
    content = json.loads(kept.read_text(encoding="utf-8"))
    kept.write_text(json.dumps({**content, "fingerprint": "from the cache"}), encoding="utf-8")
    assert fingerprint_folder(tmp_path) == "from the cache"
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert fingerprint_folder(tmp_path) == first
    kept.write_text("damaged", encoding="utf-8")
    assert fingerprint_folder(tmp_path) == first


def test_an_exchanged_file_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    save_base(tmp_path)
    path = tmp_path / "model.safetensors"
    content, times = path.read_bytes(), path.stat()
    before = fingerprint_folder(tmp_path)
    path.write_bytes(content[:-4] + b"\0\0\0\0")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint_folder(tmp_path) != before


def test_shards_are_one_model(tmp_path: Path) -> None:
    model = save_base(tmp_path)
    before = fingerprint_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert fingerprint_folder(tmp_path) == before
    next(tmp_path.glob("model-00002-*")).unlink()
    with pytest.raises(ModelError, match=r"lacks model-00002-.*fetch the model again"):
        stored_tensors(tmp_path)


def test_values_are_those_of_safetensors(tmp_path: Path) -> None:
    save_base(tmp_path, "llama", dtype=torch.float16)
    theirs = load_file(tmp_path / "model.safetensors")
    ours = stored_tensors(tmp_path)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name].raw, tensor.numpy())
