"""Attributes that are probably not facts: row numbers, ids, web addresses, splits, texts, lists."""

from __future__ import annotations

import itertools
import re
import statistics
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from tailora.data.columns import spell_name

K = TypeVar("K", bound=Hashable)

_URL = re.compile(r"(?:https?|ftp)://\S+|www\.\S+\.\S+", re.IGNORECASE)
_KEY = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}|[0-9a-f]{24,}", re.IGNORECASE)
_ID_LIKE = re.compile(
    r"(?i:(?:.*[\s_.-])?(?:ids?|uu?id|guid)|idx|index|level_\d|row[\s_.-]*(?:id|number|num|nr|no|name)s?"
    r"|#|№|n°|(?:s(?:r|l)?[\s_.-]*)?(?:no|nr)\.?|stt|tt|sıra|sira|lfd[\s_.-]*nr\.?|序号|編號|编号|番号|ลำดับ)|.*[a-z](?:Id|ID)"
)
_UNNAMED = re.compile(r"(?:Unnamed: \d+(?:\.\d+)*(?:_level_\d+)?|__index_level_\d+__|\.\.\.\d+)?")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NUMBER_AT_END = re.compile(r" ?\d+$")
ID_NAMES = frozenset(
    (
        *("id", "uid", "uuid", "guid", "record id", "row id", "entry id", "example id", "sample id", "instance id"),
        *("mã", "mã số", "mã bản ghi", "mã dòng", "mã mẫu", "mã định danh"),
    )
)
"""Names of columns that identify a row, as `plain_name` writes them."""
_TEXT_NAMES = frozenset(
    (
        *("ref", "refs", "reference", "references", "target", "targets", "output", "response", "completion"),
        *("text", "texts", "sentence", "sentences", "human reference"),
        *("văn bản", "câu", "câu văn", "đoạn văn", "bài viết", "lời văn", "tham chiếu", "bản tham chiếu"),
        *("câu tham chiếu", "văn bản tham chiếu", "câu trả lời"),
    )
)
_SPLITS = frozenset(("train", "training", "valid", "validation", "val", "dev", "test"))
_PARTS_IN_TEXT = re.compile(r"""\[\s*(?:['"][\s\S]*['"])?\s*\]|\{\s*['"][\s\S]*\}""")  # ['a', 'b'], {"a": 1}
_LEAST = 3
"""Rows from which numbers that grow by one count as row numbers."""
_LONG = 40
"""Characters on average from which a column's values count as long."""
_TIMES_LONGER = 3
"""How many times longer than those of the other columns they must be."""
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # characters that hold as much as several letters


HOLDS_TEXTS = "contains long texts next to short values"
_BY_TEXT_NAME = "looks like a text by its name"
_HOLDS_PARTS = "contains lists or objects written as text"


def is_unnamed(header: str) -> bool:
    """Whether a column has no name, or the one that pandas, pyarrow or R's readr gives to a column without one."""
    return _UNNAMED.fullmatch(header.strip()) is not None


def plain_name(name: str) -> str:
    """Return a column's name in lower case, in words, and in NFC: "record id" for `record_id` and `RecordId`."""
    words = re.sub(r"[\s_.-]+", " ", _CAMEL.sub(" ", unicodedata.normalize("NFC", name)))
    return words.strip().casefold()


def is_id_name(name: str) -> bool:
    """Whether a column's name says that it identifies the row; nothing else decides it."""
    return plain_name(name) in ID_NAMES


def is_text_name(name: str) -> bool:
    """Return whether a column's name says that it contains the texts, or one of several: `ref`, `ref2`."""
    return _NUMBER_AT_END.sub("", plain_name(name)) in _TEXT_NAMES


def long_texts(values: Mapping[K, Sequence[str]]) -> list[K]:
    """Return the columns of long free text among columns of short values, whatever their names.

    Args:
        values: of each column, those that are not missing.
    """
    widths = {key: _mean_width(own) for key, own in values.items() if own}
    long = []
    for key, width in widths.items():
        others = [other for own, other in widths.items() if own != key]
        distinct = 2 * len(set(values[key])) >= len(values[key])
        if others and distinct and width >= max(_LONG, _TIMES_LONGER * statistics.median(others)):
            long.append(key)
    return long


def not_a_fact(name: str, clause: str) -> str:
    """Return the note on a column that is read as a fact but is probably not one."""
    ways = f"leave it out with --columns ignore={spell_name(name)}, or choose with --columns facts=…"
    if clause.endswith((_BY_TEXT_NAME, HOLDS_TEXTS)):
        ways = f"if it contains the texts, add --columns text={spell_name(name)}; otherwise {ways}"
    elif clause == _HOLDS_PARTS:
        ways = f"save the data as JSON lines, in which a list is several facts, or {ways}"
    return f"the column {name!r} is read as a fact, but {clause}; {ways}"


def suspicion(name: str, values: Sequence[str]) -> str | None:
    """Say in a clause what an attribute looks like if it is probably not a fact, else return None.

    Args:
        name: of the attribute.
        values: those that are not missing, in the order of the rows.
    """
    if not values:
        return None
    if all(_URL.fullmatch(value) for value in values):
        return "contains web addresses"
    if all(_KEY.fullmatch(value) for value in values):
        return "contains machine-made ids"
    if any(_PARTS_IN_TEXT.fullmatch(value.strip()) for value in values):
        return _HOLDS_PARTS
    if _counts(values):
        return "counts the rows"
    lower = {value.casefold() for value in values}
    if lower <= _SPLITS and (len(lower) > 1 or name.casefold() in ("split", "subset", "fold")):
        return "contains names of splits"
    if _ID_LIKE.fullmatch(name) or is_id_name(name):
        return "looks like an id by its name"
    if is_text_name(name):
        return _BY_TEXT_NAME
    return None


def _counts(values: Sequence[str]) -> bool:
    """Whole numbers, each one more than the one before."""
    if len(values) < _LEAST or not all(re.fullmatch(r"-?\d{1,15}(?:\.0)?", value) for value in values):
        return False
    numbers = [int(float(value)) for value in values]
    return all(after == before + 1 for before, after in itertools.pairwise(numbers))


def _mean_width(values: Sequence[str]) -> float:
    """Return the mean number of characters of a value; an ideogram, kana or Korean syllable counts as three letters."""
    return sum(len(value) + 2 * len(_WIDE.findall(value)) for value in values) / len(values)
