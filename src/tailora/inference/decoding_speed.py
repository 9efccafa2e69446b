"""Decoding speed: tokens a second of texts written side by side, warm and repeated."""

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
        laps: tokens a second of each lap.
        texts: written side by side in a lap.
        tokens: of each text.
    """

    laps: tuple[float, ...]
    texts: int
    tokens: int

    def as_json(self) -> dict[str, Any]:
        """The median and the range of the laps, in tokens a second, and how they were measured."""
        return {
            "tokens_per_second": statistics.median(self.laps),
            "lowest": min(self.laps),
            "highest": max(self.laps),
            "laps": len(self.laps),
            "texts": self.texts,
            "tokens": self.tokens,
        }


def measure_speed(running: Running, prompts: Sequence[Prompt], tokens: int, *, laps: int = LAPS) -> DecodingSpeed:
    """Write greedy texts of a fixed length after prompts, again and again.

    A lap computes the prompts and writes every text to its full length, end-of-text tokens passed over, so that models
    which write longer or shorter texts do the same work. A lap before the first one allocates the buffers and compiles
    the kernels, and is not counted. No lap finds the prompts of the one before in the prefix cache.

    Args:
        running: an engine that does nothing else.
        prompts: at least one.
        tokens: of each text; a prompt and its text must fit into the context.
        laps: that are counted.
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
