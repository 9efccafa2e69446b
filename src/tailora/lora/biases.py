"""Biases that are trained with an adapter: fp32 copies, also of a bf16 base, which is restored exactly."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tailora.adapters.config import Bias


@dataclass
class TrainedBias:
    """One bias of the base, replaced by a trained copy.

    Attributes:
        name: the parameter's full name in the base.
        places: every module and attribute that has this bias.
        pristine: the base's own parameter, unchanged.
        master: the copy that is trained, fp32 (fp64 in an fp64 base).
    """

    name: str
    places: list[tuple[nn.Module, str]]
    pristine: nn.Parameter
    master: nn.Parameter

    def release(self, *, keep_values: bool = False) -> None:
        """Restore the base's own parameter, or with `keep_values` a parameter of its dtype with the trained values."""
        values = self.pristine
        if keep_values:
            trained = self.master.detach().to(self.pristine.dtype, copy=True)
            values = nn.Parameter(trained, requires_grad=self.pristine.requires_grad)
        for module, attribute in self.places:
            if parametrize.is_parametrized(module, attribute):
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
            setattr(module, attribute, values)

    def install(self) -> None:
        """Replace the parameter by the trained copy; the layers read it in the base's dtype."""
        for module, attribute in self.places:
            if self.master.dtype == self.pristine.dtype:
                setattr(module, attribute, self.master)
                continue
            parametrize.register_parametrization(module, attribute, _Cast(self.pristine.dtype), unsafe=True)
            holder = cast(nn.ModuleDict, module.parametrizations)[attribute]
            holder.original = self.master


class _Cast(nn.Module):
    """Presents an fp32 parameter in another dtype; gradients pass through the cast."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, values: Tensor) -> Tensor:
        return values.to(self.dtype)


def bias_names(model: nn.Module, mode: Bias, adapted: Collection[str]) -> list[str]:
    """Return the full names of the biases that a mode trains.

    Args:
        model: the plain network, before layers are wrapped.
        mode: "none", "all" for those of the whole network, or "lora_only" for those of the adapted layers.
        adapted: paths of the adapted layers.
    """
    if mode == "none":
        return []
    names = [name for name, _ in model.named_parameters() if name.rpartition(".")[2] == "bias"]
    return [name for name in names if mode == "all" or name.rpartition(".")[0] in adapted]


def trained_bias(model: nn.Module, name: str) -> TrainedBias:
    """Make a trained copy of a bias of the plain network; `TrainedBias.install` puts it in place."""
    pristine = model.get_parameter(name)
    dtype = torch.float64 if pristine.dtype == torch.float64 else torch.float32
    places = [
        (module, attribute)
        for module in model.modules()
        for attribute, parameter in module._parameters.items()
        if parameter is pristine
    ]
    return TrainedBias(name, places, pristine, nn.Parameter(pristine.detach().to(dtype, copy=True)))
