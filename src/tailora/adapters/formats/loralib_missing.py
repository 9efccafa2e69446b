"""What a loralib file lacks: supplied by the caller or by Tailora's note in the file, or implied by the shapes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from tailora.adapters.adapter import Adapter, Floats, LayerAdapter, LayerKind
from tailora.adapters.config import matches
from tailora.adapters.formats.loralib_layers import LoralibLayer, from_convolution, from_merged_linear, from_plain
from tailora.adapters.formats.origin import Origin
from tailora.core.errors import AdapterError

_GPT2_CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")

_Value = TypeVar("_Value")


@dataclasses.dataclass(frozen=True)
class Missing:
    """What a loralib file lacks. Modules are named by patterns, as in `LoraConfig.targets`.

    Attributes:
        alpha: the `lora_alpha` the layers were built with: one for all, or by module.
        enable_lora: the slices that each `MergedLinear` adapts: for all layers whose number of blocks fits, or by
            module. Without it only what the shapes prove is accepted: one block is a plain layer, and three blocks
            on GPT-2's `c_attn` that are as wide as its input are all of query, key and value.
        fan_in_fan_out: whether the base stores the weights as [in, out] (GPT-2's Conv1D): for all linear layers, or for
            the named modules. Without it, GPT-2's own names decide.
        embeddings: the modules that are embeddings; in the file they look like linear layers.
        kernels: the sides of each convolution's kernel; in the file convolutions look like linear layers too.
    """

    alpha: float | Mapping[str, float] | None = None
    enable_lora: Sequence[bool] | Mapping[str, Sequence[bool]] | None = None
    fan_in_fan_out: bool | Sequence[str] | None = None
    embeddings: Sequence[str] = ()
    kernels: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)


def named(patterns: Mapping[str, _Value], module: str) -> _Value | None:
    """The value of a module's own path, or of the first pattern that matches it."""
    if module in patterns:
        return patterns[module]
    return next((value for pattern, value in patterns.items() if matches(pattern, module)), None)


def layer_of(module: str, a: Floats, b: Floats, settings: Missing) -> LayerAdapter:
    """One layer from its factors.

    Raises:
        ValueError: the shapes are wrong, or leave something open that the caller has not supplied.
    """
    alpha = settings.alpha
    if isinstance(alpha, Mapping):
        alpha = named(alpha, module)
    if alpha is None:
        raise ValueError("has no alpha, which loralib files lack: pass alpha=, the lora_alpha that it was built with")
    if not 0 < alpha < math.inf:
        raise ValueError(f"has the alpha {alpha!r}, which is not a positive number")
    kernel = named(settings.kernels, module)
    if kernel is not None:
        _check_kernel(a, b, kernel)
        return from_convolution(a, b, alpha, kernel)
    blocks, left_over = divmod(a.shape[0], b.shape[1])
    if left_over or not blocks or b.shape[0] % blocks:
        raise ValueError(f"has lora_A {list(a.shape)} and lora_B {list(b.shape)}, which do not match")
    if any(matches(pattern, module) for pattern in settings.embeddings):
        if blocks != 1:
            raise ValueError(f"has {blocks} blocks, which an embedding cannot have")
        return from_plain(a, b, alpha, "embedding")
    kind = _linear_kind(module, settings)
    flags = _flags(module, a, b, blocks, settings)
    return from_plain(a, b, alpha, kind) if flags is None else from_merged_linear(a, b, alpha, kind, flags)


def _check_kernel(a: Floats, b: Floats, kernel: Sequence[int]) -> None:
    if min(kernel, default=0) < 1:
        raise ValueError(f"cannot have a kernel of {list(kernel)}")
    *others, last = kernel
    if a.shape[0] != b.shape[1] or a.shape[0] % last or a.shape[1] % last or b.shape[0] % math.prod(others):
        raise ValueError(
            f"has lora_A {list(a.shape)} and lora_B {list(b.shape)}, which do not fit a kernel of {list(kernel)}"
        )


def _linear_kind(module: str, settings: Missing) -> LayerKind:
    chosen = settings.fan_in_fan_out
    if chosen is None:
        chosen = module.rpartition(".")[2] in _GPT2_CONV1D
    elif not isinstance(chosen, bool):
        chosen = any(matches(pattern, module) for pattern in chosen)
    return "gpt2_conv1d" if chosen else "linear"


def _flags(module: str, a: Floats, b: Floats, blocks: int, settings: Missing) -> Sequence[bool] | None:
    """Which slices a layer adapts, None for a plain layer."""
    wanted = settings.enable_lora
    if isinstance(wanted, Mapping):
        flags = named(wanted, module)
        if flags is not None and sum(map(bool, flags)) != blocks:
            raise ValueError(f"has {blocks} adapted slices, not the {sum(map(bool, flags))} of enable_lora")
    else:
        flags = wanted if wanted is not None and sum(map(bool, wanted)) == blocks else None
    if flags is not None:
        return [bool(flag) for flag in flags]
    rows, columns = b.shape[0], a.shape[1]
    if _is_c_attn(module) and blocks == 3 and rows == 3 * columns:
        return [True] * 3
    if blocks > 1 or (_is_c_attn(module) and rows == columns):
        raise _ambiguous(blocks, rows // blocks)
    return None


def _is_c_attn(module: str) -> bool:
    return module.rpartition(".")[2] == "c_attn"


def _ambiguous(blocks: int, width: int) -> ValueError:
    return ValueError(
        f"adapts {blocks} of several slices, each {width} outputs wide, and the file does not say which: pass "
        "enable_lora=, such as [True, False, True] for query and value"
    )


def unused(settings: Missing, layers: Mapping[str, LayerAdapter]) -> list[str]:
    """A fault for each pattern that matches no layer of the file."""
    patterns: list[str] = [*settings.embeddings, *settings.kernels]
    for value in (settings.alpha, settings.enable_lora):
        patterns += list(value) if isinstance(value, Mapping) else []
    if settings.fan_in_fan_out is not None and not isinstance(settings.fan_in_fan_out, bool):
        patterns += list(settings.fan_in_fan_out)
    return [f"{p!r} matches no module of the file" for p in patterns if not any(matches(p, m) for m in layers)]


def slices_of(module: str, layer: LayerAdapter, slices: Mapping[str, int] | None) -> int | None:
    """The number of slices that a module is written in; None for a layer that is not fused. See `loralib.save`."""
    if layer.kind not in ("linear", "gpt2_conv1d"):
        return None
    if slices is not None:
        return named(slices, module)
    columns = layer.branches[0].a.shape[1]
    ends = [branch.b.shape[0] if branch.rows is None else branch.rows[1] for branch in layer.branches]
    whole = any(branch.rows is None for branch in layer.branches)
    fits = max(ends) == 3 * columns if whole else max(ends) <= 3 * columns
    return 3 if _is_c_attn(module) and fits else None


class _Note(Origin):
    """Tailora's note in a loralib file: what the state dict lacks, by full module path, and the adapter's origin."""

    alpha: dict[str, float]
    enable_lora: dict[str, list[bool]]
    fan_in_fan_out: list[str]
    embeddings: list[str]
    kernels: dict[str, list[int]]


def note_of(adapter: Adapter, factors: Mapping[str, LoralibLayer]) -> str:
    """What the file lacks, as JSON text: `weights_only` accepts nothing more than a plain string."""
    kinds = {module: layer.kind for module, layer in adapter.layers.items()}
    return _Note(
        alpha={module: layer.alpha for module, layer in factors.items()},
        enable_lora={module: list(layer.enable_lora) for module, layer in factors.items() if layer.enable_lora},
        fan_in_fan_out=[module for module, kind in kinds.items() if kind == "gpt2_conv1d"],
        embeddings=[module for module, kind in kinds.items() if kind == "embedding"],
        kernels={module: list(layer.kernel) for module, layer in factors.items() if layer.kernel},
        **dict(Origin.of(adapter)),
    ).model_dump_json()


def with_note(answers: Missing, note: object, path: Path) -> tuple[Missing, Origin]:
    """Return the caller's values, completed from the note in the file, and the adapter's origin.

    Raises:
        AdapterError: the note is damaged.
    """
    if note is None:
        return answers, Origin()
    try:
        known = _Note.model_validate_json(note if isinstance(note, str) else "")
    except ValidationError as error:
        raise AdapterError(
            "Tailora's note in it is damaged", where=path, hint="save its state dict alone and load that file"
        ) from error
    open_, completed = Missing(), {}
    for field in dataclasses.fields(Missing):
        answer = getattr(answers, field.name)
        completed[field.name] = getattr(known, field.name) if answer == getattr(open_, field.name) else answer
    return Missing(**completed), known
