"""Saving the adapter of a network as a folder that PEFT and Tailora read, and loading such folders."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tailora.adapters import formats
from tailora.adapters.adapter import Adapter, changes_nothing, require_base
from tailora.lora.attachment import adapted_layers, attachment_of
from tailora.lora.inject import attach, extract
from tailora.models.fingerprint import fingerprint_tensors
from tailora.models.weights import StoredTensor

log = logging.getLogger(__name__)


def save(
    model: nn.Module, folder: str | PathLike[str], *, base: str | None = None, meta: Mapping[str, Any] | None = None
) -> None:
    """Write the adapter of a network as a folder that PEFT and every Tailora command read.

    The folder is written whole or not at all, and replaces one of the same name. If the base is in fp32, the folder
    contains its fingerprint, and Tailora refuses the adapter on other weights. A base in 16 bits may have been rounded
    when it was loaded, so its fingerprint is left out.

    Args:
        model: a network that carries an adapter which is not merged.
        folder: the folder to write.
        base: the base model's name on the hub or its folder, which the adapter's user loads; by default what a
            transformers model says it was loaded from.
        meta: more to keep in `tailora.json`. `{"prompt_form": "arrow", "linearization": "paper"}` names the prompts
            that the adapter was trained on, so that `tailora generate` builds the same.

    Raises:
        AdapterError: the network carries no adapter, or the adapter is merged, contains values that are not finite, or
            has no equivalent in PEFT.
    """
    adapter = extract(model)
    name = base or adapter.base_name or _name_of(model)
    adapter = replace(
        adapter,
        base_fingerprint=_fingerprint(model) or adapter.base_fingerprint,
        base_name=name,
        meta={**adapter.meta, **(meta or {})},
    )
    if changes_nothing(adapter):
        log.warning("%s: the adapter is still all zero, so it changes nothing", folder)
    formats.save(adapter, folder)


def load(model: nn.Module, folder: str | PathLike[str], *, force: bool = False) -> Adapter:
    """Attach the adapter of a folder to a network; it can be trained on, merged and saved again.

    Args:
        model: the network that the adapter was trained on, without an adapter; changed in place.
        folder: an adapter folder of Tailora or PEFT, a run directory of `tailora train`, or a loralib state dict
            (`.bin`, `.pt`, `.pth`).
        force: attach an adapter that was trained on other weights of the same shapes, with a warning.

    Returns:
        The adapter as it was read.

    Raises:
        AdapterError: the folder cannot be read, the adapter does not fit the network, or it was trained on other
            weights. The network is unchanged.
        SettingsError: the network carries an adapter already.
    """
    place = formats.adapter_place(Path(folder))
    adapter = formats.load(place)
    fingerprint = _fingerprint(model)
    if fingerprint is not None:
        require_base(
            adapter,
            fingerprint=fingerprint,
            base_name=_name_of(model) or type(model).__name__,
            place=str(place),
            force=force,
        )
    attach(model, adapter.config, adapter)
    return adapter


def _name_of(model: nn.Module) -> str | None:
    """Return the name or path that a transformers model was loaded from; None if it is unknown."""
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    return name if isinstance(name, str) and name else None


def _fingerprint(model: nn.Module) -> str | None:
    """Return the fingerprint of the weights under an adapter; None if any is narrower than fp32."""
    parameters = _base_parameters(model)
    if any(parameter.dtype not in (torch.float32, torch.float64) for parameter in parameters.values()):
        return None
    stored = {name: StoredTensor("F32", p.detach().to("cpu", torch.float32).numpy()) for name, p in parameters.items()}
    return fingerprint_tensors(stored)


def _base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the base's own parameters by their names in the plain network; a tied weight has one name."""
    layers = dict(adapted_layers(model))
    names = {
        f"{path}.base.{name}": f"{path}.{name}"
        for path, layer in layers.items()
        for name, _ in layer.base.named_parameters()
    }
    base = {id(parameter) for layer in layers.values() for parameter in layer.base.parameters()}
    added = {id(parameter) for layer in layers.values() for parameter in layer.parameters()} - base
    attachment = attachment_of(model)
    biases = [] if attachment is None else attachment.biases
    added |= {id(bias.master) for bias in biases}
    parameters = {names.get(name, name): p for name, p in model.named_parameters() if id(p) not in added}
    return parameters | {bias.name: bias.pristine for bias in biases}
