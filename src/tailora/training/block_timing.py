"""The time of an update before the base is loaded: that of a few of its blocks, extrapolated to all of them.

The blocks have the base's own weights and compute the run's own trees in its precision. Timing two numbers of blocks
tells what a block takes, and what everything beside the blocks takes. Results are kept for the machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch.nn.utils import clip_grad_norm_

from tailora.core import machine_cache
from tailora.data.examples import Example
from tailora.models.blocks import blocks_of, keep_blocks
from tailora.models.load import Base, load_part
from tailora.training.methods import learning_parameters, prepare
from tailora.training.optimizer import adamw, foreach_on
from tailora.training.precision import apply
from tailora.training.precision_choice import compare, timing_key
from tailora.training.settings import TrainSettings
from tailora.training.trees.forward import TreeModel, evaluation, passes
from tailora.training.trees.prefix_tree import TreeBatch, build

MOST, LEAST = 6, 2
"""The two numbers of blocks that are timed; with method top2, the blocks that learn are among the fewer."""
SECONDS = 3.0
"""What timing may take, without loading the blocks. A part of the update is timed if all of it would take longer."""
LAPS = 3
"""Number of timed updates of each; the fastest counts."""
COARSEST = 1e-3
"""Largest step of a clock that times them, in seconds."""


def update_seconds(
    base: Base, batch: Sequence[Example], settings: TrainSettings, device: str, precision: str
) -> tuple[float, int]:
    """Return the seconds of the first pass of an update with all blocks, the optimizer's step included, and its nodes.

    No random number is drawn from the global generators.

    Args:
        base: the outline of the base, prepared for the method; its parameters need no values.
        batch: the examples of the update.
        settings: the settings of the run.
        device: the device of the run.
        precision: one of `precision.ORDER`.

    Raises:
        UserError: the base cannot be shortened, or the method has nothing to learn in its first blocks.
    """
    trees = next(iter(passes(batch, settings.tokens_per_pass)))
    key = timing_key(base.model, len(trees), settings, device, (precision,))
    kept = machine_cache.recall("update", key, lambda value: machine_cache.are_times(value, ("node",)))
    if kept is None:
        kept = {"node": _measure(base, batch[: trees.examples], settings, device, precision)}
        machine_cache.keep("update", key, kept)
    return kept["node"] * len(trees), len(trees)


def precision_seconds(
    base: Base, batch: Sequence[Example], settings: TrainSettings, device: str, precisions: Sequence[str]
) -> dict[str, float]:
    """Return the seconds of `update_seconds` in several precisions, compared with each other in rounds.

    One precision at a time is in memory, with a few blocks and at most half of the examples. This needs less memory
    than a run in fp32 or int8 with many blocks. A precision that does not fit into a GPU's memory is left out.

    Raises:
        torch.OutOfMemoryError: none fits.
    """
    trees = next(iter(passes(batch, settings.tokens_per_pass)))
    half = batch[: -(-trees.examples // 2)]
    budget = SECONDS / 3  # a precision is timed several times

    failures: list[torch.OutOfMemoryError] = []

    def timed(name: str) -> float:
        try:
            return len(trees) * _measure(base, half, settings, device, name, budget)
        except torch.OutOfMemoryError as error:
            failures.append(error)
            return math.inf

    seconds = compare({name: partial(timed, name) for name in precisions})
    fitting = {name: duration for name, duration in seconds.items() if math.isfinite(duration)}
    if not fitting:
        raise failures[0]
    return fitting


def _measure(
    base: Base, batch: Sequence[Example], settings: TrainSettings, device: str, precision: str, budget: float = SECONDS
) -> float:
    """Return the seconds that a node of an update takes; timing may take the seconds of the budget."""
    count = len(blocks_of(base.model))
    part = load_part(settings.base, min(MOST, count), device)
    prepare(part, settings)
    timer = _Timer(part, build(batch[: max(1, len(batch) // 8)]), settings, device, precision)
    with timer.arithmetic.products():
        share = budget / (2 * (LAPS + 1) * timer.seconds() * 8)
        trees = build(batch[: max(1, int(len(batch) * min(1.0, share)))])
        most = timer.seconds(trees)
        if count <= MOST:
            return most / len(trees)
        keep_blocks(part.model, blocks_of(part.model)[-LEAST:])
        least = timer.seconds(trees)
    block = max(0.0, most - least) / (MOST - LEAST)
    return (least + block * (count - LEAST)) / len(trees)


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return the clock that times updates on a device, in seconds from any origin.

    On a CPU, this thread takes part in every operation, and its own time does not count what other processes take.
    Windows and gVisor count it in steps of 10 ms and more, within which a short update begins and ends.
    """
    is_fine = device.type == "cpu" and step_of(time.thread_time) <= COARSEST
    return time.thread_time if is_fine else time.perf_counter


@cache
def step_of(clock: Callable[[], float]) -> float:
    """Return the seconds by which a clock advances at a time; infinity if it does not advance within 0.1 s."""
    began, first = time.perf_counter(), clock()
    while (now := clock()) == first:
        if time.perf_counter() - began > 0.1:
            return math.inf
    return now - first


class _Timer:
    """Times updates of a network.

    Args:
        base: the network, prepared for the method; it is converted to the precision.
        sample: trees to measure the inputs of int8 layers on.
        settings: the settings of the run.
        device: the device of the network.
        precision: one of `precision.ORDER`.
    """

    def __init__(self, base: Base, sample: TreeBatch, settings: TrainSettings, device: str, precision: str) -> None:
        self.model, self.settings, self.sample = base.model, settings, sample
        self.device = torch.device(device)
        self.arithmetic = apply(self.model, precision, settings, sample)
        self._clock = clock_of(self.device)

    def seconds(self, trees: TreeBatch | None = None) -> float:
        """Return the time of an update on trees, or on the sample; the first update, which builds kernels, is free."""
        head, checkpointing = self.arithmetic.head, self.settings.gradient_checkpointing
        optimizer, laps = adamw(self.model, self.settings), list[float]()
        network = TreeModel(self.model, head=head, checkpointing=checkpointing)
        with network, evaluation(self.model), torch.enable_grad():
            for _ in range(1 + LAPS):
                began = self._clock()
                self._update(network, optimizer, self.sample if trees is None else trees)
                laps.append(self._clock() - began)
        return min(laps[1:])

    def _update(self, network: TreeModel, optimizer: torch.optim.Optimizer, trees: TreeBatch) -> None:
        with self.arithmetic.autocast():
            loss = network.loss(trees, label_smoothing=self.settings.label_smoothing)
        loss.backward()
        learning = [parameter for parameter in learning_parameters(self.model).values() if parameter.grad is not None]
        clip_grad_norm_(learning, self.settings.max_grad_norm, foreach=foreach_on(self.device))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
