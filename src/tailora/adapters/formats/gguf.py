"""Adapters as llama.cpp loads them: GGUF files of the type "adapter". Written only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tailora.adapters.adapter import Adapter, Array
from tailora.adapters.arithmetic import folded
from tailora.errors import AdapterError, MissingExtraError
from tailora.files import atomic_path


def save(adapter: Adapter, path: Path, config: dict[str, Any]) -> None:
    """Write an adapter's factors in fp32, under llama.cpp's names and in its order of rows.

    Args:
        adapter: of linear layers of a network that llama.cpp has.
        path: the .gguf file.
        config: the base's config.json.

    Raises:
        AdapterError: a layer, a magnitude or a bias that such a file has no place for.
        MissingExtraError: the `gguf` package is not installed.
    """
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise MissingExtraError("writing GGUF needs the gguf package", mend="pip install 'tailora[gguf]'") from error

    kind = str(config.get("model_type"))
    architectures = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    if kind not in architectures:
        raise AdapterError(f"llama.cpp has no network of the kind {kind!r}", where="base", mend="use another format")
    blocks = int(config.get("num_hidden_layers") or config.get("n_layer") or 0)
    names = gguf.get_tensor_name_map(architectures[kind], blocks)
    plain = folded(adapter)
    tensors: dict[str, Array] = {}
    for module, layer in plain.layers.items():
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if name is None or layer.kind not in ("linear", "gpt2_conv1d"):
            mend = "merge it with `tailora merge` and convert the model"
            raise AdapterError(f"adapts {module}, for which llama.cpp's adapters have no place", mend=mend)
        (branch,) = layer.branches
        # Its scale is alpha / rank with one alpha for all layers: what differs from that goes into B.
        b = branch.b * np.float32(branch.rank / plain.config.alpha)
        tensors[f"{name}.lora_a"] = branch.a
        tensors[f"{name}.lora_b"] = _rows(b, module, config) if kind == "llama" else b
    with atomic_path(path) as scratch:
        writer = gguf.GGUFWriter(scratch, kind)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", plain.config.alpha)
        for name, values in tensors.items():
            writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _rows(b: Array, module: str, config: dict[str, Any]) -> Array:
    """Rows of q and k as llama.cpp orders them: its rotary positions pair neighbours, Hugging Face's the halves."""
    heads = int(config["num_attention_heads"])
    if module.endswith("k_proj"):
        heads = int(config.get("num_key_value_heads") or heads)
    elif not module.endswith("q_proj"):
        return b
    halves = b.reshape(heads, 2, len(b) // heads // 2, b.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(b.shape))
