"""Attach an insert to a network, and extract it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tailora.adapters.insert import PREFIX, Insert, InsertKind
from tailora.core.errors import AdapterError
from tailora.inserts.bottleneck import bottlenecks, insert_bottlenecks
from tailora.inserts.prefix import insert_prefix, prefix_of


def attach_new(
    model: nn.Module, kind: InsertKind, size: int, *, model_type: str | None, generator: torch.Generator | None = None
) -> None:
    """Freeze a network and attach an untrained insert, in place.

    Args:
        model: a transformers causal language model.
        kind: the method.
        size: width of the bottleneck, or number of virtual tokens.
        model_type: transformers' name of the architecture.
        generator: draws the initial values.

    Raises:
        ModelError: the architecture has no place for it.
    """
    model.requires_grad_(False)
    if kind == "prefix":
        insert_prefix(model, size, generator=generator)
    else:
        insert_bottlenecks(model, kind, size, model_type=model_type, generator=generator)


def attach(model: nn.Module, insert: Insert, *, model_type: str | None) -> None:
    """Freeze a network and attach a trained insert, in place.

    Raises:
        AdapterError: it does not fit the network.
        ModelError: the architecture has no place for it.
    """
    attach_new(model, insert.kind, insert.size, model_type=model_type)
    parameters = _parameters(model)
    wrong = [name for name, p in parameters.items() if name not in insert.tensors]
    wrong += [n for n, t in insert.tensors.items() if n not in parameters or parameters[n].shape != t.shape]
    if wrong:
        what = f"{wrong[0]} is missing or has another shape than the base needs"
        raise AdapterError(what, hint="use the base that it was trained on")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(np.array(insert.tensors[name])))


def extract(model: nn.Module, kind: InsertKind) -> Insert:
    """Return the insert of a network as a value."""
    values = {name: p.detach().to("cpu", torch.float32).numpy().copy() for name, p in _parameters(model).items()}
    return Insert(kind, values)


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the insert's parameters by their names in `Insert.tensors`."""
    prefix = prefix_of(model)
    if prefix is not None:
        return {PREFIX: prefix.embedding}
    return {
        f"{path}.{name}": parameter
        for path, adapter in bottlenecks(model).items()
        for name, parameter in adapter.named_parameters()
    }
