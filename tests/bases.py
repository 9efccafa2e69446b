"""Tiny base models on disk for tests: random weights, a byte-level tokenizer, Hugging Face layout."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter
from tailora.adapters.config import LoraConfig
from tailora.core.files import write_json
from tailora.families import FAMILIES
from tailora.lora import inject
from tailora.models.catalog import TINY_FOLDER, resolve
from tailora.models.fingerprint import fingerprint_folder
from tailora.models.load import load_base, quiet_transformers

END = "<|endoftext|>"
META = {"linearization": "paper", "prompt_form": "arrow"}


def save_tokenizer(folder: Path) -> int:
    """Write a tokenizer of the 256 bytes and an end-of-text token; give the size of its vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {END: 0, **{letter: number for number, letter in enumerate(alphabet, start=1)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"eos_token": END, "tokenizer_class": "PreTrainedTokenizerFast"})
    return len(vocabulary)


def save_bpe(folder: Path) -> int:
    """Write the tokenizer of `tiny`, which merges bytes; give the size of its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY_FOLDER / name, folder / name)
    return 4096


SENTENCEPIECE = ("llama", "metaspace", "gemma")


def save_sentencepiece(folder: Path, kind: str = "llama", *, bos: bool = True) -> int:
    """Write a tokenizer as Llama 2, transformers 5 or Gemma lay theirs out; give the size of its vocabulary."""
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyzBSTP:|=>."]
    merges = [("▁", "n"), ("a", "m"), ("▁n", "am"), ("▁nam", "e"), ("▁", ":"), ("▁", "T"), ("▁", "▁"), ("u", "b")]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *map("".join, merges)]
    vocabulary = {word: number for number, word in enumerate(words)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if kind == "metaspace":
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        prepend = [normalizers.Prepend("▁")] if kind == "llama" else []
        inner.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(parts + ([] if kind == "gemma" else [decoders.Strip(" ", 1, 0)]))
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
        )
    folder.mkdir(parents=True, exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(folder / "tokenizer_config.json", {**names, "tokenizer_class": "PreTrainedTokenizerFast"})
    return len(words)


KINDS = tuple(kind for kind, family in FAMILIES.items() if family.openvino)
"""The families that have a graph: tests that go through several families go through these."""

_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96},
    "llama": _SHAPE,
    "qwen2": _SHAPE,
    "qwen3": _SHAPE | {"head_dim": 16},
    "gemma3_text": _SHAPE
    | {
        "head_dim": 16,
        "query_pre_attn_scalar": 12,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_theta": 500.0,
        "rope_local_base_freq": 50.0,
        "pad_token_id": 0,
    },
}


def save_base(
    folder: Path,
    kind: str = "gpt2",
    *,
    dtype: torch.dtype = torch.float32,
    tied: bool = True,
    rows: int = 0,
    tokenizer: Callable[[Path], int] = save_tokenizer,
    ends: int | list[int] = 0,
) -> Any:
    """Write a base model, with more rows than tokens if asked for, and give the network that was written."""
    key = (kind, repr(SHAPES[kind]), dtype, tied, rows, tokenizer, repr(ends))
    if key not in _BASES:
        with tempfile.TemporaryDirectory() as place:
            model = _written_base(Path(place), kind, dtype, tied, rows, tokenizer, ends)
            _BASES[key] = model, {path.name: path.read_bytes() for path in Path(place).iterdir()}
    model, files = _BASES[key]
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return copy.deepcopy(model)


_BASES: dict[Any, tuple[Any, dict[str, bytes]]] = {}
_ADAPTERS: dict[Any, Adapter] = {}
"""What was made before in this process: most tests begin with the same few."""


def _written_base(
    folder: Path,
    kind: str,
    dtype: torch.dtype,
    tied: bool,
    rows: int,
    tokenizer: Callable[[Path], int],
    ends: int | list[int],
) -> Any:
    size = max(rows, tokenizer(folder))
    tokens = {"bos_token_id": 0, "eos_token_id": ends, "tie_word_embeddings": tied}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, vocab_size=size, initializer_range=0.2, **SHAPES[kind], **tokens)
        model: Any = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if kind not in ("gpt2", "llama") and ("norm" in name or name.endswith("bias")):
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    model = model.to(dtype).eval()
    with quiet_transformers():
        model.save_pretrained(folder)
    return model


def save_adapter(folder: Path, base: str, *, config: LoraConfig | None = None, seed: int = 1, **changes: Any) -> Path:
    """Write an adapter with random values for a base, and give its folder."""
    config = config or LoraConfig(rank=4, alpha=8, targets=("attention", "mlp"))
    resolved = resolve(base)
    fingerprint = fingerprint_folder(resolved.folder)
    key = fingerprint, (resolved.folder / "config.json").read_bytes(), repr(config), seed
    if key not in _ADAPTERS:
        _ADAPTERS[key] = _random_adapter(base, config, seed)
    values = {"base_fingerprint": fingerprint, "base_name": resolved.name, "meta": META, **changes}
    formats.save(dataclasses.replace(_ADAPTERS[key], **values), folder)
    return folder


def _random_adapter(base: str, config: LoraConfig, seed: int) -> Adapter:
    model = load_base(base).model
    torch.manual_seed(seed)
    inject.attach(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or (
            torch.count_nonzero(parameter) == 0 and "lora_A" in name
        ):  # an embedding's A starts at 0
            torch.nn.init.normal_(parameter, std=0.3)
    return inject.extract(model)
