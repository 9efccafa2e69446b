"""The values that an adapter was trained on: names that a model may write although a record does not have them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from tailora.data.values import Record

KnownValues = Mapping[str, tuple[str, ...]]
"""Values by attribute."""

MOST_VALUES = 5_000
"""Number of values that are kept, the most frequent first."""
MOST_CHARACTERS = 100_000
"""Number of characters in the values that are kept."""

_SAMPLE = 1_000  # texts that are searched for words that are not names
_STRAY = 10  # at most one text in ten may have a value that its record lacks
_SHORTEST = 4  # letters; shorter words are rarely names
_TRUTHS = frozenset(("yes", "no", "true", "false"))
_WORD = re.compile(r"\w+")


def known_values(records: Sequence[Record]) -> dict[str, tuple[str, ...]]:
    """Return the values of training records by which a text can be recognised as saying something else.

    Left out are values of fewer than four letters, yes and no, and values that texts have although their records
    lack them, such as "high": these are words like any other. The size is bounded by `MOST_VALUES` and
    `MOST_CHARACTERS`.

    Args:
        records: with their texts.
    """
    uses = Counter((fact.attribute, fact.value) for record in records for fact in record.stated)
    named = {
        value for _, value in uses if sum(map(str.isalpha, value)) >= _SHORTEST and value.casefold() not in _TRUTHS
    }
    words = _common_words(records, named)
    kept: dict[str, list[str]] = defaultdict(list)
    left, characters = MOST_VALUES, MOST_CHARACTERS
    for (attribute, value), _ in uses.most_common():
        if value in named and value not in words and left and len(value) <= characters:
            kept[attribute].append(value)
            left, characters = left - 1, characters - len(value)
    return {attribute: tuple(values) for attribute, values in kept.items()}


def read_known_values(meta: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """Return the known values in an adapter's metadata; none if it has none, and no more than training keeps."""
    values = meta.get("known_values")
    if not isinstance(values, Mapping):
        return {}
    pairs = [(str(name), str(value)) for name, own in values.items() if isinstance(own, list | tuple) for value in own]
    kept: dict[str, list[str]] = {str(name): [] for name, own in values.items() if isinstance(own, list | tuple)}
    for name, value in pairs[:MOST_VALUES]:
        kept[name].append(value)
    return {name: tuple(own) for name, own in kept.items()}


def joined(parts: Iterable[KnownValues]) -> dict[str, tuple[str, ...]]:
    """Return the values of several adapters together."""
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for part in parts:
        for attribute, own in part.items():
            values[attribute].update(dict.fromkeys(own))
    return {attribute: tuple(own) for attribute, own in values.items()}


def _folded(text: str) -> str:
    return text.replace("_", " ").casefold()


def _may_be_name(value: str) -> bool:
    return sum(map(str.isalpha, value)) >= _SHORTEST and value.casefold() not in _TRUTHS


def _common_words(records: Sequence[Record], values: Iterable[str]) -> set[str]:
    """Return the values that texts often have although their records lack them."""
    by_word: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for value in values:
        folded = _folded(value)
        if match := _WORD.search(folded):
            by_word[match[0]].append((value, folded))
    pairs = [(record, text) for record in records for text in record.references]
    said: Counter[str] = Counter()
    stray: Counter[str] = Counter()
    for record, text in pairs[:: max(1, len(pairs) // _SAMPLE)]:
        folded = _folded(text)
        own = _folded(
            "\n".join(part for fact in record.facts for part in (fact.subject or "", fact.attribute, fact.value))
        )
        for word in set(_WORD.findall(folded)):
            for value, wanted in by_word.get(word, ()):
                if wanted in folded:
                    said[value] += 1
                    stray[value] += wanted not in own
    return {value for value, count in stray.items() if _STRAY * count > said[value]}
