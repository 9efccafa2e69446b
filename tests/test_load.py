"""Loading a base model: what is given, and one clear line for everything that can be wrong with a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bases import KINDS, save_base, save_tokenizer
from tailora.core.errors import ModelError
from tailora.families import FAMILIES
from tailora.models.load import load_base, quiet_transformers
from test_families import network


@pytest.mark.parametrize("kind", KINDS)
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


def edit(**values: Any) -> Callable[[Path], None]:
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
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: is not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json: is not a JSON object"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "config.json: is not valid JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(nested_header()), "truncated, or not a safetensors"),
        (edit(model_type=None), "config.json: has no model_type"),
        (edit(model_type="mystery"), "'mystery' cannot be loaded: transformers .* does not have it; update"),
        (edit(model_type="mystery", auto_map={"AutoModel": "m.M"}), "its own code, which is never run"),
        (edit(model_type="vit"), "cannot be loaded"),
        (
            edit(quantization_config={"quant_method": "gguf"}),
            "that another program quantised; use the unquantised",
        ),
        (edit(quantization_config="int4"), "that another program quantised; use the unquantised"),
        (edit(n_embd=64), "cannot be loaded"),
        (edit(eos_token_id="0"), "cannot be loaded: .*'eos_token_id'"),
        (edit(n_layer="2"), "cannot be loaded: .*'n_layer'"),
        (cut(0), "truncated, or not a safetensors file"),
        (cut(5), "truncated, or not a safetensors file"),
        (cut(3000), "truncated, or not a safetensors file"),
        (cut(30000), "truncated, or not a safetensors file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 5000), "truncated, or not"),
        (drop_tensor, "weights are missing: transformer.h.1.mlp.c_fc.weight"),
        (only_bin, r"pickled .bin files, which are not read; save them as model\.safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no model\.safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "contains no tokenizer"),
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


def test_a_head_of_its_own_under_a_configuration_that_ties_it(tmp_path: Path) -> None:
    save_base(tmp_path, "llama")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0)
    save_file(tensors, path, metadata={"format": "pt"})
    base = load_base(str(tmp_path))
    assert torch.equal(base.model.lm_head.weight, tensors["lm_head.weight"])
    assert torch.equal(base.model.get_input_embeddings().weight, tensors["model.embed_tokens.weight"])
    assert not base.model.config.tie_word_embeddings
    base.model.save_pretrained(tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tmp_path / name, tmp_path / "again" / name)
    again = load_base(str(tmp_path / "again"))
    assert torch.equal(again.model.lm_head.weight, tensors["lm_head.weight"])
    assert again.fingerprint == base.fingerprint
    save_base(tmp_path / "tied", "llama")
    assert load_base(str(tmp_path / "tied")).fingerprint != base.fingerprint


def test_a_copy_of_the_tied_head_in_the_file_is_no_head_of_its_own(tmp_path: Path) -> None:
    save_base(tmp_path, "llama")
    before = load_base(str(tmp_path)).fingerprint
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path)
    base = load_base(str(tmp_path))
    assert base.model.lm_head.weight is base.model.get_input_embeddings().weight
    assert base.model.config.tie_word_embeddings
    assert base.fingerprint == before


def test_a_single_file_goes_before_the_shards_of_another_model(tmp_path: Path) -> None:
    """As transformers looks for them; the fingerprint has to be of what is loaded."""
    model = save_base(tmp_path)
    wanted = load_base(str(tmp_path)).fingerprint
    single = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    with torch.no_grad():
        model.transformer.wpe.weight.add_(1)
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    (tmp_path / "model.safetensors").write_bytes(single)
    base = load_base(str(tmp_path))
    assert base.fingerprint == wanted
    assert not torch.equal(base.model.transformer.wpe.weight, model.transformer.wpe.weight)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": 5}, "not a safetensors index"),
        ({"a": None}, "not a safetensors index"),
        ({"a": ["model.safetensors"]}, "not a safetensors index"),
        ({}, "the index names no files"),
        ({"a": "../other.safetensors"}, "the index names files outside its own folder"),
        ({"a": "gone.safetensors"}, r"the folder lacks gone\.safetensors"),
        ({"a": "one.safetensors", "b": "two.safetensors"}, "transformer.h.0.attn.c_attn.bias is also in another shard"),
    ],
)
def test_an_index_that_is_wrong(tmp_path: Path, weight_map: dict[str, Any], message: str) -> None:
    save_base(tmp_path)
    for name in ("one", "two"):
        shutil.copyfile(tmp_path / "model.safetensors", tmp_path / f"{name}.safetensors")
    (tmp_path / "model.safetensors").unlink()
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (tmp_path / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        load_base(str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"quantization_config": None},
        {"architectures": None},
        {"torch_dtype": "float16"},
        {"dtype": "bfloat16"},
        {"transformers_version": "4.20.0"},
    ],
)
def test_fields_of_config_json_that_change_no_weight(tmp_path: Path, change: dict[str, Any]) -> None:
    saved = save_base(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | change
    path.write_text(json.dumps(config), encoding="utf-8")
    base = load_base(str(tmp_path))
    assert base.model.dtype == torch.float32
    tokens = torch.tensor([[1, 5, 9]])
    with torch.inference_mode():
        torch.testing.assert_close(base.model(tokens).logits, saved(tokens).logits)


def test_weights_in_8_bit_floats_are_refused(tmp_path: Path) -> None:
    save_base(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(ModelError, match="is stored as F8_E4M3, which is not read; name an unquantised model"):
        load_base(str(tmp_path))


def test_a_tokenizer_of_another_model_is_noticed(tmp_path: Path) -> None:
    save_base(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"] |= {f"extra{number}": 257 + number for number in range(5)}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match="the tokenizer has 262 tokens, and the model only 257"):
        load_base(str(tmp_path))


def add_token(folder: Path, *, special: bool) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append({"id": 257, "content": "<image>", **flags, "special": special})
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_special_token_without_a_row_is_accepted_unless_prompts_have_it(tmp_path: Path) -> None:
    """Gemma 3 has one for images, also in the tokenizers of its models without them."""
    save_base(tmp_path)
    add_token(tmp_path, special=True)
    base = load_base(str(tmp_path))
    assert (base.tokenizer.vocab_size, len(base.model.get_input_embeddings().weight)) == (258, 257)
    assert max(base.tokenizer.encode("an <image>")) < 257
    (tmp_path / "chat_template.jinja").write_text("<image>{{ messages[0].content }}", encoding="utf-8")
    with pytest.raises(ModelError, match="the tokenizer has 258 tokens, and the model only 257"):
        load_base(str(tmp_path))


def test_a_token_of_texts_needs_a_row(tmp_path: Path) -> None:
    save_base(tmp_path)
    add_token(tmp_path, special=False)
    with pytest.raises(ModelError, match="the tokenizer has 258 tokens, and the model only 257"):
        load_base(str(tmp_path))
