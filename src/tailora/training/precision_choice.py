"""`--precision auto`: the choice of a precision by timing one of the run's own updates in each.

All precisions are timed in turn, several rounds long, and compared within each round: whatever else slows the machine
down slows all of them. The times are kept for the machine, the packages, the model, the method and the size of the
batch (`machine_cache`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import nn

from tailora.core import machine_cache
from tailora.core.hardware.devices import gpu_name
from tailora.data.examples import Example
from tailora.training.precision import ORDER, Arithmetic, apply, available
from tailora.training.settings import TrainSettings
from tailora.training.trees.forward import TreeModel, evaluation, passes
from tailora.training.trees.prefix_tree import TreeBatch, build

NOISE = 1.05
"""Times that differ by less than this factor count as equal, and the more exact precision is taken."""
SHORT = 2e12
"""Operations of a run below which nothing is timed: in fp32 it takes seconds, or a minute on a slow CPU."""
ROUNDS = 6
"""Largest number of rounds; even, since every other round has the reverse order."""
CLEAR = 1.2
"""Factor by which a precision must be ahead of all others in every round for the comparison to end early."""
PATIENCE = 2.0
"""Seconds for each precision after which the comparison ends with the current pair of rounds."""
TOO_SLOW = 4.0
"""Factor on a single example from which a precision is left out."""

Reason = Literal[
    "as set",
    "the only one here",
    "too short a run to time others",
    "timed",
    "timed by an earlier run",
    "estimated from a few blocks",
    "the one that fits into memory",
    "needs the least memory",
]


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision and why it was chosen.

    Attributes:
        precision: one of `precision.ORDER`.
        reason: how it was chosen.
        seconds: time of the forward and backward passes of one update in each precision, without the optimizer's
            step; empty if nothing was timed.
        nodes: number of tree nodes in the timed passes.
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


def choose(
    model: nn.Module,
    batch: Sequence[Example],
    settings: TrainSettings,
    device: str,
    operations: float,
    fitting: Sequence[str] | None = None,
) -> PrecisionChoice:
    """Return the precision that the settings ask for, or the fastest of those available.

    Args:
        model: a transformers causal language model in fp32 whose learning parameters have `requires_grad`. It is
            unchanged afterwards, to the last bit, and no random number is drawn.
        batch: the examples of one update.
        settings: the settings of the run.
        device: the device of the model.
        operations: floating-point operations of the whole run; see `SHORT`.
        fitting: the precisions to choose from, the most exact first; by default all that are available.
    """
    names = available(settings.method, device) if fitting is None else fitting
    known = _known(model, batch, settings, device, operations, names)
    if known is not None:
        return known
    seconds, nodes = measure(model, batch, settings, device, names), _nodes(batch, settings)
    machine_cache.keep("precision", timing_key(model, nodes, settings, device, names), seconds)
    return PrecisionChoice(fastest(seconds), "timed", seconds, nodes)


def foreseen(
    model: nn.Module,
    batch: Sequence[Example],
    settings: TrainSettings,
    device: str,
    operations: float,
    fitting: Sequence[str],
    timed: Callable[[str], float],
) -> PrecisionChoice:
    """Return what `choose` is going to choose, as far as that is known without running the network.

    Args:
        model: the network; its parameters need no values.
        batch: see `choose`.
        settings: see `choose`.
        device: see `choose`.
        operations: see `choose`.
        fitting: see `choose`.
        timed: estimates the seconds of the pass that `choose` times, from a few blocks of the network.
    """
    known = _known(model, batch, settings, device, operations, fitting)
    if known is not None:
        return known
    seconds = {name: timed(name) for name in fitting}
    return PrecisionChoice(fastest(seconds), "estimated from a few blocks", seconds, _nodes(batch, settings))


def _known(
    model: nn.Module,
    batch: Sequence[Example],
    settings: TrainSettings,
    device: str,
    operations: float,
    names: Sequence[str],
) -> PrecisionChoice | None:
    """Return the choice if nothing has to be timed for it."""
    if settings.precision != "auto":
        return PrecisionChoice(settings.precision, "as set")
    if len(names) == 1:
        alone = len(available(settings.method, device)) == 1
        return PrecisionChoice(names[0], "the only one here" if alone else "the one that fits into memory")
    if operations < SHORT:
        return PrecisionChoice(names[0], "too short a run to time others")
    nodes = _nodes(batch, settings)
    key = timing_key(model, nodes, settings, device, names)
    seconds = machine_cache.recall("precision", key, lambda kept: machine_cache.are_times(kept, names))
    return None if seconds is None else PrecisionChoice(fastest(seconds), "timed by an earlier run", seconds, nodes)


def _nodes(batch: Sequence[Example], settings: TrainSettings) -> int:
    """Return the number of tree nodes in the pass that is timed."""
    return len(next(iter(passes(batch, settings.tokens_per_pass))))


def fastest(seconds: Mapping[str, float]) -> str:
    """Return the most exact precision whose time is within the factor `NOISE` of the shortest."""
    least = min(seconds.values())
    return next(name for name in ORDER if seconds.get(name, math.inf) <= NOISE * least)


def measure(
    model: nn.Module, batch: Sequence[Example], settings: TrainSettings, device: str, names: Sequence[str]
) -> dict[str, float]:
    """Time the forward and backward passes of an update in several precisions.

    This costs three to seven updates in each precision, the first of which builds kernels and buffers, and memory for
    the converted weights in addition to the originals. A precision that takes more than `TOO_SLOW` times as long as
    another on a single example, or that does not fit into a GPU's memory, is left out. If an update has several
    passes, the first is timed.

    Args:
        model: see `choose`.
        batch: the examples of one update.
        settings: the settings of the run.
        device: the device of the model.
        names: the precisions, the most exact first.

    Returns:
        Seconds by precision.

    Raises:
        torch.OutOfMemoryError: the update does not fit into memory in any precision.
    """
    trees, single = next(iter(passes(batch, settings.tokens_per_pass))), build(batch[:1])
    original = _NetworkState(model)
    candidates: dict[str, _Candidate] = {}
    try:
        for name in names:
            original.restore()
            with _dropped_where_memory_ends(candidates, name):
                candidates[name] = _Candidate.prepare(model, name, settings, trees)
        _warm_up(candidates, single, trees, device)
        return compare({name: partial(ready.pass_seconds, trees, device) for name, ready in candidates.items()})
    finally:
        original.restore()


def compare(timed_passes: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Time passes in turn until one is clearly the fastest, or `ROUNDS` rounds are over.

    Every other round runs in reverse order, so that a machine that becomes steadily slower or faster favours none. A
    pass is compared with the fastest of its own round, and the median of the rounds decides, so that a short load on
    the machine does not.

    Args:
        timed_passes: by name, a function that runs the pass once and returns its seconds.

    Returns:
        Seconds by name: the least time of any pass, times the median ratio of each.
    """
    names, rounds = list(timed_passes), list[dict[str, float]]()
    while not rounds or (len(names) > 1 and len(rounds) < ROUNDS):
        order = names if len(rounds) % 2 == 0 else names[::-1]
        rounds.append({name: timed_passes[name]() for name in order})
        spent = sum(sum(times.values()) for times in rounds)
        if len(rounds) % 2 == 0 and (_is_clear(rounds) or spent > PATIENCE * len(names)):
            break
    least = min(min(times.values()) for times in rounds)
    return {name: least * statistics.median(r[name] / min(r.values()) for r in rounds) for name in names}


def _is_clear(rounds: Sequence[Mapping[str, float]]) -> bool:
    """Whether the same pass was ahead of all others by the factor `CLEAR` in every round."""
    leaders = {min(times, key=times.__getitem__) for times in rounds}
    return len(leaders) == 1 and all(sorted(times.values())[1] >= CLEAR * min(times.values()) for times in rounds)


class _NetworkState:
    """What `apply` and `TreeModel` change about a network: its modules and their tensors."""

    def __init__(self, model: nn.Module) -> None:
        self._children = [(module, list(module.named_children())) for module in model.modules()]
        self._tensors = [(parameter, parameter.data) for parameter in model.parameters()]

    def restore(self) -> None:
        """Put the same modules with the same tensors back."""
        for module, children in self._children:
            for name, child in children:
                setattr(module, name, child)
        for parameter, tensor in self._tensors:
            parameter.data, parameter.grad = tensor, None


@dataclass(frozen=True)
class _Candidate:
    """A network in one precision, set aside so that it can alternate with others."""

    arithmetic: Arithmetic
    trees: TreeModel
    state: _NetworkState

    @classmethod
    def prepare(cls, model: nn.Module, name: str, settings: TrainSettings, sample: TreeBatch) -> _Candidate:
        arithmetic = apply(model, name, settings, sample)
        with TreeModel(model, head=arithmetic.head, checkpointing=settings.gradient_checkpointing) as trees:
            return cls(arithmetic, trees, _NetworkState(model))

    def pass_seconds(self, batch: TreeBatch, device: str) -> float:
        """Run forward and back once, and return the time of it."""
        self.state.restore()
        model = self.trees.model
        with self.arithmetic.products(), self.trees, evaluation(model), torch.enable_grad():
            began = time.perf_counter()
            with self.arithmetic.autocast():
                loss = self.trees.loss(batch)
            loss.backward()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - began
        model.zero_grad(set_to_none=True)
        return seconds


def _warm_up(candidates: dict[str, _Candidate], single: TreeBatch, trees: TreeBatch, device: str) -> None:
    """Drop the candidates that are not worth timing, and run each of the others once on the trees."""
    seconds: dict[str, float] = {}
    for name in list(candidates):
        with _dropped_where_memory_ends(candidates, name):
            seconds[name] = min([candidates[name].pass_seconds(single, device) for _ in range(3)][1:])
    for name in [name for name in candidates if seconds[name] > TOO_SLOW * min(seconds.values())]:
        del candidates[name]
    for name in list(candidates):
        with _dropped_where_memory_ends(candidates, name):
            candidates[name].pass_seconds(trees, device)
    if not candidates:
        raise torch.OutOfMemoryError("an update does not fit into the device's memory in any precision")


@contextlib.contextmanager
def _dropped_where_memory_ends(candidates: dict[str, _Candidate], name: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        candidates.pop(name, None)


def timing_key(
    model: nn.Module, nodes: int, settings: TrainSettings, device: str, names: Sequence[str]
) -> dict[str, Any]:
    """Return what the times depend on besides the machine and the packages.

    The length of the texts counts by the power of two next to the number of nodes.
    """
    config = cast(Any, model).config
    shape = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
    adapter = dataclasses.asdict(settings.lora_config()) if settings.method == "lora" else None
    return {
        "threads": torch.get_num_threads(),
        "device": gpu_name(device) or device,
        # Both can be limited by the environment, below what the CPU has.
        "kernels": [torch.backends.cpu.get_cpu_capability(), os.environ.get("ONEDNN_MAX_CPU_ISA", "")],
        "model": {name: getattr(config, name, None) for name in ("model_type", *shape)},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "learning": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "method": settings.method,
        "adapter": adapter,
        "batch_size": settings.batch_size,
        "checkpointing": settings.gradient_checkpointing,
        "precisions": list(names),
        "nodes": 2 ** round(math.log2(nodes)),
    }
