"""Full fine-tuning in several processes: FSDP2 divides weights, gradients and optimizer among them.

Each process keeps its part of every tensor. A block's whole weights exist only while the block computes.
Every pass is a sequence of exchanges, so all processes must run the same number of passes in an update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from tailora.training.distributed import reporting_loss

_ENTRY = "compute_whole"


def shard(model: nn.Module, blocks: Iterable[nn.Module]) -> None:
    """Divide a model's parameters among the processes, in place; they become `DTensor`s.

    Args:
        model: a transformers causal language model, the same in every process.
        blocks: the model's blocks, each of which is gathered on its own. The rest is gathered together.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # slow to load, and rarely needed

    for block in blocks:
        fully_shard(block)
    fully_shard(model)
    # Trees are computed by a part of the model, whose forward pass would not gather the rest of it.
    setattr(model, _ENTRY, lambda compute: compute())
    register_fsdp_forward_method(model, _ENTRY)


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's parameters are divided among processes."""
    return hasattr(model, _ENTRY)


def computed(model: nn.Module, compute: Callable[[], Tensor]) -> Tensor:
    """Return the result of a computation with the model, whose weights are gathered for it if they are divided."""
    if not is_sharded(model):
        return compute()
    return cast(Tensor, getattr(model, _ENTRY)(compute))


def reshard(model: nn.Module) -> None:
    """Free the weights that a pass without gradients has left gathered."""
    if is_sharded(model):
        cast(Any, model).reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which each process may have a part; all processes must call this."""
    if not is_part(tensor):
        return tensor
    with reporting_loss():
        return cast(Tensor, cast(Any, tensor).full_tensor())


def is_part(tensor: Tensor) -> bool:
    """Whether a tensor is a `DTensor`, of which each process has a part."""
    return hasattr(tensor, "full_tensor")


def whole_on_first(tensors: Mapping[str, Tensor], *, is_first: bool) -> dict[str, Tensor]:
    """Return the whole tensors on the CPU in the first process, and empty ones in the others, to save memory."""
    gathered: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        complete = whole(tensor.detach())
        if is_part(tensor):
            complete = complete.cpu() if is_first else torch.empty(0)
        gathered[name] = complete
    return gathered
