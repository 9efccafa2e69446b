"""chrF (Popović 2015), characters alone, as sacrebleu computes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from tailora.metrics.statistics import Floats, Statistics, check_texts

_ORDERS, _BETA = 6, 2.0


def chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """F of character n-grams, orders 1 to 6, recall weighing twice; case kept, spaces dropped; 0 to 1.

    Of several references a text's best one counts.

    Raises:
        DataError: see `check_texts`.
    """
    check_texts(hypotheses, references)
    rows = [
        max((_row(text, each) for each in own), key=lambda row: float(_total(np.array(row))))
        for text, own in zip(hypotheses, references, strict=True)
    ]
    return Statistics("chrF", "sacrebleu|case:mixed|nc:6|nw:0|space:no|refs:any", np.array(rows), _total)


def _row(text: str, reference: str) -> list[float]:
    """Of each order: n-grams of the text, of the reference, and of both."""
    row: list[float] = []
    for own, other in zip(_counted(text), _counted(reference), strict=True):
        row += [own.total() if other else 0, other.total(), (own & other).total()]
    return row


@lru_cache(maxsize=1 << 15)
def _counted(text: str) -> tuple[Counter[str], ...]:
    joined = "".join(text.split())
    return tuple(
        Counter(joined[start : start + order] for start in range(len(joined) - order + 1))
        for order in range(1, _ORDERS + 1)
    )


def _total(sums: Floats) -> Floats:
    written, wanted, both = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    there = (written > 0) & (wanted > 0)
    orders = np.maximum(there.sum(-1), 1)
    precision = np.where(there, both / np.maximum(written, 1), 0).sum(-1) / orders
    recall = np.where(there, both / np.maximum(wanted, 1), 0).sum(-1) / orders
    weighed = _BETA**2 * precision + recall
    return np.asarray((1 + _BETA**2) * precision * recall / np.where(weighed > 0, weighed, 1))
