"""Intervals and comparisons of scores."""

import numpy as np
import pytest

from tailora.errors import DataError
from tailora.metrics.statistics import Statistics, compare, interval, mean


def measured(values, signature="s"):
    return Statistics("M", signature, np.array([(value, 1.0) for value in values]), mean)


def test_interval_of_a_mean_is_that_of_statistics():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = interval(measured(values), draws=4000)
    error = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.03)
    assert interval(measured(values)) == interval(measured(values))
    assert interval(measured(values), seed=1) != interval(measured(values))


def test_differences_in_pairs():
    first = np.random.default_rng(2).normal(0, 5, 300)
    better = compare(measured(first + np.random.default_rng(3).normal(0.3, 0.1, 300)), measured(first))
    assert better.p < 0.01
    assert better.low > 0.25
    shuffled = compare(measured(np.random.default_rng(4).permutation(first)), measured(first))
    assert shuffled.p > 0.05
    assert shuffled.low < 0 < shuffled.high
    assert compare(measured(first), measured(first)).p == 1


def test_only_like_is_compared_with_like():
    with pytest.raises(DataError, match="cannot be compared"):
        compare(measured([1, 2]), measured([1, 2, 3]))
    with pytest.raises(DataError, match="cannot be compared"):
        compare(measured([1, 2]), measured([1, 2], "other"))


def test_some_texts_only():
    some = measured([1, 2, 3, 4]).of([1, 3])
    assert some.value == 3
    assert some.by_text.tolist() == [2, 4]
