"""Copied values: how many of the values that can be copied a text has, letter for letter."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from tailora.data.values import Record
from tailora.metrics.scripts import SPACELESS_LETTERS
from tailora.metrics.statistics import Doubles, Statistics, check_texts, signature

_WORD = rf"[^\W{SPACELESS_LETTERS}]"


def copied(records: Sequence[Record], texts: Sequence[str]) -> Statistics:
    """Return the accuracy of copied values: of those that a reference has letter for letter, the share the text has.

    Values are the distinct values and subjects of a record's facts, with spaces for underscores. They are whole words,
    and case counts, apart from a capital at their beginning. Values that no reference has in this form, such as "yes",
    do not count, because people say them in other words.

    Args:
        records: with references and facts.
        texts: one for each record.

    Raises:
        DataError: see `check_texts`.
    """
    references = [record.references for record in records]
    check_texts(texts, references)
    rows = []
    for record, text in zip(records, texts, strict=True):
        names = dict.fromkeys(name for fact in record.stated for name in (fact.subject, fact.value) if name)
        patterns = [_pattern(name.replace("_", " ")) for name in names]
        wanted = [pattern for pattern in patterns if any(pattern.search(own) for own in record.references)]
        rows.append((sum(pattern.search(text) is not None for pattern in wanted), len(wanted)))
    settings = "values:in-references|case:mixed"
    return Statistics("values copied", signature(settings, references), np.array(rows, np.float64), _share)


def _pattern(value: str) -> re.Pattern[str]:
    value = " ".join(value.split())
    first, rest = value[:1], value[1:]
    start = re.escape(first) if first == first.upper() else f"[{re.escape(first)}{re.escape(first.upper())}]"
    before = f"(?<!{_WORD})" if re.match(_WORD, first) else ""
    after = f"(?!{_WORD})" if re.match(_WORD, value[-1:]) else ""
    return re.compile(before + start + r"\s+".join(map(re.escape, rest.split(" "))) + after)


def _share(sums: Doubles) -> Doubles:
    return np.asarray(np.where(sums[..., 1] > 0, sums[..., 0] / np.maximum(sums[..., 1], 1), 1.0))
