"""Nearly equal texts, beside a comparison of all pairs."""

from __future__ import annotations

import random
import time

import pytest

from tailora.data.near_duplicates import LEAST_SIMILARITY, near_duplicates

WORDS = (
    *("the", "pub", "near", "river", "serves", "cheap", "Thai", "food", "and", "families"),
    *("like", "its", "friendly", "staff", "very", "much", "today"),
)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.casefold().replace(".", "").split()
    return {tuple(words[start : start + 3]) for start in range(max(len(words) - 3, 0) + 1)}


def sample(count: int) -> list[str]:
    rng = random.Random(1)
    texts = [" ".join(rng.choices(WORDS, k=30)) + "." for _ in range(count)]
    for number in range(0, count, 4):  # copies with one to four other words
        words = texts[number].split()
        for place in rng.sample(range(30), rng.randint(1, 4)):
            words[place] = "word"
        texts[number + 1] = " ".join(words)
    return texts


def test_equal_to_a_comparison_of_all_pairs() -> None:
    texts = sample(200)
    sets = [shingles(text) for text in texts]
    expected = {
        later
        for later in range(len(texts))
        for earlier in range(later)
        if len(sets[later] & sets[earlier]) / len(sets[later] | sets[earlier]) >= LEAST_SIMILARITY
    }
    near = near_duplicates(texts, range(len(texts)))
    assert len(expected) > 10
    assert {pair.text for pair in near} == expected
    for pair in near:
        one, two = sets[pair.text], sets[pair.earlier]
        assert pair.similarity == pytest.approx(len(one & two) / len(one | two))


def test_texts_of_one_record_and_texts_without_words_are_left_out() -> None:
    text = "The Mill is a pub near the river."
    assert near_duplicates([text, text.upper(), "...", "…", ""], [0, 0, 1, 2, 3]) == []
    (pair,) = near_duplicates([text, "...", text.upper()], [0, 1, 2])
    assert (pair.text, pair.earlier, pair.similarity) == (2, 0, 1.0)


def test_texts_without_spaces() -> None:
    long = "这家餐厅位于河边提供便宜的泰国菜而且非常适合家庭和孩子们一起用餐"
    near = near_duplicates([long, long[:-1] + "饭", "他们在城市中心的老房子里卖英国早餐和咖啡"], [0, 1, 2])
    assert [(pair.text, pair.earlier) for pair in near] == [(1, 0)]


def test_many_equal_texts_take_linear_time() -> None:
    began = time.perf_counter()
    near = near_duplicates(["The Mill is a pub near the river."] * 20_000, range(20_000))
    assert len(near) == 19_999
    assert time.perf_counter() - began < 60
