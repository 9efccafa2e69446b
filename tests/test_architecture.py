"""Every setting of a configuration is honoured as transformers honours it: in the graph, or on torch instead."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from bases import save_tokenizer
from tailora.core.errors import ModelError, SettingsError
from tailora.core.files import write_json
from tailora.engine.architecture import architecture_of
from tailora.engine.decoding import Decoding
from tailora.engine.requests import Request
from tailora.inference.model_settings import PrecisionName
from tailora.inference.running import Running
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.models.load import quiet_transformers


@pytest.fixture(autouse=True)
def self_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every engine of these tests is compared with transformers as it starts, too."""
    monkeypatch.setenv("TAILORA_SELF_CHECK", "always")


PROMPTS = [tuple((11 * n + k) % 200 + 1 for n in range(length)) for k, length in enumerate((60, 9, 33))]
# The sizes in each family's own names; everything else is transformers' default unless a case changes it.
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 257,
}
LLAMA = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 96}
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 96, "vocab_size": 257}
LONG = {"type": "longrope", "short_factor": [1.0, 2.0, 3.0, 4.0], "long_factor": [5.0] * 4, "factor": 1.5}
GEMMA = {**LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8}
QWEN3 = {**LLAMA, "head_dim": 16}
KINDS = ["sliding_attention", "sliding_attention", "full_attention"]
_OF_GEMMA3 = {**GEMMA, "head_dim": 16, "query_pre_attn_scalar": 4, "sliding_window": 8, "layer_types": KINDS}
GEMMA3 = {**_OF_GEMMA3, "rope_theta": 500.0, "rope_local_base_freq": 50.0}
BY_KIND = {
    "full_attention": {"rope_type": "default", "rope_theta": 500.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
}
SCALED_BY_KIND = BY_KIND | {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0}}
GEMMA3_5 = {**_OF_GEMMA3, "rope_parameters": BY_KIND}
WINDOW = {"use_sliding_window": True, "sliding_window": 8}


def save_model(folder: Path, model_type: str, config: dict[str, Any]) -> Path:
    """Write a random model from a config.json in the spelling given, not in that which transformers would save."""
    save_tokenizer(folder)
    written = {"model_type": model_type, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, **config}
    write_json(folder / "config.json", written)
    with quiet_transformers(), torch.random.fork_rng():
        torch.manual_seed(0)
        loaded = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        for name, parameter in loaded.named_parameters():
            # Larger than the initialisation, so that attention attends to something in particular.
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.25)
    tensors = {name: parameter.detach().contiguous() for name, parameter in loaded.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def reference(folder: Path, prompt: tuple[int, ...], dtype: torch.dtype = torch.float32) -> np.ndarray:
    """transformers' log-probabilities of a prompt's tokens but the first."""
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        logprobs = model(torch.tensor([prompt])).logits[0].float().log_softmax(-1)
    return np.asarray(logprobs[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])])


def scored(running: Running) -> list[np.ndarray]:
    """The engine's, of several prompts side by side, in pieces."""
    ways = Decoding(max_new_tokens=2, ignore_end=True)
    made = running.engine.complete([Request(prompt, ways, score_prompt=True) for prompt in PROMPTS])
    return [np.array(completion.prompt_logprobs) for (completion,) in made]


def assert_as_transformers(folder: Path, running: Running, atol: float = 2e-3) -> None:
    for prompt, own in zip(PROMPTS, scored(running), strict=True):
        np.testing.assert_allclose(own, reference(folder, prompt), atol=atol)


IN_THE_GRAPH: dict[str, Any] = {
    "llama": ("llama", LLAMA),
    "tied": ("llama", {**LLAMA, "tie_word_embeddings": True}),
    "a head wider than its share": ("llama", {**LLAMA, "head_dim": 16}),
    "rope_theta": ("llama", {**LLAMA, "rope_theta": 500.0}),
    "rope_parameters": ("llama", {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "the default type of old": ("llama", {**LLAMA, "rope_theta": 500.0, "rope_scaling": {"type": "default"}}),
    "epsilon": ("llama", {**LLAMA, "rms_norm_eps": 0.1}),
    "fields that other programs leave": (
        "llama",
        {
            **LLAMA,
            "rope_interleaved": False,
            "is_llama_config": True,
            "transformers.js_config": {"dtype": "q4"},
            "_model_name_or_path": "x",
        },
    ),
    "biases of attention": ("llama", {**LLAMA, "attention_bias": True}),
    "qwen2": ("qwen2", LLAMA),
    "qwen2, a window that is not used": (
        "qwen2",
        {**LLAMA, "use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1, "use_mrope": False},
    ),
    "qwen2 with a window": ("qwen2", {**LLAMA, **WINDOW, "max_window_layers": 1}),
    "qwen2 with a window everywhere": ("qwen2", {**LLAMA, **WINDOW, "max_window_layers": 0}),
    "qwen2, tied": ("qwen2", {**LLAMA, "tie_word_embeddings": True, "rope_theta": 500.0}),
    "qwen3": ("qwen3", {**QWEN3, "tie_word_embeddings": True}),
    "qwen3, biases": ("qwen3", {**QWEN3, "attention_bias": True}),
    "qwen3, layer_types": ("qwen3", {**QWEN3, **WINDOW, "layer_types": KINDS}),
    "gemma3": ("gemma3_text", GEMMA3),
    "gemma3 as transformers 5 writes it": ("gemma3_text", GEMMA3_5),
    "gemma3 by its pattern": (
        "gemma3_text",
        {**GEMMA3, "layer_types": None, "sliding_window_pattern": 2, "cache_implementation": "hybrid"},
    ),
    "gemma3 by the usual pattern": ("gemma3_text", {**GEMMA3, "layer_types": None, "num_hidden_layers": 6}),
    "gemma3, an untied head, biases": ("gemma3_text", {**GEMMA3, "tie_word_embeddings": False, "attention_bias": True}),
    "gpt2": ("gpt2", GPT2),
    "gpt2, an inner width": ("gpt2", {**GPT2, "n_inner": 40}),
    "gpt2, the same activation by another name": ("gpt2", {**GPT2, "activation_function": "gelu_pytorch_tanh"}),
    "gpt2, epsilon": ("gpt2", {**GPT2, "layer_norm_epsilon": 0.1}),
    "gpt2, an untied head": ("gpt2", {**GPT2, "tie_word_embeddings": False}),
}
ON_TORCH: dict[str, Any] = {
    "linear, old spelling": ("llama", {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}}),
    "linear": ("llama", {**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "linear, new field": (
        "llama",
        {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}},
    ),
    "dynamic, old spelling": ("llama", {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "yarn": (
        "llama",
        {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}},
    ),
    "llama3": (
        "llama",
        {
            **LLAMA,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 24,
            },
        },
    ),
    "longrope": ("llama", {**LLAMA, "rope_scaling": LONG | {"original_max_position_embeddings": 96}}),
    "partial_rotary_factor": ("llama", {**LLAMA, "partial_rotary_factor": 0.5}),
    "mlp_bias": ("llama", {**LLAMA, "mlp_bias": True}),
    "hidden_act": ("llama", {**LLAMA, "hidden_act": "gelu"}),
    "a window": ("llama", {**LLAMA, "sliding_window": 8}),
    "what nobody knows": ("llama", {**LLAMA, "a_field_of_tomorrow": 1}),
    "gpt2, activation": ("gpt2", {**GPT2, "activation_function": "relu"}),
    "gpt2, the exact gelu": ("gpt2", {**GPT2, "activation_function": "gelu"}),
    "gpt2, unscaled attention": ("gpt2", {**GPT2, "scale_attn_weights": False}),
    "gpt2, scaled by layer": ("gpt2", {**GPT2, "scale_attn_by_inverse_layer_idx": True}),
    "gpt2, reordered": ("gpt2", {**GPT2, "reorder_and_upcast_attn": True}),
    "gpt2 by other names": (
        "gpt2",
        {"hidden_size": 32, "n_layer": 3, "n_head": 4, "n_positions": 96, "vocab_size": 257},
    ),
    "mistral": ("mistral", {**LLAMA, "sliding_window": None}),
    "mistral with a window": ("mistral", {**LLAMA, "sliding_window": 8}),
    "qwen2, yarn": (
        "qwen2",
        {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}},
    ),
    "qwen2, activation": ("qwen2", {**LLAMA, "hidden_act": "gelu"}),
    "qwen3, linear": ("qwen3", {**QWEN3, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "gemma": ("gemma", {**LLAMA, "head_dim": 8}),
    "gemma2 with soft caps": (
        "gemma2",
        {**GEMMA, "sliding_window": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3, scaled": ("gemma3_text", {**GEMMA3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    "gemma3, scaled by kind": ("gemma3_text", {**GEMMA3_5, "rope_parameters": SCALED_BY_KIND}),
    "gemma3, soft caps": ("gemma3_text", {**GEMMA3, "final_logit_softcapping": 3.0}),
    "gemma3, soft caps of attention": ("gemma3_text", {**GEMMA3, "attn_logit_softcapping": 2.0}),
    "gemma3, activation": ("gemma3_text", {**GEMMA3, "hidden_activation": "gelu"}),
    "phi3": ("phi3", {**LLAMA, "partial_rotary_factor": 0.5, "original_max_position_embeddings": 96}),
    "phi3 with su": (
        "phi3",
        {
            **LLAMA,
            "rope_scaling": LONG | {"type": "su", "original_max_position_embeddings": 64},
            "original_max_position_embeddings": 64,
        },
    ),
    "smollm3": ("smollm3", {**LLAMA, "no_rope_layers": [1, 0, 1]}),
    "granite": (
        "granite",
        {
            **LLAMA,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.1,
        },
    ),
    "olmo": ("olmo", {**LLAMA, "clip_qkv": 0.5}),
    "olmo2": ("olmo2", LLAMA),
    "olmo3": (
        "olmo3",
        {
            **LLAMA,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "stablelm": ("stablelm", {**LLAMA, "partial_rotary_factor": 0.25, "use_qkv_bias": True}),
    "opt": (
        "opt",
        {
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "vocab_size": 257,
            "max_position_embeddings": 96,
            "word_embed_proj_dim": 16,
        },
    ),
    "gpt_neo": (
        "gpt_neo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "vocab_size": 257,
            "max_position_embeddings": 96,
        },
    ),
    "gpt_neox": ("gpt_neox", {**SIZES, "max_position_embeddings": 96, "rotary_pct": 0.5}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": 257}),
}


@pytest.mark.parametrize("case", IN_THE_GRAPH)
def test_what_the_graph_implements(tmp_path: Path, case: str) -> None:
    folder = save_model(tmp_path, *IN_THE_GRAPH[case])
    for backend in ("auto", "torch"):
        running = start_engine(resolve_models(str(folder), {}), backend=backend, precision="fp32", device="cpu")
        assert running.backend == ("openvino" if backend == "auto" else "torch")
        assert_as_transformers(folder, running)


@pytest.mark.parametrize("case", ON_TORCH)
def test_what_it_does_not_implement_runs_on_torch(tmp_path: Path, case: str) -> None:
    folder = save_model(tmp_path, *ON_TORCH[case])
    running = start_engine(resolve_models(str(folder), {}), precision="fp32", device="cpu")
    assert running.backend == "torch"
    assert_as_transformers(folder, running)
    with pytest.raises(ModelError, match="use --backend torch"):
        start_engine(resolve_models(str(folder), {}), backend="openvino", precision="fp32")


def test_a_head_that_config_json_says_is_the_embedding(tmp_path: Path) -> None:
    """A file that holds a copy runs in the graph; one that holds something else does as the installed transformers."""
    folder = save_model(tmp_path, "llama", {**LLAMA, "tie_word_embeddings": True})
    tensors = load_file(folder / "model.safetensors")
    for change, backend in ((0.0, "openvino"), (0.5, "torch")):
        head = tensors["model.embed_tokens.weight"].clone()
        head[:, 0] += change
        save_file(tensors | {"lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
        running = start_engine(resolve_models(str(folder), {}), precision="fp32", device="cpu")
        assert running.backend == backend
        assert_as_transformers(folder, running)


def test_a_head_that_is_missing_is_missed(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama", {**LLAMA, "tie_word_embeddings": True})
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    write_json(folder / "config.json", config)
    for backend in ("openvino", "torch", "auto"):
        with pytest.raises(ModelError, match=r"weights are missing: lm_head\.weight"):
            start_engine(resolve_models(str(folder), {}), backend=backend, precision="fp32", device="cpu")


def test_why_it_runs_on_torch_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_model(tmp_path, *ON_TORCH["linear, old spelling"])
    with caplog.at_level(logging.INFO, "tailora"):
        start_engine(resolve_models(str(folder), {}), precision="fp32", device="cpu")
    assert "type is 'linear', and the engine's graph implements 'default'" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads is 0 instead of a positive integer"),
        ({"hidden_size": "32"}, "hidden_size is '32' instead of a positive integer"),
        ({"max_position_embeddings": None}, "max_position_embeddings is None"),
        ({"rope_theta": -1}, "rope_theta is -1 instead of a positive number"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear' instead of an object"),
        ({"rope_scaling": {"factor": 2.0}}, "does not know the field factor"),
        ({"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_type": "default"}}, "both rope_parameters"),
        ({"is_causal": False}, "is_causal is False"),
        ({"model_type": "bloom"}, "no graph for the architecture 'bloom'"),
    ],
)
def test_broken_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        architecture_of({"model_type": "llama", **LLAMA, **changes})


UNLIKE: dict[str, Any] = {
    "layer types of tomorrow": ("qwen3", {**QWEN3, "layer_types": ["chunked_attention"] * 3}, "'chunked_attention'"),
    "layer types without their field": (
        "qwen2",
        {**LLAMA, "layer_types": KINDS, "sliding_window": 8},
        "only where use_sliding_window is true",
    ),
    "too few layer types": ("gemma3_text", {**GEMMA3, "layer_types": KINDS[:2]}, "is not a list of 3 entries"),
    "a window of unknown size": (
        "qwen2",
        {**LLAMA, "use_sliding_window": True, "max_window_layers": 1},
        "sliding_window is None",
    ),
    "a window from an unknown layer on": ("qwen2", {**LLAMA, **WINDOW}, "max_window_layers is None"),
    "heads of unknown width": ("qwen3", LLAMA, "head_dim is None"),
    "an unknown number of heads": ("qwen2", {**LLAMA, "num_key_value_heads": None}, "num_key_value_heads is None"),
    "an unknown scale": ("gemma3_text", {**GEMMA3, "query_pre_attn_scalar": None}, "query_pre_attn_scalar is None"),
    "two spellings": ("gemma3_text", {**GEMMA3_5, "rope_theta": 1e4}, "both rope_parameters and rope_theta"),
    "one kind": ("gemma3_text", {**GEMMA3_5, "rope_parameters": {"rope_type": "default"}}, "two kinds of attention"),
    "both directions": ("gemma3_text", {**GEMMA3, "use_bidirectional_attention": True}, "implements False"),
    "a multimodal base": ("qwen2", {**LLAMA, "use_mrope": True}, "use_mrope is True"),
    "biases of the feed-forward layers": ("qwen2", {**LLAMA, "mlp_bias": True}, "does not know the field mlp_bias"),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_configurations_that_are_left_to_torch(case: str) -> None:
    model_type, config, message = UNLIKE[case]
    with pytest.raises(ModelError, match=message):
        architecture_of({"model_type": model_type, **config})


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("backend", ["openvino", "torch"])
@pytest.mark.parametrize("case", ["llama", "gpt2", "qwen2 with a window", "qwen3", "gemma3"])
def test_every_precision_is_near_fp32(tmp_path: Path, backend: Any, precision: PrecisionName, case: str) -> None:
    folder = save_model(tmp_path, *(IN_THE_GRAPH | ON_TORCH)[case])
    if (backend, precision) == ("torch", "int8"):
        with pytest.raises(SettingsError, match="int8 is available on a CPU with OpenVINO only"):
            start_engine(resolve_models(str(folder), {}), backend=backend, precision=precision, device="cpu")
        return
    if backend == "openvino" and case in ON_TORCH:
        with pytest.raises(ModelError, match="use --backend torch"):
            start_engine(resolve_models(str(folder), {}), backend=backend, precision=precision)
        return
    running = start_engine(resolve_models(str(folder), {}), backend=backend, precision=precision, device="cpu")
    assert (running.backend, running.precision) == (backend, precision)
    for prompt, own in zip(PROMPTS, scored(running), strict=True):
        exact, theirs = reference(folder, prompt), reference(folder, prompt, torch.bfloat16)
        usual = 0.1 + 2 * np.abs(theirs - exact).mean()  # what rounding does to transformers' own forward pass
        assert np.abs(own - exact).mean() < (1e-3 if precision == "fp32" else usual)


def test_long_sequences_beside_long_prompts(tmp_path: Path) -> None:
    """GPT-Neo has a table of its context's length, which a row for one's past and another's prompt would not fit."""
    folder = save_model(tmp_path, *ON_TORCH["gpt_neo"])
    running = start_engine(resolve_models(str(folder), {}), precision="fp32", device="cpu")
    engine = running.engine
    prompts = [tuple((7 * n + k) % 200 + 1 for n in range(80)) for k in range(3)]
    ways = Decoding(max_new_tokens=15, ignore_end=True)
    numbers = [engine.submit(Request(prompts[0], ways))]
    engine.step()
    numbers += [engine.submit(Request(prompt, ways, score_prompt=prompt == prompts[2])) for prompt in prompts[1:]]
    results: dict[Any, Any] = {}
    while not engine.idle:
        results |= {event.number: event.result for event in engine.step() if event.result is not None}
    for number, prompt in zip(numbers, prompts, strict=True):
        (alone,) = start_engine(resolve_models(str(folder), {}), precision="fp32", device="cpu").engine.complete(
            [Request(prompt, ways)]
        )
        assert results[number][0].token_ids == alone[0].token_ids
    np.testing.assert_allclose(results[numbers[2]][0].prompt_logprobs, reference(folder, prompts[2]), atol=2e-3)


def test_no_sequence_is_longer_than_its_frequencies_hold(tmp_path: Path) -> None:
    folder = save_model(tmp_path, *ON_TORCH["phi3 with su"])
    assert start_engine(resolve_models(str(folder), {}), device="cpu").engine.backend.context == 64
