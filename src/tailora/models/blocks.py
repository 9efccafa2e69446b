"""The blocks of a network."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from tailora.core.errors import ModelError


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a transformers causal language model, in order.

    Raises:
        ModelError: the model has no list of blocks.
    """
    count = cast(Any, model).config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise ModelError(
        "has no list of blocks, which adapters, gradient checkpointing and sharding work on",
        where=type(model).__name__,
        hint="train an adapter of LoRA, in one process and without --gradient-checkpointing",
    )
