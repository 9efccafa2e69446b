"""The fields of a config.json that do not affect what a network computes, so that a graph may ignore them.

`architecture` handles all others. The names are those of transformers' `PreTrainedConfig`, `GPT2Config`, `LlamaConfig`
and `GenerationConfig` from 4.56 on, and of further fields in published models.
"""

from __future__ import annotations

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
    *("temperature", "top_k", "top_p", "typical_p"),
)

WITHOUT_EFFECT = frozenset(
    (*_ABOUT_THE_FILE, *_TRAINING, *_OUTPUTS, *_TOKENS, *_OTHER_HEADS, *_GENERATION),
)
"""Fields that a graph may ignore, whatever their values."""
