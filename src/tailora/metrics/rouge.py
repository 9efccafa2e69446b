"""ROUGE-L (Lin 2004) as the COCO caption scripts compute it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tailora.metrics.statistics import Statistics, check_texts, mean
from tailora.metrics.tokens import treebank

_BETA = 1.2


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """F of the longest common subsequence, recall weighing more, averaged over texts; 0 to 1.

    Precision and recall are each the best over a text's references, which may be different ones.

    Raises:
        DataError: see `check_texts`.
    """
    check_texts(hypotheses, references)
    rows = [
        (_score(treebank(text), [treebank(each) for each in own]), 1.0)
        for text, own in zip(hypotheses, references, strict=True)
    ]
    return Statistics("ROUGE-L", "tok:ptb-3.4.1|case:lc|beta:1.2|refs:any", np.array(rows), mean)


def _score(text: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    common = [_common(text, each) for each in references]
    precision = max(common) / max(len(text), 1)
    recall = max(n / max(len(each), 1) for n, each in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, a column of the table in the bits of a number (Hyyrö 2004)."""
    where: dict[str, int] = {}
    for place, token in enumerate(first):
        where[token] = where.get(token, 0) | 1 << place
    everything = (1 << len(first)) - 1
    column = everything
    for token in second:
        hits = column & where.get(token, 0)
        column = ((column + hits) | (column - hits)) & everything
    return len(first) - column.bit_count()
