"""Counts of token sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

ORDERS = 5  # that any metric asks for
Ngram = tuple[str, ...]


def each(tokens: tuple[str, ...], order: int) -> Iterable[Ngram]:
    """Every sequence of so many tokens, as often as it occurs."""
    return zip(*(tokens[start:] for start in range(order)), strict=False)


@lru_cache(maxsize=1 << 15)
def ngrams(tokens: tuple[str, ...]) -> tuple[Counter[Ngram], ...]:
    """How often each sequence of tokens occurs: of one token, of two, and so on up to five. Not to be changed."""
    return tuple(Counter(each(tokens, order)) for order in range(1, ORDERS + 1))


@lru_cache(maxsize=1 << 13)
def shared(tokens: tuple[str, ...], others: tuple[tuple[str, ...], ...]) -> tuple[dict[Ngram, int], ...]:
    """Of each order, how often each n-gram occurs, but no more than in any one of the others. Not to be changed."""
    found: tuple[dict[Ngram, int], ...] = tuple({} for _ in range(ORDERS))
    for other in others:
        for matches, counts, theirs in zip(found, ngrams(tokens), ngrams(other), strict=True):
            for ngram in counts.keys() & theirs.keys():
                matches[ngram] = max(matches.get(ngram, 0), min(counts[ngram], theirs[ngram]))
    return found
