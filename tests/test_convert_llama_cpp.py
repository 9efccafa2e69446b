"""Adapters that llama.cpp itself applies give the logits that they give here.

They need llama-cpp-python, which most systems have to build, so that it is not among the development packages. With
LLAMA_CPP_SOURCE, a folder of llama.cpp's source (its package on PyPI has it as `vendor/llama.cpp`), the base models are
written by llama.cpp's own converter, for every architecture in the table; without, by this file, for two of them.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import GGUFWriter
from tokenizers import pre_tokenizers

from bases import save_tokenizer
from tailora.adapters import formats
from tailora.adapters.arithmetic import difference
from tailora.adapters.config import LoraConfig
from tailora.commands.convert import ConvertSettings, run
from tailora.lora import inject
from tailora.models.load import load_base, quiet_transformers
from test_convert import LLAMA_CPP, TOKENS, save_adapter

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
SOURCE = os.environ.get("LLAMA_CPP_SOURCE")
needs_source = pytest.mark.skipif(SOURCE is None, reason="LLAMA_CPP_SOURCE does not name llama.cpp's source")

NAMES = {
    "gpt2": {
        "transformer.wte": "token_embd",
        "transformer.wpe": "position_embd",
        "transformer.ln_f": "output_norm",
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    },
    "llama": {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    },
}


def save_gguf(model: Any, kind: str, path: Path) -> None:
    """Write a network of `bases.save_base`'s as llama.cpp stores it."""
    config = model.config
    tokens = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    writer = GGUFWriter(path, kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(96)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(4 * config.hidden_size if kind == "gpt2" else config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if kind == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["a b"])  # there have to be some
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, tensor in model.state_dict().items():
        if name.startswith("lm_head") or name.endswith("rotary_emb.inv_freq"):
            continue  # the head is tied
        module, _, what = name.rpartition(".")
        if module.startswith(("transformer.h.", "model.layers.")):
            _, _, block, module = module.split(".", 3)
            theirs = f"blk.{block}.{NAMES[kind][module]}"
        else:
            theirs = NAMES[kind][module]
        values = tensor.float().numpy()
        if kind == "gpt2" and values.ndim == 2 and module.startswith(("attn", "mlp")):
            values = values.T  # Conv1D
        if module == "self_attn.q_proj":
            heads = config.num_attention_heads
        else:
            heads = config.num_key_value_heads if module == "self_attn.k_proj" else None
        if heads:  # rows 2i and 2i + 1 of a head are turned together there, and i and i + half here
            halves = values.reshape(heads, 2, -1, values.shape[1])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(f"{theirs}.{what}", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


CONVERTER = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
from conversion import base
# The only things that are not its own: it knows tokenizers by a hash, wants SentencePiece's files of Gemma, and merges,
# and GPT-NeoX's share of rotary features as older configurations spell it.
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
def set_vocab(self):
    self._set_vocab_gpt2()
    self.gguf_writer.add_token_merges(["a b"])
load = base.ModelBase.load_hparams
def load_hparams(*args, **kwargs):
    settings = load(*args, **kwargs)
    return {"rotary_pct": settings.get("rope_parameters", {}).get("partial_rotary_factor", 1.0), **settings}
base.ModelBase.load_hparams = staticmethod(load_hparams)
import convert_hf_to_gguf as program
found = program.get_model_class
def get_model_class(*args, **kwargs):
    kind = found(*args, **kwargs)
    kind.set_vocab = set_vocab
    return kind
program.get_model_class = get_model_class
sys.argv = ["convert_hf_to_gguf.py", sys.argv[2], "--outfile", sys.argv[3], "--outtype", "f32"]
program.main()
"""

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
OWN_SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_inner": None, "tie_word_embeddings": True, "n_ctx": 96},
    "phi3": {"original_max_position_embeddings": 96, "sliding_window": None},
    "bloom": {"n_layer": 2, "n_head": 4, "seq_length": 96, "tie_word_embeddings": True},
    "granite": {
        "attention_multiplier": 0.3,
        "embedding_multiplier": 1.5,
        "residual_multiplier": 0.8,
        "logits_scaling": 2.0,
    },
    **{kind: {"tie_word_embeddings": True, "query_pre_attn_scalar": 16} for kind in ("gemma", "gemma2", "gemma3_text")},
}


def save_family(folder: Path, model_type: str, **changes: Any) -> Any:
    """Write a tiny random network of a family, norms and biases not at rest, and give it."""
    size = save_tokenizer(folder)
    settings = {**SHAPE, **OWN_SHAPES.get(model_type, {}), **changes}
    config = transformers.AutoConfig.for_model(model_type, vocab_size=size, **settings)
    with torch.random.fork_rng(), torch.no_grad(), quiet_transformers():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
        model.save_pretrained(folder)
    return model


def convert_base(folder: Path, to: Path) -> None:
    """Write a base model with llama.cpp's own program."""
    done = subprocess.run(
        [sys.executable, "-c", CONVERTER, str(SOURCE), str(folder), str(to)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def llama_cpp_logits(base: Path, lora: Path | None) -> torch.Tensor:
    options: dict[str, Any] = {"n_ctx": 96, "logits_all": True, "verbose": bool(os.environ.get("VERBOSE"))}
    network = llama_cpp.Llama(str(base), lora_path=None if lora is None else str(lora), **options)
    network.eval(TOKENS[0].tolist())
    return torch.tensor(network.scores[: TOKENS.shape[1]])


def made_adapter(folder: Path, targets: tuple[str, ...], place: Path) -> torch.Tensor:
    """Write a random adapter of a base, and give the logits with it."""
    loaded = load_base(str(folder))
    inject.attach(loaded.model, LoraConfig(rank=4, alpha=8, targets=targets), model_type=loaded.model_type)
    torch.manual_seed(1)
    for name, parameter in loaded.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    made = inject.extract(loaded.model)
    formats.save(dataclasses.replace(made, base_fingerprint=loaded.fingerprint, base_name=loaded.name), place)
    with torch.inference_mode():
        return loaded.model(TOKENS).logits[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_llama_cpp_computes_the_same(tmp_path: Path, kind: str) -> None:
    adapter, wanted = save_adapter(tmp_path, kind)
    run(ConvertSettings(adapter=adapter, to="gguf", output=tmp_path / "lora.gguf"))
    base = load_base(str(tmp_path / "base")).model
    save_gguf(base, kind, tmp_path / "base.gguf")
    with torch.inference_mode():
        untouched = base(TOKENS).logits
    for lora, expected in ((None, untouched), (tmp_path / "lora.gguf", wanted)):
        # It keeps keys and values in fp16.
        torch.testing.assert_close(llama_cpp_logits(tmp_path / "base.gguf", lora), expected[0], rtol=5e-3, atol=5e-3)
    assert (wanted - untouched).abs().max() > 0.1


@needs_source
@pytest.mark.parametrize("model_type", LLAMA_CPP)
def test_llama_cpp_computes_the_same_on_what_its_own_converter_wrote(tmp_path: Path, model_type: str) -> None:
    base = tmp_path / "base"
    model = save_family(base, model_type)
    convert_base(base, tmp_path / "base.gguf")
    wanted = made_adapter(base, ("all-linear",), tmp_path / "a")
    run(ConvertSettings(adapter=tmp_path / "a", to="gguf", output=tmp_path / "lora.gguf"))
    with torch.inference_mode():
        untouched = model(TOKENS).logits[0]
    largest = float(wanted.abs().max())
    for lora, expected in ((None, untouched), (tmp_path / "lora.gguf", wanted)):
        # It keeps keys and values in fp16.
        apart = (llama_cpp_logits(tmp_path / "base.gguf", lora) - expected).abs().max()
        assert apart < 5e-3 * largest, "the base" if lora is None else "with the adapter"
    assert (wanted - untouched).abs().max() > 0.1 * largest


@needs_source
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_llama_cpp_adapts_a_head_and_an_embedding_that_are_not_tied(tmp_path: Path, model_type: str) -> None:
    base = tmp_path / "base"
    save_family(base, model_type)
    convert_base(base, tmp_path / "base.gguf")
    wanted = made_adapter(base, ("head", "embedding", "attention"), tmp_path / "a")
    run(ConvertSettings(adapter=tmp_path / "a", to="gguf", output=tmp_path / "lora.gguf"))
    found = llama_cpp_logits(tmp_path / "base.gguf", tmp_path / "lora.gguf")
    assert (found - wanted).abs().max() < 5e-3 * wanted.abs().max()


@needs_source
@pytest.mark.parametrize("model_type", ["llama", "smollm3", "qwen3"])
@pytest.mark.parametrize("precision", ["f32", "q8_0"])
def test_an_adapter_that_llama_cpp_s_own_converter_wrote_is_read(
    tmp_path: Path, model_type: str, precision: str
) -> None:
    base = tmp_path / "base"
    save_family(base, model_type)
    loaded = load_base(str(base))
    inject.attach(loaded.model, LoraConfig(rank=32, alpha=8, targets=("all-linear",)), model_type=model_type)
    for name, parameter in loaded.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    adapter = inject.extract(loaded.model)
    formats.save(dataclasses.replace(adapter, base_name=str(base)), tmp_path / "a")
    program = [sys.executable, f"{SOURCE}/convert_lora_to_gguf.py", str(tmp_path / "a"), "--base", str(base)]
    options = ["--outfile", str(tmp_path / "a.gguf"), "--outtype", precision]
    done = subprocess.run([*program, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result = run(ConvertSettings(adapter=tmp_path / "a.gguf", to="peft", base=str(base), output=tmp_path / "b"))
    assert result["layers"] == len(adapter.layers)
    assert difference(adapter, formats.load(tmp_path / "b")) < (1e-6 if precision == "f32" else 0.02)
