"""Whole models as GGUF files for llama.cpp and Ollama, written from a folder in Hugging Face layout. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tailora.adapters.base_names import hub_name, is_hub_id
from tailora.adapters.formats.gguf import ordered_rows, package, storage_of, tensor_names
from tailora.core.errors import AdapterError, ModelError
from tailora.core.files import atomic_path
from tailora.data.prompts import PromptFormat
from tailora.engine.architecture import Architecture, architecture_of
from tailora.engine.arrays import Floats
from tailora.models.catalog import Resolved
from tailora.models.config import read_config
from tailora.models.fingerprint import canonical_name
from tailora.models.gguf_tokenizer import read_tokenizer
from tailora.models.weights import stored_tensors, widened

GgufType = Literal["f32", "f16", "q8_0"]
"""Type of the matrices in a GGUF file."""

_HINT = "convert the merged folder of `tailora merge` with llama.cpp's own program"
_LICENCE = re.compile(r"\A---\n(?:.*\n)*?license:[ \t]*([\w.-]+)[ \t]*\n(?:.*\n)*?---")
_GEMMA_PATTERN, _GEMMA_LOCAL_BASE = 6, 1e4  # constants of llama.cpp


def write_gguf(folder: Path, path: Path, to: GgufType, prompts: PromptFormat, base: Resolved) -> dict[str, Any]:
    """Write a model as a GGUF file.

    Norms, biases and learnt positions are written in fp32, and so are matrices that the type cannot hold.

    Args:
        folder: the model, in Hugging Face layout.
        path: the .gguf file to write.
        to: type of the matrices.
        prompts: the prompts that it was trained on; the token that ends their texts ends a text.
        base: the base model, for the metadata.

    Returns:
        The file, the architecture, the type, and the number of tensors and of bytes.

    Raises:
        ModelError: llama.cpp's form of the family cannot express the model or its tokenizer.
        MissingExtraError: the package gguf is not installed.
    """
    gguf = package()
    config = read_config(folder)
    architecture, kind = _architecture(config, base.name), _kind(config)
    with atomic_path(path) as scratch:
        writer = gguf.GGUFWriter(scratch, kind)
        _describe(writer, to, base, gguf)
        _add_shape(writer, architecture)
        _add_tokenizer(writer, folder, architecture, prompts)
        count = _add_tensors(writer, gguf, folder, config, architecture, to)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return {"output": str(path), "architecture": kind, "type": to, "tensors": count, "bytes": path.stat().st_size}


def _kind(config: Mapping[str, Any]) -> str:
    try:
        return storage_of(config).name
    except AdapterError as error:
        raise ModelError(error.what, where="base", hint=_HINT) from error


def _architecture(config: Mapping[str, Any], base: str) -> Architecture:
    """Read the configuration, and refuse what llama.cpp computes otherwise or not at all."""
    try:
        read = architecture_of(config)
    except ModelError as error:
        what = f"cannot be written as GGUF: {error.what}"
        raise ModelError(what, where=base, hint=_HINT) from error
    reason = None
    if read.model_type != "gpt2" and read.biased != (frozenset("qkv") if read.model_type == "qwen2" else frozenset()):
        reason = "its attention has biases that llama.cpp does not load"
    if read.model_type == "gemma3_text":
        local = [bool((block + 1) % _GEMMA_PATTERN) for block in range(read.layers)]
        thetas = {theta for theta, window in zip(read.rope_thetas, read.windows, strict=True) if window}
        if local != [window > 0 for window in read.windows] or len({*read.windows} - {0}) > 1:
            reason = f"llama.cpp has a window in all blocks but every {_GEMMA_PATTERN}th"
        elif thetas - {_GEMMA_LOCAL_BASE}:
            reason = f"llama.cpp has the rotary base {_GEMMA_LOCAL_BASE:g} in blocks with a window"
        elif read.attention_scale != read.head_dim**-0.5:
            reason = "llama.cpp scales attention by the width of a head, and query_pre_attn_scalar is another"
    elif any(read.windows):
        reason = "llama.cpp attends to all tokens in this family, and the model to a window"
    if reason is not None:
        raise ModelError(f"cannot be written as GGUF: {reason}", where=base, hint="serve it with Tailora")
    return read


def _describe(writer: Any, to: GgufType, base: Resolved, gguf: Any) -> None:
    writer.add_type("model")
    writer.add_name(f"{Path(base.name).name} with an adapter")
    types = gguf.LlamaFileType
    kinds = {"f32": types.ALL_F32, "f16": types.MOSTLY_F16, "q8_0": types.MOSTLY_Q8_0}
    writer.add_file_type(kinds[to])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    card = base.folder / "README.md"
    licence = _LICENCE.match(card.read_text(encoding="utf-8")) if card.is_file() else None
    if licence is not None:
        writer.add_license(licence[1])
    on_hub, revision = hub_name(base.name)
    writer.add_base_model_count(1)
    if on_hub is not None and is_hub_id(on_hub):
        organisation, _, model = on_hub.partition("/")
        writer.add_base_model_name(0, model)
        writer.add_base_model_organization(0, organisation)
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{on_hub}")
    else:
        writer.add_base_model_name(0, Path(base.name).name)
    if revision is not None:
        writer.add_base_model_version(0, revision)


def _add_shape(writer: Any, shape: Architecture) -> None:
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_vocab_size(shape.vocabulary)
    if shape.model_type == "gpt2":
        writer.add_layer_norm_eps(shape.epsilon)
        return
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    full = [theta for theta, window in zip(shape.rope_thetas, shape.windows, strict=True) if not window]
    if full:
        writer.add_rope_freq_base(full[0])
    if any(shape.windows):
        writer.add_sliding_window(max(shape.windows))


def _add_tokenizer(writer: Any, folder: Path, shape: Architecture, prompts: PromptFormat) -> None:
    tokenizer = read_tokenizer(folder, shape.vocabulary)
    own = prompts.tokenizer
    writer.add_tokenizer_model("llama" if tokenizer.pre is None else "gpt2")
    writer.add_tokenizer_pre(tokenizer.pre or "default")
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    if tokenizer.pre is None:
        writer.add_token_scores(tokenizer.scores)
        writer.add_add_space_prefix(tokenizer.spaced)
        writer.add_unk_token_id(tokenizer.unknown)
    else:
        writer.add_token_merges(tokenizer.merges)
    writer.add_bos_token_id(own.bos_ids[0] if own.bos_ids else prompts.end)
    writer.add_add_bos_token(bool(own.bos_ids))
    writer.add_add_eos_token(False)
    writer.add_eos_token_id(prompts.end)
    others = sorted(own.end_ids - {prompts.end})
    if others:
        writer.add_eot_token_id(others[0])
    if prompts.template is not None:
        writer.add_chat_template(prompts.template.source)


def _add_tensors(
    writer: Any, gguf: Any, folder: Path, config: Mapping[str, Any], shape: Architecture, to: GgufType
) -> int:
    names = tensor_names(gguf, config)
    tensors = {canonical_name(name): tensor for name, tensor in stored_tensors(folder).items()}
    if shape.tied:
        tensors.pop("lm_head.weight", None)
    for name, tensor in tensors.items():
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ModelError(f"llama.cpp has no place for the tensor {name}", where="base", hint=_HINT)
        module = name.rpartition(".")[0]
        values = ordered_rows(_as_stored(widened(tensor), name, shape), module, dict(config))
        if not np.isfinite(values).all():
            raise ModelError(f"{name} has numbers that are not finite", where="base", hint="train the model again")
        kept = values.ndim < 2 or theirs.startswith("position_embd")
        data, kind = _typed(values, "f32" if kept else to, gguf)
        writer.add_tensor(theirs, data, raw_dtype=kind)
    return len(tensors)


def _as_stored(values: Floats, name: str, shape: Architecture) -> Floats:
    """Return a weight as llama.cpp computes with it: outputs first, and norms as they are multiplied."""
    if shape.model_type == "gpt2" and values.ndim == 2 and ".h." in name:
        return np.ascontiguousarray(values.T)  # Conv1D
    if name.endswith("norm.weight"):
        return values + np.float32(shape.norm_offset)
    return values


def _typed(values: Floats, to: GgufType, gguf: Any) -> tuple[Any, Any]:
    types = gguf.GGMLQuantizationType
    if to == "q8_0" and values.shape[-1] % gguf.GGML_QUANT_SIZES[types.Q8_0][0] == 0:
        return gguf.quants.quantize(values, types.Q8_0), types.Q8_0
    if to == "f16" and np.abs(values).max() <= np.finfo(np.float16).max:
        return values.astype(np.float16), types.F16
    return values, types.F32
