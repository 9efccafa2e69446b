"""Rows of JSON with one text each, as generation programs write them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tailora.core.errors import DataError
from tailora.data.readers import json_text

TEXT_KEYS = ("text", "predict", "prediction", "generated_text", "completion", "output", "hypothesis", "response")
"""Keys of the text in the files of common programs; a row with two of them is ambiguous."""
ID_KEYS = ("id", "custom_id", "doc_id", "index", "idx", "row")
"""Keys that name a row."""
_NUMBER_KEYS = ("doc_id", "index", "idx", "row")
AS_JSON = 'to score the lines as they are, write each as {"text": …}'
_HALF = re.compile(r"[\ud800-\udfff]")


class TextRow(NamedTuple):
    """A row of a JSON file.

    Attributes:
        line: of the file, from 1.
        name: of the row; None if it has none.
        text: its text.
        is_numbered: the name is under a key that usually holds the number of the row.
    """

    line: int
    name: str | None
    text: str
    is_numbered: bool = False


def json_values(content: str, path: Path) -> tuple[list[tuple[int, Any]], int | None]:
    """Return JSON values with their lines, and the line at which the content stops being JSON."""
    values: list[tuple[int, Any]] = []
    decoder, place, line = json.JSONDecoder(object_pairs_hook=json_text.unique_keys), 0, 1
    blank = re.compile(r"[ \t\r\n]*")
    while True:
        start = blank.match(content, place).end()  # type: ignore[union-attr]
        line += content.count("\n", place, start)
        if start == len(content):
            return values, None
        try:
            value, place = decoder.raw_decode(content, start)
        except json.JSONDecodeError as error:
            return values, error.lineno
        except json_text.RepeatedKeyError as error:
            raise DataError(str(error), where=f"{path}:{line}", hint="give each key once") from error
        except (ValueError, RecursionError):
            return values, line
        values.append((line, value))
        line += content.count("\n", start, place)


def are_rows(values: Sequence[tuple[int, Any]], declared: bool) -> bool:
    """Return whether JSON values are rows: in a file without a JSON suffix, a plain text may look like a JSON value."""
    if len(values) == 1 and isinstance(values[0][1], list):
        return declared or (bool(values[0][1]) and all(isinstance(value, dict | str) for value in values[0][1]))
    if declared:  # what is neither is reported with its line
        return any(isinstance(value, dict | str) for _, value in values)
    return bool(values) and all(isinstance(value, dict) for _, value in values)


def text_rows(values: Sequence[tuple[int, Any]], path: Path, key: str | None) -> list[TextRow]:
    """Return the rows of JSON values, each with its text.

    Args:
        values: (line, value), objects or strings, or one list of them.
        path: the file, for messages.
        key: where an object holds its text; see `system_texts.read_texts`.

    Raises:
        DataError: a row has no text, or an ambiguous one.
    """
    as_list = len(values) == 1 and isinstance(values[0][1], list)
    if as_list:
        values = [(number, value) for number, value in enumerate(values[0][1], start=1)]
    rows = []
    for line, value in values:
        at = f"{path}: entry {line}" if as_list else f"{path}:{line}"
        if isinstance(value, dict):
            text, name_key = _text_in(value, key, at)
            name = None if name_key is None else value[name_key]
            is_numbered = name_key is not None and name_key.casefold() in _NUMBER_KEYS
            rows.append(TextRow(line, None if name is None else str(name).strip(), _text(text, at), is_numbered))
        else:
            rows.append(TextRow(line, None, _text(value, at)))
    return rows


def _text(value: Any, at: str) -> str:
    if isinstance(value, str) and _HALF.search(value):
        what = "the text has half of a surrogate pair, which is not a character"
        raise DataError(what, where=at, hint="write whole characters, or \\ufffd in its place")
    if isinstance(value, str):
        return value
    what = "null" if value is None else f"a JSON {type(value).__name__}"
    raise DataError(f"the text is {what}, not a string", where=at, hint='write the text; an empty one is written ""')


def _text_in(row: dict[str, Any], key: str | None, at: str) -> tuple[Any, str | None]:
    """Return the text of an object, and the key of its name."""
    lower = {own.casefold(): own for own in row if row[own] is not None}
    name = next((lower[usual] for usual in ID_KEYS if usual in lower), None)
    if key is not None:
        return _at(row, key, at), name
    if "doc_id" in row and "filtered_resps" in row:  # a sample of lm-eval
        return _at(row, "filtered_resps.0", at), "doc_id"
    if "custom_id" in row and "response" in row:  # a line of a batch file
        if not isinstance(row["response"], dict) or row.get("error"):
            raise DataError(f"the request failed ({row.get('error')})", where=at, hint="run it again")
        return _choice(_at(row, "response.body", at), at), "custom_id"
    if isinstance(row.get("choices"), list):  # a response, whose id says nothing about the record
        return _choice(row, at), None
    keys = [usual for usual in TEXT_KEYS if usual in row]
    if len(keys) == 1:
        return row[keys[0]], name
    if not keys:
        has = ", ".join(map(repr, row)) or "none"
        hint = f"name the key of the text (--text-key, --against-key); {AS_JSON}"
        raise DataError(f"has no 'text' (keys: {has})", where=at, hint=hint)
    both = " and ".join(map(repr, keys))
    raise DataError(f"has {both}", where=at, hint="name the key of the text (--text-key, --against-key)")


def _choice(response: Any, at: str) -> Any:
    """Return the text of the first choice of an OpenAI response (completion or chat)."""
    first = _at(response, "choices.0", at)
    return _at(first, "message.content" if isinstance(first, dict) and "message" in first else "text", at)


def _at(value: Any, key: str, at: str) -> Any:
    """Return the value under a key, or under keys and list indices joined by dots."""
    if isinstance(value, dict) and key in value:
        return value[key]
    for part in key.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            has = f" (keys: {', '.join(map(repr, value))})" if isinstance(value, dict) else ""
            raise DataError(f"has no {key!r}{has}", where=at, hint="name the key of the text") from error
    return value


def is_text_row(line: str) -> bool:
    """Return whether a line is an object with a text, in JSON or as Python writes it, indented or before a comma."""
    line = line.strip().rstrip(", ")
    if not line.startswith("{"):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(line)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return False
    return isinstance(value, dict) and any(key in value for key in TEXT_KEYS)
