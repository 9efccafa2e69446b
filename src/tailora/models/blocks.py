"""The blocks of a network, and the module that runs them."""

from __future__ import annotations

from collections.abc import Sequence
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


def keep_blocks(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Let a network have only some of its blocks, in place.

    Args:
        model: a transformers causal language model.
        blocks: the blocks to keep, in order.

    Raises:
        ModelError: the model has no list of blocks.
    """
    _, present = _find(model)
    owner, name = next(
        (module, name) for module in model.modules() for name, child in module.named_children() if child is present
    )
    setattr(owner, name, nn.ModuleList(blocks))
    cast(Any, model).config.num_hidden_layers = len(blocks)


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
