"""Texts that a system wrote, to be scored: JSON lines, a JSON list, or one text per line."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from tailora.core.errors import DataError
from tailora.data.readers import json_text
from tailora.data.records import DataFile
from tailora.data.text_files import base_suffix, read_text

T = TypeVar("T")

TEXT_KEYS = ("text", "predict", "prediction", "generated_text", "completion", "output", "hypothesis", "response")
"""Keys that hold the text in the files of common programs; a row with two of them is ambiguous."""
ID_KEYS = ("id", "custom_id", "doc_id", "index", "idx", "row")
_HALF = re.compile(r"[\ud800-\udfff]")
_JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
_AS_JSON = 'to score the lines as they are, give each as {"text": …}'


class _Row(NamedTuple):
    """A row of a JSON file: its line (from 1), what it is called, if anything, and its text."""

    line: int
    name: str | None
    text: str


@dataclass(frozen=True)
class InputRows:
    """The rows of a data file beside the records that they are gathered into.

    Attributes:
        ids: of the rows, in the order of the file.
        places: for each row, the number of its record.
        limited: only the first records of the file are meant.
    """

    ids: tuple[str, ...]
    places: tuple[int, ...]
    limited: bool = False

    @classmethod
    def of(cls, data: DataFile, limit: int | None = None) -> InputRows:
        """The rows of the first `limit` records of a file."""
        kept = [number for number, place in enumerate(data.places) if limit is None or place < limit]
        ids = tuple(data.rows[number].id for number in kept)
        return cls(ids, tuple(data.places[number] for number in kept), limit is not None)

    @property
    def count(self) -> int:
        """How many records the rows are gathered into."""
        return len(set(self.places))

    def spread(self, values: Sequence[T]) -> list[T]:
        """Return one value for each row, from one for each record or one for each row."""
        return list(values) if len(values) == len(self.places) else [values[place] for place in self.places]

    def numbers(self, records: Collection[int]) -> list[int]:
        """Return the numbers of the rows of some records."""
        wanted = set(records)
        return [number for number, place in enumerate(self.places) if place in wanted]

    def gathered(self, texts: Sequence[str]) -> list[str]:
        """Return one text for each record where all rows of a record have the same, else the texts as they are."""
        first: dict[int, str] = {}
        for text, place in zip(texts, self.places, strict=True):
            if first.setdefault(place, text) != text:
                return list(texts)
        return [first[place] for place in sorted(first)]


def read_texts(path: Path, ids: Sequence[str], *, key: str | None = None, rows: InputRows | None = None) -> list[str]:
    """Return one text for each record, in the records' order.

    With `rows`, a file may have one text for each row instead. These become one text for each record if the rows of a
    record all have the same text; if not, one text for each row is returned.

    The content decides how the file is read, whatever its name, plain or gzip:

    - JSON objects, one after the other, or a JSON list of objects or strings. The text is found under `key`, or under
      the one of `TEXT_KEYS` that the object has, in the first choice of an OpenAI response (also within the line of a
      batch file), or in lm-eval's `filtered_resps`. Objects that are named (see `ID_KEYS`) are matched by name.
    - Else one text per line. A blank line is an empty text; surplus blank lines at the end are ignored.

    Args:
        path: the file.
        ids: of the records.
        rows: the rows that the records are gathered from.
        key: where an object holds its text: a key, or keys and places in lists joined by dots (`outputs.0.text`).

    Raises:
        DataError: the file cannot be read, a row has no text or an ambiguous one, the number of texts is not that of
            the records, or the names fit the records only in part.
    """
    content = read_text(path, blank=True)
    values, stopped = _json_values(content, path)
    declared = base_suffix(path) in _JSON_SUFFIXES
    if stopped is None and _are_rows(values, declared):
        found = _rows(values, path, key)
        if rows is not None and len(ids) < len(found) == len(rows.ids):
            return rows.gathered(_in_order(found, rows.ids, path, rows))
        if rows is not None and rows.limited:
            _refuse_first_rows(found, ids, rows, path)
        return _in_order(found, ids, path, rows)
    if declared and stopped is not None:
        raise DataError("broken JSON", where=f"{path}:{stopped}", hint="write one JSON object per line, or a JSON list")
    if declared and values:
        raise DataError("holds neither JSON objects nor strings", where=path, hint="write one JSON object per line")
    if key is not None:
        raise DataError("holds no JSON objects with a key", where=path, hint="leave the key out for one text per line")
    if rows is not None and len(ids) < len(content.rstrip().split("\n")) <= len(rows.ids):
        return rows.gathered(_lines(content, len(rows.ids), path, rows))
    return _lines(content, len(ids), path, rows)


def _refuse_first_rows(found: Sequence[_Row], ids: Sequence[str], rows: InputRows, path: Path) -> None:
    """Raise `DataError` for the texts of the first N rows, which are fewer records than the first N records."""
    names = [row.name for row in found]
    if names == list(rows.ids[: len(names)]) != list(ids) and len(names) == len(ids):
        what = f"holds texts for the first {len(names)} rows, which are not the first {len(names)} records"
        raise DataError(what, where=path, hint="write texts for all rows, or for records: `tailora generate --gather`")


def _json_values(content: str, path: Path) -> tuple[list[tuple[int, Any]], int | None]:
    """JSON values one after the other, each with its line, and the line at which the content stops being JSON."""
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


def _are_rows(values: Sequence[tuple[int, Any]], declared: bool) -> bool:
    """Whether JSON values are rows: in a file that does not claim to be JSON, a text may look like a JSON value."""
    if len(values) == 1 and isinstance(values[0][1], list):
        return declared or (bool(values[0][1]) and all(isinstance(each, dict | str) for each in values[0][1]))
    if declared:  # what is neither is reported with its line
        return any(isinstance(value, dict | str) for _, value in values)
    return bool(values) and all(isinstance(value, dict) for _, value in values)


def _rows(values: Sequence[tuple[int, Any]], path: Path, key: str | None) -> list[_Row]:
    as_list = len(values) == 1 and isinstance(values[0][1], list)
    if as_list:
        values = [(number, value) for number, value in enumerate(values[0][1], start=1)]
    rows = []
    for line, value in values:
        at = f"{path}: entry {line}" if as_list else f"{path}:{line}"
        if isinstance(value, dict):
            found, name_key = _text_in(value, key, at)
            name = next((value[each] for each in (name_key,) if each is not None), None)
            rows.append(_Row(line, None if name is None else str(name).strip(), _text(found, at)))
        else:
            rows.append(_Row(line, None, _text(value, at)))
    return rows


def _text(value: Any, at: str) -> str:
    if isinstance(value, str) and _HALF.search(value):
        what = "the text has half of a surrogate pair, which is no character"
        raise DataError(what, where=at, hint="write whole characters, or \\ufffd in its place")
    if isinstance(value, str):
        return value
    what = "null" if value is None else f"a JSON {type(value).__name__}"
    raise DataError(f"the text is {what}, not a string", where=at, hint='write the text; an empty one is written ""')


def _text_in(row: dict[str, Any], key: str | None, at: str) -> tuple[Any, str | None]:
    """What an object holds as its text, and the key of its name."""
    lower = {each.casefold(): each for each in row if row[each] is not None}
    name = next((lower[each] for each in ID_KEYS if each in lower), None)
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
    keys = [each for each in TEXT_KEYS if each in row]
    if len(keys) == 1:
        return row[keys[0]], name
    if not keys:
        has = ", ".join(map(repr, row)) or "none"
        hint = f"name the key of the text (--text-key, --against-key); {_AS_JSON}"
        raise DataError(f"has no 'text' (keys: {has})", where=at, hint=hint)
    both = " and ".join(map(repr, keys))
    raise DataError(f"has {both}", where=at, hint="name the key of the text (--text-key, --against-key)")


def _choice(response: Any, at: str) -> Any:
    """The text of the first choice of an OpenAI response: of a completion or of a chat."""
    first = _at(response, "choices.0", at)
    return _at(first, "message.content" if isinstance(first, dict) and "message" in first else "text", at)


def _at(value: Any, key: str, at: str) -> Any:
    """What lies under a key, or under keys and places joined by dots."""
    if isinstance(value, dict) and key in value:
        return value[key]
    for part in key.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            has = f" (keys: {', '.join(map(repr, value))})" if isinstance(value, dict) else ""
            raise DataError(f"has no {key!r}{has}", where=at, hint="name the key of the text") from error
    return value


def _in_order(rows: Sequence[_Row], ids: Sequence[str], path: Path, source: InputRows | None) -> list[str]:
    """The texts in the order of the records: by name where the rows have the records' names, or number them."""
    names = [row.name for row in rows]
    if len(rows) != len(ids):
        known = {name for name in names if name is not None}
        lacking = [name for name in ids if name not in known] if known & set(ids) else []
        more = f", the first record without one is {lacking[0]!r}" if lacking else ""
        _refuse_count(len(rows), len(ids), path, source, more)
    if names == list(ids) or all(name is None for name in names):
        return [row.text for row in rows]
    by_name: dict[str, _Row] = {}
    for row in rows:
        if row.name is None:
            raise DataError("has no id, and other rows have one", where=f"{path}:{row.line}", hint="give all or none")
        if row.name in by_name:
            what = f"the id {row.name!r} occurs on line {by_name[row.name].line} already"
            raise DataError(what, where=f"{path}:{row.line}", hint="give each record one text")
        by_name[row.name] = row
    if set(by_name) == set(ids):
        return [by_name[name].text for name in ids]
    numbers = _numbers(list(by_name))
    if sorted(numbers) in (list(range(len(ids))), list(range(1, len(ids) + 1))):
        return [row.text for _, row in sorted(zip(numbers, rows, strict=True), key=lambda pair: pair[0])]
    lacking = [name for name in ids if name not in by_name]
    if len(lacking) < len(ids) or numbers != sorted(numbers):
        what = f"the ids are not those of the records: there is none for {lacking[0]!r}"
        raise DataError(what, where=path, hint="use the records' ids, or remove the ids to go by the order")
    return [row.text for row in rows]


def _numbers(names: Sequence[str]) -> list[int]:
    """The numbers at the end of names that differ in nothing else, 2 also as 2.0; none where there are others."""
    matches = [re.fullmatch(r"(.*?)(\d+)(?:\.0)?", name, re.DOTALL) for name in names]
    found = [(match[1], int(match[2])) for match in matches if match]
    return [number for _, number in found] if len(found) == len(names) and len({p for p, _ in found}) == 1 else []


def _lines(content: str, count: int, path: Path, source: InputRows | None) -> list[str]:
    # `splitlines` would also split a text at a U+2028 or a form feed in it.
    lines = content.replace("\r\n", "\n").split("\n")
    if any(line.startswith("{") and _is_row(line) for line in lines):
        other = next(number for number, line in enumerate(lines, start=1) if line.strip() and not _is_row(line))
        what, hint = "is not JSON with a text, as other lines are", f"give all texts in one form; {_AS_JSON}"
        raise DataError(what, where=f"{path}:{other}", hint=hint)
    if not content.strip():  # texts joined by line ends, or each followed by one: all of them empty
        if len(lines) < count:
            _refuse_count(len(lines) - 1, count, path, source)
        return [""] * count
    if lines[-1] == "":
        lines.pop()
    while len(lines) > count and not lines[-1].strip():
        lines.pop()
    if len(lines) != count:
        _refuse_count(len(lines), count, path, source)
    return lines


def _is_row(line: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and any(key in value for key in TEXT_KEYS)


def _refuse_count(found: int, count: int, path: Path, source: InputRows | None, more: str = "") -> NoReturn:
    told, hint = f"{count} records", "give one text for each record, in their order"
    if source is not None and source.count < len(source.ids):
        told = f"{source.count} records ({len(source.ids)} rows)"
        hint = "give one text for each record, or one for each row, in their order"
    raise DataError(f"holds {found} texts for {told}{more}", where=path, hint=hint)
