"""Greedy, sampled and beam decoding: against transformers' own, and alone against in company."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tailora.errors import SettingsError
from tailora.models.decode import Decoding, _ban_repeats, _draw, decode

VOCABULARY, EOS, CONTEXT = 31, 3, 48


def network(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "initializer_range": 0.3}
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=EOS, eos_token_id=EOS, **shape)).eval()
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        eos_token_id=EOS,
        **shape,
    )
    return LlamaForCausalLM(config).eval()


NETWORKS = {kind: network(kind) for kind in ("gpt2", "llama")}
prompts_of_any_length = st.lists(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12), min_size=1, max_size=5
)
any_network = st.sampled_from(sorted(NETWORKS))


@settings(max_examples=25, deadline=None)
@given(
    kind=any_network,
    prompts=prompts_of_any_length,
    ways=st.sampled_from(
        [
            Decoding(max_new_tokens=8),
            Decoding(max_new_tokens=8, no_repeat_ngram_size=2),
            Decoding(max_new_tokens=8, temperature=1.3, top_k=9, top_p=0.9, num_candidates=2, seed=5),
            Decoding(max_new_tokens=8, num_beams=3, num_candidates=3, length_penalty=0.8),
            Decoding(max_new_tokens=6, num_beams=4, no_repeat_ngram_size=2),
        ]
    ),
)
def test_a_prompt_gives_the_same_alone_and_in_company(kind: str, prompts: list[list[int]], ways: Decoding) -> None:
    together = decode(NETWORKS[kind], prompts, ways, eos_id=EOS)
    for prompt, candidates in zip(prompts, together, strict=True):
        (alone,) = decode(NETWORKS[kind], [prompt], ways, eos_id=EOS)
        assert [c.token_ids for c in candidates] == [c.token_ids for c in alone]
        assert [c.logprob for c in candidates] == pytest.approx([c.logprob for c in alone], abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    kind=any_network,
    prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=10),
    beams=st.integers(1, 5),
    penalty=st.sampled_from([0.0, 0.8, 1.0, 2.0]),
)
def test_greedy_and_beams_are_those_of_transformers(kind: str, prompt: list[int], beams: int, penalty: float) -> None:
    options = {"num_beams": beams, "num_return_sequences": beams, "length_penalty": penalty} if beams > 1 else {}
    theirs = (
        NETWORKS[kind]
        .generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=9,
            do_sample=False,
            pad_token_id=EOS,
            **options,
        )[:, len(prompt) :]
        .tolist()
    )
    cut = [row[: row.index(EOS) + 1] if EOS in row else row for row in theirs]
    ways = Decoding(max_new_tokens=9, num_beams=beams, num_candidates=beams, length_penalty=penalty)
    (ours,) = decode(NETWORKS[kind], [prompt], ways, eos_id=EOS)
    assert [list(completion.token_ids) for completion in ours] == cut


@pytest.mark.parametrize("kind", sorted(NETWORKS))
@pytest.mark.parametrize(
    "ways", [Decoding(max_new_tokens=7, temperature=0.7), Decoding(max_new_tokens=7, num_beams=3, num_candidates=2)]
)
def test_logprob_is_the_models_own(kind: str, ways: Decoding) -> None:
    prompts = [[5, 9], [1, 2, 8, 7, 4]]
    for prompt, candidates in zip(prompts, decode(NETWORKS[kind], prompts, ways, eos_id=EOS), strict=True):
        for completion in candidates:
            tokens = torch.tensor([[*prompt, *completion.token_ids]])
            with torch.inference_mode():
                logprobs = NETWORKS[kind](tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            wanted = logprobs.gather(1, tokens[0, len(prompt) :, None]).sum().item()
            assert completion.logprob == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("ways", [Decoding(max_new_tokens=30, no_repeat_ngram_size=2)])
@pytest.mark.parametrize("beams", [1, 3])
def test_no_ngram_comes_twice_though_the_prompt_may_be_repeated(ways: Decoding, beams: int) -> None:
    ways = dataclasses.replace(ways, num_beams=beams)
    (candidates,) = decode(NETWORKS["gpt2"], [[7, 7, 7]], ways, eos_id=EOS)
    pairs = collections.Counter(zip(candidates[0].token_ids, candidates[0].token_ids[1:], strict=False))
    assert max(pairs.values()) == 1


def test_bans_name_exactly_the_tokens_that_would_repeat() -> None:
    scores = torch.zeros(3, 10)
    _ban_repeats(scores, [[1, 2, 3, 1, 2], [1, 2], []], 3)
    assert (scores == -math.inf).nonzero().tolist() == [[0, 3]]
    _ban_repeats(scores, [[4, 5], [], [6]], 1)
    assert (scores == -math.inf).nonzero().tolist() == [[0, 3], [0, 4], [0, 5], [2, 6]]


def test_draws_follow_the_distribution_within_top_k_and_top_p() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -math.inf]])
    uniforms = [(number + 0.5) / 1000 for number in range(1000)]
    tokens = _draw(logits.repeat(1000, 1), uniforms, Decoding(temperature=2.0)).tolist()
    shares = [tokens.count(token) / 1000 for token in range(5)]
    assert shares == pytest.approx((logits[0] / 2).softmax(-1).tolist(), abs=2e-3)
    assert set(_draw(logits.repeat(1000, 1), uniforms, Decoding(temperature=2.0, top_k=2)).tolist()) == {0, 1}
    nucleus = Decoding(temperature=1.0, top_p=0.8)  # the probabilities are 0.64, 0.24, 0.09, 0.03
    assert set(_draw(logits.repeat(1000, 1), uniforms, nucleus).tolist()) == {0, 1}
    assert set(_draw(logits.repeat(1000, 1), uniforms, Decoding(temperature=1.0, top_p=1e-6)).tolist()) == {0}


def test_the_seed_decides_the_draws() -> None:
    ways = Decoding(max_new_tokens=12, temperature=1.5, num_candidates=4, seed=1)
    (first,) = decode(NETWORKS["gpt2"], [[5, 6]], ways, eos_id=EOS)
    (again,) = decode(NETWORKS["gpt2"], [[5, 6]], ways, eos_id=EOS)
    (other,) = decode(NETWORKS["gpt2"], [[5, 6]], dataclasses.replace(ways, seed=2), eos_id=EOS)
    assert first == again
    assert first != other
    assert len({completion.token_ids for completion in first}) > 1


def test_room_ends_with_the_context() -> None:
    prompts = [[1] * (CONTEXT - 2), [1, 2]]
    for ways in (Decoding(max_new_tokens=9), Decoding(max_new_tokens=9, num_beams=3)):
        full, free = decode(NETWORKS["gpt2"], prompts, ways, eos_id=-1)
        assert (len(full[0].token_ids), full[0].finish_reason) == (2, "length")
        assert len(free[0].token_ids) == 9
    with pytest.raises(SettingsError, match="prompt 1 has 48 tokens; the model takes 1 to 47"):
        decode(NETWORKS["gpt2"], [[1], [1] * CONTEXT], Decoding(), eos_id=EOS)
    with pytest.raises(SettingsError, match="prompt 0 has 0 tokens"):
        decode(NETWORKS["gpt2"], [[]], Decoding(), eos_id=EOS)
    assert decode(NETWORKS["gpt2"], [], Decoding(), eos_id=EOS) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: must be at least 1"),
        ({"temperature": -1.0}, "temperature: must be at least 0"),
        ({"top_p": 0.0}, "top_p: must be above 0"),
        ({"length_penalty": math.nan}, "length_penalty: must be a finite number"),
        ({"num_beams": 2, "temperature": 1.0}, "temperature: beams are not sampled"),
        ({"num_beams": 2, "num_candidates": 3}, "num_candidates: more than there are beams"),
        ({"num_candidates": 2}, "num_candidates: greedy search has one result"),
    ],
)
def test_senseless_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Decoding(**values)
