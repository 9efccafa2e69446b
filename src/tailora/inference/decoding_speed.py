"""Decoding speed: tokens per second of texts that are written at the same time, repeated and after a warm-up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tailora.engine.decoding import Decoding
from tailora.engine.engine import Engine
from tailora.inference.running import Running
from tailora.inference.texts import Prompt, generate

LAPS = 5


@dataclass(frozen=True)
class DecodingSpeed:
    """Repeated measurements of one engine.

    Attributes:
        laps: tokens per second of each lap.
        texts: number of texts written at the same time.
        tokens: length of a text.
    """

    laps: tuple[float, ...]
    texts: int
    tokens: int

    def as_json(self) -> dict[str, Any]:
        """Return the median and the range of the laps in tokens per second, and how they were measured."""
        return {
            "tokens_per_second": statistics.median(self.laps),
            "lowest": min(self.laps),
            "highest": max(self.laps),
            "laps": len(self.laps),
            "texts": self.texts,
            "tokens": self.tokens,
        }


def measure_speed(running: Running, prompts: Sequence[Prompt], tokens: int, *, laps: int = LAPS) -> DecodingSpeed:
    """Measure the speed of writing greedy texts of a fixed length.

    A lap computes the prompts and writes every text to its full length, ignoring end-of-text tokens, so that all models
    do the same work. An extra first lap allocates the buffers and compiles the kernels, and is not counted. The prefix
    cache is off.

    Args:
        running: an engine that does nothing else.
        prompts: at least one prompt.
        tokens: length of a text; a prompt and its text must fit into the context.
        laps: number of laps that are counted.
    """
    old = running.engine
    engine = Engine(old.backend, end=old.ends, sequences=len(prompts), prefix_cache=False)
    alone = replace(running, engine=engine)
    decoding = Decoding(max_new_tokens=tokens, ignore_end=True)
    speeds = []
    for lap in range(laps + 1):
        began = time.perf_counter()
        generations = generate(alone, prompts, decoding)
        seconds = time.perf_counter() - began
        if lap:
            speeds.append(sum(generation.completion_tokens for generation in generations) / seconds)
    return DecodingSpeed(tuple(speeds), len(prompts), tokens)
