"""Intervals and comparisons of scores."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from tailora.core.errors import DataError
from tailora.metrics import statistics
from tailora.metrics.bleu import bleu, multi_bleu
from tailora.metrics.chrf import chrf, chrf_pp, webnlg_chrf
from tailora.metrics.cider import cider
from tailora.metrics.nist import nist
from tailora.metrics.rouge import rouge_l
from tailora.metrics.statistics import Statistics, compare, interval, mean
from tailora.metrics.ter import ter, webnlg_ter


def measured(values: Any, signature: str = "s") -> Statistics:
    return Statistics("M", signature, np.array([(value, 1.0) for value in values]), mean)


def test_interval_of_a_mean_is_that_of_statistics() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = interval(measured(values), draws=4000)
    error = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.03)
    assert interval(measured(values)) == interval(measured(values))
    assert interval(measured(values), seed=1) != interval(measured(values))


def test_differences_in_pairs() -> None:
    first = np.random.default_rng(2).normal(0, 5, 300)
    better = compare(measured(first + np.random.default_rng(3).normal(0.3, 0.1, 300)), measured(first))
    assert better.p < 0.01
    assert better.low > 0.25
    shuffled = compare(measured(np.random.default_rng(4).permutation(first)), measured(first))
    assert shuffled.p > 0.05
    assert shuffled.low < 0 < shuffled.high
    assert compare(measured(first), measured(first)).p == 1


def test_bootstrap_equals_sacrebleu_of_the_drawn_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    words = ["the", "pub", "cafe", "serves", "cheap", "fast", "food", "near", "a", "river", "mill"]
    references = [" ".join(random.choice(words, 9)) for _ in range(40)]

    def system(changed: Any) -> Any:
        return [" ".join(w if random.random() > changed else "oak" for w in text.split()) for text in references]

    texts, others = system(0.1), system(0.16)
    chosen = np.random.default_rng(6).choice(len(texts), size=(120, len(texts)), replace=True)
    counts = np.array([np.bincount(row, minlength=len(texts)) for row in chosen], np.float64)
    monkeypatch.setattr(statistics, "_drawn", lambda *_: counts)
    first, second = (bleu(each, [[r] for r in references], tokenizer="13a") for each in (texts, others))
    found, score = compare(first, second, draws=120), interval(first, draws=120)

    def scores_of(each: Any) -> Any:
        metric = BLEU(lowercase=True)
        drawn = [([each[n] for n in row], [[references[n] for n in row]]) for row in chosen]
        return np.array([metric.corpus_score(*pair).score for pair in drawn]) / 100

    theirs, value = scores_of(texts) - scores_of(others), first.value - second.value
    assert (found.value, found.low, found.high) == pytest.approx((value, *np.quantile(theirs, [0.025, 0.975])))
    extreme = (np.abs(theirs - theirs.mean()) >= abs(value)).sum()
    assert found.p == pytest.approx((extreme + 1) / 121)
    assert (score.low, score.high) == pytest.approx(tuple(np.quantile(scores_of(texts), [0.025, 0.975])))


def test_intervals_by_brute_force() -> None:
    """All equally likely resamples of three records, against a large number of draws."""
    three = measured([1.0, 2.0, 6.0])
    every = np.sort([np.mean(each) for each in itertools.product([1.0, 2.0, 6.0], repeat=3)])
    found = interval(three, draws=20000, level=0.5)
    assert (found.low, found.high) == tuple(np.quantile(every, [0.25, 0.75], method="inverted_cdf"))


@pytest.mark.parametrize(
    "metric",
    [bleu, nist, rouge_l, cider, multi_bleu, ter, webnlg_ter, chrf, chrf_pp, webnlg_chrf],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize(
    ("texts", "references"),
    [
        (["a"], [["a"]]),
        (["a b c d e"], [["a b c d e", "x"]]),
        ([""], [["a b"]]),
        (["", ""], [["a"], ["b"]]),
        (["a", "a"], [[""], ["."]]),
        ([".", ""], [["."], [""]]),
        (["x y z"], [["a b c"]]),
    ],
)
def test_degenerate_texts_have_finite_scores(metric: Any, texts: list[str], references: list[list[str]]) -> None:
    found = metric(texts, references)
    score = interval(found, draws=100)
    assert np.isfinite([score.value, score.low, score.high]).all()
    assert np.isfinite(found.by_text).all()
    if len(texts) == 1:
        assert score.low == score.high == pytest.approx(score.value)
    difference = compare(found, metric(texts, references), draws=100)
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_only_like_is_compared_with_like() -> None:
    with pytest.raises(DataError, match="cannot be compared"):
        compare(measured([1, 2]), measured([1, 2, 3]))
    with pytest.raises(DataError, match="cannot be compared"):
        compare(measured([1, 2]), measured([1, 2], "other"))


def test_some_texts_only() -> None:
    some = measured([1, 2, 3, 4]).of([1, 3])
    assert some.value == 3
    assert some.by_text.tolist() == [2, 4]
