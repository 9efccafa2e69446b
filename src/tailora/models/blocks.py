"""The blocks of a network, and the module that runs them."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from tailora.core.errors import ModelError


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a transformers causal language model, in order.

    Raises:
        ModelError: the model has no list of blocks.
    """
    return list(_find(model)[1])


def owner_of_blocks(model: nn.Module) -> nn.Module:
    """Return the module of a transformers causal language model that runs its blocks one after another.

    Raises:
        ModelError: the model has no list of blocks.
    """
    return _find(model)[0]


def _find(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    count = cast(Any, model).config.num_hidden_layers
    for owner in model.modules():
        for module in owner.children():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return owner, module
    raise ModelError(
        "has no list of blocks, which adapters, prefixes, gradient checkpointing and sharding work on",
        where=type(model).__name__,
        hint="train an adapter of LoRA, in one process and without --gradient-checkpointing",
    )
