"""The values of each attribute of a data set, and how many of them two splits share."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tailora.data.values import Record


@dataclass(frozen=True)
class AttributeValues:
    """The values of an attribute.

    Attributes:
        facts: number of facts with the attribute.
        values: number of different values.
        known: for each split after the first one, the share of its different values that the first one has.
    """

    facts: int
    values: int
    known: Mapping[str, float]


def attribute_values(splits: Mapping[str, Sequence[Record]]) -> dict[str, AttributeValues]:
    """Return the values of each attribute, the most frequent attributes first.

    Args:
        splits: the records of each split, the training split first.
    """
    counts: Counter[str] = Counter()
    values: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for split, records in splits.items():
        for record in records:
            for fact in record.facts:
                counts[fact.attribute] += 1
                values[fact.attribute][split].add(unicodedata.normalize("NFC", fact.value).casefold())
    first, *others = splits
    return {
        attribute: AttributeValues(
            count,
            len(set[str]().union(*values[attribute].values())),
            {
                split: len(own & values[attribute][first]) / len(own)
                for split in others
                if (own := values[attribute].get(split, set()))
            },
        )
        for attribute, count in counts.most_common()
    }
