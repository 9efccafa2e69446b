"""Merge an adapter into the weights of its base, and unmerge it again bit for bit.

No weight is changed in place: a merged layer gets a new parameter. So another layer with the same (tied) weight is
unaffected, and unmerging restores the original parameter itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import nn

from tailora.core.errors import AdapterError
from tailora.lora.attachment import (
    Attachment,
    Merged,
    adapted_layers,
    attachment_of,
    exchange_modules,
    require_attachment,
    set_attachment,
)
from tailora.lora.layers import LoraLayer


def merge(model: nn.Module, keep: bool = False) -> None:
    """Merge the adapter: replace the adapted layers by plain ones that compute the same, in the base's dtype.

    Sums are computed in fp32 and rounded once. If an adapted weight is tied (an embedding and its head), only the
    adapted layer gets the new weight, and `config.tie_word_embeddings` becomes False, so that saving and loading
    preserve both.

    Args:
        model: a network that carries an adapter; changed in place.
        keep: keep the base's own weights and the adapter in memory for `unmerge`.

    Raises:
        AdapterError: the network carries no adapter, or the adapter is already merged.
    """
    attachment = require_attachment(model)
    layers = [layer for _, layer in adapted_layers(model)]
    configs = _tied_configs(model, layers)
    weights = [_put_weight(layer, nn.Parameter(layer.merged_weight())) for layer in layers]
    exchange_modules(model, {layer: layer.base for layer in layers})
    for config in configs:
        config.tie_word_embeddings = False
    for bias in attachment.biases:
        bias.release(keep_values=True)
    if keep:
        attachment.merged = Merged(layers, weights, configs)
        model.requires_grad_(False)
        return
    set_attachment(model, None)
    restore_requires_grad(model, attachment)


def unmerge(model: nn.Module) -> None:
    """Undo `merge(model, keep=True)`: restore the original base weights and the adapter.

    Args:
        model: a network whose adapter is merged; changed in place.

    Raises:
        AdapterError: no adapter is merged, or it was merged without `keep`.
    """
    attachment = attachment_of(model)
    if attachment is None or attachment.merged is None:
        raise AdapterError(
            "the network has no merged adapter that can be unmerged", hint="merge with keep=True to be able to unmerge"
        )
    merged = attachment.merged
    for layer, weight in zip(merged.layers, merged.weights, strict=True):
        _put_weight(layer, weight)
    exchange_modules(model, {layer.base: layer for layer in merged.layers})
    for config in merged.tied_configs:
        config.tie_word_embeddings = True
    for bias in attachment.biases:
        bias.install()
    attachment.merged = None


def restore_requires_grad(model: nn.Module, attachment: Attachment) -> None:
    """Restore `requires_grad` of the parameters of a plain network to what it was before `attach`."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(attachment.requires_grad[name])


def _put_weight(layer: LoraLayer, weight: nn.Parameter) -> nn.Parameter:
    pristine = layer.base.get_parameter("weight")
    layer.base.weight = weight.requires_grad_(pristine.requires_grad)
    return pristine


def _tied_configs(model: nn.Module, layers: Iterable[LoraLayer]) -> list[Any]:
    """Return the configurations that tie embeddings, if a weight to be merged is shared with another layer."""
    holders = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    if all(holders[id(layer.base_weight)] < 2 for layer in layers):
        return []
    configs = {id(config): config for config in (getattr(module, "config", None) for module in model.modules())}
    return [config for config in configs.values() if getattr(config, "tie_word_embeddings", False)]
