"""Counts of token sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

ORDERS = 5  # the largest that a metric needs
Ngram = tuple[str, ...]


def ngrams_of(tokens: tuple[str, ...], order: int) -> Iterable[Ngram]:
    """Return every sequence of `order` tokens, as often as it occurs."""
    return zip(*(tokens[start:] for start in range(order)), strict=False)


@lru_cache(maxsize=1 << 15)
def ngrams(tokens: tuple[str, ...]) -> tuple[Counter[Ngram], ...]:
    """Return the counts of the n-grams of each order, from 1 to `ORDERS`. Do not change them: they are cached."""
    return tuple(Counter(ngrams_of(tokens, order)) for order in range(1, ORDERS + 1))


@lru_cache(maxsize=1 << 13)
def shared(tokens: tuple[str, ...], others: tuple[tuple[str, ...], ...]) -> tuple[dict[Ngram, int], ...]:
    """Return, for each order, the counts of n-grams clipped to their largest count in one of the other texts.

    Do not change them: they are cached.

    Args:
        tokens: of a text.
        others: tokens of its references.
    """
    clipped: tuple[dict[Ngram, int], ...] = tuple({} for _ in range(ORDERS))
    for other in others:
        for matches, counts, theirs in zip(clipped, ngrams(tokens), ngrams(other), strict=True):
            for ngram in counts.keys() & theirs.keys():
                matches[ngram] = max(matches.get(ngram, 0), min(counts[ngram], theirs[ngram]))
    return clipped
