"""Adapters as llama.cpp loads them: GGUF files of the type "adapter"."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tailora.adapters.adapter import Adapter, Array, LayerAdapter, LowRank
from tailora.adapters.arithmetic import folded
from tailora.adapters.config import LoraConfig
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
    gguf = _package()
    kind = str(config.get("model_type"))
    names = _names(gguf, config)
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


def load(path: Path, config: dict[str, Any], modules: Iterable[str]) -> Adapter:
    """Read an adapter of llama.cpp's.

    Args:
        path: the .gguf file.
        config: the base's config.json.
        modules: paths of the base's layers, which llama.cpp calls otherwise.

    Raises:
        AdapterError: it cannot be read, is no adapter of such a base, or adapts what the base has not.
        MissingExtraError: the `gguf` package is not installed.
    """
    gguf = _package()
    kind, names = str(config.get("model_type")), _names(gguf, config)
    paths = {names.get_name(f"{module}.weight", try_suffixes=(".weight",)): module for module in modules}
    try:
        reader = gguf.GGUFReader(path)
        fields = ("general.type", "general.architecture", "adapter.lora.alpha")
        told = {name: field.contents() for name in fields if (field := reader.get_field(name)) is not None}
        tensors = {tensor.name: np.array(tensor.data, np.float32) for tensor in reader.tensors}
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise AdapterError("cannot be read as GGUF", where=path, mend="fetch it again") from error
    if told.get("general.type") != "adapter" or told.get("general.architecture") != kind or len(told) < len(fields):
        raise AdapterError(f"is no adapter of a {kind} model", where=path, mend="name the adapter's own base")
    layers: dict[str, LayerAdapter] = {}
    problems = []
    for name in dict.fromkeys(name.rpartition(".")[0] for name in tensors):
        a, b = tensors.get(f"{name}.lora_a"), tensors.get(f"{name}.lora_b")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or name not in paths:
            problems.append(name)
            continue
        module = paths[name]
        b = _rows(b, module, config, back=True) if kind == "llama" else b
        branch = LowRank(a, b, float(told["adapter.lora.alpha"]) / len(a))
        inside = kind == "gpt2" and not module.endswith(("wte", "wpe", "lm_head"))
        layers[module] = LayerAdapter("gpt2_conv1d" if inside else "linear", (branch,), out=len(b))
    if problems or not layers:
        what = f"has no such pair of factors as the base needs: {', '.join(problems[:3]) or 'none at all'}"
        raise AdapterError(what, where=path, mend="name the adapter's own base")
    first = next(iter(layers.values())).branches[0]
    found = LoraConfig(rank=first.rank, alpha=float(told["adapter.lora.alpha"]), targets=tuple(layers))
    return folded(Adapter(found, layers))


def _package() -> Any:
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise MissingExtraError("GGUF needs the gguf package", mend="pip install 'tailora[gguf]'") from error
    return gguf


def _names(gguf: Any, config: dict[str, Any]) -> Any:
    """What llama.cpp calls the layers of such a network."""
    kind = str(config.get("model_type"))
    architectures = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    if kind not in architectures:
        raise AdapterError(f"llama.cpp has no network of the kind {kind!r}", where="base", mend="use another format")
    blocks = int(config.get("num_hidden_layers") or config.get("n_layer") or 0)
    return gguf.get_tensor_name_map(architectures[kind], blocks)


def _rows(b: Array, module: str, config: dict[str, Any], *, back: bool = False) -> Array:
    """Rows of q and k as llama.cpp orders them: its rotary positions pair neighbours, Hugging Face's the halves.

    `back` gives them in Hugging Face's order.
    """
    heads = int(config["num_attention_heads"])
    if module.endswith("k_proj"):
        heads = int(config.get("num_key_value_heads") or heads)
    elif not module.endswith("q_proj"):
        return b
    half = len(b) // heads // 2
    parted = b.reshape(heads, *((half, 2) if back else (2, half)), b.shape[1])
    return np.ascontiguousarray(parted.swapaxes(1, 2).reshape(b.shape))
