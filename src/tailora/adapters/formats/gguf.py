"""Adapters as llama.cpp loads them: GGUF files of the type "adapter", in its names and its order of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tailora.adapters.adapter import Adapter, Floats, LayerAdapter, LayerKind, LowRank
from tailora.adapters.arithmetic import folded
from tailora.adapters.config import LoraConfig
from tailora.adapters.formats.origin import Origin
from tailora.core.errors import AdapterError, MissingExtraError
from tailora.core.files import atomic_path
from tailora.families import FAMILIES, LlamaCpp, family_of, is_tied

_ORIGIN_KEY = "tailora.origin"
"""Metadata key of the adapter's origin as JSON, which llama.cpp ignores."""

EMBEDDING, HEAD = "token_embd.weight", "output.weight"


def save(adapter: Adapter, path: Path, config: dict[str, Any]) -> None:
    """Write an adapter's factors in fp32.

    Args:
        adapter: of layers that llama.cpp applies adapters to; an embedding and a head only where they are not tied.
        path: the .gguf file.
        config: the base's config.json.

    Raises:
        AdapterError: a layer, a magnitude or a bias that such a file cannot represent.
        MissingExtraError: the `gguf` package is not installed.
    """
    gguf = package()
    storage = storage_of(config)
    names = tensor_names(gguf, config)
    plain = folded(adapter)
    tensors: dict[str, Floats] = {}
    for module, layer in plain.layers.items():
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if why := _unplaced(name, layer, config):
            hint = "merge it with `tailora merge` and convert the model"
            raise AdapterError(f"llama.cpp cannot adapt {module}: {why}", hint=hint)
        (branch,) = layer.branches
        # llama.cpp scales by alpha / rank with one alpha for all layers; a layer's other scale goes into B.
        b = branch.b * np.float32(branch.rank / plain.config.alpha)
        tensors[f"{name}.lora_a"] = branch.a.T if layer.kind == "embedding" else branch.a
        tensors[f"{name}.lora_b"] = ordered_rows(b, module, config)
    with atomic_path(path) as scratch:
        writer = gguf.GGUFWriter(scratch, storage.name)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", plain.config.alpha)
        writer.add_string(_ORIGIN_KEY, Origin.of(adapter).model_dump_json())
        for name, values in tensors.items():
            writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def load(path: Path, config: dict[str, Any], modules: Iterable[str]) -> Adapter:
    """Read a GGUF adapter.

    Args:
        path: the .gguf file.
        config: the base's config.json.
        modules: module paths of the base's layers, to which llama.cpp's names are mapped back.

    Raises:
        AdapterError: it cannot be read, is not an adapter of such a base, or adapts layers that the base lacks.
        MissingExtraError: the `gguf` package is not installed.
    """
    gguf = package()
    kind, names = storage_of(config).name, tensor_names(gguf, config)
    paths = {names.get_name(f"{module}.weight", try_suffixes=(".weight",)): module for module in modules}
    try:
        reader = gguf.GGUFReader(path)
        keys = ("general.", "adapter.", _ORIGIN_KEY)
        fields = {key: field.contents() for key, field in reader.fields.items() if key.startswith(keys)}
        tensors = {stored.name: gguf.quants.dequantize(stored.data, stored.tensor_type) for stored in reader.tensors}
        alpha = float(fields.get("adapter.lora.alpha", 0.0))
        if not 0 <= alpha < float("inf"):
            raise AdapterError(f"alpha is {alpha}, not a positive number", where=path, hint="convert it again")
    except (OSError, ValueError, IndexError, KeyError, TypeError, NotImplementedError) as error:
        raise AdapterError(
            "is not a GGUF file, or is damaged", where=path, hint="convert or download it again"
        ) from error
    if fields.get("general.type") != "adapter" or fields.get("general.architecture") != kind:
        raise AdapterError(f"is not an adapter of a {kind} model", where=path, hint="name its own base with --base")
    if fields.get("adapter.type") != "lora" or fields.get("adapter.alora.invocation_tokens"):
        raise AdapterError("is not a plain LoRA adapter", where=path, hint="use one that applies to every token alike")
    layers: dict[str, LayerAdapter] = {}
    problems = []
    for name in dict.fromkeys(name.rpartition(".")[0] for name in tensors):
        a, b = tensors.get(f"{name}.lora_a"), tensors.get(f"{name}.lora_b")
        embedding = name == EMBEDDING
        a = a.T if embedding and a is not None else a
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or name not in paths:
            problems.append(name)
            continue
        module = paths[name]
        try:
            rows = ordered_rows(b, module, config, back=True)
        except ValueError:  # a number of rows that the heads do not divide
            problems.append(name)
            continue
        # Without an alpha, or with one of 0, llama.cpp applies the factors as they are.
        branch = LowRank(np.ascontiguousarray(a), rows, alpha / len(a) if alpha else 1.0)
        plain: LayerKind = "gpt2_conv1d" if kind == "gpt2" and module != "lm_head" else "linear"
        layers[module] = LayerAdapter("embedding" if embedding else plain, (branch,), out=len(b))
    if problems or not layers:
        names = f"does not fit the base's layers: {', '.join(problems[:3])}" if problems else "contains no factors"
        raise AdapterError(names, where=path, hint="name the adapter's own base with --base")
    first = next(iter(layers.values())).branches[0]
    settings = LoraConfig(rank=first.rank, alpha=alpha or float(first.rank), targets=tuple(layers))
    origin = Origin.read(fields.get(_ORIGIN_KEY), path)
    return folded(Adapter(settings, layers, {}, origin.base_fingerprint, origin.base_name, origin.meta))


def package() -> Any:
    """Return the `gguf` package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise MissingExtraError("GGUF needs the gguf package", hint="pip install 'tailora[gguf]'") from error
    return gguf


def storage_of(config: Mapping[str, Any]) -> LlamaCpp:
    """How llama.cpp stores the base."""
    kind = str(config.get("model_type"))
    if (storage := family_of(kind).llama_cpp) is None:
        known = ", ".join(name for name, family in FAMILIES.items() if family.llama_cpp)
        raise AdapterError(
            f"Tailora does not know how llama.cpp stores the weights of {kind!r}, only of {known}",
            where="base",
            hint="merge it with `tailora merge` and convert the model with llama.cpp's own program",
        )
    return storage


def tensor_names(gguf: Any, config: Mapping[str, Any]) -> Any:
    """Return llama.cpp's names of the layers of such a network."""
    name = storage_of(config).name
    number = next((number for number, known in gguf.MODEL_ARCH_NAMES.items() if known == name), None)
    if number is None:
        raise AdapterError(f"the installed gguf package does not know {name!r}", where="base", hint="update gguf")
    blocks = int(config.get("num_hidden_layers") or config.get("n_layer") or 0)
    return gguf.get_tensor_name_map(number, blocks)


def _unplaced(name: str | None, layer: LayerAdapter, config: Mapping[str, Any]) -> str | None:
    """Return why llama.cpp would refuse or ignore a layer's factors; None if it applies them."""
    if name is None or layer.kind == "conv":
        return "it has no such layer"
    if (layer.kind == "embedding") != (name == EMBEDDING):
        return "of all embeddings it adapts only that of tokens"
    if name in (EMBEDDING, HEAD) and is_tied(config):
        return "it stores a tied head and embedding as one tensor"
    return None


def ordered_rows(b: Floats, module: str, config: Mapping[str, Any], *, back: bool = False) -> Floats:
    """Return rows, those of a layer's outputs, in llama.cpp's order; `back` takes them from there to transformers'."""
    order = storage_of(config).rows
    heads = int(config.get("num_attention_heads") or config.get("n_head") or 0)
    if order == "rotary pairs" and module.endswith(("q_proj", "k_proj")):
        if module.endswith("k_proj"):
            heads = int(config.get("num_key_value_heads") or heads)
        shape, swapped = (1, heads, 2, -1), (2, 3)
    elif order == "stacked" and module.endswith("query_key_value"):
        shape, swapped = (1, heads, 3, -1), (1, 2)
    else:
        return b
    places = np.arange(len(b)).reshape(shape).swapaxes(*swapped).reshape(-1)
    return np.ascontiguousarray(b[np.argsort(places)] if back else b[places])
