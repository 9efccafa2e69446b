"""Counts of the n-grams of texts, and the draft table that they give."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailora.adapters.draft_table import (
    ABSENT,
    ORDER,
    SAID,
    START,
    UNSAID,
    DraftTable,
    context_keys,
    encoded_factor,
    extended,
)

LARGEST = 1_000_000  # bytes of a table in a file
LIKELIEST = 3  # tokens after a context
SEEN = 2  # occurrences from which a context is kept
TOKENS = 2_000_000  # of the texts that are counted: of larger data, evenly spread texts
_FACTOR_TEXTS = 20_000  # texts whose tokens are compared with their prompts
_HEADER = 4096  # bytes of a file besides its arrays

PromptAndText = tuple[Sequence[int], Sequence[int]]
"""The token ids of a prompt and of the text after it."""
_Wide = NDArray[np.int64]
_Chances = NDArray[np.float64]


def draft_table(pairs: Sequence[PromptAndText], vocabulary: str, largest: int = LARGEST) -> DraftTable:
    """Return the n-grams of texts that say most about their next token.

    Probabilities are relative frequencies, mixed with those after the shorter context: a context that was seen often,
    and mostly before the same token, relies on its own (Witten and Bell 1991).

    Args:
        pairs: prompts and texts; the texts include their end-of-text token.
        vocabulary: fingerprint of the tokenizer's vocabulary.
        largest: bytes that the table may have in a file.
    """
    step = -(-sum(len(text) for _, text in pairs) // TOKENS)
    chosen = pairs[:: max(1, step)]
    factors = _factors(chosen[:: max(1, -(-len(chosen) // _FACTOR_TEXTS))])
    words = np.array(sorted(factors), np.uint32)
    contexts = _contexts([text for _, text in chosen])
    width = 2 if contexts.tokens.max(initial=0) < 2**16 else 4
    room = (largest - _HEADER - words.size * (4 + 3)) // (4 + LIKELIEST * (width + 1))
    best = np.argsort(-contexts.gains, kind="stable")[: max(0, room)]
    keys, first = np.unique(contexts.keys[best], return_index=True)  # of equal keys the one that says more
    return DraftTable(
        keys,
        np.ascontiguousarray(contexts.tokens[best][first], np.uint32),
        np.floor(contexts.chances[best][first] * 255).astype(np.uint8),
        words,
        np.array([factors[word] for word in words.tolist()], np.int8).reshape(-1, 3),
        vocabulary,
    )


class _Contexts(NamedTuple):
    """Contexts [N] with the likeliest tokens after each [N, LIKELIEST], and how much each tells."""

    keys: NDArray[np.uint32]
    tokens: _Wide
    chances: _Chances
    gains: _Chances


def _contexts(texts: Sequence[Sequence[int]]) -> _Contexts:
    flat = np.array([token for text in texts for token in (START, *text)], np.uint64)
    lengths = np.array([len(text) + 1 for text in texts])
    offset = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.flatnonzero(offset > 0)
    following = flat[places].astype(np.int64)
    _, which, counts = np.unique(following, return_inverse=True, return_counts=True)
    chances = (counts / max(1, len(following)))[which]  # of each token after the context one shorter
    values = np.zeros(len(places), np.uint64)
    parts = []
    for length in range(1, ORDER + 1):
        inside = offset[places] >= length
        places, following, chances, values = places[inside], following[inside], chances[inside], values[inside]
        values = extended(values, flat[places - length])
        part, chances = _of_length(values, length, following, chances)
        parts.append(part)
    return _Contexts(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _of_length(
    values: NDArray[np.uint64], length: int, following: _Wide, shorter: _Chances
) -> tuple[_Contexts, _Chances]:
    """Return the contexts of a length that were seen often enough, and the probability of each following token.

    Args:
        values: the state of the context at each place.
        length: the length of the contexts.
        following: the token at each place.
        shorter: its probability after the context one shorter.
    """
    order = np.lexsort((following, values))
    sorted_values, sorted_tokens = values[order], following[order]
    new_context = np.diff(sorted_values, prepend=~sorted_values[:1]) != 0
    new_pair = new_context | (np.diff(sorted_tokens, prepend=-1) != 0)
    pair = np.cumsum(new_pair) - 1
    context = (np.cumsum(new_context) - 1)[new_pair]  # of each pair
    seen, kinds = np.bincount(context, np.bincount(pair)), np.bincount(context)
    low = shorter[order][new_pair]
    mixed = (np.bincount(pair) + kinds[context] * low) / (seen + kinds)[context]
    chances = np.empty(len(order))
    chances[order] = mixed[pair]
    ranked = np.lexsort((-mixed, context))
    rank = np.arange(len(ranked)) - (np.cumsum(kinds) - kinds)[context[ranked]]
    kept = ranked[rank < LIKELIEST]
    where = context[kept], rank[rank < LIKELIEST]
    shape = len(seen), LIKELIEST
    tokens, best, lows = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape)
    tokens[where], best[where], lows[where] = sorted_tokens[new_pair][kept], mixed[kept], low[kept]
    often = seen >= SEEN
    gains = seen * np.abs(best - lows).max(1, initial=0)
    keys = context_keys(sorted_values[new_context], length)
    return _Contexts(keys[often], tokens[often], best[often], gains[often]), chances


def _factors(pairs: Sequence[PromptAndText]) -> dict[int, list[int]]:
    """Return, for tokens of texts, how much their probability depends on the prompt, as the table keeps it.

    A factor is the probability of a state of the prompt (`ABSENT`, `UNSAID`, `SAID`) where the token is written, over
    its probability anywhere.
    """
    written: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    anywhere: Counter[tuple[int, int]] = Counter()
    total = 0
    for prompt, text in pairs:
        known, said = frozenset(prompt), dict[int, int]()
        for place, token in enumerate(text):
            written[token][ABSENT if token not in known else SAID if token in said else UNSAID] += 1
            said.setdefault(token, place)
        for token in known:
            until = min(len(text), said.get(token, len(text)) + 1)
            anywhere[token, UNSAID] += until
            anywhere[token, SAID] += len(text) - until
        total += len(text)
    factors = {}
    for token, counts in written.items():
        present = [anywhere[token, UNSAID], anywhere[token, SAID]]
        usual = [(count + 0.5) / (total + 1.5) for count in (total - sum(present), *present)]
        own = [(count + 2 * share) / (sum(counts) + 2) for count, share in zip(counts, usual, strict=True)]
        factors[token] = [encoded_factor(a / b) for a, b in zip(own, usual, strict=True)]
    return {token: steps for token, steps in factors.items() if any(steps)}
