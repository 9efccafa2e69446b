"""What a network remembers about the adapter on it, and the exchange of its modules in place."""

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
    """What `unmerge` needs to put everything back.

    Attributes:
        layers: the adapted layers that were taken out.
        weights: by adapted layer's place in `layers`, the base's own weight, untouched.
        tied_configs: the model configurations whose `tie_word_embeddings` had to be switched off.
    """

    layers: list[LoraLayer]
    weights: list[nn.Parameter]
    tied_configs: list[Any]


@dataclass
class Attachment:
    """An adapter's presence on a network.

    Attributes:
        config: the settings the adapter was attached with.
        source: the adapter that was attached, None for a fresh one.
        requires_grad: what each of the base's parameters had before all were frozen, by name.
        biases: the biases that are trained along.
        merged: what `merge(keep=True)` kept; None while the layers are adapted.
    """

    config: LoraConfig
    source: Adapter | None
    requires_grad: Mapping[str, bool]
    biases: list[TrainedBias] = field(default_factory=list)
    merged: Merged | None = None


def attachment_of(model: nn.Module) -> Attachment | None:
    """What the network remembers about the adapter on it, None without one."""
    found: Attachment | None = model.__dict__.get(_ATTRIBUTE)
    return found


def set_attachment(model: nn.Module, attachment: Attachment | None) -> None:
    """Remember an attachment, or with None forget it."""
    if attachment is None:
        model.__dict__.pop(_ATTRIBUTE, None)
    else:
        model.__dict__[_ATTRIBUTE] = attachment


def require_attachment(model: nn.Module) -> Attachment:
    """The attachment of a network whose layers are adapted and not merged.

    Raises:
        AdapterError: if there is no adapter, or it is merged.
    """
    attachment = attachment_of(model)
    if attachment is None:
        raise AdapterError("the network carries no adapter", hint="attach one first")
    if attachment.merged is not None:
        raise AdapterError("the adapter is merged into the network", hint="unmerge it first")
    return attachment


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """The adapted layers of a network with their paths, which are those of the base layers they hold."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def exchange_modules(model: nn.Module, exchange: Mapping[nn.Module, nn.Module]) -> None:
    """Put new modules in the places of old ones, in every place where a network holds the same module."""
    for module in list(model.modules()):
        if module in exchange:
            continue
        for name, child in list(module._modules.items()):
            if child is not None and child in exchange:
                module._modules[name] = exchange[child]
