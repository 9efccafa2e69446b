"""Which precision an engine runs in where none is asked for: the one whose steps take the least time here.

What is timed is what will run: steps of the engine's own backend with this model and its room for adapters, at the
sizes of a usual batch. The result is kept for the machine, the packages and the model's shape (`machine_cache`).
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
from tailora.models.weights import weight_files

log = logging.getLogger(__name__)
TEXTS, PROMPT, WRITTEN = 8, 32, 32  # the batch: so many texts, tokens of each prompt, tokens of each text
CACHE_TOKENS = 2048  # of the backends that are timed
SMALL = 64 * 2**20  # bytes of weights below which a step's time is not that of its products
MARGIN = 0.1  # part by which another precision has to be faster than the preferred one: more than the noise
_LAPS = 5
_HOPELESS = 2.0  # times the best so far, from which a candidate is not timed further


@dataclass(frozen=True)
class Choice:
    """A precision, and why.

    Attributes:
        precision: the one to run in.
        milliseconds: for a batch of each precision that was timed; empty where none was.
    """

    precision: str
    milliseconds: Mapping[str, float]

    @property
    def description(self) -> str:
        """The times in words; empty where there are none."""
        times = (f"{name} {each:.0f} ms" for name, each in self.milliseconds.items())
        return f"timed for a batch: {', '.join(times)}" if self.milliseconds else ""


def choose(folder: Path, key: Mapping[str, Any], names: Sequence[str], make: Callable[[str], Backend]) -> Choice:
    """The precision of the fastest steps.

    Args:
        folder: the model's.
        key: what the times depend on beside the machine and the packages.
        names: the precisions, the preferred one first; it is taken unless another is faster by `MARGIN`.
        make: a backend in one of them, with a cache of `CACHE_TOKENS`.

    Returns:
        The choice; the preferred precision, untimed, for a model that is small, or that two of do not fit into memory.
    """
    size = sum(path.stat().st_size for path in weight_files(folder))
    available = memory().available
    if size < SMALL or (available is not None and 5 * size > available):
        return Choice(names[0], {})
    whole = {**key, "names": list(names), "batch": [TEXTS, PROMPT, WRITTEN]}
    known = machine_cache.recall(
        "step-times", whole, lambda kept: machine_cache.are_times(kept, names) and list(kept) == list(names)
    )
    if known is not None:
        return Choice(fastest(known), known)
    log.warning("timing %s once for this model on this machine", ", ".join(names))
    found: dict[str, float] = {}
    for name in names:
        found[name] = batch_milliseconds(make(name), _HOPELESS * min(found.values(), default=float("inf")))
    machine_cache.keep("step-times", whole, found)
    return Choice(fastest(found), found)


def fastest(milliseconds: Mapping[str, float]) -> str:
    """The name with the least time; the first, unless another is faster by `MARGIN`."""
    preferred, best = next(iter(milliseconds)), min(milliseconds, key=milliseconds.__getitem__)
    return best if milliseconds[best] < (1 - MARGIN) * milliseconds[preferred] else preferred


def batch_milliseconds(backend: Backend, limit: float = float("inf")) -> float:
    """The time of a batch: one step for all prompts, and one for each token of the texts.

    Each is the least of some laps, since other work on the machine only ever adds time.

    Args:
        backend: nothing else uses it.
        limit: milliseconds above which one lap is enough.
    """
    prompts, writing = _step(backend, 0, PROMPT), _step(backend, PROMPT + WRITTEN // 2, 1)
    least = [float("inf"), float("inf")]
    for lap in range(_LAPS + 1):  # the first one makes the kernels
        for place, step in enumerate((prompts, writing, writing)):
            began = time.perf_counter()
            backend.run(step)
            if lap:
                least[place > 0] = min(least[place > 0], time.perf_counter() - began)
        if lap and 1000 * (least[0] + WRITTEN * least[1]) > limit:
            break
    return 1000 * (least[0] + WRITTEN * least[1])


def _step(backend: Backend, past: int, count: int) -> Step:
    """A step of `TEXTS` sequences that each have some tokens in the cache and some new ones."""
    held = -(-(past + count) // backend.block_size)
    total = TEXTS * count
    return Step(
        tokens=(np.arange(total) % backend.vocabulary).astype(np.int32),
        positions=np.tile(np.arange(past, past + count, dtype=np.int32), TEXTS),
        past=np.full(TEXTS, past, np.int32),
        begins=np.arange(0, total + 1, count, dtype=np.int32),
        blocks=np.arange(TEXTS * held, dtype=np.int32),
        block_begins=np.arange(0, TEXTS * held + 1, held, dtype=np.int32),
        slots=np.full(total, -1, np.int32),
        scales=np.ones(total, np.float32),
        sampled=np.arange(count - 1, total, count, dtype=np.int32),
        best=1,
    )
