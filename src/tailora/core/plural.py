"""Counts with their nouns, for messages."""

from __future__ import annotations


def plural(count: int, noun: str, many: str | None = None) -> str:
    """Return a count and its noun: "1 finding", "1,200 findings".

    Args:
        count: how many.
        noun: for one.
        many: for any other number; by default the noun with an "s".
    """
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"
