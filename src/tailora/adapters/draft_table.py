"""The n-grams of an adapter's training texts: which tokens followed which, to draft the next tokens of a new text.

A context is the last tokens of a text, up to `ORDER`, with a marker before its first token. The table keeps the
likeliest tokens after each context. What a text says depends on its prompt, so that the table also keeps, for each
token, how much likelier or less likely it is if the prompt contains it, or if the text has said it already.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

ORDER = 4  # tokens of the longest context
START = 2**32 - 1  # stands before the first token of a text
ABSENT, UNSAID, SAID = range(3)
"""Whether a token is in the prompt: no; yes, and the text does not contain it yet; yes, and the text contains it."""
LOG_STEP = 8  # steps in a factor of two, of the factors that a table keeps

_MULTIPLIER, _MIXER, _BITS = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 2**64 - 1


@dataclass(frozen=True, eq=False)
class DraftTable:
    """N contexts with the likeliest M tokens after each.

    Attributes:
        keys: uint32 [N], the hash of each context, ascending.
        tokens: uint32 [N, M], the likeliest tokens after a context.
        chances: uint8 [N, M], the probability of each in 255ths; 0 in unused places.
        words: uint32 [W], the tokens whose probability depends on the prompt, ascending.
        factors: int8 [W, 3], the factors of their probabilities for `ABSENT`, `UNSAID` and `SAID`, as logarithms to the
            base 2 in steps of 1 / `LOG_STEP`.
        vocabulary: fingerprint of the tokenizer's vocabulary.
    """

    keys: NDArray[np.uint32]
    tokens: NDArray[np.uint32]
    chances: NDArray[np.uint8]
    words: NDArray[np.uint32]
    factors: NDArray[np.int8]
    vocabulary: str

    @cached_property
    def largest(self) -> int:
        """The largest token id that a draft can contain."""
        return int(self.tokens.max(initial=0))

    @cached_property
    def _factors(self) -> dict[int, tuple[float, float, float]]:
        factors = np.exp2(self.factors / LOG_STEP).tolist()
        return dict(zip(self.words.tolist(), map(tuple, factors), strict=True))

    def predict(self, history: Sequence[int], prompt: Container[int], said: Container[int]) -> tuple[int, float] | None:
        """Return the likeliest next token of a text and its probability; None if no context is known.

        Args:
            history: the last tokens of the text, `START` before its first one; more than `ORDER` have no effect.
            prompt: the tokens of the prompt.
            said: the tokens of the text.
        """
        place = self._find(history)
        if place is None:
            return None
        token, best = 0, -1.0
        total = rest = 1.0
        for candidate, chance in zip(self.tokens[place].tolist(), self.chances[place].tolist(), strict=True):
            own = chance / 255
            rest -= own
            factors = self._factors.get(candidate)
            if factors is not None:
                level = ABSENT if candidate not in prompt else SAID if candidate in said else UNSAID
                total += own * (factors[level] - 1)
                own *= factors[level]
            if own > best:
                token, best = candidate, own
        return token, best / max(total, best)

    def _find(self, history: Sequence[int]) -> int | None:
        """Return the place of the longest known context at the end of a history."""
        keys, value = [], 0
        for length, token in enumerate(reversed(history[-ORDER:]), 1):
            value = (value * _MULTIPLIER + token + 1) & _BITS
            keys.append(_key(value + length))
        places = self.keys.data
        for key in reversed(keys):
            place = bisect_left(places, key)
            if place < len(places) and places[place] == key:
                return place
        return None


def _key(value: int) -> int:
    value &= _BITS
    value ^= value >> 29
    value = (value * _MIXER) & _BITS
    return value >> 32


def extended(values: NDArray[np.uint64], tokens: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the states of contexts after one more token to their left."""
    return values * np.uint64(_MULTIPLIER) + tokens + np.uint64(1)


def context_keys(values: NDArray[np.uint64], length: int) -> NDArray[np.uint32]:
    """Return the keys of contexts of a length from their states."""
    mixed = values + np.uint64(length)
    mixed ^= mixed >> np.uint64(29)
    return ((mixed * np.uint64(_MIXER)) >> np.uint64(32)).astype(np.uint32)


def encoded_factor(factor: float) -> int:
    """Return a factor as the table keeps it."""
    return max(-127, min(127, round(math.log2(factor) * LOG_STEP)))
