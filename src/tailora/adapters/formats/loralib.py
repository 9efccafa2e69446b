"""Adapters as loralib's state dicts: `torch.save` of `lora_state_dict(model)`, bare or under `model_state_dict`.

Such a file holds `<module>.lora_A`, `<module>.lora_B` and perhaps biases, and nothing else: not alpha, not the slices
that a `MergedLinear` adapts, not the kinds of the layers. The caller supplies what the shapes leave open. A wrapped
file that Tailora wrote has it in a note, which other programs ignore. A file is read with `weights_only=True`, so that
no code in it runs, and all faults in it are reported in one error before anything is built.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tailora.adapters.adapter import Adapter, Floats, LayerAdapter
from tailora.adapters.config import Bias, LoraConfig, matches
from tailora.adapters.formats.loralib_layers import LoralibLayer, to_loralib
from tailora.adapters.formats.loralib_missing import Missing, layer_of, note_of, slices_of, unused, with_note
from tailora.adapters.formats.tensors import check_claims, load_torch, torch_array
from tailora.core.errors import AdapterError, MissingExtraError
from tailora.core.files import atomic_path

log = logging.getLogger(__name__)
_WRAPPER = "model_state_dict"
_NOTE = "tailora"
_GPT2_BODY = re.compile(r"(?:h\.\d+|wte|wpe|ln_f)(?:\.|$)")
_FACTOR = re.compile(r"(?:(?P<module>.*)\.)?lora_(?P<factor>[AB])")


def load(
    path: str | PathLike[str],
    *,
    alpha: float | Mapping[str, float] | None = None,
    enable_lora: Sequence[bool] | Mapping[str, Sequence[bool]] | None = None,
    fan_in_fan_out: bool | Sequence[str] | None = None,
    embeddings: Sequence[str] = (),
    kernels: Mapping[str, Sequence[int]] | None = None,
    ignore_base: bool = False,
) -> Adapter:
    """Read a loralib `.bin` or `.pt` file.

    Module paths lose the prefix `module.` of data-parallel training, and gain the prefix `transformer.` that the body
    of GPT-2 has in the model with a head.

    Args:
        path: the file.
        alpha: see `Missing`; needed unless the file carries Tailora's note.
        enable_lora: see `Missing`.
        fan_in_fan_out: see `Missing`.
        embeddings: see `Missing`.
        kernels: see `Missing`.
        ignore_base: read only the LoRA tensors of a whole model's state dict; biases are ignored too.

    Raises:
        AdapterError: the file is not such a state dict, is damaged, has wrong shapes or values that are not finite,
            would run code, or leaves open what is in `Missing`.
        MissingExtraError: without torch.
    """
    path = Path(path)
    answers = Missing(alpha, enable_lora, fan_in_fan_out, embeddings, kernels or {})
    state, note = _read(path)
    settings, origin = with_note(answers, note, path)
    faults: list[str] = []
    pairs, biases = _sort(_numbers(state, faults), ignore_base, faults)
    _raise_for(faults, path)
    layers = {}
    for module, (a, b) in pairs.items():
        try:
            layers[module] = layer_of(module, a, b, settings)
        except ValueError as error:
            faults.append(f"{module or 'the only layer'} {error}")
    faults += unused(settings, layers)
    _raise_for(faults, path)
    convolutions = {f"{module}.conv.bias": f"{module}.bias" for module, v in layers.items() if v.kind == "conv"}
    biases = {convolutions.get(name, name): bias for name, bias in biases.items()}
    config = _config(layers, biases)
    return Adapter(config, layers, biases, origin.base_fingerprint, origin.base_name, origin.meta)


def save(
    adapter: Adapter,
    path: str | PathLike[str],
    *,
    slices: Mapping[str, int] | None = None,
    wrapped: bool = False,
    prefix: str = "",
) -> dict[str, float]:
    """Write an adapter as a loralib state dict.

    Scales are folded into `lora_alpha` exactly, rank-stabilised ones too: ranks and alphas may differ by module. A
    module that is a `MergedLinear` in loralib's code is written slice by slice: where every column of B writes one
    slice, as in PEFT's dense equivalent of a slice-wise adapter, these slices are restored; any other B becomes all
    slices with A repeated. A warning is logged where `adapter.meta` is not empty and the file has no place for it.

    Args:
        adapter: what to write.
        path: the file.
        slices: the modules (patterns) that are `MergedLinear`, with the number of slices of their outputs; None means
            GPT-2's `c_attn` in 3, as in the LoRA paper's code, and `{}` none. Modules that the adapter itself adapts
            slice by slice are always written so.
        wrapped: put the state dict under `model_state_dict`, as the LoRA paper's code does, and next to it a note with
            what a loralib file lacks, so that `load` needs no arguments.
        prefix: a prefix for every key, such as "module.".

    Returns:
        The `lora_alpha` to build each module with, by module path.

    Raises:
        AdapterError: loralib cannot represent a layer, such as DoRA's, or values are not finite; all are named.
        MissingExtraError: without torch.
    """
    torch = _torch()
    written: dict[str, LoralibLayer] = {}
    faults = [] if adapter.layers else ["the adapter has no layers"]
    for module, layer in adapter.layers.items():
        try:
            written[module] = to_loralib(layer, slices_of(module, layer, slices))
        except ValueError as error:
            faults.append(f"{module} {error}")
    state: dict[str, Floats] = {}
    for module, pair in written.items():
        state |= {f"{module}.lora_A": pair.a, f"{module}.lora_B": pair.b}
    convolutions = {f"{module}.bias": f"{module}.conv.bias" for module, pair in written.items() if pair.kernel}
    state |= {convolutions.get(name, name): bias for name, bias in adapter.biases.items()}
    faults += [f"{name} contains values that are not finite" for name, v in state.items() if not np.isfinite(v).all()]
    _raise_for(faults, Path(path))
    # A copy: torch would otherwise share memory with, and save in full, whatever array a value is a view of.
    content: dict[str, Any] = {prefix + name: torch.tensor(value) for name, value in state.items()}
    if wrapped:
        content = {_WRAPPER: content, _NOTE: note_of(adapter, written)}
    elif adapter.meta:
        log.warning(
            "%s: loralib's form has no place for how the adapter was trained (%s); keep its own folder too",
            path,
            ", ".join(sorted(adapter.meta)),
        )
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
    return {module: pair.alpha for module, pair in written.items()}


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            "loralib's files are torch pickles, and torch is not installed", hint="pip install torch"
        ) from error
    return torch


def _read(path: Path) -> tuple[Mapping[Any, Any], Any]:
    """The state dict in a file, and Tailora's note if there is one."""
    torch, content = _torch(), load_torch(path)
    note = None
    if isinstance(content, Mapping) and isinstance(content.get(_WRAPPER), Mapping):
        content, note = content[_WRAPPER], content.get(_NOTE)
    if not isinstance(content, Mapping):
        raise AdapterError(f"contains a {type(content).__name__}, not a state dict", where=path)
    check_claims((value for value in content.values() if isinstance(value, torch.Tensor)), path)
    return content, note


def _numbers(state: Mapping[Any, Any], faults: list[str]) -> dict[str, Any]:
    """The tensors by module path as the base names it; faults are appended."""
    torch = _torch()
    values = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            named = isinstance(key, str)
            faults.append(
                f"{key} is a {type(value).__name__}, not a tensor" if named else f"the key {key!r} is not a string"
            )
            continue
        name = key
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if name in values:
            faults.append(f"{name} occurs twice")
        values[name] = value
    if values and all(_GPT2_BODY.match(name) for name in values):
        values = {f"transformer.{name}": value for name, value in values.items()}
    return values


def _sort(
    values: Mapping[str, Any], ignore_base: bool, faults: list[str]
) -> tuple[dict[str, tuple[Floats, Floats]], dict[str, Floats]]:
    """The factors of each module, and the biases; faults are appended."""
    factors: dict[str, dict[str, Floats]] = {}
    biases: dict[str, Floats] = {}
    foreign = []
    for name, value in values.items():
        if match := _FACTOR.fullmatch(name):
            factors.setdefault(match["module"] or "", {})[match["factor"]] = _array(name, value, 2, faults)
        elif "lora_" in name:
            faults.append(f"{name} is not a key of loralib's (name the folder of a PEFT adapter, not its file)")
        elif ignore_base:
            continue
        elif "bias" in name:
            biases[name] = _array(name, value, 1, faults)
        else:
            foreign.append(name)
    if foreign:
        faults.append(
            f"{len(foreign)} tensors do not belong to an adapter ({foreign[0]}, …): save lora_state_dict(model), or "
            "pass ignore_base=True to ignore them"
        )
    if not factors:
        faults.append("it contains no lora_A or lora_B")
    pairs = {}
    for module, pair in factors.items():
        if len(pair) == 2:
            pairs[module] = (pair["A"], pair["B"])
        else:
            faults.append(f"{module} has only lora_{next(iter(pair))}")
    return pairs, biases


def _array(name: str, tensor: Any, dimensions: int, faults: list[str]) -> Floats:
    """A tensor in float32, or an empty array and a fault."""
    try:
        if tensor.ndim != dimensions or 0 in tensor.shape:
            raise ValueError(f"has the shape {list(tensor.shape)}, not {dimensions} dimensions")
        array: Floats = torch_array(tensor).astype(np.float32, copy=False)
        if np.isfinite(array).all():
            return array
        fault = "contains values that are not finite"
    except ValueError as error:
        fault = str(error)
    faults.append(f"{name} {fault}")
    return np.zeros((1,) * dimensions, np.float32)


def _raise_for(faults: Sequence[str], path: Path) -> None:
    if faults:
        more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise AdapterError("; ".join(faults[:5]) + more, where=path)


def _config(layers: Mapping[str, LayerAdapter], biases: Mapping[str, Floats]) -> LoraConfig:
    """Settings with the layers' ranks and scales: the most common ones, and the others by module path."""
    ranks = {module: layer.branches[0].rank for module, layer in layers.items()}
    alphas = {module: layer.branches[0].scale * ranks[module] for module, layer in layers.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    # A path matches every path that ends in it; where that happens, all are listed, the longest first.
    nested = any(name != path and matches(name, path) for name in layers for path in layers)
    ordered = sorted(layers, key=len, reverse=True)
    bias: Bias = "none" if not biases else "lora_only" if set(biases) <= {f"{m}.bias" for m in layers} else "all"
    return LoraConfig(
        rank=rank,
        alpha=alpha,
        targets=tuple(layers),
        bias=bias,
        rank_pattern={module: ranks[module] for module in ordered if nested or ranks[module] != rank},
        alpha_pattern={module: alphas[module] for module in ordered if nested or alphas[module] != alpha},
    )
