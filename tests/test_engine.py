"""The engine over a tiny network in fp32: whatever comes together in a batch, every request gets what it gets alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessor, LogitsProcessorList

from bases import save_base
from tailora.adapters.adapter import Adapter, LayerAdapter, LowRank
from tailora.adapters.arithmetic import combined
from tailora.adapters.config import LoraConfig
from tailora.core.errors import AdapterError, ModelError, SettingsError
from tailora.engine.backend import Backend
from tailora.engine.backends.openvino import OpenVinoBackend
from tailora.engine.backends.torch import TorchBackend
from tailora.engine.decoding import Completion, Decoding
from tailora.engine.engine import Engine, Event
from tailora.engine.requests import Request, mixture_of
from tailora.models.load import load_base

SLOTS, ADAPTERS, END = 3, 3, 0


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
        "grouped": 2,
    }
    made: Backend
    if request.param == "openvino":
        made = OpenVinoBackend(folder, precision="fp32", threads=1, **room)
    else:
        made = TorchBackend(load_base(str(folder)), **room)
    for number in range(ADAPTERS):
        made.adapter_slots.register(str(number), adapter(number))
    return made


def engine(backend: Backend, blocks: int = 12, **options: Any) -> Engine:
    return Engine(backend, end=END, blocks=blocks, **{"step_tokens": 24, "sequences": 8, **options})


def requests(count: int, seed: int = 0, **decoding: Any) -> list[Request]:
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        prompt = tuple(int(token) for token in rng.integers(1, 257, rng.integers(1, 50)))
        adapters = [(), (("0", 2.0),), (("1", 1.0),), (("2", 0.75), ("0", 0.5))][number % 4]
        made.append(Request(prompt, Decoding(**{"max_new_tokens": 12, **decoding}), adapters))
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


@pytest.mark.parametrize("decoding", [{}, {"num_beams": 2}])
def test_the_cached_tokens_of_a_prompt_are_reported(backend: Backend, decoding: dict[str, Any]) -> None:
    """Whole blocks of what an earlier request with the same adapter computed; the last token is always computed."""
    made = engine(backend, blocks=12, step_tokens=64)
    prompt = tuple(range(1, 66))

    def cached(prompt: tuple[int, ...], adapter: str | None) -> int:
        made.submit(Request(prompt, Decoding(max_new_tokens=2, **decoding), mixture_of(adapter)))
        events = []
        while not made.idle:
            events += made.step()
        return events[-1].cached_tokens

    assert [cached(prompt, "0"), cached(prompt, "0"), cached(prompt[:40], "0"), cached(prompt, "1")] == [0, 64, 32, 0]
    assert cached(prompt[:64], "0") == 32


def test_as_transformers(folder: Path, backend: Backend) -> None:
    model = save_base(folder.parent / "again", "llama")
    for request in requests(8):
        if request.adapters:
            continue
        ids = torch.tensor([list(request.prompt)])
        with torch.inference_mode():
            out = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=END, pad_token_id=END)
        assert engine(backend).complete([request])[0][0].token_ids == tuple(out[0, len(request.prompt) :].tolist())


@pytest.mark.parametrize("penalty", [1.0, 1.8, 0.6])
def test_beams_as_transformers(folder: Path, backend: Backend, penalty: float) -> None:
    """With penalties on log-probabilities for ranking, and the model's own reported."""
    model = save_base(folder.parent / "again", "llama")
    for seed in range(4):
        prompt = tuple(int(token) for token in np.random.default_rng(seed).integers(1, 257, 9))
        ways = Decoding(max_new_tokens=10, num_beams=4, num_candidates=3, repetition_penalty=penalty)
        made = engine(backend).complete([Request(prompt, ways)])[0]
        with torch.inference_mode():
            theirs = model.generate(
                torch.tensor([prompt]),
                max_new_tokens=10,
                num_beams=4,
                num_return_sequences=3,
                repetition_penalty=penalty,
                do_sample=False,
                eos_token_id=END,
                pad_token_id=END,
            )
        assert [each.token_ids for each in made] == [without_padding(row[len(prompt) :].tolist()) for row in theirs]
        for each in made:
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *each.token_ids]])).logits[0, len(prompt) - 1 : -1]
            expected = logits.log_softmax(-1)[torch.arange(len(each.token_ids)), torch.tensor(each.token_ids)]
            np.testing.assert_allclose(each.logprobs, expected.numpy(), atol=1e-3)


def without_padding(tokens: list[int]) -> tuple[int, ...]:
    return tuple(tokens[: tokens.index(END) + 1] if END in tokens else tokens)


class Penalties(LogitsProcessor):  # type: ignore[misc]
    """OpenAI's definition over the tokens after a prompt, and biases, for transformers' own decoding."""

    def __init__(self, prompt: int, decoding: Decoding) -> None:
        self.prompt, self.decoding = prompt, decoding

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = torch.zeros_like(scores)
        written = input_ids[:, self.prompt :]
        counts.scatter_add_(1, written, torch.ones_like(written, dtype=scores.dtype))
        changed = scores - self.decoding.frequency_penalty * counts - self.decoding.presence_penalty * (counts > 0)
        for token, bias in self.decoding.logit_bias:
            changed[:, token] += bias
        return changed


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    "penalties",
    [
        {"presence_penalty": 1.5},
        {"frequency_penalty": 1.2},
        {"presence_penalty": -2.0, "frequency_penalty": -0.5},
        {"logit_bias": ((7, 100.0), (9, 98.5)), "frequency_penalty": 2.0},
        {"logit_bias": ((3, -100.0), (200, 4.0)), "presence_penalty": 0.7, "repetition_penalty": 1.3},
    ],
)
def test_penalties_as_in_transformers(folder: Path, backend: Backend, penalties: dict[str, Any], beams: int) -> None:
    model = save_base(folder.parent / "again", "llama")
    asked = []
    for seed in range(3):
        prompt = tuple(int(token) for token in np.random.default_rng(seed).integers(1, 257, 7))
        asked.append(Request(prompt, Decoding(max_new_tokens=14, num_beams=beams, **penalties)))
    for request, made in zip(asked, engine(backend).complete(asked), strict=True):
        with torch.inference_mode():
            theirs = model.generate(
                torch.tensor([request.prompt]),
                max_new_tokens=14,
                num_beams=beams,
                repetition_penalty=request.decoding.repetition_penalty,
                logits_processor=LogitsProcessorList([Penalties(len(request.prompt), request.decoding)]),
                do_sample=False,
                eos_token_id=END,
                pad_token_id=END,
            )[0, len(request.prompt) :]
        assert made[0].token_ids == without_padding(theirs.tolist())


def test_a_bias_decides_what_is_drawn(backend: Backend) -> None:
    decoding = Decoding(max_new_tokens=6, temperature=1.0, num_candidates=4, logit_bias=((5, 100.0),))
    made = engine(backend).complete([Request((1, 2, 3), decoding)])[0]
    assert [each.token_ids for each in made] == [(5,) * 6] * 4
    assert all(logprob < 0 for each in made for logprob in each.logprobs)  # the model's own, without the bias
    with pytest.raises(SettingsError, match="logit_bias: token ids must be from 0 to 256"):
        engine(backend).submit(Request((1, 2, 3), Decoding(logit_bias=((257, 1.0),))))


def test_top_p_of_zero_is_greedy(backend: Backend) -> None:
    likeliest, drawn = (Decoding(max_new_tokens=8), Decoding(max_new_tokens=8, temperature=1.0, top_p=0.0))
    made = engine(backend).complete([Request((1, 2, 3), likeliest), Request((1, 2, 3), drawn)])
    assert texts(made[0]) == texts(made[1])


def step_all(made: Engine) -> dict[int, Event]:
    """The last event of each request."""
    last: dict[Any, Any] = {}
    while not made.idle:
        last |= {event.number: event for event in made.step()}
    return last


@pytest.mark.parametrize(
    "decoding",
    [{}, {"num_beams": 3}, {"temperature": 1.0, "num_candidates": 2}, {"top_logprobs": 2}, {"max_new_tokens": 1}],
)
def test_logits_that_are_not_finite_end_one_request(backend: Backend, decoding: dict[str, Any]) -> None:
    backend.adapter_slots.register("huge", replaced(adapter(0), 3e38))
    try:
        made = engine(backend)
        good = [Request((1, 2, 3)), Request(tuple(range(1, 40)), adapters=mixture_of("1"))]
        numbers = [made.submit(good[0])]
        bad = made.submit(
            Request(
                tuple(range(1, 40)), Decoding(**decoding), mixture_of("huge"), score_prompt="top_logprobs" in decoding
            )
        )
        numbers.append(made.submit(good[1]))
        last = step_all(made)
        assert isinstance(last[bad].error, ModelError)
        assert "with the adapter huge computes logits that are not finite" in str(last[bad].error)
        assert [texts(last[number].result or ()) for number in numbers] == [alone(backend, each) for each in good]
        assert made._pool.free == 12
        with pytest.raises(ModelError, match="not finite"):
            made.complete([good[0], Request((1, 2), Decoding(**decoding), mixture_of("huge"))])
        again = made.complete(
            [Request(tuple(range(1, 60)), adapters=mixture_of("0"))]
        )  # over blocks that held what is not finite
        assert texts(again[0]) == alone(backend, Request(tuple(range(1, 60)), adapters=mixture_of("0")))
    finally:
        backend.adapter_slots.unregister("huge")


@pytest.mark.parametrize("length", [3, 33, 60])
def test_what_is_not_finite_stays_out_of_the_other_requests(backend: Backend, length: int) -> None:
    """The request that fails has the cache's first block, and the others are shorter and longer than it."""
    backend.adapter_slots.register("huge", replaced(adapter(0), 3e38))
    try:
        made = engine(backend, step_tokens=128)
        ways = Decoding(max_new_tokens=8, ignore_end=True)
        bad = made.submit(Request(tuple(range(1, 40)), ways, mixture_of("huge")))
        good = [Request(tuple(range(2, 2 + length)), ways, mixture_of(name)) for name in (None, "1")]
        numbers = [made.submit(each) for each in good]
        last = step_all(made)
        assert isinstance(last[bad].error, ModelError)
        assert [texts(last[number].result or ()) for number in numbers] == [alone(backend, each) for each in good]
    finally:
        backend.adapter_slots.unregister("huge")


def replaced(made: Adapter, factor: float) -> Adapter:
    """An adapter with each effect multiplied."""
    layers = {
        path: replace(layer, branches=tuple(replace(each, scale=each.scale * factor) for each in layer.branches))
        for path, layer in made.layers.items()
    }
    return replace(made, layers=layers)


def test_an_adapter_that_goes_while_a_request_waits_fails_that_request_alone(backend: Backend) -> None:
    for name in ("leaving", "staying"):
        backend.adapter_slots.register(name, adapter(2))
    try:
        made = engine(backend, sequences=1)
        ways = Decoding(max_new_tokens=12, ignore_end=True)
        running = made.submit(Request((1, 2, 3), ways, mixture_of("0")))
        made.step()
        waiting = [
            made.submit(Request((1, 2, 3), ways, mixture_of(name))) for name in ("leaving", "staying", "leaving")
        ]
        backend.adapter_slots.unregister("leaving")
        last = step_all(made)
        for number in (waiting[0], waiting[2]):
            assert isinstance(last[number].error, AdapterError)
            assert "was unregistered while the request waited" in str(last[number].error)
        assert texts(last[running].result or ()) == alone(backend, Request((1, 2, 3), ways, mixture_of("0")))
        assert texts(last[waiting[1]].result or ()) == alone(backend, Request((1, 2, 3), ways, mixture_of("staying")))
        assert made._pool.free == 12
    finally:
        backend.adapter_slots.unregister("staying")


def test_what_one_request_raises_ends_it_alone(backend: Backend) -> None:
    def broken(written: object) -> bool:
        raise ValueError("broken")

    made = engine(backend)
    banned = Decoding(max_new_tokens=12, no_repeat_ngram_size=1, logit_bias=())
    good = made.submit(Request((1, 2, 3), banned))
    bad = made.submit(Request((1, 2, 3), ended=broken))
    last = step_all(made)
    assert isinstance(last[bad].error, ValueError)
    assert texts(last[good].result or ()) == alone(backend, Request((1, 2, 3), banned))
    assert made._pool.free == 12


def test_a_request_put_back_finds_what_it_had_computed(backend: Backend) -> None:
    """The oldest goes on over blocks that the youngest gives back: the one it takes costs the youngest one block."""
    made = engine(backend, blocks=7, step_tokens=200)
    ways = Decoding(max_new_tokens=36, ignore_end=True)
    asked = [Request(tuple(range(start, start + 60)), ways, mixture_of("1")) for start in (1, 61, 121)]
    seen: list[int] = []
    run = backend.run
    backend.run = lambda step: seen.append(len(step.tokens)) or run(step)  # type: ignore[method-assign,func-returns-value]
    try:
        numbers = [made.submit(each) for each in asked]
        last = step_all(made)
    finally:
        del backend.run
    assert [texts(last[number].result or ()) for number in numbers] == [alone(backend, each) for each in asked]
    assert made.load.preempted == 1
    once = 3 * (60 + 35)
    assert sum(seen) - once == 64 - 32  # of the two blocks that the youngest had filled it computes one again


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("ends", [(0, 7), tuple(range(0, 256, 3))])
def test_several_ends_as_in_transformers(folder: Path, backend: Backend, ends: tuple[int, ...], beams: int) -> None:
    model = save_base(folder.parent / "again", "llama")
    reasons = set()
    for request in requests(12, num_beams=beams):
        if request.adapters:
            continue
        ids = torch.tensor([list(request.prompt)])
        with torch.inference_mode():
            out = model.generate(
                ids, max_new_tokens=12, do_sample=False, num_beams=beams, eos_token_id=list(ends), pad_token_id=END
            )
        engine = Engine(backend, end=ends, blocks=12, sequences=8)
        made = engine.complete([request])[0][0]
        reasons.add(made.finish_reason)
        assert made.token_ids == tuple(out[0, len(request.prompt) :].tolist())
        going_on = Request(request.prompt, Decoding(max_new_tokens=12, num_beams=beams, ignore_end=True))
        assert len(engine.complete([going_on])[0][0].token_ids) == 12
    assert len(ends) < 3 or "stop" in reasons


def test_the_scale_zero_is_the_base(backend: Backend) -> None:
    prompt = tuple(range(1, 20))
    off, base, on = engine(backend).complete(
        [Request(prompt, adapters=mixture_of("1", 0.0)), Request(prompt), Request(prompt, adapters=mixture_of("1"))]
    )
    assert texts(off) == texts(base) != texts(on)


def test_several_adapters_are_their_weighted_sum(folder: Path, backend: Backend) -> None:
    """In a batch with others, as the base with the exact weighted sum merged into it."""
    weights = {"0": 0.75, "2": -0.5}
    asked = [
        Request((5, *range(1, length)), Decoding(max_new_tokens=8), adapters)
        for length in (4, 30)
        for adapters in (tuple(weights.items()), mixture_of("1"), (), (("2", -0.5), ("0", 0.75)), mixture_of("2"))
    ]
    together = engine(backend).complete(asked)
    summed = combined([adapter(0), adapter(2)], list(weights.values()))
    merged = OpenVinoBackend(folder, precision="fp32", threads=1, cache_tokens=12 * 32, slots=0, merged=summed)
    for number in (0, 3, 5, 8):
        (whole,) = engine(merged).complete([replace(asked[number], adapters=())])
        assert texts(together[number]) == texts(whole)
        logprobs = [completion.logprobs for completion in (*together[number], *whole)]
        assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)
    assert texts(together[0]) not in (texts(together[1]), texts(together[2]), texts(together[4]))


def test_the_prefix_cache_distinguishes_mixtures(backend: Backend) -> None:
    prompt = tuple(range(1, 66))
    made = engine(backend, blocks=12, step_tokens=64)
    cached = []
    for adapters in (
        (("0", 1.0), ("1", 0.5)),
        (("1", 0.5), ("0", 1.0)),
        (("0", 1.0), ("1", 0.25)),
        mixture_of("0"),
        mixture_of("0", 0.5),
    ):
        made.submit(Request(prompt, Decoding(max_new_tokens=1), adapters))
        events = []
        while not made.idle:
            events += made.step()
        cached.append(events[-1].cached_tokens)
    assert cached == [0, 64, 0, 0, 0]


def test_what_was_computed_once_serves_again(backend: Backend) -> None:
    prompt = tuple(range(1, 76))
    made = engine(backend)
    first = made.complete([Request(prompt, adapters=mixture_of("0"))])
    seen: list[int] = []
    run = backend.run
    backend.run = lambda step: seen.append(len(step.tokens)) or run(step)  # type: ignore[method-assign,func-returns-value]
    try:
        again = made.complete(
            [Request(prompt, adapters=mixture_of("0")), Request(prompt, adapters=mixture_of("1")), Request(prompt)]
        )
    finally:
        del backend.run
    assert texts(again[0]) == texts(first[0])
    assert texts(again[1]) == alone(backend, Request(prompt, adapters=mixture_of("1")))
    # 75 tokens for each of the other two, and the 11 after the last full block of the first.
    written = sum(len(each[0].token_ids) - 1 for each in again)
    assert sum(seen) == 75 + 75 + 11 + written


class Counting:
    """Counts the tokens that a backend computes in each step."""

    def __init__(self, backend: Backend) -> None:
        self.steps: list[int] = []
        self._backend = backend

    def __enter__(self) -> Counting:
        run = self._backend.run
        self._backend.run = lambda step: self.steps.append(len(step.tokens)) or run(step)  # type: ignore[method-assign,func-returns-value]
        return self

    def __exit__(self, *_: object) -> None:
        del self._backend.run


@pytest.mark.parametrize("length", [1, 2, 20, 32, 33, 40])
@pytest.mark.parametrize("adapters", [(), (("0", 2.0),), (("2", 0.75), ("0", 0.5))])
def test_requests_that_come_together_compute_their_prompt_once(
    backend: Backend, length: int, adapters: tuple[tuple[str, float], ...]
) -> None:
    """Texts of one prompt, and requests with one prompt, greedy, sampled or beams: its last token alone is repeated."""
    prompt = tuple(range(1, length + 1))
    ways: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0, "seed": 3},
        {"temperature": 1.0, "seed": 4},
        {"num_beams": 2},
    ]
    asked = [Request(prompt, Decoding(max_new_tokens=3, ignore_end=True, **way), adapters) for way in ways]
    made = engine(backend, step_tokens=64)
    with Counting(backend) as counted:
        together = made.complete(asked)
    assert [texts(each) for each in together] == [alone(backend, each) for each in asked]
    written = 3 * 2 + 2 * 2  # tokens of which the logits after them were needed, after the prompt's
    first = length if length > 1 else len(asked)
    assert sum(counted.steps) == length + (len(asked) - 1) + written
    assert counted.steps[0] == first
    assert made._pool.free == 12


def test_a_prompt_in_pieces_is_computed_once(backend: Backend) -> None:
    prompt = tuple(range(1, 61))
    asked = [Request(prompt, Decoding(max_new_tokens=2, ignore_end=True)) for _ in range(3)]
    others = [Request(tuple(range(100, 110)), Decoding(max_new_tokens=2, ignore_end=True))]
    made = engine(backend, step_tokens=24)
    with Counting(backend) as counted:
        together = made.complete([*asked, *others])
    assert [texts(each) for each in together] == [alone(backend, each) for each in (*asked, *others)]
    assert sum(counted.steps) == 60 + 2 + 10 + 4


def test_a_request_that_comes_later_shares_the_prompt_of_one_that_writes(backend: Backend) -> None:
    prompt = tuple(range(1, 41))
    first, second = (Request(prompt, Decoding(max_new_tokens=count, ignore_end=True)) for count in (8, 4))
    made = engine(backend, step_tokens=64)
    numbers = [made.submit(first)]
    for _ in range(3):
        made.step()
    with Counting(backend) as counted:
        numbers.append(made.submit(second))
        last = step_all(made)
    assert [texts(last[number].result or ()) for number in numbers] == [
        alone(backend, each) for each in (first, second)
    ]
    assert sum(counted.steps) == 5 + 1 + 3
    assert last[numbers[1]].cached_tokens == 39


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
            assert completion.prompt_logprobs == ()
            assert completion.prompt_top == ()
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
        number = engine.submit(Request(prompt, decoding, mixture_of("1")))
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
    with pytest.raises(SettingsError, match="not available for beams"):
        Decoding(num_beams=2, top_logprobs=1)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(()), "the prompt has 0 tokens; the model accepts 1 to 95"),
        (Request(tuple(range(96))), "the prompt has 96 tokens"),
        (Request((1, 257)), "token ids must be from 0 to 256"),
        (Request((1,), adapters=mixture_of("0", float("nan"))), "adapters: every weight must be a finite number"),
        (Request((1,), adapters=(("0", 1.0), ("0", 1.0))), "adapters: an adapter is named twice; add its weights"),
        (
            Request((1,), Decoding(num_beams=9)),
            r"num_beams: needs 9 sequences at once \(limit of the engine: 8\)",
        ),
        (Request((1,), Decoding(num_beams=8)), r"can need 24 cache blocks \(limit of the engine: 12\)"),
    ],
)
def test_what_can_never_run_is_refused(backend: Backend, request_: Request, message: str) -> None:
    made = engine(backend)
    with pytest.raises(SettingsError, match=message):
        made.submit(request_)
    with pytest.raises(AdapterError, match="no adapter with this name is registered"):
        made.submit(Request((1,), adapters=mixture_of("nobody")))
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
        held = {block for job in made._scheduler.running for s in job.state.sequences for block in s.blocks}
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
