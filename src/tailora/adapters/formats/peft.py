"""Adapter folders as the Hugging Face PEFT library reads and writes them, with `tailora.json` beside its two files.

What PEFT cannot represent is written as the exact dense equivalent, and `tailora.json` describes the original: slices
of rank r on q and v become one pair of rank 2r with alpha doubled and B in blocks. Where there is no equivalent,
reading or writing is an error. A folder without `tailora.json` was written by another program: it is read, its base is
unknown, and one warning is logged.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import tailora
from tailora.adapters.adapter import Adapter, LayerAdapter, LayerKind, LowRank
from tailora.adapters.base_names import hub_name, pinned
from tailora.adapters.config import LoraConfig
from tailora.adapters.formats import draft_file, model_card
from tailora.adapters.formats.peft_files import (
    CONFIG_FILE,
    TAILORA_FILE,
    BranchRecord,
    LayerRecord,
    PeftFile,
    TailoraFile,
    read_file,
)
from tailora.adapters.formats.peft_keys import LayerTensors, PeftTensors, name_tensors, sort_tensors
from tailora.adapters.formats.tensors import Tensor, read_safetensors, read_torch, write_safetensors
from tailora.core.errors import AdapterError, SettingsError
from tailora.core.files import atomic_folder, write_json, write_text

WEIGHTS_FILE = "adapter_model.safetensors"
TORCH_FILE = "adapter_model.bin"

PEFT_VERSION = "0.15.0"
"""The earliest version of PEFT whose adapters of these settings have exactly this form."""

logger = logging.getLogger(__name__)


def save(adapter: Adapter, folder: Path) -> None:
    """Write an adapter folder, whole or not at all; an existing folder of that name is replaced.

    Args:
        adapter: the adapter.
        folder: the folder; its parents are created.

    Raises:
        AdapterError: the adapter is empty, contains values that are not finite, or cannot be represented by PEFT.
    """
    problems = list(_unwritable(adapter))
    if problems:
        raise AdapterError("; ".join(problems[:8]), where=folder)
    layers = {name: _to_peft(layer) for name, layer in adapter.layers.items()}
    with atomic_folder(folder) as temporary:
        write_safetensors(temporary / WEIGHTS_FILE, name_tensors(layers, adapter.biases))
        write_json(temporary / CONFIG_FILE, _peft_settings(adapter, layers))
        write_json(temporary / TAILORA_FILE, _tailora_record(adapter))
        write_text(temporary / model_card.FILE, model_card.model_card(adapter))
        if adapter.drafts is not None:
            draft_file.write(adapter.drafts, temporary)


def load(folder: Path) -> Adapter:
    """Read an adapter folder that Tailora or PEFT wrote.

    Args:
        folder: holds `adapter_config.json` and `adapter_model.safetensors`, or `adapter_model.bin` if only that exists.

    Returns:
        The adapter, tensors widened to fp32; exactly what was saved where `tailora.json` is there.

    Raises:
        AdapterError: the folder is not an adapter, is damaged, or holds something that Tailora cannot represent; all
            problems of the tensors are in one message.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        hint = "name the folder that contains it, or a run directory"
        raise AdapterError(f"is not an adapter folder: it has no {CONFIG_FILE}", where=folder, hint=hint)
    settings = read_file(PeftFile, folder / CONFIG_FILE)
    unsupported, way_out = settings.unsupported()
    if unsupported:
        what = f"Tailora has no equivalent for {', '.join(unsupported[:8])}"
        raise AdapterError(what, where=folder / CONFIG_FILE, hint=way_out)
    weights = folder / WEIGHTS_FILE
    torch_file = folder / TORCH_FILE
    tensors = read_torch(torch_file) if torch_file.is_file() and not weights.is_file() else read_safetensors(weights)
    by_layer = sort_tensors(tensors, settings.slices)
    if not by_layer.layers and not by_layer.problems:
        by_layer.problems.append("contains no LoRA tensors")
    _raise_problems(by_layer.problems, folder)
    if (folder / TAILORA_FILE).is_file():
        saved = _as_saved(by_layer, read_file(TailoraFile, folder / TAILORA_FILE), folder / TAILORA_FILE)
        return replace(saved, drafts=draft_file.read(folder))
    logger.warning("%s was not written by Tailora: its base is unknown, so only shapes are checked", folder)
    return replace(_as_peft(by_layer, settings, folder), drafts=draft_file.read(folder))


def _unwritable(adapter: Adapter) -> list[str]:
    problems = [] if adapter.layers else ["the adapter has no layers"]
    for name, layer in adapter.layers.items():
        tensors = [tensor for branch in layer.branches for tensor in (branch.a, branch.b)]
        tensors += [] if layer.magnitude is None else [layer.magnitude]
        if not all(np.isfinite(tensor).all() for tensor in tensors):
            problems.append(f"{name} contains values that are not finite")
        if len(layer.branches) != 1 and layer.kind not in ("linear", "gpt2_conv1d"):
            problems.append(f"{name} is a {layer.kind} layer with {len(layer.branches)} branches")
        if _groups(layer.branches[0].a, layer.branches[0].b) > 1 and layer.magnitude is not None:
            problems.append(f"{name}: PEFT has no DoRA for grouped convolutions")
    problems += [
        f"{name} contains values that are not finite" for name, b in adapter.biases.items() if not np.isfinite(b).all()
    ]
    if len({layer.magnitude is None for layer in adapter.layers.values()}) > 1:
        problems.append("PEFT has DoRA on all layers or on none, and this adapter has it on some")
    return problems


def _to_peft(layer: LayerAdapter) -> LayerTensors:
    """One dense pair, at the first branch's scale, with the update of all branches."""
    first = layer.branches[0]
    embedding = layer.kind == "embedding"
    if len(layer.branches) == 1 and first.rows is None:
        return LayerTensors(_spread_groups(first.a, first.b), first.b, layer.magnitude, embedding)
    a = np.concatenate([branch.a for branch in layer.branches])
    # A folded scale is stored in fp64, from which the fp32 factor is restored exactly.
    folded = any(branch.scale != first.scale for branch in layer.branches)
    b = np.zeros((layer.out_features, a.shape[0]), np.float64 if folded else np.float32)
    done = 0
    for branch in layer.branches:
        low, high = branch.rows or (0, layer.out_features)
        b[low:high, done : done + branch.rank] = (
            branch.b * np.float64(branch.scale / first.scale) if folded else branch.b
        )
        done += branch.rank
    return LayerTensors(a, b, layer.magnitude, embedding)


def _peft_settings(adapter: Adapter, layers: Mapping[str, LayerTensors]) -> dict[str, Any]:
    config = adapter.config
    ranks = {name: _rank(layer) for name, layer in layers.items()}
    root = {name: math.sqrt(rank) if config.rslora else rank for name, rank in ranks.items()}
    alphas = {name: _plain(adapter.layers[name].branches[0].scale * root[name]) for name in layers}
    rank, alpha = _commonest(ranks.values()), _commonest(alphas.values())
    base, revision = hub_name(adapter.base_name)
    return {
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        # For this task PEFT calls methods of causal language models that other networks lack.
        "task_type": None if adapter.base_name is None else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(layers),
        "bias": config.bias if config.bias != "none" or not adapter.biases else "all",
        "use_rslora": config.rslora,
        "use_dora": any(layer.magnitude is not None for layer in layers.values()),
        "fan_in_fan_out": any(layer.kind == "gpt2_conv1d" for layer in adapter.layers.values()),
        "rank_pattern": {_pattern(name, ranks): own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {_pattern(name, alphas): own for name, own in alphas.items() if own != alpha},
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def _tailora_record(adapter: Adapter) -> dict[str, Any]:
    layers = {
        name: LayerRecord(
            kind=layer.kind,
            out=layer.out,
            branches=[BranchRecord(rank=b.rank, scale=b.scale, rows=b.rows) for b in layer.branches],
        ).model_dump(mode="json")
        for name, layer in adapter.layers.items()
    }
    return {
        "format": 1,
        "tailora": tailora.__version__,
        "base_fingerprint": adapter.base_fingerprint,
        "base_name": adapter.base_name,
        "content_hash": adapter.content_hash,
        "config": asdict(adapter.config),
        "meta": dict(adapter.meta),
        "layers": layers,
    }


def _as_saved(stored: PeftTensors, record: TailoraFile, path: Path) -> Adapter:
    """The adapter as it was saved.

    Raises:
        AdapterError: tensors and record are not from the same save.
    """
    changed = AdapterError(
        "the folder's tensors are not those that it was written with",
        where=path,
        hint="restore the folder, or remove this file to read it as a plain PEFT adapter",
    )
    if stored.layers.keys() != record.layers.keys():
        raise changed
    layers = {}
    for name, layer in record.layers.items():
        tensors = stored.layers[name]
        if sum(branch.rank for branch in layer.branches) != _rank(tensors):
            raise changed
        out = _factors(tensors)[1].shape[0]
        if any(branch.rows and not 0 <= branch.rows[0] < branch.rows[1] <= out for branch in layer.branches):
            raise AdapterError(f"{name}: rows outside the layer's {out} outputs", where=path)
        layers[name] = _from_record(tensors, layer)
    adapter = Adapter(
        config=record.config,
        layers=layers,
        biases=_narrowed(stored.biases),
        base_fingerprint=record.base_fingerprint,
        base_name=record.base_name,
        meta=record.meta,
    )
    if adapter.content_hash != record.content_hash:
        raise changed
    return adapter


def _from_record(tensors: LayerTensors, record: LayerRecord) -> LayerAdapter:
    a, b = _factors(tensors)
    magnitude = None if tensors.magnitude is None else tensors.magnitude.astype(np.float32)
    first = record.branches[0]
    if len(record.branches) == 1 and first.rows is None:
        branch = LowRank(_gather_groups(a, b), b.astype(np.float32), first.scale)
        return LayerAdapter(record.kind, (branch,), magnitude, record.out)
    branches, done = [], 0
    for part in record.branches:
        low, high = part.rows or (0, b.shape[0])
        columns = slice(done, done + part.rank)
        own_b = b[low:high, columns]
        if b.dtype == np.float64:
            own_b = own_b / np.float64(part.scale / first.scale)
        own_a = a[columns].astype(np.float32)
        branches.append(LowRank(own_a, own_b.astype(np.float32), part.scale, part.rows))
        done += part.rank
    return LayerAdapter(record.kind, tuple(branches), magnitude, record.out)


def _as_peft(stored: PeftTensors, settings: PeftFile, folder: Path) -> Adapter:
    try:
        config = settings.lora_config(list(stored.layers))
    except SettingsError as error:
        raise AdapterError(str(error), where=folder / CONFIG_FILE) from error
    problems: list[str] = []
    layers: dict[str, LayerAdapter] = {}
    for name, tensors in stored.layers.items():
        try:
            layers[name] = _layer_from_peft(name, tensors, config, settings)
        except AdapterError as error:
            problems.append(str(error))
    if stored.biases and config.bias == "none":
        problems.append(f"{next(iter(stored.biases))} is a trained bias, but {CONFIG_FILE} has bias='none'")
    _raise_problems(problems, folder)
    base = settings.base_model_name_or_path
    base = base and pinned(base, settings.revision)
    return Adapter(config, layers, _narrowed(stored.biases), base_name=base, unknown_base_reported=True)


def _layer_from_peft(name: str, tensors: LayerTensors, config: LoraConfig, settings: PeftFile) -> LayerAdapter:
    a, b = _factors(tensors)
    rank = settings.rank_of(name)
    own_rank = a.shape[0] if settings.slices is None else b.shape[1]
    if own_rank != rank:
        raise AdapterError(f"{name}: has rank {own_rank}, but {CONFIG_FILE} says {rank}")
    if (tensors.magnitude is not None) != config.dora:
        raise AdapterError(f"{name}: has {'no' if config.dora else 'a'} magnitude, but use_dora is {config.dora}")
    scale = config.scale(rank, settings.alpha_of(name))
    if settings.slices is not None:
        return _merged_linear(a, b, scale, settings)
    kind = "embedding" if tensors.embedding else "conv" if a.ndim > 2 else "linear"
    try:
        gathered = _gather_groups(a, b)
    except ValueError as error:
        raise AdapterError(f"{name}: {error}") from error
    branch = LowRank(gathered, b.astype(np.float32), scale)
    magnitude = None if tensors.magnitude is None else tensors.magnitude.astype(np.float32)
    if kind == "linear" and settings.fan_in_fan_out:
        kind = "gpt2_conv1d"
    return LayerAdapter(kind, (branch,), magnitude, int(b.shape[0]))  # type: ignore[arg-type]


def _merged_linear(a: Tensor, b: Tensor, scale: float, settings: PeftFile) -> LayerAdapter:
    """A layer of PEFT before 0.3 with `enable_lora`: B [size · adapted, rank, 1] has the rows of all adapted slices."""
    slices = settings.slices or []
    rank, size = b.shape[1], len(b) // sum(slices)
    branches = []
    for number, place in enumerate(place for place, adapted in enumerate(slices) if adapted):
        part_a = a[number * rank : (number + 1) * rank].astype(np.float32)
        part_b = b[number * size : (number + 1) * size, :, 0].astype(np.float32)
        branches.append(LowRank(part_a, part_b, scale, (place * size, (place + 1) * size)))
    kind: LayerKind = "gpt2_conv1d" if settings.fan_in_fan_out else "linear"
    return LayerAdapter(kind, tuple(branches), None, len(slices) * size)


def _factors(tensors: LayerTensors) -> tuple[Tensor, Tensor]:
    assert tensors.a is not None, "sort_tensors refuses a layer without A"
    assert tensors.b is not None, "sort_tensors refuses a layer without B"
    return tensors.a, tensors.b


def _rank(tensors: LayerTensors) -> int:
    return int(_factors(tensors)[0].shape[0])


def _groups(a: Tensor, b: Tensor) -> int:
    """The groups of a convolution: B's second dimension is the rank's share of one group."""
    return int(a.shape[0] // b.shape[1])


def _spread_groups(a: Tensor, b: Tensor) -> Tensor:
    """A of a grouped convolution as PEFT has it, over all input channels: [rank, in, *kernel], zero off its group."""
    groups = _groups(a, b)
    if groups == 1:
        return a
    share, width = a.shape[0] // groups, a.shape[1]
    spread = np.zeros((a.shape[0], width * groups, *a.shape[2:]), a.dtype)
    for group in range(groups):
        rows = slice(group * share, (group + 1) * share)
        spread[rows, group * width : (group + 1) * width] = a[rows]
    return spread


def _gather_groups(a: Tensor, b: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The inverse of `_spread_groups`.

    Raises:
        ValueError: A mixes groups, which a grouped layer cannot represent.
    """
    groups = _groups(a, b)
    if groups == 1:
        return a.astype(np.float32)
    if a.shape[1] % groups:
        raise ValueError(f"{a.shape[1]} input channels do not divide into {groups} groups")
    share, width = a.shape[0] // groups, a.shape[1] // groups
    parts = [a[g * share : (g + 1) * share, g * width : (g + 1) * width] for g in range(groups)]
    gathered = np.concatenate(parts).astype(np.float32)
    if not np.array_equal(_spread_groups(gathered, b), a):
        raise ValueError("lora_A mixes the groups of a grouped convolution, which cannot be merged")
    return gathered


def _narrowed(biases: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    return {name: bias.astype(np.float32) for name, bias in biases.items()}


def _commonest(values: Any) -> Any:
    return Counter(values).most_common(1)[0][0]


def _plain(alpha: float) -> int | float:
    """An alpha as people write it: integers as such, without the rounding error of scale·√rank."""
    rounded = float(f"{alpha:.14g}")
    return int(rounded) if rounded.is_integer() else rounded


def _pattern(name: str, others: Mapping[str, Any]) -> str:
    """A pattern for one module, anchored where it would also match the end of another's path."""
    return f"^{name}" if any(other.endswith(f".{name}") for other in others) else name


def _raise_problems(problems: list[str], folder: Path) -> None:
    if problems:
        more = f" (and {len(problems) - 8} more)" if len(problems) > 8 else ""
        raise AdapterError("; ".join(problems[:8]) + more, where=folder)
