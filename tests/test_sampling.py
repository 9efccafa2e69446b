"""One row at a time: what may be drawn, with which probability, and what repeats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.core.errors import SettingsError
from tailora.engine.decoding import Decoding
from tailora.engine.sampling import UniformNumbers, draw, penalised, repeating

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.25, 0.2])
LOGITS = np.log(PROBABILITIES).astype(np.float32)


def drawn(**options: Any) -> np.ndarray:
    """The share of each token over evenly spread uniform numbers, which is its probability."""
    decoding = Decoding(**{"temperature": 1.0, **options})
    tokens = [draw(LOGITS, (i + 0.5) / 2000, decoding) for i in range(2000)]
    return np.bincount(tokens, minlength=len(LOGITS)) / 2000


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.6}, [1, 3]),
        ({"top_p": 0.7}, [1, 3, 4]),
        ({"top_p": 1e-9}, [1]),
        ({"min_p": 0.45}, [1, 3, 4]),
        ({"min_p": 1.0}, [1]),
        ({"top_k": 4, "top_p": 0.9, "min_p": 0.3}, [1, 3, 4]),
    ],
)
def test_what_is_left_keeps_its_proportions(options: dict[str, Any], kept: list[int]) -> None:
    expected = np.zeros(len(LOGITS))
    expected[kept] = PROBABILITIES[kept] / PROBABILITIES[kept].sum()
    np.testing.assert_allclose(drawn(**options), expected, atol=2e-3)


def test_temperature() -> None:
    expected = PROBABILITIES**2 / (PROBABILITIES**2).sum()
    np.testing.assert_allclose(drawn(temperature=0.5), expected, atol=2e-3)
    for cold in (1e-6, 1e-310, 5e-324):
        assert drawn(temperature=cold)[1] == 1
    assert drawn(temperature=5e-324, top_k=3, top_p=0.5, min_p=0.1)[1] == 1


def test_banned_tokens_are_never_drawn() -> None:
    scores = LOGITS.copy()
    scores[1] = -np.inf
    assert {draw(scores, u, Decoding(temperature=1.0)) for u in (0.0, 0.3, 0.6, math.nextafter(1, 0))} <= {0, 2, 3, 4}


def test_runs_that_stand_already() -> None:
    assert repeating([1, 2, 3, 1, 2], 3) == [3]
    assert repeating([1, 2, 1, 3, 1], 2) == [2, 3]
    assert repeating([4, 5], 1) == [4, 5]
    assert repeating([1, 2], 4) == []
    assert repeating([1, 1], 0) == []


def test_penalties_touch_what_they_should_and_no_other_row() -> None:
    logits = np.array([2.0, -2.0, 1.0, 4.0], np.float32)
    untouched = logits.copy()
    scores = penalised(logits, [0], [1], Decoding(repetition_penalty=2.0, no_repeat_ngram_size=1))
    np.testing.assert_array_equal(scores, [1.0, -np.inf, 1.0, 4.0])
    np.testing.assert_array_equal(logits, untouched)
    assert penalised(logits, [0], [], Decoding(no_repeat_ngram_size=3)) is logits


@given(
    st.lists(st.integers(0, 5), max_size=8),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.dictionaries(st.integers(0, 5), st.floats(-100, 100), max_size=3),
)
def test_what_is_added_is_as_openai_defines_it(
    written: list[int], presence: float, frequency: float, bias: dict[int, float]
) -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, with c[j] of the completion alone, and the bias on top."""
    logits = np.array([0.5, -1.0, 2.0, 0.0, 3.0, -2.0], np.float32)
    decoding = Decoding(presence_penalty=presence, frequency_penalty=frequency, logit_bias=tuple(bias.items()))
    expected = [
        value - written.count(j) * frequency - (j in written) * presence + bias.get(j, 0.0)
        for j, value in enumerate(logits.tolist())
    ]
    np.testing.assert_allclose(penalised(logits, [0, 1, 2], written, decoding), expected, atol=1e-4)


def test_draws_depend_on_the_request_alone() -> None:
    one, again, other = UniformNumbers(1, 0, [5, 6]), UniformNumbers(1, 0, [5, 6]), UniformNumbers(1, 1, [5, 6])
    assert [one[i] for i in range(5)] == [again[i] for i in (0, 1, 2, 3, 4)]
    assert again[2] == one[2]
    assert other[0] != one[0]
    assert UniformNumbers(2, 0, [5, 6])[0] != one[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: must be at least 1"),
        ({"temperature": -1.0}, "temperature: must be at least 0"),
        ({"top_p": -0.1}, "top_p: must be from 0 to 1"),
        ({"presence_penalty": 2.5}, "presence_penalty: must be from -2 to 2"),
        ({"frequency_penalty": math.nan}, "frequency_penalty: must be from -2 to 2"),
        ({"logit_bias": ((3, 101.0),)}, "logit_bias: every bias must be from -100 to 100"),
        ({"logit_bias": ((3, 1.0), (3, 2.0))}, "logit_bias: a token id occurs twice"),
        ({"top_p": 0.0, "temperature": 1.0, "num_candidates": 2}, "greedy search has one result"),
        ({"min_p": 1.5}, "min_p: must be from 0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: must be above 0"),
        ({"length_penalty": math.nan}, "length_penalty: must be a finite"),
        ({"num_beams": 2, "temperature": 1.0}, "beams are not sampled"),
        ({"num_beams": 2, "num_candidates": 3}, "exceeds the number of beams"),
        ({"num_candidates": 2}, "greedy search has one result"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Decoding(**options)
