"""The E2E challenge's meaning representations: `name[Blue Spice], eatType[pub]`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tailora.data.values import Fact

MR_COLUMNS = ("mr", "meaning_representation")
"""Usual names of the column of meaning representations, in lower case."""
MR_TEXT_COLUMNS = ("ref", "text", "texts", "human_reference", "reference", "references")
"""Usual names of the column of texts, in lower case."""
E2E_CLEANED_COLUMNS = ("fixed", "orig_mr")
"""Further columns of the cleaned E2E set, which are not read."""

_SLOT = re.compile(r"\s*([^\[\],]+?)\s*\[(.*?)\]\s*(?:,(?=[^\[\],]+\[)|$)", re.DOTALL)


def parse_mr(mr: str) -> tuple[Fact, ...]:
    """Parse a meaning representation such as `name[Blue Spice], eatType[pub]`.

    A slot without a value, `food[]`, makes no fact.

    Raises:
        ValueError: it cannot be read; the message is the part at which reading failed.
    """
    facts = []
    position = 0
    while position < len(mr):
        match = _SLOT.match(mr, position)
        if match is None:
            raise ValueError(mr[position : position + 40])
        if match[2].strip():
            facts.append(Fact(None, match[1], match[2].strip()))
        position = match.end()
    if not facts:
        raise ValueError("no slot has a value")
    return tuple(facts)


def looks_like_e2e(header: Sequence[str]) -> bool:
    """Whether a header has a column of meaning representations."""
    return first_column(header, MR_COLUMNS) is not None


def first_column(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    """Return the place of the first of the wanted names that a header has, whatever its case."""
    lower = [name.strip().casefold() for name in names]
    return next((lower.index(name) for name in wanted if name in lower), None)
