"""Adapters that llama.cpp itself applies give the logits that they give here.

It needs llama-cpp-python, which most systems have to build, so that it is not among the development packages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tokenizers import pre_tokenizers

from tailora.convert import ConvertSettings, run
from tailora.models.load import load_base
from test_convert import TOKENS, save_adapter

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


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_llama_cpp_computes_the_same(tmp_path: Path, kind: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    adapter, wanted = save_adapter(tmp_path, kind)
    run(ConvertSettings(adapter=adapter, to="gguf", output=tmp_path / "lora.gguf"))
    base = load_base(str(tmp_path / "base")).model
    save_gguf(base, kind, tmp_path / "base.gguf")
    with torch.inference_mode():
        untouched = base(TOKENS).logits
    for lora, expected in ((None, untouched), (str(tmp_path / "lora.gguf"), wanted)):
        options = {"n_ctx": 96, "logits_all": True, "verbose": False, "lora_path": lora}
        network = llama_cpp.Llama(str(tmp_path / "base.gguf"), **options)
        network.eval(TOKENS[0].tolist())
        found = torch.tensor(network.scores[: TOKENS.shape[1]])
        # It keeps keys and values in fp16.
        torch.testing.assert_close(found, expected[0], rtol=5e-3, atol=5e-3)
    assert (wanted - untouched).abs().max() > 0.1
