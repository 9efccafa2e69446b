"""ROUGE-L against the plain table of common subsequences."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.metrics.rouge import common_length, rouge_l


def plain(first: Any, second: Any) -> Any:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abcd")))
def test_longest_common_subsequence(first: Any, second: Any) -> None:
    assert common_length(first, second) == plain(first, second)


def test_best_precision_and_best_recall_may_come_from_two_references() -> None:
    # 3 of 4 words are in the second reference, all 2 words of the first are in the text.
    precision, recall = 3 / 4, 1.0
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert rouge_l(["a b c d"], [["a d", "x a y b z c"]]).value == pytest.approx(expected)


def test_nothing_in_common_and_nothing_at_all() -> None:
    assert rouge_l(["a b", "."], [["c"], ["d"]]).value == 0
