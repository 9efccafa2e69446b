"""Writing a data file again in the format in which it was read, with other facts in some of its rows."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from tailora.core.errors import DataError
from tailora.data.linearize import written_name
from tailora.data.readers import columnar, delimited, json_text, jsonl, piped, tables
from tailora.data.readers.meaning_representations import written_mr
from tailora.data.readers.object_forms import own_form
from tailora.data.readers.table_layout import Layout, layout_of
from tailora.data.records import DataFile
from tailora.data.text_files import lines_of, read_text
from tailora.data.values import Fact

WRITABLE = ("e2e", "csv", "tsv", "piped", "jsonl", "json")
"""The formats that can be written."""

_SEPARATOR_LINE = re.compile(r'"?sep=.\"?\r?\n', re.IGNORECASE)
_NUMBER = re.compile(r'"\ue000(.*?)\ue001"')


class Version(NamedTuple):
    """A row of the new file.

    Attributes:
        facts: its facts.
        texts: its texts.
    """

    facts: tuple[Fact, ...]
    texts: tuple[str, ...]


Versions = Sequence[Version] | None
"""What becomes of a row: rows to write in its place, none to leave it out, or None to keep it as it is."""


class Rewriter(NamedTuple):
    """How a file is written again.

    Attributes:
        attributes: those that the file has a place for; None for any.
        single: an attribute can have one value only.
        write: returns the content of the new file from what becomes of each row.
    """

    attributes: frozenset[str] | None
    single: bool
    write: Callable[[Sequence[Versions]], str]


def _not_writable(data: DataFile) -> str | None:
    """Return in a clause why a file cannot be written again; None if it can."""
    if data.format not in WRITABLE:
        return f"files of the format {data.format} cannot be written"
    if any(row.messages for row in data.rows):
        return "conversations have no facts"
    if not data.path.is_file():
        return "data sets of the hub cannot be written"
    return "Parquet and Arrow files cannot be written" if columnar.is_columnar(data.path) else None


def rewriter_of(data: DataFile, columns: Mapping[str, Any] | None = None) -> Rewriter:
    """Return what writes a file again.

    Args:
        data: the file as it was read, with one record for each of its rows.
        columns: the roles of columns with which it was read.

    Raises:
        DataError: the format cannot be written.
    """
    if (what := _not_writable(data)) is not None:
        hint = f"give records with facts in one of the formats {', '.join(WRITABLE)}"
        raise DataError(what, where=data.path, hint=hint)
    text, where = read_text(data.path), str(data.path)
    if data.format == "piped":
        names = {fact.attribute for row in data.rows for fact in row.facts}
        return Rewriter(None, False, partial(_piped, [line for line in lines_of(text) if line.strip()], names))
    if data.format in ("jsonl", "json"):
        return _of_json(text, where, columns, data)
    return _of_table(text, where, columns, data)


def _checked(rows: int, data: DataFile) -> None:
    """Raise `DataError` if a file has other rows than were read."""
    if rows != len(data.rows):
        what = "has texts in several languages, and rows of one language alone cannot be written"
        raise DataError(what, where=data.path, hint="make a file for each language first")


def _piped(lines: Sequence[str], names: Set[str], rows: Sequence[Versions]) -> str:
    """Return the new lines; attributes that the file has (`names`) keep their names, others get the paper's."""
    written = []
    for line, versions in zip(lines, rows, strict=True):
        if versions is None:
            written.append(line)
        for version in versions or ():
            named = [
                fact.attribute if fact.attribute in names else written_name(fact.attribute, "paper")
                for fact in version.facts
            ]
            facts = [replace(fact, attribute=name) for fact, name in zip(version.facts, named, strict=True)]
            head = piped.written_facts(facts)
            written += [f"{head}||{own}" for own in version.texts]
    return "".join(f"{line}\n" for line in written)


def _of_table(text: str, where: str, columns: Mapping[str, Any] | None, data: DataFile) -> Rewriter:
    delimiter = "\t" if data.format == "tsv" and "\t" in delimited.first_line(text) else None
    lines = delimited.rows(text, where, delimiter)
    first, header = next(lines)
    raw = [(line, list(cells)) for line, cells in lines]
    _checked(len(raw), data)
    cells = [(line, [tables.cell_of(cell) for cell in row]) for line, row in raw]
    names = [name.strip() for name in header]
    layout, _ = layout_of(names, cells, columns or {}, f"{where}:{first}", needs_text=True)

    def write(rows: Sequence[Versions]) -> str:
        stream = io.StringIO()
        separator = _SEPARATOR_LINE.match(text)
        stream.write(separator[0] if separator else "")
        ending = "\r\n" if "\r\n" in text[:100_000] else "\n"
        writer = csv.writer(stream, delimiter=delimited.header_of(text, delimiter)[0], lineterminator=ending)
        writer.writerow(header)
        for (_, own), versions in zip(raw, rows, strict=True):
            writer.writerows([own] if versions is None else [_table_row(own, layout, version) for version in versions])
        return stream.getvalue()

    columns_of_facts = frozenset(attribute for _, attribute in layout.facts)
    return Rewriter(None if layout.mr is not None else columns_of_facts, layout.mr is None, write)


def _table_row(own: Sequence[str], layout: Layout, version: Version) -> list[str]:
    cells = list(own)
    values: dict[str, list[str]] = defaultdict(list)
    for fact in version.facts:
        values[fact.attribute].append(fact.value)
    others: list[tuple[int, str, str]] = []
    for place, attribute in layout.facts:  # several columns may have one attribute
        value = tables.value_of(cells[place])
        if value in values[attribute]:
            values[attribute].remove(value)
        else:
            others.append((place, attribute, value))
    for place, attribute, value in others:
        new = values[attribute].pop(0) if values[attribute] else ""
        if new != value:
            cells[place] = new
    if layout.mr is not None:
        columns = {attribute for _, attribute in layout.facts}
        cells[layout.mr] = written_mr(fact for fact in version.facts if fact.attribute not in columns)
    return cells


def _of_json(text: str, where: str, columns: Mapping[str, Any] | None, data: DataFile) -> Rewriter:
    objects = [(line, value) for line, value in json_text.values(text, where)]
    if not columns:
        objects = own_form(objects, where)
    _checked(len(objects), data)
    in_list = text.lstrip().startswith("[")
    layout: Layout | None = None
    header: list[str] = []
    if columns or not any("facts" in row for _, row in objects):
        header, cells = jsonl.cells_of(objects, where, unknown=not columns)
        layout, _ = layout_of(header, cells, columns or {}, where, needs_text=True)

    def write(rows: Sequence[Versions]) -> str:
        written: list[str] = []
        for (_, own), versions in zip(objects, rows, strict=True):
            for number, version in enumerate([None] if versions is None else versions):
                row = own if version is None else _json_row(own, header, layout, version)
                if number and row.get("id") is not None:  # two rows of different content cannot share an id
                    row = row | {"id": f"{json_text.plain(row['id'])}-{number + 1}"}
                written.append(_NUMBER.sub(r"\1", json.dumps(_spelled(row), ensure_ascii=False)))
        return "[\n" + ",\n".join(written) + "\n]\n" if in_list else "".join(f"{line}\n" for line in written)

    if layout is None or layout.mr is not None:
        return Rewriter(None, False, write)
    return Rewriter(frozenset(attribute for _, attribute in layout.facts), False, write)


def _json_row(own: Mapping[str, Any], header: Sequence[str], layout: Layout | None, version: Version) -> dict[str, Any]:
    row = dict(own)
    if layout is None:
        row["facts"] = _json_facts(own["facts"], version.facts)
        key = next(key for key in ("text", "texts", "completion") if row.get(key))
    else:
        left = list(version.facts)
        for place, attribute in layout.facts:
            values = [fact.value for fact in left if fact.attribute == attribute]
            left = [fact for fact in left if fact.attribute != attribute]
            if not values:
                row.pop(header[place], None)
            elif values != _plain_values(row.get(header[place])):
                row[header[place]] = values[0] if len(values) == 1 else values
        if layout.mr is not None:
            row[header[layout.mr]] = written_mr(left)
        assert layout.text is not None  # layout_of needs a text
        key = header[layout.text]
    row[key] = list(version.texts) if isinstance(row[key], list) else version.texts[0]
    return row


def _json_facts(old: Any, facts: Sequence[Fact]) -> Any:
    """Return facts in the form that a row had: an object, or a list of lists or of objects."""
    if isinstance(old, dict):
        spelled = {(name, value): item for name, items in old.items() for value, item in _items(items)}
        by_attribute: dict[str, list[Any]] = {}
        for fact in facts:
            by_attribute.setdefault(fact.attribute, []).append(spelled.get((fact.attribute, fact.value), fact.value))
        return {
            name: values if len(values) > 1 or isinstance(old.get(name), list) else values[0]
            for name, values in by_attribute.items()
        }
    if (keys := jsonl.fact_keys(old[0])) is not None:
        parts = ((fact.subject, fact.attribute, fact.value) for fact in facts)
        written = (dict(zip(keys, own, strict=True)) for own in parts)
        return [{key: own[key] for key in own if key in old[0] or own[key] is not None} for own in written]
    width = max(map(len, old))
    heads = [("" if fact.subject is None else fact.subject,) if width == 3 else () for fact in facts]
    return [[*head, fact.attribute, fact.value] for head, fact in zip(heads, facts, strict=True)]


def _items(items: Any) -> list[tuple[str | None, Any]]:
    return [(json_text.value_of(item), item) for item in (items if isinstance(items, list) else [items])]


def _plain_values(items: Any) -> list[str]:
    return [value for value, _ in _items(items) if value is not None]


def _spelled(value: Any) -> Any:
    """Return a JSON value whose numbers are marked texts of their spelling, since `json` would write 1.50 as 1.5."""
    if isinstance(value, json_text.WrittenNumber):
        return f"\ue000{value.written}\ue001"
    if isinstance(value, dict):
        return {key: _spelled(item) for key, item in value.items()}
    return [_spelled(item) for item in value] if isinstance(value, list) else value
