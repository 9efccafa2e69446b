"""Wrapping layers with the values of an adapter, and checking that the adapter fits the network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from tailora.adapters.adapter import Adapter, Floats, LayerAdapter, LayerKind
from tailora.adapters.config import LoraConfig
from tailora.core.errors import AdapterError
from tailora.lora.biases import bias_names
from tailora.lora.layers import LAYERS, BranchShape, LoraLayer, kind_of
from tailora.lora.targets import Plan


def layer_class(module: nn.Module) -> type[LoraLayer]:
    """Return the class that wraps a module, which must be of a kind that can be adapted."""
    kind = kind_of(module)
    assert kind is not None, f"{type(module).__name__} cannot be adapted"
    return LAYERS[kind]


def loaded_layers(model: nn.Module, plan: Plan, config: LoraConfig, adapter: Adapter) -> dict[str, LoraLayer]:
    """Wrap the layers that an adapter is for, with its values.

    Args:
        model: the plain network; it is not changed.
        plan: the layers that the settings target.
        config: the settings that the adapter is attached with.
        adapter: the values.

    Returns:
        The wrapped layers by module path, in the order of the network.

    Raises:
        AdapterError: the adapter does not fit the network; the message lists all problems.
    """
    modules = dict(model.named_modules())
    problems = [f"{name}: the network has no such module" for name in adapter.layers if name not in modules]
    problems += [
        f"{name}: targeted, but the adapter has no values for it" for name in plan if name not in adapter.layers
    ]
    wrappers: dict[str, LoraLayer] = {}
    for name, module in modules.items():
        if name in adapter.layers:
            wrapper = _loaded_layer(module, adapter.layers[name], config.dropout)
            if isinstance(wrapper, LoraLayer):
                wrappers[name] = wrapper
            else:
                problems += [f"{name}: {problem}" for problem in wrapper]
    problems += _bias_misfits(model, bias_names(model, config.bias, adapter.layers.keys()), adapter.biases)
    if problems:
        raise AdapterError(_list_of(problems), where="adapter", hint="use it with the base that it was trained on")
    return wrappers


def _bias_misfits(model: nn.Module, trained: list[str], biases: Mapping[str, Floats]) -> list[str]:
    parameters = dict(model.named_parameters())
    problems = [f"{name}: trained, but the adapter has no values for it" for name in trained if name not in biases]
    for name, values in biases.items():
        if name not in parameters:
            problems.append(f"{name}: the network has no such parameter")
        else:
            fault = _array_fault(values, tuple(parameters[name].shape))
            problems += [f"{name}: {fault}"] if fault else []
    return problems


def _loaded_layer(module: nn.Module, layer: LayerAdapter, dropout: float) -> LoraLayer | list[str]:
    """Return the wrapped module with the adapter's values, or the reasons why they do not fit."""
    kind = kind_of(module)
    if kind is None or _layout(kind) != _layout(layer.kind):
        return [f"the adapter is for a {layer.kind} layer, but this is {type(module).__name__}"]
    problems = _misfits(LAYERS[kind](module, ()), layer)
    if problems:
        return problems
    shapes = [BranchShape(branch.rank, branch.scale, branch.rows) for branch in layer.branches]
    dora = layer.magnitude is not None
    wrapper = LAYERS[kind](module, shapes, dropout_p=dropout, dora=dora, generator=torch.Generator())
    for pair, branch in zip(wrapper.pairs, layer.branches, strict=True):
        copy_values(pair.lora_A, branch.a)
        copy_values(pair.lora_B, branch.b)
    if wrapper.magnitude is not None and layer.magnitude is not None:
        copy_values(wrapper.magnitude, layer.magnitude)
    return wrapper


def _layout(kind: LayerKind) -> LayerKind:
    """Return one kind for linear layers and Conv1D: PEFT's files do not distinguish them, nor do A and B."""
    return "linear" if kind == "gpt2_conv1d" else kind


def _misfits(empty: LoraLayer, layer: LayerAdapter) -> list[str]:
    """Return the problems of fitting a layer's adapter to a module.

    Args:
        empty: a wrapper around the module without branches.
        layer: the adapter of the layer.
    """
    out = empty.out_features
    expected: list[tuple[str, Floats, tuple[int, ...]]] = []
    problems = []
    if layer.out is not None and layer.out != out:
        problems.append(f"the adapter is for {layer.out} outputs, but the layer has {out}")
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


def _array_fault(values: Floats, shape: tuple[int, ...]) -> str | None:
    if values.shape != shape:
        return f"has shape {list(values.shape)}, but the network needs {list(shape)}"
    return None if np.isfinite(values).all() else "contains values that are not finite"


@torch.no_grad()
def copy_values(parameter: nn.Parameter, values: Floats) -> None:
    """Write an array into a parameter of the same shape."""
    parameter.copy_(torch.from_numpy(np.array(values, dtype=np.float32)))


def _list_of(problems: list[str], limit: int = 8) -> str:
    more = f" (and {len(problems) - limit} more)" if len(problems) > limit else ""
    return f"{len(problems)} problem{'s' * (len(problems) > 1)}: {'; '.join(problems[:limit])}{more}"
