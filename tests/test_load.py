"""Loading a base model: what is given, and one clear line for everything that can be wrong with a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bases import save_base, save_tokenizer
from tailora.errors import ModelError
from tailora.families import FAMILIES
from tailora.models.load import load_base, quiet_transformers
from test_families import network


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_folder_gives_model_tokenizer_and_fingerprint(tmp_path: Path, kind: str) -> None:
    saved = save_base(tmp_path, kind)
    base = load_base(str(tmp_path))
    assert (base.model_type, base.folder, base.name) == (kind, tmp_path, tmp_path.as_posix())
    assert not base.model.training
    assert base.model.config._attn_implementation == "sdpa"
    assert base.model.lm_head.weight is base.model.get_input_embeddings().weight
    assert base.tokenizer.decode(base.tokenizer.encode("Blue £ Spice")) == "Blue £ Spice"
    assert len(base.fingerprint) == 64
    tokens = torch.tensor([base.tokenizer.encode("name : Blue")])
    with torch.inference_mode():
        torch.testing.assert_close(base.model(tokens).logits, saved(tokens).logits)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_is_loaded(tmp_path: Path, model_type: str) -> None:
    vocabulary = save_tokenizer(tmp_path)
    model = network(model_type, vocab_size=vocabulary).eval()
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    tokens = torch.tensor([[1, 5, 9]])
    with torch.inference_mode():
        torch.testing.assert_close(load_base(str(tmp_path)).model(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(
    ("stored", "asked", "given"),
    [
        (torch.float32, None, torch.float32),
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float16, None, torch.float32),
        (torch.float16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_dtype(tmp_path: Path, stored: torch.dtype, asked: torch.dtype | None, given: torch.dtype) -> None:
    save_base(tmp_path, dtype=stored)
    assert {parameter.dtype for parameter in load_base(str(tmp_path), dtype=asked).model.parameters()} == {given}


def test_the_fingerprint_does_not_depend_on_the_dtype_asked_for(tmp_path: Path) -> None:
    save_base(tmp_path)
    fingerprints = {load_base(str(tmp_path), dtype=dtype).fingerprint for dtype in (None, torch.bfloat16)}
    assert len(fingerprints) == 1


def edit(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = {key: value for key, value in {**config, **values}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    return change


def cut(size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])

    return change


def nested_header() -> bytes:
    return (100_000).to_bytes(8, "little") + b"[" * 100_000


def drop_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    path.unlink()
    save_file(tensors, path)


def only_bin(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "not a model folder: it has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "no model_type"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "config.json: cannot be read as JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(nested_header()), "truncated, or not a safetensors"),
        (edit(model_type=None), "no model_type"),
        (edit(model_type="mystery"), "'mystery' cannot be loaded: transformers lacks it"),
        (edit(model_type="mystery", auto_map={"AutoModel": "m.M"}), "its own code, which is never run"),
        (edit(model_type="vit"), "cannot be loaded"),
        (edit(quantization_config={"quant_method": "gguf"}), "the model is quantised"),
        (edit(n_embd=64), "cannot be loaded"),
        (cut(0), "truncated, or not a safetensors file"),
        (cut(5), "truncated, or not a safetensors file"),
        (cut(3000), "truncated, or not a safetensors file"),
        (cut(30000), "truncated, or not a safetensors file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 5000), "truncated, or not"),
        (drop_tensor, "the weights lack transformer.h.1.mlp.c_fc.weight"),
        (only_bin, r"pickled .bin files, which are not read; save them as model\.safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no model\.safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer"),
        (edit(vocab_size=10), "cannot be loaded"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(
    tmp_path: Path, harm: Callable[[Path], None], message: str
) -> None:
    save_base(tmp_path)
    harm(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        load_base(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_model_is_noticed(tmp_path: Path) -> None:
    save_base(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"] |= {f"extra{number}": 257 + number for number in range(5)}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match="the tokenizer has 262 tokens and the model only 257"):
        load_base(str(tmp_path))
