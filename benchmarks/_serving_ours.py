"""Tailora's arms of `serving.py`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from _requests import LAYERS, RANK, random_adapter
from tailora.core.hardware.memory import peak_rss
from tailora.engine.backend import Step, StepScores
from tailora.engine.backends.openvino import OpenVinoBackend
from tailora.engine.decoding import Decoding
from tailora.engine.engine import Engine
from tailora.engine.requests import Request, mixture_of

REGISTERED, ZIPF = 1000, 1.2


class _Timed:
    """A backend with a clock around its runs."""

    def __init__(self, inner: OpenVinoBackend) -> None:
        self._inner, self.seconds, self.steps = inner, 0.0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, step: Step) -> StepScores:
        began = time.perf_counter()
        scores = self._inner.run(step)
        self.seconds += time.perf_counter() - began
        self.steps += 1
        return scores


def measure(given: dict[str, Any], arm: str, *, precision: Any, new_tokens: int, seconds: float) -> dict[str, Any]:
    """Passes over the requests until so many seconds are measured, one to warm up before.

    Args:
        given: of `_requests.prepare`.
        arm: "none", "8" or "64" adapters in turn, "1000" registered of which few are asked for often, "one" request
            alone, or "beams".
        precision: of the engine.
        new_tokens: of each request.
        seconds: to measure.
    """
    count = {"8": 8, "64": 64, "1000": REGISTERED}.get(arm, 0)
    folder, kind = Path(given["folder"]), given["model_type"]
    backend = _Timed(
        OpenVinoBackend(
            folder, precision=precision, slots=min(count, 64 if arm == "64" else 16), rank=RANK, layers=LAYERS[kind]
        )
    )
    names = [f"a{number}" for number in range(count)]
    for number, name in enumerate(names):
        backend.adapter_slots.register(name, random_adapter(folder, kind, number))
    engine = Engine(backend, end=given["end"], sequences=640 if arm == "beams" else 64, prefix_cache=False)
    requests = _requests(given, arm, names, new_tokens)
    began = time.perf_counter()
    texts = [list(completions[0].token_ids) for completions in engine.complete(requests)]
    warm = time.perf_counter() - began
    laps: list[dict[str, float]] = []
    while sum(lap["seconds"] for lap in laps) < seconds or len(laps) < 2:
        laps.append(_lap(engine, backend, requests))
    median = sorted(laps, key=lambda lap: lap["seconds"])[len(laps) // 2]
    return {
        **median,
        "tokens_per_second": median["tokens"] / median["seconds"],
        "warm_up_seconds": warm,
        "passes": len(laps),
        "peak_bytes": peak_rss(),
        "precision": precision,
        "texts": texts if arm == "beams" else None,
    }


def _requests(given: dict[str, Any], arm: str, names: Sequence[str], new_tokens: int) -> list[Request]:
    prompts = given["prompts"]
    if arm == "beams":
        decoding = Decoding(max_new_tokens=new_tokens, num_beams=10, length_penalty=0.9)
        return [Request(tuple(prompt), decoding) for prompt in prompts]
    decoding = Decoding(max_new_tokens=new_tokens, ignore_end=True)
    if arm == "one":
        return [Request(tuple(prompts[0]), decoding)]
    if arm == "1000":
        weights = np.arange(1, len(names) + 1) ** -ZIPF
        drawn = np.random.default_rng(0).choice(len(names), size=4 * len(prompts), p=weights / weights.sum())
        pairs = [(prompts[place % len(prompts)], names[number]) for place, number in enumerate(drawn)]
    else:
        pairs = [(prompt, names[place % len(names)] if names else None) for place, prompt in enumerate(prompts)]
    return [Request(tuple(prompt), decoding, mixture_of(adapter)) for prompt, adapter in pairs]


def _lap(engine: Engine, backend: _Timed, requests: Sequence[Request]) -> dict[str, float]:
    backend.seconds, backend.steps = 0.0, 0
    began = time.perf_counter()
    for request in requests:
        engine.submit(request)
    first, tokens = 0.0, 0
    while not engine.idle:
        for event in engine.step():
            first = first or time.perf_counter() - began
            tokens += len(event.tokens) or (0 if event.result is None else len(event.result[0].token_ids))
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "tokens": tokens,
        "first_token_seconds": first,
        "kernel_seconds": backend.seconds,
        "steps": backend.steps,
    }
