"""NIST (Doddington 2002) as mteval-v13a computes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tailora.metrics.ngrams import ORDERS, Ngram, each, shared
from tailora.metrics.statistics import Floats, Statistics, check_texts
from tailora.metrics.tokens import mteval

_BETA = -math.log(0.5) / math.log(1.5) ** 2  # texts two thirds as long as their references lose half


def nist(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """Information of the n-grams shared with any reference, per n-gram of the texts, orders 1 to 5; from 0 up.

    The information of an n-gram is log2 of how much more often its beginning stands in the references than it does;
    in a resample it stays that of all references.

    Raises:
        DataError: see `check_texts`.
    """
    check_texts(hypotheses, references)
    tokenised = [tuple(mteval(each) for each in own) for own in references]
    everywhere: Counter[Ngram] = Counter()
    for own in tokenised:
        for tokens in own:
            everywhere[()] += len(tokens)
            for order in range(1, ORDERS + 1):
                everywhere.update(each(tokens, order))  # by its elements: adding up counts is far slower
    rows = []
    for text, own in zip(hypotheses, tokenised, strict=True):
        tokens = mteval(text)
        row = [float(len(tokens)), sum(map(len, own)) / len(own)]
        for order, matches in enumerate(shared(tokens, own)):
            row.append(sum(count * math.log2(everywhere[g[:-1]] / everywhere[g]) for g, count in matches.items()))
            row.append(float(max(len(tokens) - order, 0)))
        rows.append(row)
    return Statistics("NIST", "tok:mteval-13a|case:lc|n:5|refs:any", np.array(rows), _total)


def _total(sums: Floats) -> Floats:
    """From sums of (tokens, mean tokens of the references, and of each order information and n-grams)."""
    information, ngrams_written = sums[..., 2::2], sums[..., 3::2]
    precision = np.sum(information / np.maximum(ngrams_written, 1), axis=-1)
    ratio = np.clip(sums[..., 0] / np.maximum(sums[..., 1], 1), 1e-300, 1)
    return np.asarray(precision * np.exp(-_BETA * np.log(ratio) ** 2))
