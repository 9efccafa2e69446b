"""The fields of a config.json: which do not affect what a network computes, and which the graph of a family handles.

The names are those of transformers' `PreTrainedConfig`, `GenerationConfig` and the families' own classes from 4.56 on,
and of further fields in published models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_ABOUT_THE_FILE = (
    *("name_or_path", "transformers_version", "architectures", "auto_map"),
    *("torch_dtype", "dtype", "use_bfloat16", "torchscript", "tf_legacy_loss"),
    *("unsloth_version", "unsloth_fixed", "transformers.js_config", "is_llama_config", "tokenizer_class"),
    *("language", "languages", "license", "model_name", "finetuning_task"),
)
_TRAINING = (
    *("initializer_range", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"),
    *("gradient_checkpointing", "pretraining_tp", "neftune_noise_alpha", "use_cache", "prune_heads", "pruned_heads"),
)
_OUTPUTS = (
    *("output_attentions", "output_hidden_states", "output_past", "return_dict", "use_return_dict"),
    *("return_dict_in_generate", "output_scores", "output_logits", "chunk_size_feed_forward"),
    *("attn_implementation", "use_flash_attention_2", "use_flash_attn", "experts_implementation"),
)
_TOKENS = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "decoder_start_token_id"),
    *("predict_special_tokens", "n_ctx", "max_sequence_length", "model_max_length"),
)
_OTHER_HEADS = (
    *("id2label", "label2id", "num_labels", "problem_type", "task_specific_params"),
    *("classifier_dropout", "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type"),
    *("summary_use_proj", "tie_encoder_decoder"),
)
_GENERATION = (
    *("assistant_confidence_threshold", "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens"),
    *("diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size"),
    *("encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty"),
    *("forced_bos_token_id", "forced_eos_token_id", "generation_config", "length_penalty", "max_length"),
    *("max_new_tokens", "min_length", "min_p", "no_repeat_ngram_size", "num_assistant_tokens"),
    *("num_assistant_tokens_schedule", "num_beam_groups", "num_beams", "num_return_sequences"),
    *("remove_invalid_values", "renormalize_logits", "repetition_penalty", "suppress_tokens", "target_lookbehind"),
    *("temperature", "top_k", "top_p", "typical_p", "cache_implementation"),
)

WITHOUT_EFFECT = frozenset(
    (*_ABOUT_THE_FILE, *_TRAINING, *_OUTPUTS, *_TOKENS, *_OTHER_HEADS, *_GENERATION),
)
"""Fields that a graph may ignore, whatever their values."""


@dataclass(frozen=True)
class GraphFields:
    """The fields that affect what a network of a family computes.

    Attributes:
        implemented: fields, each with the values that the graph implements. A field that is absent or null has
            transformers' default, which is one of them or has the same effect.
        read: fields that `architecture` reads.
    """

    implemented: Mapping[str, tuple[Any, ...]]
    read: frozenset[str]


_ALL: Mapping[str, tuple[Any, ...]] = {
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "is_causal": (True,),
    "add_cross_attention": (False,),
    "use_bidirectional_attention": (False,),
}
_READ_OF_ALL = frozenset({"model_type", "tie_word_embeddings", "quantization_config"})
_GPT2: Mapping[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),  # three names of one formula
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
}
_READ_OF_GPT2 = frozenset({"n_embd", "n_head", "n_layer", "n_positions", "n_inner", "vocab_size", "layer_norm_epsilon"})
_SILU = {"hidden_act": ("silu", "swish")}
_READ_OF_ROTARY = frozenset(
    {
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps"),
        *("rope_theta", "rope_scaling", "rope_parameters"),
    }
)
_READ_OF_QWEN = frozenset({"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"})
_READ_OF_GEMMA = frozenset(
    {
        *("sliding_window", "sliding_window_pattern", "layer_types"),
        *("rope_local_base_freq", "query_pre_attn_scalar", "attention_bias"),
    }
)


def _rotary(read: frozenset[str] = frozenset(), **implemented: tuple[Any, ...]) -> GraphFields:
    return GraphFields({**_ALL, **implemented}, _READ_OF_ALL | _READ_OF_ROTARY | read)


GRAPH_FIELDS: Mapping[str, GraphFields] = {
    "gpt2": GraphFields({**_ALL, **_GPT2}, _READ_OF_ALL | _READ_OF_GPT2),
    "llama": _rotary(
        frozenset({"attention_bias"}),
        mlp_bias=(False,),
        rope_interleaved=(False,),
        use_sliding_window=(False,),
        partial_rotary_factor=(1,),
        **_SILU,
    ),
    "qwen2": _rotary(_READ_OF_QWEN, use_mrope=(False,), **_SILU),
    "qwen3": _rotary(_READ_OF_QWEN | {"attention_bias"}, **_SILU),
    "gemma3_text": _rotary(
        _READ_OF_GEMMA,
        hidden_activation=("gelu_pytorch_tanh",),
        attn_logit_softcapping=(None,),
        final_logit_softcapping=(None,),
    ),
}
"""The fields of each family that has a graph, by transformers' `model_type`."""
