"""What the tensors in a PEFT adapter are called, both ways."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tailora.adapters.formats.tensors import Tensor

PREFIX = "base_model.model."

_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+?)\."
    r"(?:(?P<embedding>lora_embedding_)(?P<ab>[AB])|lora_(?P<ab2>[AB])\.weight"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.weight)?|(?:base_layer\.)?(?P<bias>bias)|(?P<base>base_layer\.weight))"
)


@dataclass
class LayerTensors:
    """The tensors of one module, as PEFT shapes them."""

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


def sort_tensors(tensors: Mapping[str, Tensor]) -> PeftTensors:
    """Tell the tensors of a PEFT file apart by their names.

    A copy of an adapted embedding's own weight, which PEFT saves along, is passed over: it is the base's.
    """
    sorted_ = PeftTensors()
    for key, tensor in sorted(tensors.items()):
        match = _KEY.fullmatch(key)
        if match is None:
            sorted_.problems.append(f"{key} is no part of a LoRA adapter")
            continue
        if not np.isfinite(tensor).all():
            sorted_.problems.append(f"{key} holds values that are not finite")
        module = match["module"]
        if match["bias"]:
            sorted_.biases[f"{module}.bias"] = tensor
        elif not match["base"]:
            _put(sorted_.layers.setdefault(module, LayerTensors()), match, tensor)
    for module, layer in sorted_.layers.items():
        sorted_.problems += [f"{module}: {fault}" for fault in _faults(layer)]
    return sorted_


def _put(layer: LayerTensors, match: re.Match[str], tensor: Tensor) -> None:
    if match["magnitude"]:
        layer.magnitude = tensor.reshape(-1)
        return
    layer.embedding = bool(match["embedding"])
    if (match["ab"] or match["ab2"]) == "A":
        layer.a = tensor
    else:
        layer.b = tensor


def _faults(layer: LayerTensors) -> Iterable[str]:
    a, b = layer.a, layer.b
    if a is None or b is None:
        yield f"has no lora_{'A' if a is None else 'B'}"
    elif a.ndim != b.ndim or not 2 <= a.ndim <= 5 or (a.ndim > 2 and any(size != 1 for size in b.shape[2:])):
        yield f"lora_A {list(a.shape)} and lora_B {list(b.shape)} have no shapes of a layer's"
    elif 0 in a.shape or 0 in b.shape or a.shape[0] % b.shape[1] or (a.ndim == 2 and a.shape[0] != b.shape[1]):
        yield f"lora_A {list(a.shape)} and lora_B {list(b.shape)} do not fit together"
    elif layer.magnitude is not None and layer.magnitude.shape != (b.shape[0],):
        yield f"lora_magnitude_vector has {layer.magnitude.size} values for {b.shape[0]} outputs"


def name_tensors(layers: Mapping[str, LayerTensors], biases: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors the names PEFT expects them under."""
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
