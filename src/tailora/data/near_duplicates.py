"""Texts that are nearly equal, by MinHash over their shingles (Broder 1997), in time linear in the number of texts."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

LEAST_SIMILARITY = 0.8
"""Jaccard similarity of the shingles of two texts from which they count as nearly equal."""

_WORDS = 3  # words of a shingle
_LETTERS = 5  # characters of a shingle, in texts without spaces
_LONG_WORD = 15  # letters of a word on average from which a text counts as one without spaces
_BANDS, _ROWS = 16, 5  # two texts are compared if all minima of a band agree: 99.8% of those with similarity 0.8
_BATCH = 1000  # texts whose minima are computed at once
_WORD = re.compile(r"\w+")

Hashes: TypeAlias = NDArray[np.uint64]


class NearDuplicate(NamedTuple):
    """Two texts that are nearly equal.

    Attributes:
        text: number of the later text.
        earlier: number of the earlier text.
        similarity: Jaccard similarity of their shingles.
    """

    text: int
    earlier: int
    similarity: float


def near_duplicates(texts: Sequence[str], owners: Sequence[int]) -> list[NearDuplicate]:
    """Return the texts that are nearly equal to an earlier text of another owner, each once, in their order.

    Each text is compared with at most two texts for each band of its minima, so some pairs of large groups of equal
    texts are left out, but no text of such a group.

    Args:
        texts: any; those without a word are left out.
        owners: of each text, the number of its record.
    """
    kept = [number for number, text in enumerate(texts) if _WORD.search(text)]
    shingles = [_shingles(texts[number]) for number in kept]
    best: dict[int, NearDuplicate] = {}
    compared: set[tuple[int, int]] = set()
    for earlier, later in _candidates(_minima(shingles), [owners[number] for number in kept]):
        if (earlier, later) in compared:
            continue
        compared.add((earlier, later))
        similarity = _jaccard(shingles[earlier], shingles[later])
        known = best.get(later)
        if similarity >= LEAST_SIMILARITY and (known is None or similarity > known.similarity):
            best[later] = NearDuplicate(kept[later], kept[earlier], similarity)
    return [best[number] for number in sorted(best)]


def _shingles(text: str) -> Hashes:
    """Return the hashes of a text's shingles, ascending and without repetition."""
    words = _WORD.findall(text.casefold())
    if sum(map(len, words)) >= _LONG_WORD * len(words):
        words, size = list("".join(words)), _LETTERS
    else:
        size = _WORDS
    parts = [" ".join(words[start : start + size]) for start in range(max(len(words) - size, 0) + 1)]
    return np.unique(np.array([zlib.crc32(part.encode()) for part in parts], np.uint64))


def _minima(shingles: Sequence[Hashes]) -> Hashes:
    """Return the least value of each hash function over each text's shingles, (texts, bands * rows)."""
    random = np.random.default_rng(0)
    factors = random.integers(1, 2**63, _BANDS * _ROWS, np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = random.integers(0, 2**63, _BANDS * _ROWS, np.uint64)
    minima = np.empty((len(shingles), _BANDS * _ROWS), np.uint64)
    for start in range(0, len(shingles), _BATCH):
        part = shingles[start : start + _BATCH]
        hashed = (np.concatenate(part)[:, None] * factors + offsets) >> np.uint64(32)
        starts = np.cumsum([0, *map(len, part[:-1])])
        minima[start : start + len(part)] = np.minimum.reduceat(hashed, starts, axis=0)
    return minima


def _candidates(minima: Hashes, owners: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (earlier, later) of texts of different owners that agree in a band: the first and the last before each."""
    for band in range(_BANDS):
        first: dict[bytes, int] = {}
        last: dict[bytes, int] = {}
        for number, row in enumerate(minima[:, band * _ROWS : (band + 1) * _ROWS]):
            key = row.tobytes()
            for earlier in {first.setdefault(key, number), last.get(key, number)}:
                if owners[earlier] != owners[number]:
                    yield earlier, number
            last[key] = number


def _jaccard(one: Hashes, two: Hashes) -> float:
    shared = len(np.intersect1d(one, two, assume_unique=True))
    return shared / (len(one) + len(two) - shared)
