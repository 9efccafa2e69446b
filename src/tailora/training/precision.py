"""The precisions of a run's matrix products: which ones a machine supports, and how a network is converted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tailora.core.errors import SettingsError
from tailora.core.hardware.devices import choose_device
from tailora.training import int8
from tailora.training.settings import FROZEN_BASE, TrainSettings
from tailora.training.trees.loss import FrozenHead
from tailora.training.trees.prefix_tree import TreeBatch

ORDER = ("fp32", "tf32", "bf16", "int8")
"""The precisions, the most exact first."""

Context = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Arithmetic:
    """How a network computes in a precision.

    Attributes:
        precision: one of `ORDER`.
        autocast: returns the context that forward passes run in.
        products: returns the context that the whole run is in, backward passes included.
        head: the vocabulary projection to score with; None for the network's own.
    """

    precision: str
    autocast: Context = contextlib.nullcontext
    products: Context = contextlib.nullcontext
    head: FrozenHead | None = None


def device_for(settings: TrainSettings) -> str:
    """Return the device of a run; `auto` is the CPU for int8, which runs nowhere else.

    Raises:
        SettingsError: the device does not exist or does not offer the precision.
        TrainingError: int8 is set, and the CPU lacks its instructions.
    """
    device = choose_device("cpu" if (settings.device, settings.precision) == ("auto", "int8") else settings.device)
    kind = torch.device(device).type
    if settings.precision == "tf32" and kind != "cuda":
        raise SettingsError("tf32 needs an NVIDIA GPU", where="precision", hint="use fp32 or bf16")
    if settings.precision == "int8":
        int8.require()
    return device


def available(method: str, device: str) -> tuple[str, ...]:
    """List the precisions that a method can be trained in on a device, the most exact first."""
    kind = torch.device(device).type
    if kind == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return ("fp32", "tf32", "bf16") if major >= 8 else ("fp32",)  # Ampere has both, and older ones neither
    if kind != "cpu":
        return ("fp32",)
    return ("fp32", "bf16", "int8") if method == "lora" and int8.supported() else ("fp32", "bf16")


def apply(model: nn.Module, precision: str, settings: TrainSettings, sample: TreeBatch) -> Arithmetic:
    """Convert a network to a precision, in place.

    In bf16 the frozen base under an adapter is cast once. Where the base's own parameters learn, they stay in fp32
    and autocast casts the inputs of each product.

    Args:
        model: a transformers causal language model in fp32 whose learning parameters have `requires_grad`.
        precision: one of `ORDER`.
        settings: the settings of the run.
        sample: trees on which the inputs of int8 layers are measured.

    Returns:
        The contexts that passes run in, and the vocabulary projection to score with.
    """
    if precision == "int8":
        return Arithmetic(precision, head=int8.quantise_frozen(model, sample))
    if precision == "tf32":
        return Arithmetic(precision, products=_tf32)
    if precision == "fp32":
        return Arithmetic(precision)
    if _is_cast(settings):
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
        return Arithmetic(precision)
    device = next(model.parameters()).device.type
    return Arithmetic(precision, autocast=lambda: torch.autocast(device, torch.bfloat16))


def loading_dtype(settings: TrainSettings, precision: str) -> torch.dtype:
    """Return the type to load a base in: that of a precision which casts it.

    Nothing may be computed from the weights before they are cast: DoRA's magnitudes and a prefix's initial values are.

    Args:
        settings: the settings of the run.
        precision: the precision of the run.
    """
    computed = settings.method == "prefix" or (settings.method == "lora" and settings.dora)
    is_cast = precision == "bf16" and _is_cast(settings) and not computed
    return torch.bfloat16 if is_cast else torch.float32


def _is_cast(settings: TrainSettings) -> bool:
    """Return whether bf16 casts the base once, since nothing of it learns."""
    return settings.method in FROZEN_BASE and (settings.method != "lora" or settings.bias == "none")


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
