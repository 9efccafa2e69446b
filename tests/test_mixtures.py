"""Several adapters with weights, as data, settings and requests name them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.data.mixtures import MixtureError, mixture_text, parse_mixture, read_mixture

NAMES = st.text(st.characters(codec="ascii", exclude_characters="+: \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"), min_size=1)
WEIGHTS = st.dictionaries(NAMES, st.floats(-100, 100), min_size=1, max_size=4)


@given(weights=WEIGHTS)
def test_every_form_is_the_same_mixture(weights: dict[str, float]) -> None:
    expected = tuple(weights.items())
    assert read_mixture(weights) == expected
    assert read_mixture([{"name": name, "weight": weight} for name, weight in weights.items()]) == expected
    assert read_mixture([[name, weight] for name, weight in weights.items()]) == expected
    assert parse_mixture("+".join(f"{name}:{weight!r}" for name, weight in weights.items())) == expected


def test_a_weight_that_is_not_given_is_1() -> None:
    assert read_mixture([{"name": "e2e"}, {"name": "formal", "weight": -2}]) == (("e2e", 1.0), ("formal", -2.0))
    assert mixture_text((("e2e", 0.7), ("formal", 0.25))) == "0.7 e2e + 0.25 formal"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "names no adapter"),
        ([], "names no adapter"),
        (["e2e"], "'e2e' is not an adapter with a weight"),
        ([{"name": "e2e", "wieght": 1}], "is not an adapter with a weight"),
        ([["e2e", 1, 2]], "is not an adapter with a weight"),
        ({"": 1}, "'' is not the name of an adapter"),
        ([[3, 1]], "3 is not the name of an adapter"),
        ({"e2e": "much"}, "the weight of 'e2e' must be a number from -100 to 100, not 'much'"),
        ({"e2e": True}, "must be a number"),
        ({"e2e": None}, "must be a number"),
        ({"e2e": 101}, "must be a number from -100 to 100, not 101"),
        ({"e2e": float("nan")}, "must be a number"),
        ([["e2e", 1], [" e2e ", 2]], "the adapter 'e2e' is named twice"),
    ],
)
def test_what_is_not_a_mixture_is_refused(value: Any, message: str) -> None:
    with pytest.raises(MixtureError, match=message) as raised:
        read_mixture(value)
    assert raised.value.hint


@pytest.mark.parametrize("text", ["", "e2e", "e2e:", "e2e:x", "e2e:1+", ":1"])
def test_what_is_not_a_mixture_on_the_command_line_is_refused(text: str) -> None:
    with pytest.raises(MixtureError):
        parse_mixture(text)
