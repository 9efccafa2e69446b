"""A base model ready for use: the frozen network, its tokenizer, its fingerprint. Loading runs no code from files."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers import __version__ as transformers_version
from transformers.utils import logging as transformers_logging

from tailora.core.errors import ModelError
from tailora.data.chat_template import ChatTemplate
from tailora.data.tokenizer import Tokenizer
from tailora.models.catalog import resolve
from tailora.models.config import is_quantised, read_config
from tailora.models.fingerprint import canonical_name, fingerprint_folder, fingerprint_tensors
from tailora.models.weights import StoredTensor, stored_tensors

_TORCH_DTYPE = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_STORED_DTYPE = {dtype: name for name, dtype in _TORCH_DTYPE.items()}


@dataclass(frozen=True, eq=False)
class Base:
    """A base model in memory.

    Attributes:
        model: a transformers causal language model in eval mode; nothing in it is frozen or adapted yet.
        tokenizer: its tokenizer.
        name: how adapters trained on it call it (see `catalog.Resolved.name`).
        fingerprint: SHA-256 of its weights as stored (see `models.fingerprint`).
        model_type: transformers' name of the architecture, as in config.json, such as "gpt2" or "llama".
        folder: the folder it was loaded from.
    """

    model: Any
    tokenizer: Tokenizer
    name: str
    fingerprint: str
    model_type: str
    folder: Path


def load_base(
    name_or_path: str,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Base:
    """Load a base model by catalogue name, path or hub id (see `catalog.resolve`).

    Args:
        name_or_path: the base's name, path or hub id.
        dtype: the type of its weights in memory; None keeps the stored one, but float16 becomes float32 on a CPU.
        device: the device to load it on.

    Raises:
        ModelError: it does not exist, is damaged, or has an architecture that transformers lacks.
        OfflineError: it has to be downloaded, and the hub cannot be reached.
    """
    resolved = resolve(name_or_path)
    config = read_config(resolved.folder)
    _require_known(config, resolved.folder)
    stored = stored_tensors(resolved.folder)
    tokenizer = Tokenizer.from_folder(resolved.folder)
    if dtype is None:
        dtype = _stored_dtype(resolved.folder, stored)
        if dtype == torch.float16 and torch.device(device).type == "cpu":
            dtype = torch.float32  # CPUs compute in float16 slowly, if at all
    model = (
        _unpacked_network(resolved.folder, stored, dtype)
        if is_quantised(config)
        else _load_network(resolved.folder, dtype)
    )
    _require_rows(tokenizer, model.get_input_embeddings().weight.shape[0], resolved.folder)
    return Base(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        name=resolved.name,
        fingerprint=fingerprint_folder(resolved.folder),
        model_type=config["model_type"],
        folder=resolved.folder,
    )


def outline(name_or_path: str, device: str | torch.device = "cpu") -> Base:
    """Return a base model with tensors in place of its weights, in fp32, and an empty fingerprint.

    Inside `training.pass_memory.without_values` the tensors have no values and take no memory.

    Args:
        name_or_path: the base's name, path or hub id.
        device: the device of the tensors.

    Raises:
        ModelError: the base does not exist, is damaged, or has an architecture that transformers lacks.
        OfflineError: it has to be downloaded, and the hub cannot be reached.
    """
    resolved = resolve(name_or_path)
    config = read_config(resolved.folder)
    _require_known(config, resolved.folder)
    tokenizer = Tokenizer.from_folder(resolved.folder)
    with _loading(resolved.folder, "its config.json"), torch.device(device):
        model = _network_of_config(resolved.folder, torch.float32)
    return Base(model.eval(), tokenizer, resolved.name, "", config["model_type"], resolved.folder)


def load_part(name_or_path: str, blocks: int, device: str | torch.device = "cpu") -> Base:
    """Load the first blocks of a base model and everything beside its blocks, in fp32; its fingerprint is empty.

    Args:
        name_or_path: the base's name, path or hub id.
        blocks: number of blocks; at most those of the model.
        device: the device to load it on.

    Raises:
        ModelError: the base does not exist, is damaged, or cannot be shortened.
        OfflineError: it has to be downloaded, and the hub cannot be reached.
    """
    resolved = resolve(name_or_path)
    config = read_config(resolved.folder)
    _require_known(config, resolved.folder)
    tokenizer = Tokenizer.from_folder(resolved.folder)
    shorter = _shorter_config(resolved.folder, blocks)
    if is_quantised(config):
        model = _unpacked_network(resolved.folder, stored_tensors(resolved.folder), torch.float32, shorter)
    else:
        model = _load_network(resolved.folder, torch.float32, shorter)
    return Base(model.to(device).eval(), tokenizer, resolved.name, "", config["model_type"], resolved.folder)


def _shorter_config(folder: Path, blocks: int) -> Any:
    """Return the configuration of a folder with fewer blocks; lists with an entry for each block become shorter."""
    with _loading(folder, "its config.json"):
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        count = config.num_hidden_layers
        for name, value in vars(config).copy().items():
            if isinstance(value, list) and len(value) == count:
                setattr(config, name, value[:blocks])
        config.num_hidden_layers = blocks
    return config


def _require_known(config: Mapping[str, Any], folder: Path) -> None:
    """Check that transformers itself has the code of the architecture."""
    if config["model_type"] in CONFIG_MAPPING:
        return
    if "auto_map" in config:
        why, hint = "it comes with its own code, which is never run", "use a base of an architecture in transformers"
    else:
        why, hint = f"transformers {transformers_version} does not have it", "update transformers, or use another base"
    what = f"the architecture {config['model_type']!r} cannot be loaded: {why}"
    raise ModelError(what, where=folder / "config.json", hint=hint)


def _require_rows(tokenizer: Tokenizer, rows: int, folder: Path) -> None:
    """Check that the embedding has a row for every token that a prompt or a text can contain.

    A special token that neither begins nor ends texts and is not in the chat template is in none. Gemma 3 has one for
    images, also in the tokenizers of its models without them.
    """
    beyond = tokenizer.tokens_from(rows)
    if not beyond:
        return
    template = ChatTemplate.from_folder(folder, tokenizer)
    written = "" if template is None else template.source
    needed = tokenizer.end_ids.union(tokenizer.bos_ids)
    if any(n not in tokenizer.special_ids or n in needed or token in written for n, token in beyond.items()):
        raise ModelError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, and the model only {rows}",
            where=folder,
            hint="use the tokenizer that belongs to the model",
        )


def fingerprint_module(model: nn.Module) -> str:
    """Return the fingerprint of a network in memory; it equals that of its folder if values and type are unchanged.

    Names are those of the state dict, so that the module has to be a plain causal language model without an adapter.
    """
    return fingerprint_tensors({name: _as_stored(parameter) for name, parameter in model.named_parameters()})


def _as_stored(parameter: torch.Tensor) -> StoredTensor:
    tensor = parameter.detach().cpu().contiguous()
    bits = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    return StoredTensor(_STORED_DTYPE[tensor.dtype], bits.numpy())


def _stored_dtype(folder: Path, stored: dict[str, StoredTensor]) -> torch.dtype:
    """Return the floating-point type of most of a model's stored numbers."""
    sizes: Counter[str] = Counter()
    for tensor in stored.values():
        if tensor.floating:
            sizes[tensor.dtype] += tensor.raw.size
    if not sizes:
        raise ModelError("its file contains no weights", where=folder, hint="fetch the model again")
    return _TORCH_DTYPE[sizes.most_common(1)[0][0]]


def _load_network(folder: Path, dtype: torch.dtype, config: Any = None) -> Any:
    with _loading(folder, "its config.json and weights"):
        model, report = _from_pretrained(folder, dtype, config)
    missing = sorted(report["missing_keys"])
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ModelError(f"weights are missing: {names}", where=folder, hint="fetch the model again")
    _settle_tie(model, folder)
    return model


@contextlib.contextmanager
def _loading(folder: Path, suspects: str) -> Iterator[None]:
    """Turn transformers' errors on a folder that it cannot load into one that says what to check."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError, TypeError, OSError, ImportError, StrictDataclassError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"cannot be loaded: {reason}", where=folder, hint=f"check {suspects}") from error


def _settle_tie(model: Any, folder: Path) -> None:
    """Correct the configuration where the file has its own head although config.json ties it to the embedding.

    transformers 5 keeps such a head, and a configuration that contradicts it; earlier versions drop the head.

    Raises:
        ModelError: the installed transformers dropped the head.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embedding is None or not getattr(model.config, "tie_word_embeddings", False):
        return
    if head.weight is not embedding.weight:
        model.config.tie_word_embeddings = False
        return
    kept = {canonical_name(name): tensor for name, tensor in stored_tensors(folder).items()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    own, other = kept.get("lm_head.weight"), kept.get(names[id(embedding.weight)])
    if own is not None and other is not None and not np.array_equal(own.raw, other.raw):
        raise ModelError(
            "config.json ties head and embedding, but the file has its own head, which this transformers drops",
            where=folder,
            hint="set tie_word_embeddings to false in its config.json",
        )


def _from_pretrained(folder: Path, dtype: torch.dtype, config: Any = None) -> tuple[Any, dict[str, Any]]:
    """Return the network, with fused attention if transformers has it for the architecture, and the loading report."""
    options: dict[str, Any] = {
        "dtype": dtype,
        "local_files_only": True,
        "output_loading_info": True,
        "trust_remote_code": False,
        "use_safetensors": True,
    }
    options |= {} if config is None else {"config": config}
    with quiet_transformers():
        try:
            loaded = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", **options)
        except ValueError as error:
            if "scaled_dot_product_attention" not in str(error):  # GPT-Neo, BLOOM and Gemma 2 lack it
                raise
            loaded = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", **options)
    model, report = loaded
    return model, report


def _unpacked_network(
    folder: Path, stored: dict[str, StoredTensor], dtype: torch.dtype, shorter_config: Any = None
) -> Any:
    """Return the network of an 8-bit folder with its weights widened to fp32: the same values at full size."""
    model = _network_of_config(folder, dtype, shorter_config)
    own = model.state_dict().keys()
    values = {
        name: torch.from_numpy(np.array(tensor.raw))
        for name, tensor in ((canonical_name(name), tensor) for name, tensor in stored.items())
        if shorter_config is None or name in own
    }
    missing, others = model.load_state_dict(values, strict=False)
    model.tie_weights()
    tied = set(model.all_tied_weights_keys)
    lacking = sorted(set(missing) - tied)
    if lacking or others:
        names = ", ".join([*lacking, *others][:3])
        raise ModelError(f"the weights do not fit config.json: {names}", where=folder, hint="quantise the model again")
    return model


def _network_of_config(folder: Path, dtype: torch.dtype, config: Any = None) -> Any:
    """Return a network of a folder's configuration, or of another one, whose weights are arbitrary."""
    if config is None:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with quiet_transformers():
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' progress bars and load reports; problems are raised as errors."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
