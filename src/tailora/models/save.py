"""A network and its tokenizer written as a model folder, whole or quantised."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from tailora.core.files import write_json
from tailora.families import family_of
from tailora.models.config import QUANTIZATION_METHOD, read_config
from tailora.models.load import Base, quiet_transformers
from tailora.models.rounding import packed
from tailora.models.settings import QuantizedType
from tailora.models.weights import INDEX_FILE, PACKED_FILE, stored_tensors, weight_files

SMALLEST_SIDE = 32
"""Rows and columns from which a matrix is rounded to 8 bits; smaller ones keep their type."""
_DTYPE = {"int8": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# The files that a tokenizer, its chat templates and its end-of-text tokens are read from.
TEXT_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
    *("added_tokens.json", "chat_template.jinja", "additional_chat_templates/*.jinja", "generation_config.json"),
)


def save_model(base: Base, folder: Path, values: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write a plain network (without an adapter) and its tokenizer in Hugging Face layout into an existing folder.

    The tokenizer's files, its chat templates and generation_config.json are copied unchanged, so that the folder
    begins and ends texts as the base does.

    Args:
        base: the base.
        folder: the folder.
        values: the values of the parameters by name, by default the network's own. A parameter that is used in two
            places has one name.
    """
    state = None if values is None else dict(values)
    with quiet_transformers():
        base.model.save_pretrained(folder, safe_serialization=True, state_dict=state)
    for pattern in TEXT_FILES:
        for source in sorted(base.folder.glob(pattern)):
            target = folder / source.relative_to(base.folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
    if not (folder / "tokenizer.json").is_file():
        base.tokenizer.save(folder)


def save_quantized(base: Base, folder: Path, to: QuantizedType) -> None:
    """Write a plain network and its tokenizer, in fewer bits, into an existing folder.

    Args:
        base: the base; its network is converted in place.
        folder: the folder, empty.
        to: "bf16" and "fp16" are the types of all numbers, in files that transformers reads. "int8" rounds matrices,
            the token embedding included, to 8 bits with one scale per output (`models.rounding`); norms, biases,
            learnt positions and small matrices stay in fp32.
    """
    base.model.to(_DTYPE[to])
    save_model(base, folder)
    if to != "int8":
        return
    conv1d = family_of(base.model_type).gpt2_conv1d
    tensors: dict[str, Any] = {}
    for name, tensor in stored_tensors(folder).items():
        values, module = np.array(tensor.raw), name.removesuffix(".weight").rpartition(".")[2]
        if values.ndim != 2 or min(values.shape) < SMALLEST_SIDE or not name.endswith(".weight") or module == "wpe":
            tensors[name] = values
            continue
        parts = packed(values, outputs_first=not conv1d or module in ("wte", "lm_head"))
        tensors |= dict(zip((name, f"{name}.scale", f"{name}.zero"), parts, strict=True))
    del tensor  # a view of its file, which Windows would not delete
    for path in [*weight_files(folder), folder / INDEX_FILE]:
        path.unlink(missing_ok=True)
    save_file(tensors, folder / PACKED_FILE, metadata={"format": "pt"})
    quantization = {"quantization_config": {"quant_method": QUANTIZATION_METHOD, "bits": 8}}
    write_json(folder / "config.json", read_config(folder) | quantization)
