"""Texts after prompts: in order, piece by piece, ended by strings, with the model's own log-probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bases import save_base
from tailora.engine.decoding import Decoding
from tailora.inference.running import Running
from tailora.inference.setup import resolve_models
from tailora.inference.start import start_engine
from tailora.inference.texts import Prompt, generate
from tailora.models.load import load_base


@pytest.fixture
def base(tmp_path: Path) -> str:
    save_base(tmp_path / "base")
    return str(tmp_path / "base")


def running_on(base: str, sequences: int = 32) -> Running:
    return start_engine(resolve_models(base, {}), precision="fp32", sequences=sequences)


def test_results_come_in_input_order_whatever_the_batches(base: str) -> None:
    running = running_on(base, sequences=2)
    prompts = [Prompt(tuple(running.tokenizer.encode("a" * length))) for length in (9, 2, 30, 4, 17)]
    told: list[tuple[int, int]] = []
    batched = generate(running, prompts, Decoding(max_new_tokens=8), progress=lambda *news: told.append(news))
    for prompt, made in zip(prompts, batched, strict=True):
        (alone,) = generate(running, [prompt], Decoding(max_new_tokens=8))
        assert (made.token_ids, made.text) == (alone.token_ids, alone.text)
        assert made.prompt_tokens == len(prompt.tokens)
    assert sum(prompts_done for prompts_done, _ in told) == 5
    assert sum(tokens for _, tokens in told) == sum(made.completion_tokens for made in batched)


def test_candidates_are_sorted_and_start_with_the_text(base: str) -> None:
    decoding = Decoding(max_new_tokens=5, num_beams=4, num_candidates=3, length_penalty=0.0)
    (made,) = generate(running_on(base), [Prompt((5, 6))], decoding)
    assert made.candidates[0].token_ids == made.token_ids
    logprobs = [candidate.logprob for candidate in made.candidates]
    assert logprobs == sorted(logprobs, reverse=True)
    assert len(logprobs) == 3


@pytest.mark.parametrize(
    "decoding", [Decoding(max_new_tokens=30, temperature=1.0), Decoding(max_new_tokens=9, num_beams=3)]
)
def test_pieces_come_as_they_are_written(base: str, decoding: Decoding) -> None:
    pieces: list[list[str]] = [[], []]
    made = generate(
        running_on(base),
        [Prompt((5, 6)), Prompt((7,))],
        decoding,
        stream=lambda place, text: pieces[place].append(text),
    )
    assert ["".join(each) for each in pieces] == [each.text for each in made]
    assert (len(pieces[0]) > 1) is (decoding.num_beams == 1)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_candidates": 2}, {"temperature": 1.0}])
def test_logprobs_are_those_of_the_model(base: str, options: dict[str, Any]) -> None:
    model = load_base(base).model
    (made,) = generate(running_on(base), [Prompt((5, 6, 7))], Decoding(max_new_tokens=6, **options))
    for text in made.candidates:
        with torch.inference_mode():
            logits = model(torch.tensor([[5, 6, 7, *text.token_ids]])).logits[0, 2:-1].log_softmax(-1)
        expected = logits.gather(1, torch.tensor(text.token_ids)[:, None])[:, 0].tolist()
        assert text.logprobs == pytest.approx(expected, abs=1e-3)
        assert text.logprob == pytest.approx(sum(expected), abs=1e-3)


@pytest.mark.parametrize("beams", [1, 3])
def test_stop_strings_end_a_text_and_are_cut_off(base: str, beams: int) -> None:
    running = running_on(base)
    decoding = Decoding(max_new_tokens=20, num_beams=beams)
    (free,) = generate(running, [Prompt((5, 6, 7))], decoding)
    whole = running.tokenizer.decode(free.token_ids)
    stop = whole[3:5]
    (made,) = generate(running, [Prompt((5, 6, 7))], decoding, stop=["never there", stop])
    assert stop not in made.text
    assert made.finish_reason == "stop"
    if beams == 1:
        assert made.text == whole[: whole.index(stop)].strip()
        assert made.token_ids == free.token_ids[: made.completion_tokens]


@pytest.mark.parametrize("strings", [[" "], ["a"], ["\n", "e "], ["th", " th"]])
@pytest.mark.parametrize("decoding", [Decoding(max_new_tokens=30, temperature=1.0, seed=seed) for seed in range(4)])
def test_the_stream_and_the_whole_text_agree_on_stop_strings(base: str, decoding: Decoding, strings: list[str]) -> None:
    bias = tuple((token, 12.0) for word in (" a", "the", "\n") for token in running_on(base).tokenizer.encode(word))
    pieces: list[str] = []
    ways = replace(decoding, logit_bias=tuple(dict(bias).items()))
    (made,) = generate(
        running_on(base), [Prompt((5, 6))], ways, stop=strings, stream=lambda _, text: pieces.append(text)
    )
    assert "".join(pieces) == made.text
