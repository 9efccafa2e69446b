"""Bottleneck adapters: two small layers with a nonlinearity between them, added to the states that pass through.

`adapter-h` is the design of Houlsby et al. 2019 (arXiv:1902.00751): an adapter after the attention module and one after
the feed-forward network of every block, each before the residual connection. `adapter-l` is that of Lin et al. 2020
(arXiv:2004.03829): one adapter after every block, with its own normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailora.adapters.insert import InsertKind
from tailora.core.errors import ModelError
from tailora.families import ends_in, family_of
from tailora.models.blocks import blocks_of


class Bottleneck(nn.Module):
    """x + up(f(down(x))), or with a norm x + up(f(down(norm(x)))); exactly x until it is trained.

    Houlsby et al. draw both weights from a normal distribution of deviation 1e-3, so that the adapter is nearly the
    identity. Here `down` is drawn as PyTorch draws a linear layer's, and `up` is zero.

    Args:
        width: of the states.
        size: width of the bottleneck.
        kind: "adapter-h" has GELU and no norm, "adapter-l" ReLU and a norm.
        generator: draws the initial weights.
        dtype: of the parameters.
        device: of the parameters.
    """

    def __init__(
        self,
        width: int,
        size: int,
        kind: InsertKind,
        generator: torch.Generator | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self._activation = F.gelu if kind == "adapter-h" else F.relu
        self.norm = nn.LayerNorm(width, dtype=dtype, device=device) if kind == "adapter-l" else None
        down = torch.empty(size, width, dtype=dtype).uniform_(-(width**-0.5), width**-0.5, generator=generator)
        self.down = _linear(down.to(device))
        self.up = _linear(torch.zeros(width, size, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Adapt […, width]; products are computed in the dtype of the parameters."""
        y = x.to(self.down.weight.dtype)
        if self.norm is not None:
            y = self.norm(y)
        added: Tensor = self.up(self._activation(self.down(y)))
        return x + added.to(x.dtype)


def _linear(weight: Tensor) -> nn.Linear:
    """Return a layer with a weight, [out, in], and a bias of 0. No random number is drawn."""
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(weight.new_zeros(outputs))
    return layer


def insert_bottlenecks(
    model: nn.Module, kind: InsertKind, size: int, *, model_type: str | None, generator: torch.Generator | None = None
) -> None:
    """Insert untrained adapters into a network, in place. Its own parameters stay as they are.

    Args:
        model: a transformers causal language model.
        kind: where the adapters are.
        size: width of the bottleneck.
        model_type: transformers' name of the architecture.
        generator: draws the initial weights.

    Raises:
        ModelError: the architecture has no such places.
    """
    config: Any = model.config
    dtype = torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32
    device = next(model.parameters()).device
    name = kind.replace("-", "_")
    for module in _places(model, kind, model_type):
        adapter = Bottleneck(config.hidden_size, size, kind, generator, dtype, device)
        module.add_module(name, adapter)
        module.register_forward_hook(_adapt)


def _adapt(module: nn.Module, _: Any, output: Any) -> Any:
    """Pass the states that leave a module through its adapter; blocks of some families return them in a tuple."""
    adapter = next(child for child in module.children() if isinstance(child, Bottleneck))
    return (adapter(output[0]), *output[1:]) if isinstance(output, tuple) else adapter(output)


def bottlenecks(model: nn.Module) -> dict[str, Bottleneck]:
    """Return the adapters of a network by their paths."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Bottleneck)}


def _places(model: nn.Module, kind: InsertKind, model_type: str | None) -> list[nn.Module]:
    """Return the modules whose outputs are adapted, in order."""
    blocks = blocks_of(model)
    if kind == "adapter-l":
        return blocks
    family = family_of(model_type)
    places = [_last_layer(block, ends) for block in blocks for ends in (family.attention["o"], family.mlp[::-1])]
    known = [place for place in places if place is not None]
    if len(known) < len(places):
        raise ModelError(
            f"the output projections of attention and feed-forward network of {model_type!r} are not known",
            where=type(model).__name__,
            hint="use --method adapter-l, which adapts the outputs of whole blocks",
        )
    return known


def _last_layer(block: nn.Module, ends: Sequence[str]) -> nn.Module | None:
    """Return a block's only module with the first of the ends that occurs; None if there is no or no single one."""
    for end in ends:
        modules = [module for path, module in block.named_modules() if ends_in(path, (end,))]
        if modules:
            return modules[0] if len(modules) == 1 else None
    return None
