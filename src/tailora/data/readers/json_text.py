"""JSON files of records: one object per line, a list, or objects one after another."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from tailora.core.errors import DataError


class RepeatedKeyError(ValueError):
    """Raised when an object has a key twice.

    Args:
        key: the key.
        other: its other spelling, if the two differ in their Unicode form only.
    """

    def __init__(self, key: str, other: str) -> None:
        forms = "" if key == other else ", in two Unicode forms that look the same"
        super().__init__(f"the key {key!r} occurs twice in one object{forms}")


MISSING = frozenset(("NaN", "nan", "null", "NULL", "<NA>"))
"""Words that pandas and databases write for a missing value."""
_SPACE = re.compile(r"[ \t\r\n]*")


class WrittenNumber(float):
    """A number that keeps its spelling in the file: `1.50`, `1e3`, `-0`."""

    written: str

    def __new__(cls, written: str) -> WrittenNumber:
        """Return the number of a spelling."""
        number = super().__new__(cls, written)
        number.written = written
        return number


class NestedValue(str):
    """The JSON text of an object, or of a list in a list, that stands where a plain value belongs.

    A row may have one in a column that is not read.
    """

    @property
    def kind(self) -> str:
        """What it is, for a message."""
        return "a JSON object" if self.startswith("{") else "a list of objects or lists"


def values(text: str, where: str, *, plain_numbers: bool = True) -> Iterator[tuple[int, Any]]:
    """Yield (line on which it begins, value) of each JSON value of a file; of a list, each of its items.

    JSON lines, a list of objects, and objects over several lines are all read. `NaN`, `Infinity` and numbers beyond
    the range of a float, which some programs write for a missing value, are None.

    Args:
        text: the file's content.
        where: the file's name, for messages.
        plain_numbers: numbers remember how they are written; without it `1.50` is 1.5.

    Raises:
        DataError: the text is not JSON, an object has a key twice, or an escape spells half of a surrogate pair.
    """
    position = _after_space(text, 0)
    in_list = text.startswith("[", position)
    hint = "the file may be cut short: fetch it again" if in_list else "give one whole JSON object a line, or a list"
    line = 1 + text.count("\n", 0, position)
    if in_list:
        position, line = _advance(text, position, position + 1, line)
        if text.startswith("]", position):
            position = _close(text, position, line, where)
        elif position == len(text):
            raise DataError("the list does not end", where=f"{where}:{line}", hint=hint)
    while position < len(text):
        value, end = _decode(text, position, f"{where}:{line}", hint, _DECODER if plain_numbers else _SHORT_DECODER)
        yield line, value
        position, line = _advance(text, position, end, line)
        if in_list:
            if text.startswith(",", position):
                position, line = _advance(text, position, position + 1, line)
                if position == len(text):
                    raise DataError("the list does not end", where=f"{where}:{line}", hint=hint)
            elif text.startswith("]", position):
                position = _close(text, position, line, where)
            else:
                what = "broken JSON (expected a comma or the end of the list)"
                raise DataError(what, where=f"{where}:{line}", hint=hint)


def whole(text: str, where: str, hint: str) -> Any:
    """Parse a text that is one JSON value, such as that of a flag; see `values`."""
    value, end = _decode(text, _after_space(text, 0), where, hint)
    if _after_space(text, end) < len(text):
        raise DataError("broken JSON (there is more text after the value)", where=where, hint=hint)
    return value


def plain(value: Any) -> str | None:
    """Return a JSON scalar as text; None if it is a missing value (null, NaN, infinity, blank).

    A number is written as in its file, so that the same value gives the same text in JSON and in a table.

    Raises:
        TypeError: the value is a list or an object.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, bool):  # JSON's own true and false, as people write them in records
        return "yes" if value else "no"
    if isinstance(value, list | dict):
        raise TypeError(type(value).__name__)
    return value.written if isinstance(value, WrittenNumber) else str(value).strip() or None


def value_of(item: Any) -> str | None:
    """Return the value of a fact: like `plain`, but a word for a missing value (`MISSING`) is None, as in a table."""
    text = plain(item)
    return None if isinstance(item, str) and text in MISSING else text


def _decode(
    text: str, position: int, where: str, hint: str, decoder: json.JSONDecoder | None = None
) -> tuple[Any, int]:
    try:
        value, end = (decoder or _DECODER).raw_decode(text, position)
        if "\\" in text[position:end]:
            _check_characters(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"broken JSON ({error})", where=where, hint=hint) from error
    return value, end


def _check_characters(value: Any) -> None:
    r"""Refuse one half of a surrogate pair (\ud800 alone), which text files and tokenizers cannot represent."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("an escape spells half of a surrogate pair, which is not a character") from error


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return position if match is None else match.end()


def _advance(text: str, position: int, end: int, line: int) -> tuple[int, int]:
    """Move to what follows `end` and the white space after it."""
    after = _after_space(text, end)
    return after, line + text.count("\n", position, after)


def _close(text: str, position: int, line: int, where: str) -> int:
    after = _after_space(text, position + 1)
    if after < len(text):
        raise DataError("there is more text after the list", where=f"{where}:{line}", hint="give one list, or objects")
    return after


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose keys are unique; json itself silently keeps the last of equal keys.

    Raises:
        RepeatedKeyError: a key occurs twice, also in composed and decomposed letters (Unicode's NFC and NFD).
    """
    unique = dict(pairs)
    if len(unique) == len(pairs) and all(map(str.isascii, unique)):
        return unique
    spellings: dict[str, str] = {}
    for key, _ in pairs:
        same = unicodedata.normalize("NFC", key)
        if same in spellings:
            raise RepeatedKeyError(spellings[same], key)
        spellings[same] = key
    return unique


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


def _written(number: str) -> float | None:
    return WrittenNumber(number) if math.isfinite(float(number)) else None


def _integer(number: str) -> int | float:
    return WrittenNumber(number) if number == "-0" else int(number)


_DECODER = json.JSONDecoder(
    object_pairs_hook=unique_keys, parse_constant=lambda _: None, parse_float=_written, parse_int=_integer
)
_SHORT_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=lambda _: None, parse_float=_finite)
