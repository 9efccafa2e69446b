"""Put an adapter on a network and take it off again: attach, extract, detach, count.

Works on any `nn.Module`; nothing here changes a base weight. Merging is `lora.merging`'s, and is found here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tailora.adapters.adapter import Adapter, Array, LayerAdapter, LayerKind, LowRank
from tailora.adapters.config import LoraConfig, matches
from tailora.core.errors import AdapterError, SettingsError
from tailora.families import family_of
from tailora.lora.attachment import (
    Attachment,
    adapted_layers,
    attachment_of,
    exchange_modules,
    require_attachment,
    set_attachment,
)
from tailora.lora.biases import bias_names, held_bias
from tailora.lora.layers import LAYERS, BranchShape, LoraLayer, kind_of
from tailora.lora.merging import merge, restore_requires_grad, unmerge
from tailora.lora.targets import Plan, plan_targets

__all__ = [
    "ParameterTable",
    "adapted_layers",
    "attach",
    "attachment_of",
    "detach",
    "extract",
    "merge",
    "parameter_table",
    "unmerge",
]


@dataclass(frozen=True)
class ParameterTable:
    """How many parameters a network has; one that is used in two places (a tied head) counts once."""

    total: int
    trainable: int

    @property
    def frozen(self) -> int:
        """Those that do not learn."""
        return self.total - self.trainable

    @property
    def percent(self) -> float:
        """Trainable in percent of the total."""
        return 100 * self.trainable / self.total if self.total else 0.0


def attach(
    model: nn.Module,
    config: LoraConfig,
    adapter: Adapter | None = None,
    *,
    model_type: str | None = None,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Wrap the targeted layers of a network and freeze everything but the adapter.

    Args:
        model: any network; it is changed in place.
        config: targets, rank, scale, dropout and so on. With `adapter`, ranks and scales are the adapter's.
        adapter: values to load; None starts a fresh adapter whose branches add nothing yet.
        model_type: transformers' name of the family, by default what `model.config` says.
        generator: source of the initial values, on the CPU.

    Returns:
        The paths of the adapted modules, in the order of the network.

    Raises:
        SettingsError: if a target matches nothing, a pattern for a fresh adapter's rank or alpha no adapted layer, or
            the network carries an adapter already.
        AdapterError: if the adapter does not belong on this network, with every misfit in one message;
            the network is then as it was.
    """
    if attachment_of(model) is not None:
        raise SettingsError("the network already carries an adapter", hint="detach it, or merge it for good, first")
    plan = plan_targets(model, config.targets, family_of(model_type or _model_type(model)))
    if adapter is None:
        _check_patterns(config, plan)
        modules = dict(model.named_modules())
        wrappers = {name: _fresh_layer(modules[name], name, rows, config, generator) for name, rows in plan.items()}
    else:
        wrappers = _loaded_layers(model, plan, config, adapter)
    trained = bias_names(model, config.bias, wrappers.keys())
    biases = [held_bias(model, name) for name in dict.fromkeys([*trained, *(adapter.biases if adapter else ())])]
    requires_grad = {name: each.requires_grad for name, each in model.named_parameters(remove_duplicate=False)}
    model.requires_grad_(False)
    for bias in biases:
        bias.master.requires_grad_(bias.name in trained)
        if adapter is not None:
            _copy(bias.master, adapter.biases[bias.name])
        bias.hold()
    exchange_modules(model, {wrapper.base: wrapper for wrapper in wrappers.values()})
    set_attachment(model, Attachment(config, adapter, requires_grad, biases))
    return list(wrappers)


def extract(model: nn.Module) -> Adapter:
    """The adapter on a network, as a value that shares no memory with it; tensors are fp32.

    Raises:
        AdapterError: if there is none.
    """
    attachment = require_attachment(model)
    layers = {name: _layer_adapter(layer) for name, layer in adapted_layers(model)}
    biases = {bias.name: _array(bias.master) for bias in attachment.biases}
    source = attachment.source
    extracted = Adapter(config=attachment.config, layers=layers, biases=biases)
    if source is None:
        return extracted
    return replace(
        extracted, base_fingerprint=source.base_fingerprint, base_name=source.base_name, meta=dict(source.meta)
    )


def detach(model: nn.Module) -> None:
    """Take the adapter off: the base layers stand where they stood, with the very same weights.

    Raises:
        AdapterError: if there is none.
    """
    attachment = require_attachment(model)
    exchange_modules(model, {layer: layer.base for _, layer in adapted_layers(model)})
    for bias in attachment.biases:
        bias.release()
    restore_requires_grad(model, attachment)
    set_attachment(model, None)


def parameter_table(model: nn.Module) -> ParameterTable:
    """Count a network's parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterTable(sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable))


def _model_type(model: nn.Module) -> str | None:
    found: Any = getattr(getattr(model, "config", None), "model_type", None)
    return found if isinstance(found, str) else None


def _check_patterns(config: LoraConfig, plan: Plan) -> None:
    """A pattern that matches no adapted layer is a slip that would otherwise pass without a word."""
    for where, patterns in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for pattern in patterns:
            if not any(matches(pattern, name) for name in plan):
                adapted = ", ".join(sorted({name.rpartition(".")[2] for name in plan}))
                raise SettingsError(
                    f"{pattern!r} matches no adapted layer", where=where, hint=f"adapted are {adapted}; or add a target"
                )


def _fresh_layer(
    module: nn.Module,
    name: str,
    rows: tuple[tuple[int, int], ...] | None,
    config: LoraConfig,
    generator: torch.Generator | None,
) -> LoraLayer:
    rank = config.rank_of(name)
    if fault := _layer_class(module)(module, ()).rank_fault(rank):
        raise SettingsError(fault, where=name)
    scale = config.scale(rank, config.alpha_of(name))
    shapes = [BranchShape(rank, scale, each) for each in rows or (None,)]
    return _layer_class(module)(module, shapes, dropout_p=config.dropout, dora=config.dora, generator=generator)


def _layer_class(module: nn.Module) -> type[LoraLayer]:
    kind = kind_of(module)
    assert kind is not None, f"{type(module).__name__} cannot be adapted"
    return LAYERS[kind]


def _loaded_layers(model: nn.Module, plan: Plan, config: LoraConfig, adapter: Adapter) -> dict[str, LoraLayer]:
    modules = dict(model.named_modules())
    problems = [f"{name}: no such module in the network" for name in adapter.layers if name not in modules]
    problems += [f"{name}: targeted, but the adapter has nothing for it" for name in plan if name not in adapter.layers]
    wrappers: dict[str, LoraLayer] = {}
    for name, module in modules.items():
        if name in adapter.layers:
            found = _loaded_layer(module, adapter.layers[name], config.dropout)
            if isinstance(found, LoraLayer):
                wrappers[name] = found
            else:
                problems += [f"{name}: {problem}" for problem in found]
    problems += _bias_misfits(model, bias_names(model, config.bias, adapter.layers.keys()), adapter.biases)
    if problems:
        raise AdapterError(_list_of(problems), where="adapter", hint="use it with the base it was made for")
    return wrappers


def _bias_misfits(model: nn.Module, trained: list[str], biases: Mapping[str, Array]) -> list[str]:
    parameters = dict(model.named_parameters())
    problems = [f"{name}: trained, but the adapter has no values for it" for name in trained if name not in biases]
    for name, values in biases.items():
        if name not in parameters:
            problems.append(f"{name}: no such parameter in the network")
        else:
            fault = _array_fault(values, tuple(parameters[name].shape))
            problems += [f"{name}: {fault}"] if fault else []
    return problems


def _loaded_layer(module: nn.Module, layer: LayerAdapter, dropout: float) -> LoraLayer | list[str]:
    """The wrapped module with the adapter's values, or what speaks against it."""
    kind = kind_of(module)
    if kind is None or _layout(kind) != _layout(layer.kind):
        return [f"made for a {layer.kind} layer, but this is {type(module).__name__}"]
    problems = _misfits(LAYERS[kind](module, ()), layer)
    if problems:
        return problems
    shapes = [BranchShape(branch.rank, branch.scale, branch.rows) for branch in layer.branches]
    dora = layer.magnitude is not None
    wrapper = LAYERS[kind](module, shapes, dropout_p=dropout, dora=dora, generator=torch.Generator())
    for pair, branch in zip(wrapper.pairs, layer.branches, strict=True):
        _copy(pair.lora_A, branch.a)
        _copy(pair.lora_B, branch.b)
    if wrapper.magnitude is not None and layer.magnitude is not None:
        _copy(wrapper.magnitude, layer.magnitude)
    return wrapper


def _layout(kind: LayerKind) -> LayerKind:
    """Linear and Conv1D differ in how the base is stored, not in A and B; PEFT's files do not tell them apart."""
    return "linear" if kind == "gpt2_conv1d" else kind


def _misfits(empty: LoraLayer, layer: LayerAdapter) -> list[str]:
    """What in a layer's adapter does not fit the module, told by a wrapper around it without branches."""
    out = empty.out_features
    expected: list[tuple[str, Array, tuple[int, ...]]] = []
    problems = []
    if layer.out is not None and layer.out != out:
        problems.append(f"made for {layer.out} outputs, but the network's layer has {out}")
    for branch in layer.branches:
        low, high = branch.rows or (0, out)
        if not 0 <= low < high <= out:
            problems.append(f"rows {low} to {high} lie outside the layer's {out} outputs")
        elif fault := empty.rank_fault(branch.rank):
            problems.append(fault)
        else:
            expected.append(("A", branch.a, empty.a_shape(branch.rank)))
            expected.append(("B", branch.b, empty.b_shape(branch.rank, high - low)))
    if layer.magnitude is not None:
        expected.append(("magnitude", layer.magnitude, (out,)))
    faults = ((what, _array_fault(values, shape)) for what, values, shape in expected)
    return problems + [f"{what} {fault}" for what, fault in faults if fault]


def _array_fault(values: Array, shape: tuple[int, ...]) -> str | None:
    if values.shape != shape:
        return f"is {list(values.shape)}, but the network needs {list(shape)}"
    return None if np.isfinite(values).all() else "holds values that are not finite"


def _layer_adapter(layer: LoraLayer) -> LayerAdapter:
    branches = tuple(LowRank(_array(pair.lora_A), _array(pair.lora_B), pair.scale, pair.rows) for pair in layer.pairs)
    magnitude = None if layer.magnitude is None else _array(layer.magnitude)
    return LayerAdapter(layer.kind, branches, magnitude, layer.out_features)


@torch.no_grad()
def _copy(parameter: nn.Parameter, values: Array) -> None:
    parameter.copy_(torch.from_numpy(np.array(values, dtype=np.float32)))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().to("cpu", torch.float32, copy=True).numpy()


def _list_of(problems: list[str], limit: int = 8) -> str:
    more = f" (and {len(problems) - limit} more)" if len(problems) > limit else ""
    return f"{len(problems)} problem{'s' * (len(problems) > 1)}: {'; '.join(problems[:limit])}{more}"
