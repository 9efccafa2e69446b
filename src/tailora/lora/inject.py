"""Put an adapter on a network and take it off again: attach, extract, detach, count.

Works on any `nn.Module`. Merging is in `lora.merging`; nothing here changes a base weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tailora.adapters.adapter import Adapter, Array, LayerAdapter, LowRank
from tailora.adapters.config import LoraConfig
from tailora.errors import AdapterError, SettingsError
from tailora.families import family_of
from tailora.lora.layers import LAYERS, BranchShape, LoraLayer, kind_of
from tailora.lora.targets import Plan, plan_targets

_ATTACHMENT = "_tailora_attachment"


@dataclass
class Attachment:
    """What a network remembers about the adapter on it, so that `extract` and `detach` need no more than the network.

    Attributes:
        config: the settings the adapter was attached with.
        source: the adapter that was attached, None for a fresh one.
        biases: the base's own values of the biases that are trained, by parameter name.
        frozen: parameters that the attachment froze, by name, with what they were before.
    """

    config: LoraConfig
    source: Adapter | None
    biases: dict[str, Tensor] = field(default_factory=dict)
    requires_grad: dict[str, bool] = field(default_factory=dict)


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
        SettingsError: if a target matches nothing, or the network carries an adapter already.
        AdapterError: if the adapter does not belong on this network, with every misfit in one message;
            the network is then as it was.
    """
    if attachment_of(model) is not None:
        raise SettingsError("the network already carries an adapter", mend="detach or merge that one first")
    plan = plan_targets(model, config.targets, family_of(model_type or _model_type(model)))
    modules = dict(model.named_modules())
    wrappers: dict[str, LoraLayer] = {}
    if adapter is None:
        for name, rows in plan.items():
            wrappers[name] = _fresh_layer(modules[name], name, rows, config, generator)
    else:
        wrappers = _loaded_layers(model, modules, plan, config, adapter)
    attachment = Attachment(config, adapter)
    attachment.requires_grad = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.requires_grad_(False)
    _install(model, {modules[name]: wrapper for name, wrapper in wrappers.items()})
    model.__dict__[_ATTACHMENT] = attachment
    return list(wrappers)


def extract(model: nn.Module) -> Adapter:
    """The adapter on a network, as a value that shares no memory with it; tensors are fp32.

    Raises:
        AdapterError: if there is none.
    """
    attachment = _require_attachment(model)
    layers = {name: _layer_adapter(layer) for name, layer in adapted_layers(model)}
    source = attachment.source
    extracted = Adapter(config=attachment.config, layers=layers)
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
    attachment = _require_attachment(model)
    _install(model, {layer: layer.base for _, layer in adapted_layers(model)})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(attachment.requires_grad[name])
    del model.__dict__[_ATTACHMENT]


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """The adapted layers of a network with their paths, which are those of the base layers they hold."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def attachment_of(model: nn.Module) -> Attachment | None:
    """What the network remembers about the adapter on it, None without one."""
    found: Attachment | None = model.__dict__.get(_ATTACHMENT)
    return found


def parameter_table(model: nn.Module) -> ParameterTable:
    """Count a network's parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterTable(sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable))


def _require_attachment(model: nn.Module) -> Attachment:
    attachment = attachment_of(model)
    if attachment is None:
        raise AdapterError("the network carries no adapter", mend="attach one first")
    return attachment


def _model_type(model: nn.Module) -> str | None:
    found: Any = getattr(getattr(model, "config", None), "model_type", None)
    return found if isinstance(found, str) else None


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


def _loaded_layers(
    model: nn.Module, modules: Mapping[str, nn.Module], plan: Plan, config: LoraConfig, adapter: Adapter
) -> dict[str, LoraLayer]:
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
    if problems:
        raise AdapterError(_list_of(problems), where="adapter", mend="use it with the base it was made for")
    return wrappers


def _loaded_layer(module: nn.Module, layer: LayerAdapter, dropout: float) -> LoraLayer | list[str]:
    """The wrapped module with the adapter's values, or what speaks against it."""
    kind = kind_of(module)
    if kind is None or kind != layer.kind:
        return [f"made for a {layer.kind} layer, but this is {type(module).__name__}"]
    problems = _misfits(LAYERS[kind](module, ()), layer)
    if problems:
        return problems
    shapes = [BranchShape(branch.rank, branch.scale, branch.rows) for branch in layer.branches]
    dora = layer.magnitude is not None
    wrapper = LAYERS[kind](module, shapes, dropout_p=dropout, dora=dora, generator=torch.Generator())
    with torch.no_grad():
        for pair, branch in zip(wrapper.pairs, layer.branches, strict=True):
            pair.lora_A.copy_(_tensor(branch.a))
            pair.lora_B.copy_(_tensor(branch.b))
        if wrapper.magnitude is not None and layer.magnitude is not None:
            wrapper.magnitude.copy_(_tensor(layer.magnitude))
    return wrapper


def _misfits(empty: LoraLayer, layer: LayerAdapter) -> list[str]:
    """What in a layer's adapter does not fit the module, told by a wrapper around it without branches."""
    out = empty.out_features
    expected: list[tuple[str, Array, tuple[int, ...]]] = []
    problems = []
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
    for what, values, shape in expected:
        if values.shape != shape:
            problems.append(f"{what} is {list(values.shape)}, but the network needs {list(shape)}")
        elif not np.isfinite(values).all():
            problems.append(f"{what} holds values that are not finite")
    return problems


def _layer_adapter(layer: LoraLayer) -> LayerAdapter:
    branches = tuple(LowRank(_array(pair.lora_A), _array(pair.lora_B), pair.scale, pair.rows) for pair in layer.pairs)
    return LayerAdapter(layer.kind, branches, None if layer.magnitude is None else _array(layer.magnitude))


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().to("cpu", torch.float32, copy=True).numpy()


def _install(model: nn.Module, exchange: Mapping[nn.Module, nn.Module]) -> None:
    """Put new modules in the places of old ones, in every place where a network holds the same module."""
    for module in list(model.modules()):
        if module in exchange:
            continue
        for name, child in list(module._modules.items()):
            if child is not None and child in exchange:
                module._modules[name] = exchange[child]


def _list_of(problems: list[str], limit: int = 8) -> str:
    more = f" (and {len(problems) - limit} more)" if len(problems) > limit else ""
    return f"{len(problems)} problem{'s' * (len(problems) > 1)}: {'; '.join(problems[:limit])}{more}"
