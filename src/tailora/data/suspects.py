"""Attributes that are probably not facts: row numbers, ids, web addresses, splits, texts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

_URL = re.compile(r"(?:https?|ftp)://\S+|www\.\S+\.\S+", re.IGNORECASE)
_KEY = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}|[0-9a-f]{24,}", re.IGNORECASE)
_ID_NAME = re.compile(
    r"(?i:(?:.*[\s_.-])?(?:ids?|uu?id|guid)|idx|index|row[\s_.-]*(?:number|num|nr|no|name)s?)|.*[a-z](?:Id|ID)"
)
_TEXT_NAMES = frozenset(
    ("ref", "refs", "reference", "references", "target", "targets", "output", "response", "completion", "sentence")
)
_SPLITS = frozenset(("train", "training", "valid", "validation", "val", "dev", "test"))
_LEAST = 3
"""Rows from which numbers that grow by one count as row numbers."""


def is_unnamed(header: str) -> bool:
    """Whether a column has no name, or the one that pandas gives to a column without one."""
    return re.fullmatch(r"(?:Unnamed: \d+(?:_level_\d+)?)?", header.strip()) is not None


def suspicion(name: str, values: Sequence[str]) -> str | None:
    """Say in a clause what an attribute looks like if it is probably not a fact, else return None.

    Args:
        name: of the attribute.
        values: those that are not missing, in the order of the rows.
    """
    if not values:
        return None
    if all(_URL.fullmatch(value) for value in values):
        return "holds web addresses"
    if all(_KEY.fullmatch(value) for value in values):
        return "holds machine-made ids"
    if _counts(values):
        return "counts the rows"
    lower = {value.casefold() for value in values}
    if lower <= _SPLITS and (len(lower) > 1 or name.casefold() in ("split", "subset", "fold")):
        return "holds names of splits"
    if _ID_NAME.fullmatch(name):
        return "looks like an id by its name"
    if name.lower() in _TEXT_NAMES:
        return "looks like a text by its name"
    return None


def _counts(values: Sequence[str]) -> bool:
    """Whole numbers, each one more than the one before."""
    if len(values) < _LEAST or not all(re.fullmatch(r"-?\d{1,15}(?:\.0)?", value) for value in values):
        return False
    numbers = [int(float(value)) for value in values]
    return all(after == before + 1 for before, after in itertools.pairwise(numbers))
