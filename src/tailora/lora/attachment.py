"""The record of the adapter that a network carries, and the exchange of modules in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tailora.adapters.adapter import Adapter
from tailora.adapters.config import LoraConfig
from tailora.core.errors import AdapterError
from tailora.lora.biases import TrainedBias
from tailora.lora.layers import LoraLayer

_ATTRIBUTE = "_tailora_attachment"


@dataclass
class Merged:
    """What `unmerge` needs to restore the adapter.

    Attributes:
        layers: the adapted layers that were replaced by their base layers.
        weights: the base's own weight of each of `layers`, unchanged.
        tied_configs: the model configurations whose `tie_word_embeddings` was switched off.
    """

    layers: list[LoraLayer]
    weights: list[nn.Parameter]
    tied_configs: list[Any]


@dataclass
class Attachment:
    """The record of an adapter that a network carries.

    Attributes:
        config: the settings that the adapter was attached with.
        source: the adapter that was attached; None for a fresh one.
        requires_grad: by name, whether each of the base's parameters required gradients before all were frozen.
        biases: the biases that are trained with the adapter.
        merged: what `merge(keep=True)` kept; None while the adapter is not merged.
    """

    config: LoraConfig
    source: Adapter | None
    requires_grad: Mapping[str, bool]
    biases: list[TrainedBias] = field(default_factory=list)
    merged: Merged | None = None


def attachment_of(model: nn.Module) -> Attachment | None:
    """Return the record of the adapter that a network carries; None if it carries none."""
    attachment: Attachment | None = model.__dict__.get(_ATTRIBUTE)
    return attachment


def set_attachment(model: nn.Module, attachment: Attachment | None) -> None:
    """Set the record of the adapter that a network carries; None removes it."""
    if attachment is None:
        model.__dict__.pop(_ATTRIBUTE, None)
    else:
        model.__dict__[_ATTRIBUTE] = attachment


def require_attachment(model: nn.Module) -> Attachment:
    """Return the record of an adapter that is not merged.

    Raises:
        AdapterError: the network carries no adapter, or the adapter is merged.
    """
    attachment = attachment_of(model)
    if attachment is None:
        raise AdapterError("the network carries no adapter", hint="attach one first")
    if attachment.merged is not None:
        raise AdapterError("the adapter is merged into the network", hint="unmerge it first")
    return attachment


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Yield the adapted layers of a network with their paths, which are those of the base layers."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def exchange_modules(model: nn.Module, exchange: Mapping[nn.Module, nn.Module]) -> None:
    """Replace modules by others, in every place where a network has the same module."""
    for module in list(model.modules()):
        if module in exchange:
            continue
        for name, child in list(module._modules.items()):
            if child is not None and child in exchange:
                module._modules[name] = exchange[child]
