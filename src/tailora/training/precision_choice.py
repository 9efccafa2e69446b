"""`--precision auto`: the choice of a precision by timing updates of the run's own data in each.

The times come from a few blocks of the base (`block_timing`), with one precision at a time in memory. All precisions
are timed in turn, several rounds long, and compared within each round: whatever else slows the machine down slows all
of them. The times are kept for the machine, the packages, the model, the method and the size of the batch
(`machine_cache`).
"""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import nn

from tailora.core import machine_cache
from tailora.core.hardware.devices import gpu_name
from tailora.data.examples import Example
from tailora.training.precision import ORDER, available
from tailora.training.settings import TrainSettings
from tailora.training.trees.forward import passes

NOISE = 1.05
"""Times that differ by less than this factor count as equal, and the more exact precision is taken."""
SHORT = 2e12
"""Operations of a run below which nothing is timed: in fp32 it takes seconds, or a minute on a slow CPU."""
ROUNDS = 6
"""Largest number of rounds; even, since every other round has the reverse order."""
CLEAR = 1.2
"""Factor by which a precision must be ahead of all others in every round for the comparison to end early."""
HOPELESS = 5.0
"""Factor by which a precision is behind in the first round if it is not timed again, such as bf16 on a CPU without
instructions for it."""
PATIENCE = 2.0
"""Seconds for each precision after which the comparison ends with the current pair of rounds."""

Reason = Literal[
    "as set",
    "the only one here",
    "too short a run to time others",
    "timed by an earlier run",
    "timed",
    "the one that fits into memory",
    "needs the least memory",
]


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision and why it was chosen.

    Attributes:
        precision: one of `precision.ORDER`.
        reason: how it was chosen.
        seconds: time of an update's first pass with all blocks in each precision, the optimizer's step included; empty
            if nothing was timed.
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
    names: Sequence[str],
    timed: Callable[[Sequence[str]], Mapping[str, float]],
) -> PrecisionChoice:
    """Return the precision that the settings ask for, or the fastest.

    Args:
        model: a transformers causal language model, prepared for the method; its parameters need no values.
        batch: the examples of one update.
        settings: the settings of the run.
        device: its device.
        operations: floating-point operations of the whole run; see `SHORT`.
        names: the precisions to choose from, the most exact first.
        timed: returns the seconds of the first pass of the batch in several precisions.
    """
    known = _known(model, batch, settings, device, operations, names)
    if known is not None:
        return known
    seconds, nodes = dict(timed(names)), _nodes(batch, settings)
    machine_cache.keep("precision", timing_key(model, nodes, settings, device, names), seconds)
    return PrecisionChoice(fastest(seconds), "timed", seconds, nodes)


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


def compare(timed_passes: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Time passes in turn until one is clearly the fastest, or `ROUNDS` rounds are over.

    Every other round runs in reverse order, so that a machine that becomes steadily slower or faster favours none. A
    pass is compared with the fastest of its own round, and the median of the rounds decides, so that a short load on
    the machine does not. A pass that is far behind in the first round is not timed again.

    Args:
        timed_passes: by name, a function that runs the pass once and returns its seconds.

    Returns:
        Seconds by name: the least time of any pass, times the median ratio of each.
    """
    names, rounds = list(timed_passes), list[dict[str, float]]()
    while not rounds or (len(names) > 1 and len(rounds) < ROUNDS):
        order = names if len(rounds) % 2 == 0 else names[::-1]
        rounds.append({name: timed_passes[name]() for name in order})
        names = [name for name in names if rounds[0][name] <= HOPELESS * min(rounds[0].values())]
        spent = sum(sum(times.values()) for times in rounds)
        if len(rounds) % 2 == 0 and (_is_clear(rounds) or spent > PATIENCE * len(names)):
            break
    least = min(min(times.values()) for times in rounds)
    return {
        name: least * statistics.median(times[name] / min(times.values()) for times in rounds if name in times)
        for name in timed_passes
    }


def _is_clear(rounds: Sequence[Mapping[str, float]]) -> bool:
    """Whether the same pass was ahead of all others by the factor `CLEAR` in every round."""
    leaders = {min(times, key=times.__getitem__) for times in rounds}
    return len(leaders) == 1 and all(sorted(times.values())[1] >= CLEAR * min(times.values()) for times in rounds)


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
