"""The modules of a network that targets select, and the slices of fused ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice

from torch import nn

from tailora.adapters.config import matches
from tailora.core.errors import SettingsError
from tailora.families import MEANINGS, UNKNOWN, Family, Part, ends_in, fused_rows
from tailora.lora.layers import kind_of

RowRange = tuple[int, int]
Plan = dict[str, tuple[RowRange, ...] | None]
"""By module path: the ranges of outputs to adapt, None for the whole layer."""


def plan_targets(model: nn.Module, targets: Sequence[str], family: Family, *, every: bool = True) -> Plan:
    """Find the modules that the targets select.

    If one target selects a whole fused layer and another a slice of it, the whole layer is adapted.

    Args:
        model: any network.
        targets: groups of layers ("attention.qv") or patterns for the end of a module path ("c_attn").
        family: the names of the network's layers.
        every: whether every target has to match a layer. PEFT trains adapters with targets that match none.

    Returns:
        The plan, in the order of the network.

    Raises:
        SettingsError: a target has to match a layer and matches none that can be adapted; the message lists those that
            can.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    parts: dict[str, set[Part] | None] = {}
    for target in targets:
        targeted = _modules_of(target, model, modules, family)
        if every and not targeted:
            raise SettingsError(_nothing_matches(target, modules), where="targets", hint=_choices(modules))
        for name, wanted in targeted.items():
            known = parts.get(name, set())
            parts[name] = None if known is None or wanted is None else known | set(wanted)
    queries = _queries(model)
    return {name: _rows_of(modules[name], parts[name], queries) for name in modules if name in parts}


def head_of(model: nn.Module, family: Family = UNKNOWN) -> nn.Module | None:
    """Return the vocabulary projection that the model reports, else the module with the family's name for it."""
    getter = getattr(model, "get_output_embeddings", None)
    if callable(getter):
        head = getter()
        return head if isinstance(head, nn.Module) else None
    return next((module for name, module in model.named_modules() if ends_in(name, family.head)), None)


def _modules_of(
    target: str, model: nn.Module, modules: Mapping[str, nn.Module], family: Family
) -> dict[str, tuple[Part, ...] | None]:
    if target == "all-linear":
        head = head_of(model, family)
        linear = ("linear", "gpt2_conv1d")
        return {name: None for name, module in modules.items() if module is not head and kind_of(module) in linear}
    if target == "head":
        head = head_of(model, family)
        return {name: None for name, module in modules.items() if module is head and kind_of(module)}
    meant = family.targets(target)
    if meant is None:  # a pattern of the user's
        return {name: None for name, module in modules.items() if matches(target, name) and kind_of(module)}
    return {
        name: layer.parts
        for layer in meant
        for name, module in modules.items()
        if ends_in(name, layer.ends) and kind_of(module)
    }


def _queries(model: nn.Module) -> int | None:
    """Return the outputs of the queries by the model's configuration; None if they are as wide as the model."""
    config = getattr(model, "config", None)
    heads, width = getattr(config, "num_attention_heads", None), getattr(config, "head_dim", None)
    return heads * width if heads and width else None


def _rows_of(module: nn.Module, parts: set[Part] | None, queries: int | None) -> tuple[RowRange, ...] | None:
    if parts is None:
        return None
    weight = module.get_parameter("weight")
    hidden, out = weight.shape if kind_of(module) == "gpt2_conv1d" else reversed(weight.shape)
    return tuple(fused_rows(part, int(out), queries or int(hidden)) for part in ("q", "k", "v") if part in parts)


def _nothing_matches(target: str, modules: Mapping[str, nn.Module]) -> str:
    others = {type(module).__name__ for name, module in modules.items() if matches(target, name)}
    if others:
        return f"target {target!r} matches only what cannot be adapted ({', '.join(sorted(others))})"
    return f"target {target!r} matches no layer"


def _choices(modules: Mapping[str, nn.Module], limit: int = 12) -> str:
    """Return a hint with the groups of layers, and the ends of paths that can be adapted."""
    ends = Counter(_end(name) for name, module in modules.items() if kind_of(module))
    if not ends:
        return "use another network: no layer of this one can be adapted"
    shown = ", ".join(f"{end} ({count})" if count > 1 else end for end, count in islice(ends.items(), limit))
    more = f" and {len(ends) - limit} more" if len(ends) > limit else ""
    return f"choose a group ({', '.join(MEANINGS)}), or ends of module paths ({shown}{more})"


def _end(name: str) -> str:
    """Return the end of a path after its last index, which repeats from block to block."""
    steps = name.split(".")
    last = max((place for place, step in enumerate(steps) if step.isdigit()), default=-1)
    return ".".join(steps[last + 1 :]) or name
