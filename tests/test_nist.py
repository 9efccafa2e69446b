"""NIST on a corpus that is small enough to compute by hand."""

from __future__ import annotations

import math

import pytest

from tailora.metrics.nist import nist


def test_information_by_hand() -> None:
    # References: 6 tokens; "a" 3 times, "b" twice, "c" once; "a b" twice, "b a" once, "a c" once, "b" ends one.
    value = nist(["a c", "b"], [["a b a c"], ["a b"]]).value
    unigrams = (math.log2(6 / 3) + math.log2(6 / 1) + math.log2(6 / 2)) / 3
    bigrams = math.log2(3 / 1) / 1  # "a c", after three "a"
    ratio = 3 / 6
    penalty = math.exp(-(-math.log(0.5) / math.log(1.5) ** 2) * math.log(ratio) ** 2)
    assert value == pytest.approx((unigrams + bigrams) * penalty)


def test_references_have_one_mean_length() -> None:
    # Three references of 2, 2 and 5 tokens have a mean of 3, which two texts of 2 tokens fall short of by a third.
    texts, references = ["a b", "c d"], [["a b", "a b"], ["c d e f g"]]
    lone = nist(texts, [["a b", "a b"], ["c d"]]).value
    assert nist(texts, references).value < lone
    row = nist(texts, references).rows.sum(0)
    assert row[:4].tolist() == [2, 4, 9, 3]


def test_texts_of_two_thirds_the_length_lose_half() -> None:
    whole = nist(["a b c", "d e f"], [["a b c"], ["d e f"]]).value
    assert nist(["a b", "d e"], [["a b c"], ["d e f"]]).value < whole
    assert nist([".", "?"], [["x"], ["y"]]).value == 0
