"""How often the texts of a data set say the values of each attribute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tailora.data.values import Record
from tailora.metrics.slot_rules import Rules
from tailora.metrics.slots import slot_report

MOST_TEXTS = 5000
"""Texts that are searched at most; of more, as many are taken at equal distances."""


def said_shares(
    records: Sequence[Record], rules: Rules | None = None, *, most: int = MOST_TEXTS
) -> tuple[dict[str, float], int]:
    """Return for each attribute the share of facts that a text says, and how many texts were searched.

    Args:
        records: with facts and texts; those without either are left out.
        rules: see `slot_report`.
        most: the number of texts that are searched at most.
    """
    pairs = [(record, text) for record in records if record.stated for text in record.references]
    step = max(1, -(-len(pairs) // most))
    searched = pairs[::step]
    facts: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    for record, text in searched:
        facts.update(fact.attribute for fact in record.stated)
        missing.update(fact.attribute for fact in slot_report(record, text, rules=rules).missing)
    return {attribute: 1 - missing[attribute] / count for attribute, count in facts.items()}, len(searched)
