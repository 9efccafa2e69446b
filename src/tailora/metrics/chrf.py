"""chrF and chrF++ (Popović 2015, 2017), as sacrebleu computes them and as WebNLG 2020's script does."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache

import numpy as np

from tailora.metrics.statistics import Doubles, Statistics, check_texts, signature

_ORDERS, _WORD_ORDERS, _BETA = 6, 2, 2.0
_PUNCTUATION = frozenset(string.punctuation)


def chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """Return chrF: F (beta 2) of character n-grams of orders 1 to 6; case matters, spaces do not; 0 to 1.

    Precision and recall are averaged over the orders before F is computed. Of several references, the one with the
    best score counts.

    Raises:
        DataError: see `check_texts`.
    """
    return _chrf("chrF", "sacrebleu|case:mixed|nc:6|nw:0|space:no|eff:yes", hypotheses, references, 0, _of_means)


def chrf_pp(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """Return chrF++: chrF with words and pairs of words, punctuation at their ends separated.

    Raises:
        DataError: see `check_texts`.
    """
    settings = "sacrebleu|case:mixed|nc:6|nw:2|space:no|eff:yes"
    return _chrf("chrF++", settings, hypotheses, references, _WORD_ORDERS, _of_means)


def webnlg_chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """Return chrF++ as WebNLG 2020's script (chrF++.py) does: the mean of F over all orders, empty ones included.

    Raises:
        DataError: see `check_texts`.
    """
    settings = "chrF++.py|case:mixed|nc:6|nw:2|space:no|eff:no"
    return _chrf("chrF++, WebNLG", settings, hypotheses, references, _WORD_ORDERS, _mean_of_fs)


def _chrf(
    name: str,
    settings: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    word_orders: int,
    total: Callable[[Doubles], Doubles],
) -> Statistics:
    check_texts(hypotheses, references)
    rows = []
    for text, own in zip(hypotheses, references, strict=True):
        candidates = np.array([_row(text, reference, word_orders) for reference in own], np.float64)
        rows.append(candidates[int(np.argmax(total(candidates)))])
    return Statistics(name, signature(settings, references), np.array(rows), total)


def _row(text: str, reference: str, word_orders: int) -> list[float]:
    """For each order, the numbers of n-grams of the text, of the reference, and of both."""
    row: list[float] = []
    for own, other in zip(_counted(text, word_orders), _counted(reference, word_orders), strict=True):
        row += [own.total() if other else 0, other.total(), (own & other).total()]
    return row


@lru_cache(maxsize=1 << 15)
def _counted(text: str, word_orders: int) -> tuple[Counter[Hashable], ...]:
    joined, words = "".join(text.split()), _words(text) if word_orders else []
    characters = [_count(joined, order) for order in range(1, _ORDERS + 1)]
    return (*characters, *(_count(words, order) for order in range(1, word_orders + 1)))


def _count(sequence: str | list[str], order: int) -> Counter[Hashable]:
    return Counter(zip(*(sequence[start:] for start in range(order)), strict=False))


def _words(text: str) -> list[str]:
    """Words with one punctuation mark separated from the end, or otherwise from the beginning."""
    parts: list[str] = []
    for word in text.split():
        if len(word) > 1 and word[-1] in _PUNCTUATION:
            parts += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in _PUNCTUATION:
            parts += [word[0], word[1:]]
        else:
            parts.append(word)
    return parts


def _of_means(sums: Doubles) -> Doubles:
    written, wanted, both = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    there = (written > 0) & (wanted > 0)
    orders = np.maximum(there.sum(-1), 1)
    precision = np.where(there, both / np.maximum(written, 1), 0).sum(-1) / orders
    recall = np.where(there, both / np.maximum(wanted, 1), 0).sum(-1) / orders
    return _f(precision, recall)


def _mean_of_fs(sums: Doubles) -> Doubles:
    written, wanted, both = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    return np.asarray(_f(both / np.maximum(written, 1), both / np.maximum(wanted, 1)).mean(-1))


def _f(precision: Doubles, recall: Doubles) -> Doubles:
    weighed = _BETA**2 * precision + recall
    return np.asarray((1 + _BETA**2) * precision * recall / np.where(weighed > 0, weighed, 1))
