"""The names of the tensors in a PEFT adapter, read and written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tailora.adapters.formats.tensors import Tensor

PREFIX = "base_model.model."
MERGE = "merge it with PEFT (on its base, merge_and_unload, save_pretrained), and name that folder as --base"
"""The hint for whatever changes the base in another way than LoRA does."""

_NAME = r"(?:\.(?P<adapter{}>(?!weight$)[^.]+))?"  # of the adapter, which PEFT leaves out of files and others do not
_KEY = re.compile(
    r"(?P<module>.+?)\."
    rf"(?:(?P<embedding>lora_embedding_)(?P<ab>[AB]){_NAME.format(1)}|lora_(?P<ab2>[AB]){_NAME.format(2)}\.weight"
    rf"|(?P<magnitude>lora_magnitude_vector){_NAME.format(3)}(?:\.weight)?"
    r"|(?:base_layer\.)?(?P<bias>bias)|(?P<base>base_layer\.weight))"
)
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Steps that torch.compile, FSDP and activation checkpointing add to a path; the layer is the same."""


@dataclass
class LayerTensors:
    """The tensors of one module, as PEFT shapes them.

    Attributes:
        a: lora_A.
        b: lora_B.
        magnitude: DoRA's.
        embedding: whether A and B are an embedding's.
    """

    a: Tensor | None = None
    b: Tensor | None = None
    magnitude: Tensor | None = None
    embedding: bool = False


@dataclass
class PeftTensors:
    """The tensors of a whole adapter by module path, biases by parameter name, and what is wrong with them."""

    layers: dict[str, LayerTensors] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def bare_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their paths in the base: without PEFT's prefix, once or twice, and those of wrappers around the base.

    Raises:
        ValueError: two of them are the same path.
    """
    keys = {key: ".".join(step for step in key.split(".") if step not in _WRAPPERS) for key in tensors}
    # In any order and number, but only prefixes of all keys: a network may have a part called "module".
    while keys and (prefix := _common_prefix(keys.values())):
        keys = {key: bare.removeprefix(prefix) for key, bare in keys.items()}
    if len(set(keys.values())) < len(keys):
        twice = next(bare for bare in keys.values() if list(keys.values()).count(bare) > 1)
        raise ValueError(f"{twice} occurs twice")
    return {bare: tensors[key] for key, bare in keys.items()}


def _common_prefix(names: Iterable[str]) -> str | None:
    return next((prefix for prefix in (PREFIX, "module.") if all(name.startswith(prefix) for name in names)), None)


def sort_tensors(tensors: Mapping[str, Tensor], slices: Sequence[bool] | None = None) -> PeftTensors:
    """Sort the tensors of a PEFT file by module and role.

    A copy of an adapted embedding's own weight, which PEFT saves too, is ignored: it is the base's.

    Args:
        tensors: by the names in the file.
        slices: `enable_lora` of PEFT before 0.3, whose B is a grouped convolution; None for any other file.
    """
    sorted_ = PeftTensors()
    names = set()
    try:
        bare = bare_names(tensors)
    except ValueError as error:
        sorted_.problems.append(str(error))
        return sorted_
    for key, tensor in sorted(bare.items()):
        match = _KEY.fullmatch(key)
        if match is None:
            sorted_.problems.append(_foreign(key, tensor))
            continue
        names.add(match["adapter1"] or match["adapter2"] or match["adapter3"])
        if not np.isfinite(tensor).all():
            sorted_.problems.append(f"{key} contains values that are not finite")
        module = match["module"]
        if match["bias"]:
            sorted_.biases[f"{module}.bias"] = tensor
        elif not match["base"]:
            _put(sorted_.layers.setdefault(module, LayerTensors()), match, tensor)
    if len(several := sorted(names - {None})) > 1:
        sorted_.problems.append(f"contains several adapters ({', '.join(several)}); save one of them")
    for module, layer in sorted_.layers.items():
        sorted_.problems += [f"{module}: {fault}" for fault in _faults(layer, slices)]
    return sorted_


def _foreign(key: str, tensor: Tensor) -> str:
    if key.endswith((".weight", ".modules_to_save.weight")) and "lora_" not in key and tensor.ndim > 1:
        return (
            f"{key} {list(tensor.shape)} is a whole weight, which PEFT saves for a resized vocabulary or a module "
            f"trained in full; {MERGE}"
        )
    if key.endswith(("trainable_tokens_delta", "lora_B.bias")):
        return f"Tailora has no equivalent for {key}; {MERGE}"
    return f"{key} is not part of a LoRA adapter"


def _put(layer: LayerTensors, match: re.Match[str], tensor: Tensor) -> None:
    if match["magnitude"]:
        layer.magnitude = tensor.reshape(-1)
        return
    layer.embedding = bool(match["embedding"])
    if (match["ab"] or match["ab2"]) == "A":
        layer.a = tensor
    else:
        layer.b = tensor


def _faults(layer: LayerTensors, slices: Sequence[bool] | None) -> Iterable[str]:
    a, b = layer.a, layer.b
    if a is None or b is None:
        yield f"has no lora_{'A' if a is None else 'B'}"
    elif slices is not None:
        adapted = sum(slices)
        if a.ndim != 2 or b.ndim != 3 or 0 in a.shape or len(a) != adapted * b.shape[1] or len(b) % max(adapted, 1):
            yield f"lora_A {list(a.shape)} and lora_B {list(b.shape)} do not fit enable_lora {list(slices)}"
    elif a.ndim != b.ndim or not 2 <= a.ndim <= 5 or (a.ndim > 2 and any(size != 1 for size in b.shape[2:])):
        yield f"lora_A {list(a.shape)} and lora_B {list(b.shape)} are not the shapes of a layer"
    elif 0 in a.shape or 0 in b.shape or a.shape[0] % b.shape[1] or (a.ndim == 2 and a.shape[0] != b.shape[1]):
        yield f"lora_A {list(a.shape)} and lora_B {list(b.shape)} do not fit together"
    elif layer.magnitude is not None and layer.magnitude.shape != (b.shape[0],):
        yield f"lora_magnitude_vector has {layer.magnitude.size} values for {b.shape[0]} outputs"


def name_tensors(layers: Mapping[str, LayerTensors], biases: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names that PEFT expects."""
    named: dict[str, Tensor] = {}
    for module, layer in layers.items():
        assert layer.a is not None
        assert layer.b is not None
        a_name, b_name = (
            ("lora_embedding_A", "lora_embedding_B") if layer.embedding else ("lora_A.weight", "lora_B.weight")
        )
        named[f"{PREFIX}{module}.{a_name}"] = layer.a
        named[f"{PREFIX}{module}.{b_name}"] = layer.b
        if layer.magnitude is not None:
            shape = (1, -1, *[1] * (layer.a.ndim - 2)) if layer.a.ndim > 2 else (-1,)
            named[f"{PREFIX}{module}.lora_magnitude_vector"] = layer.magnitude.reshape(shape)
    for name, bias in biases.items():
        module = name.removesuffix(".bias")
        place = f"{module}.base_layer.bias" if module in layers else name
        named[PREFIX + place] = bias
    return named
