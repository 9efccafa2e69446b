"""Attach an adapter to a network, extract it, detach it, and count parameters.

Works on any `nn.Module`; nothing here changes a base weight. Merging is in `lora.merging`, and its functions can be
imported from here as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tailora.adapters.adapter import Adapter, Floats, LayerAdapter, LowRank
from tailora.adapters.config import Bias, LoraConfig, matches
from tailora.core.errors import SettingsError
from tailora.families import family_of
from tailora.lora.attachment import (
    Attachment,
    adapted_layers,
    attachment_of,
    exchange_modules,
    require_attachment,
    set_attachment,
)
from tailora.lora.biases import bias_names, trained_bias
from tailora.lora.fitting import copy_values, layer_class, loaded_layers
from tailora.lora.layers import BranchShape, LoraLayer
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
    """The numbers of parameters of a network; a shared parameter, such as that of a tied head, counts once.

    Attributes:
        total: number of all parameters.
        trainable: number of parameters that require gradients.
    """

    total: int
    trainable: int

    @property
    def frozen(self) -> int:
        """Number of parameters that do not learn."""
        return self.total - self.trainable

    @property
    def percent(self) -> float:
        """Trainable parameters as a percentage of the total."""
        return 100 * self.trainable / self.total if self.total else 0.0


def attach(
    model: nn.Module,
    config: LoraConfig | None = None,
    adapter: Adapter | None = None,
    *,
    rank: int | None = None,
    alpha: float | None = None,
    targets: str | Sequence[str] | None = None,
    dropout: float | None = None,
    rslora: bool | None = None,
    dora: bool | None = None,
    bias: Bias | None = None,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    model_type: str | None = None,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Wrap the targeted layers of a network in place, and freeze everything but the adapter.

    The outputs of the network are unchanged until the adapter is trained. `detach` gives the base back as it was.

    Args:
        model: any network, for example a transformers model that you loaded.
        config: the settings of the adapter, instead of the keywords below. With `adapter`, its ranks and scales apply.
        adapter: values to load; None starts a fresh adapter.
        rank: inner dimension of the updates, at least 1; by default 8.
        alpha: numerator of the scale alpha / rank, above 0; by default 16.
        targets: one or several layers to adapt: `attention.qv` (the default), `attention`, `mlp`, `all-linear`,
            `head`, `embedding`, or patterns for the end of a module path, such as `q_proj`.
        dropout: probability of dropping an input of the branch while training, in [0, 1); by default 0.
        rslora: scale by alpha / √rank (Kalajdzievski 2023, arXiv:2312.03732).
        dora: learn a magnitude for each output as well (Liu et al. 2024, arXiv:2402.09353).
        bias: biases that are trained as well: `none` (the default), `all`, or `lora_only` for those of the adapted
            layers.
        rank_pattern: rank by pattern of module paths, where it differs from `rank`.
        alpha_pattern: alpha by pattern of module paths, where it differs from `alpha`.
        model_type: transformers' name of the model family; by default that of `model.config`.
        generator: source of the initial values, on the CPU; by default PyTorch's global one.

    Returns:
        The paths of the adapted modules, in the order of the network.

    Raises:
        SettingsError: a setting is out of its range or given twice, a target or a pattern matches no layer, or the
            network carries an adapter already.
        AdapterError: `adapter` does not fit the network; every misfit is in the one message, and the network is
            unchanged.
    """
    settings = {
        "rank": rank,
        "alpha": alpha,
        "targets": (targets,) if isinstance(targets, str) else targets if targets is None else tuple(targets),
        "dropout": dropout,
        "rslora": rslora,
        "dora": dora,
        "bias": bias,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
    }
    return _attach(model, _config(config, adapter, settings), adapter, model_type, generator)


def _config(config: LoraConfig | None, adapter: Adapter | None, settings: Mapping[str, Any]) -> LoraConfig:
    set_here = {name: value for name, value in settings.items() if value is not None}
    if config is not None or adapter is not None:
        if set_here:
            other = "config" if config is not None else "adapter"
            raise SettingsError(
                f"is not allowed together with {other}, which already contains it",
                where=next(iter(set_here)),
                hint="use one or the other",
            )
        if config is not None:
            return config
        assert adapter is not None
        return adapter.config
    return LoraConfig(**set_here)


def _attach(
    model: nn.Module,
    config: LoraConfig,
    adapter: Adapter | None,
    model_type: str | None,
    generator: torch.Generator | None,
) -> list[str]:
    if attachment_of(model) is not None:
        raise SettingsError("the network already carries an adapter", hint="detach it, or merge it for good, first")
    own = adapter is not None and config is adapter.config  # its tensors say which layers it has
    plan = plan_targets(model, config.targets, family_of(model_type or _model_type(model)), every=not own)
    if adapter is None:
        _check_patterns(config, plan)
        modules = dict(model.named_modules())
        wrappers = {name: _fresh_layer(modules[name], name, rows, config, generator) for name, rows in plan.items()}
    else:
        wrappers = loaded_layers(model, plan, config, adapter)
    trained = bias_names(model, config.bias, wrappers.keys())
    if config.bias != "none" and adapter is None and not trained:
        raise SettingsError(
            f"{config.bias!r}, but {'the network' if config.bias == 'all' else 'no adapted layer'} has a bias",
            where="bias",
            hint="use bias none, or adapt layers that have biases",
        )
    biases = [trained_bias(model, name) for name in dict.fromkeys([*trained, *(adapter.biases if adapter else ())])]
    requires_grad = {name: p.requires_grad for name, p in model.named_parameters(remove_duplicate=False)}
    model.requires_grad_(False)
    for bias in biases:
        bias.master.requires_grad_(bias.name in trained)
        if adapter is not None:
            copy_values(bias.master, adapter.biases[bias.name])
        bias.install()
    exchange_modules(model, {wrapper.base: wrapper for wrapper in wrappers.values()})
    set_attachment(model, Attachment(config, adapter, requires_grad, biases))
    return list(wrappers)


def extract(model: nn.Module) -> Adapter:
    """Return the adapter on a network as a value that shares no memory with it.

    Args:
        model: a network that carries an adapter which is not merged.

    Returns:
        The adapter; its arrays are float32.

    Raises:
        AdapterError: the network carries no adapter, or the adapter is merged.
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
    """Remove the adapter, and restore the base layers with their own weight tensors.

    Parameters that required gradients before `attach` require them again.

    Args:
        model: a network that carries an adapter which is not merged; changed in place.

    Raises:
        AdapterError: the network carries no adapter, or the adapter is merged.
    """
    attachment = require_attachment(model)
    exchange_modules(model, {layer: layer.base for _, layer in adapted_layers(model)})
    for bias in attachment.biases:
        bias.release()
    restore_requires_grad(model, attachment)
    set_attachment(model, None)


def parameter_table(model: nn.Module) -> ParameterTable:
    """Count the parameters of a network, with or without an adapter."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterTable(sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable))


def _model_type(model: nn.Module) -> str | None:
    model_type: Any = getattr(getattr(model, "config", None), "model_type", None)
    return model_type if isinstance(model_type, str) else None


def _check_patterns(config: LoraConfig, plan: Plan) -> None:
    """Raise if a pattern matches no adapted layer: it would have no effect."""
    for where, patterns in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for pattern in patterns:
            if not any(matches(pattern, name) for name in plan):
                adapted = ", ".join(sorted({name.rpartition(".")[2] for name in plan}))
                raise SettingsError(
                    f"{pattern!r} matches no adapted layer",
                    where=where,
                    hint=f"use an adapted layer ({adapted}) or add a target",
                )


def _fresh_layer(
    module: nn.Module,
    name: str,
    rows: tuple[tuple[int, int], ...] | None,
    config: LoraConfig,
    generator: torch.Generator | None,
) -> LoraLayer:
    rank = config.rank_of(name)
    if fault := layer_class(module)(module, ()).rank_fault(rank):
        raise SettingsError(fault, where=name)
    scale = config.scale(rank, config.alpha_of(name))
    shapes = [BranchShape(rank, scale, outputs) for outputs in rows or (None,)]
    return layer_class(module)(module, shapes, dropout_p=config.dropout, dora=config.dora, generator=generator)


def _layer_adapter(layer: LoraLayer) -> LayerAdapter:
    branches = tuple(LowRank(_array(pair.lora_A), _array(pair.lora_B), pair.scale, pair.rows) for pair in layer.pairs)
    magnitude = None if layer.magnitude is None else _array(layer.magnitude)
    return LayerAdapter(layer.kind, branches, magnitude, layer.out_features)


def _array(tensor: Tensor) -> Floats:
    return tensor.detach().to("cpu", torch.float32, copy=True).numpy()
