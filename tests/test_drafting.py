"""Drafts change no text: over a tiny network in fp32, whatever is drafted, every request gets what it gets without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bases import save_base
from networks import stir
from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.config import LoraConfig
from tailora.engine.backend import Backend
from tailora.engine.backends.openvino import OpenVinoBackend
from tailora.engine.backends.torch import TorchBackend
from tailora.engine.decoding import Completion, Decoding
from tailora.engine.drafting import Accuracy, OpenText, Predictor
from tailora.engine.engine import Engine, Event
from tailora.engine.requests import Mixture, Request
from tailora.inserts import attachment
from tailora.models.load import load_base

END, BLOCKS = 0, 12


def adapter(seed: int) -> Adapter:
    rng = np.random.default_rng(seed)
    factors = {name: (rng.normal(size=(3, 32)), rng.normal(size=(size, 3))) for name, size in (("q", 32), ("v", 16))}
    layers = {
        f"model.layers.{number}.self_attn.{name}_proj": LayerAdapter(
            "linear", (LowRank(a.astype(np.float32), b.astype(np.float32), 0.3),)
        )
        for number in range(2)
        for name, (a, b) in factors.items()
    }
    return Adapter(LoraConfig(rank=3), layers)


@pytest.fixture(scope="module", params=["openvino", "torch"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    folder: Path = tmp_path_factory.mktemp("base")
    save_base(folder, "llama")
    room: dict[str, Any] = {"cache_tokens": BLOCKS * 32, "slots": 3, "rank": 4, "layers": ("q_proj", "v_proj")}
    made: Backend
    if request.param == "openvino":
        made = OpenVinoBackend(folder, precision="fp32", threads=1, **room)
    else:
        made = TorchBackend(load_base(str(folder)), **room)
    for number in range(2):
        made.adapter_slots.register(str(number), adapter(number))
    return made


class Oracle(Predictor):
    """Knows the text, and the tokens of it that are written."""

    def __init__(self, text: Sequence[int]) -> None:
        super().__init__((), None, Accuracy())
        self.text, self.count = text, 0

    def add(self, token: int) -> None:
        assert token == self.text[self.count]
        self.count += 1


class Scripted:
    """Drafts what really comes next, with a number of errors, and more than there is room for."""

    def __init__(self, texts: Mapping[tuple[int, ...], Sequence[int]], seed: int, errors: float) -> None:
        self.texts, self.rng, self.errors = texts, np.random.default_rng(seed), errors

    def predictor(self, prompt: Sequence[int], adapters: Sequence[str]) -> Oracle:
        return Oracle(self.texts[tuple(prompt)])

    def draft(self, texts: Sequence[OpenText], tokens: int) -> list[tuple[int, ...]]:
        drafts = []
        for text in texts:
            oracle = text.predictor
            assert isinstance(oracle, Oracle)
            true = [*oracle.text[oracle.count :], *range(1, 20)][: min(text.room, int(self.rng.integers(0, 12)))]
            drafts.append(tuple(int(self.rng.integers(257)) if self.rng.random() < self.errors else t for t in true))
        return drafts


WAYS: list[dict[str, Any]] = [
    {},
    {"ignore_end": True},
    {"temperature": 0.9, "seed": 3},
    {"temperature": 1.2, "top_k": 40, "top_p": 0.9, "top_logprobs": 2},
    {"repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"no_repeat_ngram_size": 2, "logit_bias": ((7, 3.0),), "stop_tokens": tuple(range(1, 9))},
    {"num_beams": 2},
    {"temperature": 1.0, "num_candidates": 2},
]
ADAPTERS: list[Mixture] = [(), (("0", 1.5),), (("1", 1.0),), (("1", 0.5), ("0", 0.75))]


def requests(seed: int, count: int) -> list[Request]:
    """Different prompts, each with its own decoding, adapters and end; some begin with the same blocks."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        begin = tuple(range(1, 40)) if number % 3 == 0 else ()
        prompt = (*begin, *(int(token) for token in rng.integers(1, 257, rng.integers(1, 30))), number + 1)
        last = int(rng.integers(1, 257))
        ended = (lambda written, last=last: last in written[-1:]) if number % 2 else None
        decoding = Decoding(max_new_tokens=int(rng.integers(1, 20)), **WAYS[int(rng.integers(len(WAYS)))])
        scored = number % 4 == 1 and decoding.num_beams == 1
        made.append(Request(prompt, decoding, ADAPTERS[int(rng.integers(4))], ended, score_prompt=scored))
    return made


def without(backend: Backend, requests: Sequence[Request]) -> list[tuple[Completion, ...]]:
    engine = Engine(backend, end=END, step_tokens=128, sequences=4, prefix_cache=False)
    return [engine.complete([request])[0] for request in requests]


def same(one: Sequence[Completion], other: Sequence[Completion]) -> None:
    assert [(each.token_ids, each.finish_reason) for each in one] == [
        (each.token_ids, each.finish_reason) for each in other
    ]
    for each, its in zip(one, other, strict=True):
        np.testing.assert_allclose(each.logprobs, its.logprobs, atol=1e-3)
        np.testing.assert_allclose(each.prompt_logprobs, its.prompt_logprobs, atol=1e-3)
        assert [[token for token, _ in top] for top in each.top] == [[token for token, _ in top] for top in its.top]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 9),
    blocks=st.integers(6, BLOCKS),
    step_tokens=st.integers(8, 64),
    errors=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_drafts_change_no_text(
    backend: Backend, seed: int, count: int, blocks: int, step_tokens: int, errors: float
) -> None:
    asked = requests(seed, count)
    expected = without(backend, asked)
    longer = [
        replace(request, prompt=(*request.prompt, *texts[0].token_ids[:-1]), score_prompt=False)
        for request, texts in zip(asked, expected, strict=True)
    ]
    longer = [request for request in longer if len(request.prompt) < backend.context]
    expected_longer = without(backend, longer)  # before the engine below, which uses the same blocks
    drafter = Scripted({r.prompt: texts[0].token_ids for r, texts in zip(asked, expected, strict=True)}, seed, errors)
    engine = Engine(backend, end=END, step_tokens=step_tokens, sequences=8, blocks=blocks, drafter=drafter)
    sizes: list[int] = []
    run = backend.run
    backend.run = lambda step: sizes.append(len(step.tokens)) or run(step)  # type: ignore[method-assign,func-returns-value]
    numbers = [engine.submit(request) for request in asked]
    events: dict[int, list[Event]] = {number: [] for number in numbers}
    while not engine.idle:
        for event in engine.step():
            events[event.number].append(event)
        held = {block for job in engine._scheduler.running for s in job.state.sequences for block in s.blocks}
        assert engine._pool.free == blocks - len(held)
        for job in engine._scheduler.running:
            for sequence in job.state.sequences:
                assert len(sequence.blocks) == engine._pool.needed(sequence.computed)
    del backend.run
    assert max(sizes) <= max(step_tokens, 8)
    assert engine._pool.free == blocks
    assert engine.load.accepted <= engine.load.drafted
    for number, request, texts in zip(numbers, asked, expected, strict=True):
        result = events[number][-1].result
        assert result is not None, events[number][-1].error
        same(result, texts)
        if request.decoding.num_beams == request.decoding.num_candidates == 1:
            parts = events[number]
            assert tuple(token for event in parts for token in event.tokens) == texts[0].token_ids
            np.testing.assert_allclose([p for event in parts for p in event.logprobs], texts[0].logprobs, atol=1e-3)
            assert [len(event.tokens) for event in parts] == [len(event.logprobs) for event in parts]
    engine.drafter = None  # what follows reads the prefix cache, which must not contain rejected tokens
    for texts, its in zip(expected_longer, engine.complete(longer), strict=True):
        same(its, texts)


@pytest.mark.parametrize("method", ["prefix", "adapter-h"])
def test_drafts_change_no_text_of_a_network_with_an_insert(method: Any, tmp_path: Path) -> None:
    save_base(tmp_path, "llama")
    base = load_base(str(tmp_path))
    generator = torch.Generator().manual_seed(0)
    attachment.attach_new(base.model, method, 4, model_type=base.model_type, generator=generator)
    stir(base.model)
    network = TorchBackend(base, cache_tokens=BLOCKS * 32)
    asked = [replace(request, adapters=()) for request in requests(3, 6)]
    expected = without(network, asked)
    texts = {request.prompt: completions[0].token_ids for request, completions in zip(asked, expected, strict=True)}
    engine = Engine(network, end=END, step_tokens=48, sequences=4, drafter=Scripted(texts, 1, 0.1))
    for made, wanted in zip(engine.complete(asked), expected, strict=True):
        same(made, wanted)
    assert engine.load.drafted > engine.load.accepted > 0
