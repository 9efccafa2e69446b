"""Texts that a system wrote, to be scored: JSON lines, a JSON list, or one text per line."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tailora.core.errors import DataError
from tailora.core.plural import plural
from tailora.data.input_rows import InputRows
from tailora.data.readers import delimited
from tailora.data.text_files import base_suffix, lines_of, read_text
from tailora.data.text_rows import AS_JSON, ID_KEYS, TEXT_KEYS, TextRow, are_rows, is_text_row, json_values, text_rows

__all__ = ["InputRows", "read_texts"]

_JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
_NUMBERED = re.compile(r"\s*(\d{1,9})(?:[,;|]|[.):](?=\s|$))")


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
    values, stopped = json_values(content, path)
    declared = base_suffix(path) in _JSON_SUFFIXES
    if stopped is None and are_rows(values, declared):
        texts = text_rows(values, path, key)
        if rows is not None and len(ids) < len(texts) == len(rows.ids):
            return rows.gathered(_in_order(texts, rows.ids, path, rows))
        if rows is not None and rows.limited:
            _refuse_first_rows(texts, ids, rows, path)
        return _in_order(texts, ids, path, rows)
    if declared and stopped is not None:
        raise DataError("broken JSON", where=f"{path}:{stopped}", hint="write one JSON object per line, or a JSON list")
    if declared and values:
        raise DataError("contains neither JSON objects nor strings", where=path, hint="write one JSON object per line")
    if key is not None:
        raise DataError(
            "contains no JSON objects with a key", where=path, hint="leave the key out for one text per line"
        )
    if rows is not None and len(ids) < len(lines_of(content.rstrip())) <= len(rows.ids):
        return rows.gathered(_lines(content, len(rows.ids), path, rows))
    return _lines(content, len(ids), path, rows)


def _refuse_first_rows(texts: Sequence[TextRow], ids: Sequence[str], rows: InputRows, path: Path) -> None:
    """Raise `DataError` for texts of the first N rows, which belong to fewer than N records."""
    names = [row.name for row in texts]
    if names == list(rows.ids[: len(names)]) != list(ids) and len(names) == len(ids):
        what = f"contains texts for the first {len(names)} rows, which are not the first {len(names)} records"
        raise DataError(what, where=path, hint="write texts for all rows, or for records: `tailora generate --gather`")


def _in_order(rows: Sequence[TextRow], ids: Sequence[str], path: Path, source: InputRows | None) -> list[str]:
    """Return the texts in the order of the records, using the rows' names or numbers if they have any."""
    names = [row.name for row in rows]
    if len(rows) != len(ids):
        known = {name for name in names if name is not None}
        lacking = [name for name in ids if name not in known] if known & set(ids) else []
        more = f", the first record without one is {lacking[0]!r}" if lacking else ""
        _refuse_count(len(rows), len(ids), path, source, more)
    if names == list(ids) or all(name is None for name in names):
        return [row.text for row in rows]
    by_name: dict[str, TextRow] = {}
    for row in rows:
        if row.name is None:
            raise DataError("has no id, and other rows have one", where=f"{path}:{row.line}", hint="give all or none")
        if row.name in by_name:
            what = f"the id {row.name!r} occurs on line {by_name[row.name].line} already"
            raise DataError(what, where=f"{path}:{row.line}", hint="give each record one text")
        by_name[row.name] = row
    numbers = _numbers(list(by_name))
    if set(by_name) == set(ids):
        if all(row.is_numbered for row in rows) and numbers in (list(range(len(ids))), list(range(1, len(ids) + 1))):
            what = "the rows are numbered in their order, and the records have these numbers as ids in another order"
            hint = "remove the numbers to go by the order, or call their key `id` if they are the records' ids"
            raise DataError(what, where=path, hint=hint)
        return [by_name[name].text for name in ids]
    if sorted(numbers) in (list(range(len(ids))), list(range(1, len(ids) + 1))):
        return [row.text for _, row in sorted(zip(numbers, rows, strict=True), key=lambda pair: pair[0])]
    lacking = [name for name in ids if name not in by_name]
    if len(lacking) < len(ids) or numbers != sorted(numbers):
        what = f"the ids are not those of the records: {lacking[0]!r} is missing"
        raise DataError(what, where=path, hint="use the records' ids, or remove the ids and keep the records' order")
    return [row.text for row in rows]


def _numbers(names: Sequence[str]) -> list[int]:
    """Return the numbers at the ends of names that are otherwise equal (2 also as 2.0); none if they are not."""
    matches = [re.fullmatch(r"(.*?)(\d+)(?:\.0)?", name, re.DOTALL) for name in names]
    numbered = [(match[1], int(match[2])) for match in matches if match]
    same = len(numbered) == len(names) and len({prefix for prefix, _ in numbered}) == 1
    return [number for _, number in numbered] if same else []


def _lines(content: str, count: int, path: Path, source: InputRows | None) -> list[str]:
    lines = lines_of(content)
    rows = {number: is_text_row(line) for number, line in enumerate(lines, start=1) if line.strip()}
    if any(rows.values()):
        what, hint = "is not a JSON object with a text, although other lines are", f"use one form for all; {AS_JSON}"
        other = next((number for number, is_row in rows.items() if not is_row), None)
        if other is None:
            what = "the lines are objects with a text, but not JSON lines"
            hint = "write one JSON object per line, with quotation marks and without a comma after it"
        raise DataError(what, where=path if other is None else f"{path}:{other}", hint=hint)
    if not content.strip():  # texts joined by line ends, or each followed by one: all of them empty
        if len(lines) < count:
            _refuse_count(len(lines) - 1, count, path, source)
        return [""] * count
    if lines[-1] == "":
        lines.pop()
    while len(lines) > count and not lines[-1].strip():
        lines.pop()
    _refuse_table(lines, path)
    _refuse_numbers(lines, path)
    if len(lines) != count:
        _refuse_header(lines, path)
        _refuse_count(len(lines), count, path, source)
    return lines


def _refuse_table(lines: Sequence[str], path: Path) -> None:
    """Raise `DataError` for lines with the cells of a table, and a column of texts or the suffix .csv or .tsv."""
    quoted = next((number for number, line in enumerate(lines, start=1) if delimited.QUOTED.fullmatch(line)), None)
    if base_suffix(path) in (".csv", ".tsv") and quoted is not None:
        hint = 'write one text per line without quotation marks, or JSON lines such as {"id": "1", "text": "…"}'
        raise DataError("quotes its cells as a table does", where=f"{path}:{quoted}", hint=hint)
    mark, header = delimited.header_of("\n".join(lines[:1]))
    named = any(name.casefold() in TEXT_KEYS for name in header) or base_suffix(path) in (".csv", ".tsv")
    try:
        widths = {len(cells) for cells in csv.reader(lines, delimiter=mark)}
    except csv.Error:
        return
    if len(lines) > 1 and len(header) > 1 and named and widths == {len(header)}:
        raise _table(lines, path)


def _refuse_numbers(lines: Sequence[str], path: Path) -> None:
    """Raise `DataError` for lines that consist of cells, or begin with their number, which would be scored as words."""
    if len(lines) < 2:
        return
    what = ""
    if len({line.count("\t") for line in lines}) == 1 and "\t" in lines[0]:
        what = f"has {lines[0].count(chr(9)) + 1} cells in every line, separated by tabs"
    elif all(matches := [_NUMBERED.match(line) for line in lines]):
        numbers = [int(match[1]) for match in matches if match]
        if numbers == list(range(numbers[0], numbers[0] + len(lines))) and numbers[0] in (0, 1):
            what = "begins every line with its number"
    if what:
        hint = 'write one text per line and nothing else, or JSON lines such as {"id": "1", "text": "…"}'
        raise DataError(what, where=path, hint=hint)


def _table(lines: Sequence[str], path: Path) -> DataError:
    what = f"is a table: its first line is the header {lines[0].strip()!r}"
    hint = 'write one text per line without a header, or JSON lines such as {"id": "1", "text": "…"}'
    return DataError(what, where=f"{path}:1", hint=hint)


def _refuse_header(lines: Sequence[str], path: Path) -> None:
    """Raise `DataError` if the lines are a table, whose header is not a text."""
    _, header = delimited.header_of("\n".join(lines[:1]))
    names = [name.casefold() for name in header]
    if any(name in TEXT_KEYS for name in names) and all(name in (*TEXT_KEYS, *ID_KEYS) for name in names):
        raise _table(lines, path)


def _refuse_count(texts: int, count: int, path: Path, source: InputRows | None, more: str = "") -> NoReturn:
    wanted, hint = plural(count, "record"), "give one text for each record, in the same order"
    if source is not None and source.count < len(source.ids):
        wanted = f"{plural(source.count, 'record')} ({plural(len(source.ids), 'row')})"
        hint = "give one text for each record, or one for each row, in the same order"
    raise DataError(f"contains {plural(texts, 'text')} for {wanted}{more}", where=path, hint=hint)
