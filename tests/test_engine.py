"""The engine over a tiny network in fp32: whatever comes together in a batch, every request gets what it gets alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bases import save_base
from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.config import LoraConfig
from tailora.engine.backends.openvino import OpenVinoBackend
from tailora.engine.backends.torch import TorchBackend
from tailora.engine.decoding import Completion, Decoding
from tailora.engine.engine import Engine
from tailora.engine.groups import Request
from tailora.engine.step import Backend
from tailora.errors import AdapterError, SettingsError
from tailora.models.load import load_base

SLOTS, ADAPTERS, END = 2, 3, 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    save_base(path, "llama")
    return path


def adapter(seed: int) -> Adapter:
    rng = np.random.default_rng(seed)
    layers = {
        f"model.layers.{number}.self_attn.{name}": LayerAdapter(
            "linear",
            (
                LowRank(
                    rng.normal(size=(3, 32)).astype(np.float32),
                    rng.normal(size=(size, 3)).astype(np.float32),
                    0.1 + seed,
                ),
            ),
        )
        for number in range(2)
        for name, size in (("q_proj", 32), ("v_proj", 16))
    }
    return Adapter(LoraConfig(rank=3), layers)


@pytest.fixture(scope="module", params=["openvino", "torch"])
def backend(request: pytest.FixtureRequest, folder: Path) -> Backend:
    room: dict[str, Any] = {
        "cache_tokens": 12 * 32,
        "slots": SLOTS,
        "rank": 4,
        "layers": ("q_proj", "v_proj"),
        "grouped": 1,
    }
    made: Backend
    if request.param == "openvino":
        made = OpenVinoBackend(folder, precision="fp32", threads=1, **room)
    else:
        made = TorchBackend(load_base(str(folder)), **room)
    for number in range(ADAPTERS):
        made.bank.register(str(number), adapter(number))
    return made


def engine(backend: Backend, blocks: int = 12, **options: Any) -> Engine:
    return Engine(backend, end=END, blocks=blocks, **{"step_tokens": 24, "sequences": 8, **options})


def requests(count: int, seed: int = 0, **decoding: Any) -> list[Request]:
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        prompt = tuple(int(token) for token in rng.integers(1, 257, rng.integers(1, 50)))
        name = None if number % 4 == 0 else str(number % 4 - 1)
        made.append(Request(prompt, Decoding(**{"max_new_tokens": 12, **decoding}), name, 1.0 + number % 2))
    return made


def texts(completions: tuple[Completion, ...]) -> list[tuple[tuple[int, ...], str]]:
    return [(completion.token_ids, completion.finish_reason) for completion in completions]


def alone(backend: Backend, request: Request) -> list[tuple[tuple[int, ...], str]]:
    return texts(engine(backend, prefix_cache=False, step_tokens=128).complete([request])[0])


@pytest.mark.parametrize(
    "decoding",
    [
        {},
        {"temperature": 0.8, "top_p": 0.9, "num_candidates": 3, "seed": 4},
        {"num_beams": 3, "num_candidates": 2, "length_penalty": 0.8, "no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.5, "stop_tokens": tuple(range(1, 40))},
    ],
)
@pytest.mark.parametrize("blocks", [12, 9])
def test_together_as_alone(backend: Backend, decoding: dict[str, Any], blocks: int) -> None:
    asked = requests(10, **decoding)
    made = engine(backend, blocks)
    together = made.complete(asked)
    assert [texts(each) for each in together] == [alone(backend, each) for each in asked]
    assert made._pool.free == blocks
    assert made.idle


def test_as_transformers(folder: Path, backend: Backend) -> None:
    model = save_base(folder.parent / "again", "llama")
    for request in requests(8):
        if request.adapter is not None:
            continue
        ids = torch.tensor([list(request.prompt)])
        with torch.inference_mode():
            out = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=END, pad_token_id=END)
        assert engine(backend).complete([request])[0][0].token_ids == tuple(out[0, len(request.prompt) :].tolist())


def test_the_scale_zero_is_the_base(backend: Backend) -> None:
    prompt = tuple(range(1, 20))
    off, base, on = engine(backend).complete(
        [Request(prompt, adapter="1", scale=0.0), Request(prompt), Request(prompt, adapter="1")]
    )
    assert texts(off) == texts(base) != texts(on)


def test_what_was_computed_once_serves_again(backend: Backend) -> None:
    prompt = tuple(range(1, 76))
    made = engine(backend)
    first = made.complete([Request(prompt, adapter="0")])
    seen: list[int] = []
    run = backend.run
    backend.run = lambda step: seen.append(len(step.tokens)) or run(step)  # type: ignore[method-assign,func-returns-value]
    try:
        again = made.complete([Request(prompt, adapter="0"), Request(prompt, adapter="1"), Request(prompt)])
    finally:
        del backend.run  # type: ignore[method-assign]
    assert texts(again[0]) == texts(first[0])
    assert texts(again[1]) == alone(backend, Request(prompt, adapter="1"))
    # 75 tokens for each of the other two, and the 11 after the last full block of the first.
    written = sum(len(each[0].token_ids) - 1 for each in again)
    assert sum(seen) == 75 + 75 + 11 + written


def test_tokens_come_as_they_are_written(backend: Backend) -> None:
    made = engine(backend)
    number = made.submit(Request((3, 4, 5), Decoding(max_new_tokens=6, ignore_end=True)))
    events = []
    while not made.idle:
        events += made.step()
    assert [len(event.tokens) for event in events] == [1] * 6
    assert events[-1].result is not None
    assert events[-1].result[0].token_ids == tuple(token for event in events for token in event.tokens)
    assert {event.number for event in events} == {number}


@pytest.mark.parametrize("blocks", [4, 12])
def test_a_scored_prompt_is_the_models(folder: Path, backend: Backend, blocks: int) -> None:
    """Of prompts longer than a step takes, beside others, with too few blocks for all and what they share cached."""
    model = load_base(str(folder)).model
    prompts = [tuple((7 * n + k) % 200 + 1 for n in range(length)) for k, length in enumerate((70, 2, 40))]
    engine = Engine(backend, end=END, step_tokens=48, sequences=4, blocks=blocks)
    ways = Decoding(max_new_tokens=3, top_logprobs=2, ignore_end=True)
    engine.complete([Request(prompt, ways) for prompt in prompts])
    made = engine.complete([Request(prompt, ways, score_prompt=prompt != prompts[1]) for prompt in prompts])
    for prompt, (completion,) in zip(prompts, made, strict=True):
        with torch.inference_mode():
            theirs = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        wanted = theirs[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
        if prompt == prompts[1]:
            assert completion.prompt_logprobs == completion.prompt_top == ()
            continue
        np.testing.assert_allclose(completion.prompt_logprobs, wanted.numpy(), atol=1e-3)
        best = [top[0][1] for top in completion.prompt_top]
        np.testing.assert_allclose(best, theirs[:-1].max(-1).values.numpy(), atol=1e-3)


def test_what_else_was_likely_is_told(backend: Backend) -> None:
    prompt = (3, 4, 5)
    engine = Engine(backend, end=END)
    for decoding in (
        Decoding(max_new_tokens=5, top_logprobs=3),
        Decoding(max_new_tokens=5, top_logprobs=3, temperature=1),
    ):
        number = engine.submit(Request(prompt, decoding, "1"))
        events = []
        while not engine.idle:
            events += engine.step()
        assert {event.number for event in events} == {number}
        (made,) = events[-1].result or ()
        assert [top for event in events for top in event.top] == list(made.top)
        assert [value for event in events for value in event.logprobs] == list(made.logprobs)
        for token, logprob, top in zip(made.token_ids, made.logprobs, made.top, strict=True):
            values = [value for _, value in top]
            assert len(top) == 3
            assert values == sorted(values, reverse=True)
            assert logprob <= values[0] + 1e-5
            assert dict(top).get(token, logprob) == pytest.approx(logprob)
    with pytest.raises(SettingsError, match="not told of beams"):
        Decoding(num_beams=2, top_logprobs=1)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(()), "the prompt has 0 tokens; the model takes 1 to 95"),
        (Request(tuple(range(96))), "the prompt has 96 tokens"),
        (Request((1, 257)), "token ids go from 0 to 256"),
        (Request((1,), scale=float("nan")), "scale: must be a finite number"),
        (Request((1,), Decoding(num_beams=9)), "num_beams: 9 sequences side by side where 8 run at most"),
        (Request((1,), Decoding(num_beams=8)), "takes up to 24 blocks of the cache, which has 12"),
    ],
)
def test_what_can_never_run_is_refused(backend: Backend, request_: Request, message: str) -> None:
    made = engine(backend)
    with pytest.raises(SettingsError, match=message):
        made.submit(request_)
    with pytest.raises(AdapterError, match="there is no adapter of this name"):
        made.submit(Request((1,), adapter="nobody"))
    assert made.idle


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=st.lists(st.sampled_from(["submit", "submit", "step", "step", "step", "cancel"]), max_size=40),
    blocks=st.integers(6, 12),
    seed=st.integers(0, 3),
)
def test_nothing_is_lost_whatever_comes_and_goes(
    backend: Backend, alone_: dict[Request, Any], moves: list[str], blocks: int, seed: int
) -> None:
    made = engine(backend, blocks)
    coming = [r for pair in zip(requests(8, seed), requests(8, seed, num_beams=2), strict=True) for r in pair]
    asked: dict[int, Request] = {}
    results: dict[int, tuple[Completion, ...]] = {}

    def step() -> None:
        for event in made.step():
            if event.result is not None:
                results[event.number] = event.result
        held = {block for job in made._scheduler.running for s in job.group.sequences for block in s.blocks}
        assert made._pool.free == blocks - len(held)

    for move in moves:
        if move == "submit" and coming:
            request = coming.pop()
            asked[made.submit(request)] = request
        elif move == "cancel" and asked:
            number = min(asked)
            made.cancel(number)
            if number not in results:
                del asked[number]
        else:
            step()
    for _ in range(10_000):
        if made.idle:
            break
        step()
    assert made.idle
    assert made._pool.free == blocks
    assert results.keys() == asked.keys()
    for number, result in results.items():
        if asked[number] not in alone_:
            alone_[asked[number]] = alone(backend, asked[number])
        assert texts(result) == alone_[asked[number]]


@pytest.fixture(scope="module")
def alone_() -> dict[Request, Any]:
    return {}
