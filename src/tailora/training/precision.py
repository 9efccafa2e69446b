"""The precision of a run's matrix products: what a machine offers, how a network is put into it, which is fastest.

`auto` is decided by timing the passes of one of the run's own updates in each precision. The times are kept for
the machine, the packages, the model, the method and the size of the batch (`machine_cache`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import nn

from tailora.core import machine_cache
from tailora.core.errors import SettingsError
from tailora.core.hardware.devices import choose_device, gpu_name
from tailora.data.examples import Example
from tailora.training import int8
from tailora.training.settings import TrainSettings
from tailora.training.trees.forward import TreeModel, evaluation, passes
from tailora.training.trees.loss import FrozenHead
from tailora.training.trees.prefix_tree import TreeBatch, build

ORDER = ("fp32", "tf32", "bf16", "int8")
"""The precisions, the most exact first."""
NOISE = 1.05
"""Times that differ by less than this factor count as equal, and the more exact precision is taken."""
SHORT = 2e12
"""Operations of a whole run below which nothing is timed: fp32 takes seconds or, on a slow CPU, a minute."""
LAPS, PATIENCE, TOO_SLOW = 5, 2.0, 4.0  # timed updates at most; seconds after which fewer do; when to give up on one

Context = Callable[[], AbstractContextManager[Any]]
Reason = Literal["as set", "the only one here", "too short a run to time others", "timed", "timed by an earlier run"]


@dataclass(frozen=True)
class Arithmetic:
    """How a network computes once it has been put into a precision.

    Attributes:
        precision: one of `ORDER`.
        autocast: makes the context of forward passes.
        products: makes the context of the whole run, gradients included.
        head: the vocabulary projection to score with, if it is not the network's own.
    """

    precision: str
    autocast: Context = contextlib.nullcontext
    products: Context = contextlib.nullcontext
    head: FrozenHead | None = None


@dataclass(frozen=True)
class Choice:
    """A precision and why it was taken.

    Attributes:
        precision: one of `ORDER`.
        reason: how it was found.
        seconds: time of the passes of one update in each precision, the optimizer's step left out; empty if none was
            measured.
        nodes: of the trees that were timed.
    """

    precision: str
    reason: Reason
    seconds: Mapping[str, float] = field(default_factory=dict)
    nodes: int = 0

    def __str__(self) -> str:
        if not self.seconds:
            return f"{self.precision} ({self.reason})"
        times = ", ".join(f"{name} {1000 * self.seconds[name]:.0f} ms" for name in ORDER if name in self.seconds)
        return f"{self.precision} ({self.reason}: an update takes {times})"


def device_for(settings: TrainSettings) -> str:
    """The device that a run computes on; `auto` means the CPU for int8, which runs nowhere else.

    Raises:
        SettingsError: the device does not exist, or does not have the precision.
    """
    device = choose_device("cpu" if (settings.device, settings.precision) == ("auto", "int8") else settings.device)
    kind = torch.device(device).type
    if settings.precision == "tf32" and kind != "cuda":
        raise SettingsError("tf32 is a precision of NVIDIA GPUs", where="precision", hint="use fp32 or bf16")
    if settings.precision == "int8":
        int8.require()
    return device


def available(method: str, device: str) -> tuple[str, ...]:
    """The precisions that a method can be trained in on a device, the most exact first."""
    kind = torch.device(device).type
    if kind == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return ("fp32", "tf32", "bf16") if major >= 8 else ("fp32",)  # Ampere has both, and older ones neither
    if kind != "cpu":
        return ("fp32",)
    return ("fp32", "bf16", "int8") if method == "lora" and int8.supported() else ("fp32", "bf16")


def apply(model: nn.Module, precision: str, settings: TrainSettings, sample: TreeBatch) -> Arithmetic:
    """Put a network into a precision, in place.

    An adapter's frozen base is narrowed once. Where the base's own parameters learn, they stay fp32 and products are
    narrowed by autocast.

    Args:
        model: a transformers causal language model in fp32, what learns marked by `requires_grad`.
        precision: one of `ORDER`.
        settings: of the run.
        sample: data to measure the inputs of int8 layers on.
    """
    if precision == "int8":
        return Arithmetic(precision, head=int8.quantise_frozen(model, sample))
    if precision == "tf32":
        return Arithmetic(precision, products=_tf32)
    if precision == "fp32":
        return Arithmetic(precision)
    if settings.method == "lora" and settings.bias == "none":
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
        return Arithmetic(precision)
    device = next(model.parameters()).device.type
    return Arithmetic(precision, autocast=lambda: torch.autocast(device, torch.bfloat16))


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def choose(
    model: nn.Module, batch: Sequence[Example], settings: TrainSettings, device: str, operations: float
) -> Choice:
    """The precision that the settings ask for, or the fastest of those available.

    Args:
        model: a transformers causal language model in fp32, what learns marked by `requires_grad`. It is the same
            afterwards, to the last bit, and no random number is drawn.
        batch: the examples of an update.
        settings: of the run.
        device: where the model is.
        operations: of the whole run; see `SHORT`.
    """
    if settings.precision != "auto":
        return Choice(settings.precision, "as set")
    names = available(settings.method, device)
    if len(names) == 1:
        return Choice(names[0], "the only one here")
    if operations < SHORT:
        return Choice("fp32", "too short a run to time others")
    trees = next(iter(passes(batch, settings.tokens_per_pass)))
    key = _key(model, len(trees), settings, device)
    seconds = machine_cache.recall("precision", key, lambda kept: machine_cache.are_times(kept, names))
    if seconds is not None:
        return Choice(fastest(seconds), "timed by an earlier run", seconds, len(trees))
    seconds = measure(model, batch, settings, device)
    machine_cache.keep("precision", key, seconds)
    return Choice(fastest(seconds), "timed", seconds, len(trees))


def fastest(seconds: Mapping[str, float]) -> str:
    """The most exact precision among those that take no more than the least time and `NOISE`."""
    least = min(seconds.values())
    return next(name for name in ORDER if seconds.get(name, math.inf) <= NOISE * least)


def measure(model: nn.Module, batch: Sequence[Example], settings: TrainSettings, device: str) -> dict[str, float]:
    """Time the passes of an update, forward and back, in each precision that is available.

    Costs two to six updates in each (two where they take seconds), of which the first makes kernels and buffers, and
    the conversion of the frozen weights, which stand beside the originals meanwhile. A precision that takes more than
    four times as long as another on a single example, or that does not fit into a GPU's memory, is left out. Where an
    update has several passes, the first is timed.

    Args:
        model: as for `choose`.
        batch: the examples of an update.
        settings: of the run.
        device: where the model is.

    Returns:
        Seconds by precision.
    """
    trees, single = next(iter(passes(batch, settings.tokens_per_pass))), build(batch[:1])
    seconds: dict[str, float] = {}
    least_single = math.inf
    for name in available(settings.method, device):
        with contextlib.suppress(torch.OutOfMemoryError), _restored(model):
            way = apply(model, name, settings, trees)
            with way.products(), TreeModel(model, head=way.head) as runner, evaluation(model), torch.enable_grad():
                alone = [_pass_seconds(runner, way, single, device) for _ in range(2)][1]
                least_single = min(alone, least_single)
                if alone > TOO_SLOW * least_single:
                    continue
                first = _pass_seconds(runner, way, trees, device)
                laps: list[float] = []
                while len(laps) < LAPS and (not laps or sum(laps) < PATIENCE):
                    laps.append(_pass_seconds(runner, way, trees, device))
                seconds[name] = min(first, *laps)
    if not seconds:
        raise torch.OutOfMemoryError("an update does not fit into the device's memory in any precision")
    return seconds


def _pass_seconds(runner: TreeModel, way: Arithmetic, trees: TreeBatch, device: str) -> float:
    began = time.perf_counter()
    with way.autocast():
        loss = runner.loss(trees)
    loss.backward()  # type: ignore[no-untyped-call]
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    took = time.perf_counter() - began
    runner.model.zero_grad(set_to_none=True)
    return took


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Undo at the end what `apply` and `forward.TreeModel` do to a network: the same modules with the same tensors."""
    children = [(module, list(module.named_children())) for module in model.modules()]
    tensors = [(parameter, parameter.data) for parameter in model.parameters()]
    gelus = [(module, module.approximate) for module in model.modules() if isinstance(module, nn.GELU)]
    try:
        yield
    finally:
        for module, named in children:
            for name, child in named:
                setattr(module, name, child)
        for parameter, tensor in tensors:
            parameter.data, parameter.grad = tensor, None
        for gelu, approximate in gelus:
            gelu.approximate = approximate


def _key(model: nn.Module, nodes: int, settings: TrainSettings, device: str) -> dict[str, Any]:
    """What the times depend on beside the machine and the packages.

    The length of the texts counts by the power of two next to the number of nodes.
    """
    config = cast(Any, model).config
    shape = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
    adapter = dataclasses.asdict(settings.lora_config()) if settings.method == "lora" else None
    return {
        "threads": torch.get_num_threads(),
        "device": gpu_name(device) or device,
        "model": {name: getattr(config, name, None) for name in ("model_type", *shape)},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "learning": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "method": settings.method,
        "adapter": adapter,
        "batch_size": settings.batch_size,
        "nodes": 2 ** round(math.log2(nodes)),
    }
