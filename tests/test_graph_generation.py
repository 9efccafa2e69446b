"""Whole generations by the OpenVINO graph of each family, token by token as transformers computes them in fp32.

Requests share a step and are computed in pieces, with adapters, with mixtures of two, over reused blocks, and after
being preempted. The reference is transformers' own network, with a request's adapters merged into its weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bases import KINDS, SHAPES, save_adapter, save_base
from tailora.adapters import formats
from tailora.adapters.arithmetic import combined
from tailora.adapters.config import LoraConfig
from tailora.engine.backends.openvino import OpenVinoBackend
from tailora.engine.decoding import Decoding
from tailora.engine.engine import Engine
from tailora.engine.requests import Mixture, Request
from tailora.lora import inject
from tailora.models.load import load_base

WINDOWS: dict[str, dict[str, Any]] = {
    "qwen2, a window": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3, a window of several blocks": {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 0},
    "gemma3_text, a window of a block": {"sliding_window": 32},
}
TARGETS = {
    "a": ("attention", "mlp"),
    "b": ("attention.qv", "embedding", "head"),
}
MIXTURES: tuple[Mixture, ...] = ((), (("a", 1.0),), (("b", 1.5),), (("a", 0.75), ("b", -0.5)))
SHARED = tuple((11 * place) % 200 + 1 for place in range(40))


def prompts() -> list[tuple[int, ...]]:
    """Long and short, two of which begin alike."""
    rng = np.random.default_rng(3)
    own = [tuple(int(token) for token in rng.integers(1, 257, length)) for length in (3, 50, 20)]
    return [*own, (*SHARED, 9), (*SHARED, 9, 4, 30)]


def engine_of(base: Path, adapters: dict[str, Path]) -> Engine:
    layers = {path.rpartition(".")[2] for each in adapters.values() for path in formats.load(each).layers}
    options: dict[str, Any] = {"precision": "fp32", "cache_tokens": 12 * 32, "threads": 1}
    backend = OpenVinoBackend(base, slots=2, rank=6, layers=tuple(sorted(layers)), **options)
    for name, folder in adapters.items():
        backend.adapter_slots.register(name, formats.load(folder))
    return Engine(backend, end=0, step_tokens=24, sequences=8)


def network(base: Path, adapters: dict[str, Path], mixture: Mixture) -> Any:
    """transformers' own network with a mixture of adapters."""
    loaded = load_base(str(base), dtype=torch.float32)
    if mixture:
        total = combined([formats.load(adapters[name]) for name, _ in mixture], [weight for _, weight in mixture])
        inject.attach(loaded.model, total.config, total, model_type=loaded.model_type)
    return loaded.model


@pytest.mark.parametrize("case", [*KINDS, *WINDOWS])
def test_generations_are_those_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    kind = case.partition(",")[0]
    monkeypatch.setitem(SHAPES, kind, SHAPES[kind] | WINDOWS.get(case, {}))
    base = tmp_path / "base"
    save_base(base, kind)
    adapters = {
        name: save_adapter(tmp_path / name, str(base), config=LoraConfig(rank=3, alpha=6, targets=targets), seed=seed)
        for seed, (name, targets) in enumerate(TARGETS.items())
    }
    engine = engine_of(base, adapters)
    decoding = Decoding(max_new_tokens=30, ignore_end=True, top_logprobs=3)
    asked = [Request(prompt, decoding, mixture) for prompt in prompts() for mixture in MIXTURES]
    completions = [completion for (completion,) in engine.complete(asked)]
    assert engine.load.preempted > 0
    networks = {mixture: network(base, adapters, mixture) for mixture in MIXTURES}
    for request, completion in zip(asked, completions, strict=True):
        tokens = torch.tensor([request.prompt + completion.token_ids])
        with torch.inference_mode():
            logprobs = networks[request.adapters](tokens).logits[0].log_softmax(-1)
        rows = np.asarray(logprobs)[len(request.prompt) - 1 : -1]
        for row, token, top in zip(rows, completion.token_ids, completion.top, strict=True):
            assert row[token] > row.max() - 1e-3
            for likely, value in top:
                assert abs(row[likely] - value) < 1e-3
