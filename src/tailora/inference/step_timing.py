"""Choose the precision of an engine, and the length of its drafts, by timing its steps on this machine.

The steps run on the same backend, with the same model and adapter slots, at the sizes of a typical batch. The results
are cached by machine, package versions and shape of the model (`machine_cache`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tailora.core import machine_cache
from tailora.core.hardware.memory import memory
from tailora.engine.backend import Backend, Step
from tailora.engine.drafting import StepCost
from tailora.models.weights import weight_files

log = logging.getLogger(__name__)
TEXTS, PROMPT, WRITTEN = 8, 32, 32  # the batch: number of texts, tokens per prompt, tokens per text
CACHE_TOKENS = 2048  # of the backends that are timed
SMALL = 64 * 2**20  # bytes of weights below which products do not dominate the time of a step
MARGIN = 0.1  # fraction by which another precision must be faster than the preferred one: more than the noise
_LAPS = 5
_SIZES = (1, 2, 4, 8, 16, 32)  # of the steps from which the cost of drafts follows, in texts
_HOPELESS = 2.0  # a candidate this many times slower than the best so far is not timed further


@dataclass(frozen=True)
class PrecisionTiming:
    """A precision, and the times by which it was chosen.

    Attributes:
        precision: the chosen one.
        milliseconds: per batch, of each timed precision; empty if none was timed.
    """

    precision: str
    milliseconds: Mapping[str, float]

    @property
    def description(self) -> str:
        """The times for a log line; empty if there are none."""
        times = (f"{name} {time:.0f} ms" for name, time in self.milliseconds.items())
        return f"timed for a batch: {', '.join(times)}" if self.milliseconds else ""


def choose(
    folder: Path, key: Mapping[str, Any], names: Sequence[str], make: Callable[[str], Backend]
) -> PrecisionTiming:
    """Choose the precision of the fastest steps.

    Args:
        folder: the model's.
        key: everything that the times depend on besides the machine and the packages.
        names: the precisions, the preferred one first; it is chosen unless another is faster by `MARGIN`.
        make: creates a backend in a precision, with a cache of `CACHE_TOKENS`.

    Returns:
        The choice; the preferred precision without timing if the model is small, or memory is short.
    """
    size = sum(path.stat().st_size for path in weight_files(folder))
    available = memory().available
    if size < SMALL or (available is not None and 5 * size > available):
        return PrecisionTiming(names[0], {})
    whole = {**key, "names": list(names), "batch": [TEXTS, PROMPT, WRITTEN]}
    known = machine_cache.recall(
        "step-times", whole, lambda kept: machine_cache.are_times(kept, names) and list(kept) == list(names)
    )
    if known is not None:
        return PrecisionTiming(fastest(known), known)
    log.warning("timing %s once for this model on this machine", ", ".join(names))
    times: dict[str, float] = {}
    for name in names:
        times[name] = batch_milliseconds(make(name), _HOPELESS * min(times.values(), default=float("inf")))
    machine_cache.keep("step-times", whole, times)
    return PrecisionTiming(fastest(times), times)


def fastest(milliseconds: Mapping[str, float]) -> str:
    """Return the name with the shortest time, or the first one unless another is faster by `MARGIN`."""
    preferred, best = next(iter(milliseconds)), min(milliseconds, key=milliseconds.__getitem__)
    return best if milliseconds[best] < (1 - MARGIN) * milliseconds[preferred] else preferred


def batch_milliseconds(backend: Backend, limit: float = float("inf")) -> float:
    """Time a batch: one step for all prompts, and one for each token of the texts.

    The shortest of several laps counts, because other work on the machine only adds time.

    Args:
        backend: the backend, which does nothing else at the same time.
        limit: milliseconds above which one lap is enough.
    """
    prompts, writing = _step(backend, TEXTS, 0, PROMPT), _step(backend, TEXTS, PROMPT + WRITTEN // 2, 1)
    least = [float("inf"), float("inf")]
    for lap in range(_LAPS + 1):  # the first one compiles the kernels
        for place, step in enumerate((prompts, writing, writing)):
            began = time.perf_counter()
            backend.run(step)
            if lap:
                least[place > 0] = min(least[place > 0], time.perf_counter() - began)
        if lap and 1000 * (least[0] + WRITTEN * least[1]) > limit:
            break
    return 1000 * (least[0] + WRITTEN * least[1])


def step_cost(folder: Path, key: Mapping[str, Any], backend: Backend) -> StepCost:
    """Time steps of several sizes, of one token of each text, and fit a line to their times.

    Args:
        folder: the model's.
        key: see `choose`.
        backend: the started backend, whose cache is not in use.

    Returns:
        The line; that of typical models without timing if the model is small.
    """
    sizes = [size for size in _SIZES if size <= backend.blocks]
    if len(sizes) < 2 or sum(path.stat().st_size for path in weight_files(folder)) < SMALL:
        return StepCost()
    whole, names = {**key, "sizes": sizes}, [str(size) for size in sizes]
    known = machine_cache.recall(
        "step-costs", whole, lambda kept: machine_cache.are_times(kept, names) and list(kept) == names
    )
    if known is None:
        backend.run(_step(backend, sizes[-1], 0, PROMPT // 2))  # fills the cache
        steps = [_step(backend, size, PROMPT // 2, 1) for size in sizes]
        laps = [[_milliseconds(backend, step) for step in steps] for _ in range(_LAPS + 1)]
        known = dict(zip(names, map(min, zip(*laps[1:], strict=True)), strict=True))  # the first compiles the kernels
        machine_cache.keep("step-costs", whole, known)
    times = np.array([known[name] for name in names])
    per_token, fixed = np.polyfit(sizes, times, 1, w=1 / times)  # errors count in relation to the time of a step
    return StepCost(max(0.0, float(fixed)), max(1e-3 * float(times[0]), float(per_token)))


def _milliseconds(backend: Backend, step: Step) -> float:
    began = time.perf_counter()
    backend.run(step)
    return 1000 * (time.perf_counter() - began)


def _step(backend: Backend, texts: int, past: int, count: int) -> Step:
    """Build a step of some texts, each with `past` tokens in the cache and `count` new ones."""
    blocks = -(-(past + count) // backend.block_size)
    total = texts * count
    return Step(
        tokens=(np.arange(total) % backend.vocabulary).astype(np.int32),
        positions=np.tile(np.arange(past, past + count, dtype=np.int32), texts),
        past=np.full(texts, past, np.int32),
        begins=np.arange(0, total + 1, count, dtype=np.int32),
        blocks=np.arange(texts * blocks, dtype=np.int32),
        block_begins=np.arange(0, texts * blocks + 1, blocks, dtype=np.int32),
        slots=np.full((total, 1), -1, np.int32),
        scales=np.ones((total, 1), np.float32),
        sampled=np.arange(count - 1, total, count, dtype=np.int32),
        best=1,
    )
