"""The files of a prefix as PEFT reads and writes them: one tensor, and `adapter_config.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tailora.adapters.base_names import hub_name, pinned
from tailora.adapters.formats.peft_files import CONFIG_FILE, read_file
from tailora.adapters.formats.tensors import read_safetensors, read_torch, write_safetensors
from tailora.adapters.insert import PREFIX, Insert
from tailora.core.errors import AdapterError
from tailora.core.files import write_json

WEIGHTS_FILE = "adapter_model.safetensors"
TORCH_FILE = "adapter_model.bin"
PEFT_VERSION = "0.15.0"
"""The earliest version of PEFT that Tailora's adapters are written for."""

Count = Annotated[int, Field(ge=1)]


class PrefixFile(BaseModel):
    """`adapter_config.json` of prefix tuning; PEFT's other settings say how the prefix was trained.

    With `prefix_projection`, PEFT trains a network that computes the prefix, and saves the prefix itself.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    peft_type: Literal["PREFIX_TUNING"]
    num_virtual_tokens: Count
    token_dim: Count
    num_layers: Count
    num_attention_heads: Count
    num_transformer_submodules: Count | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    task_type: str | None = None


def write(insert: Insert, folder: Path) -> None:
    """Write the two files into a folder."""
    values = insert.tensors[PREFIX]
    tokens, parts, heads, width = values.shape
    base, revision = hub_name(insert.base_name)
    write_safetensors(folder / WEIGHTS_FILE, {PREFIX: values.reshape(tokens, -1)})
    settings: dict[str, Any] = {
        "peft_type": "PREFIX_TUNING",
        "peft_version": PEFT_VERSION,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
        "num_virtual_tokens": tokens,
        "token_dim": heads * width,
        "num_layers": parts // 2,
        "num_attention_heads": heads,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": heads * width,
        "prefix_projection": False,
    }
    write_json(folder / CONFIG_FILE, settings)


def read(folder: Path) -> Insert:
    """Read the two files of a folder that Tailora or PEFT wrote.

    Raises:
        AdapterError: they are damaged, or the prefix is not one of a language model.
    """
    settings = read_file(PrefixFile, folder / CONFIG_FILE)
    if settings.task_type not in (None, "CAUSAL_LM") or settings.num_transformer_submodules not in (None, 1):
        what = f"is a prefix for task_type={settings.task_type!r}, not for a causal language model"
        raise AdapterError(what, where=folder / CONFIG_FILE, hint="use it with PEFT")
    weights, torch_file = folder / WEIGHTS_FILE, folder / TORCH_FILE
    tensors = read_torch(torch_file) if torch_file.is_file() and not weights.is_file() else read_safetensors(weights)
    shape = (settings.num_virtual_tokens, settings.num_layers * 2 * settings.token_dim)
    values = tensors.get(PREFIX)
    if values is None or len(tensors) > 1 or values.shape != shape or settings.token_dim % settings.num_attention_heads:
        what = f"does not contain {PREFIX} alone, in the shape {list(shape)} that {CONFIG_FILE} describes"
        raise AdapterError(what, where=folder, hint="save the prefix again")
    width = settings.token_dim // settings.num_attention_heads
    whole = values.reshape(len(values), 2 * settings.num_layers, settings.num_attention_heads, width)
    base = settings.base_model_name_or_path
    base = base and pinned(base, settings.revision)
    return Insert("prefix", {PREFIX: whole.astype(np.float32)}, base_name=base, unknown_base_reported=True)
