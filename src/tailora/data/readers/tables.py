"""Tables: the E2E challenge's CSV, and any CSV or TSV with a column mapping."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tailora.data.values import Fact, Record, RecordBuilder, check_ids
from tailora.errors import DataError

_SLOT = re.compile(r"\s*([^\[\],]+?)\s*\[(.*?)\]\s*(?:,(?=[^\[\],]+\[)|$)", re.DOTALL)
_COLUMN_KEYS = ("text", "facts", "id", "group", "subject", "prompt")


def rows(text: str, where: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line of its first character, cells) of every row; blank lines are no rows."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"the row that starts here cannot be read ({error})",
            where=f"{where}:{line}",
            mend='close the quotation, and write a quotation mark inside a cell as ""',
        ) from error


def full_rows(text: str, where: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Like `rows`, the first being the header; a row with another number of cells than the header is an error."""
    width = 0
    for line, cells in rows(text, where, delimiter):
        width = width or len(cells)
        if len(cells) != width:
            raise DataError(
                f"{len(cells)} cells where the header has {width}",
                where=f"{where}:{line}",
                mend="give every row the header's columns, and quote cells that contain the delimiter",
            )
        yield line, cells


def parse_e2e(text: str, where: str) -> list[Record]:
    """Read the E2E challenge's CSV: `mr,ref`, or `mr` alone; rows with the same MR become one record."""
    table = full_rows(text, where, ",")
    line, header = next(table)
    names = [name.strip().lower() for name in header]
    if names not in (["mr", "ref"], ["mr"]):
        raise DataError(
            f"the header is {','.join(header)!r}, not 'mr,ref'", where=f"{where}:{line}", mend="give an E2E file"
        )
    texts: dict[str, list[str]] = {}
    for line, cells in table:
        mr = cells[0].strip()
        if mr not in texts:
            _check_mr(mr, f"{where}:{line}")
            texts[mr] = []
        if len(cells) == 2:
            texts[mr].append(_full(cells[1], f"{where}:{line}", "text"))
    builder = RecordBuilder()  # spelt differently, two MRs may still be the same facts
    for mr, references in texts.items():
        builder.add(parse_mr(mr), references)
    return builder.records()


def parse_mr(mr: str) -> tuple[Fact, ...]:
    """Parse a meaning representation such as `name[Blue Spice], eatType[pub]`; ValueError where it is none."""
    facts = []
    position = 0
    while position < len(mr):
        match = _SLOT.match(mr, position)
        if match is None:
            raise ValueError(mr[position : position + 40])
        facts.append(Fact(None, match[1], match[2].strip()))
        position = match.end()
    if not facts:
        raise ValueError("nothing")
    return tuple(facts)


def parse_table(
    text: str, where: str, columns: Mapping[str, Any] | None = None, delimiter: str | None = None
) -> list[Record]:
    """Read a table with a header.

    Args:
        text: the file's content.
        where: the file's name, for messages.
        columns: which column is what. `text` names the column of the texts (default `text`; None for none); `id`,
            `group`, `subject` and `prompt` likewise, each optional. `facts` is a list of the columns that are
            attributes, or a mapping from columns to attribute names; by default all that are left.
        delimiter: by default the one of comma, semicolon and tab that the header has most of.

    Empty cells make no fact. Rows that differ in their text only become one record.
    """
    delimiter = delimiter or max(",;\t", key=text.lstrip().split("\n", 1)[0].count)
    table = full_rows(text, where, delimiter)
    line, header = next(table)
    layout = _layout([name.strip() for name in header], dict(columns or {}), f"{where}:{line}")
    builder = RecordBuilder()
    for line, cells in table:
        at = f"{where}:{line}"
        subject = _full(cells[layout.subject], at, "subject") if layout.subject is not None else None
        facts = tuple(
            Fact(subject, attribute, value) for place, attribute in layout.facts if (value := cells[place].strip())
        )
        prompt = _full(cells[layout.prompt], at, "prompt") if layout.prompt is not None else None
        if not facts and prompt is None:
            raise DataError("the row has no fact", where=at, mend="fill a cell beside the text, or take the row out")
        builder.add(
            facts,
            [_full(cells[layout.text], at, "text")] if layout.text is not None else [],
            id=_full(cells[layout.id], at, "id") if layout.id is not None else None,
            group=(cells[layout.group].strip() or None) if layout.group is not None else None,
            prompt=prompt,
        )
    records = builder.records()
    check_ids(records, where)
    return records


@dataclass(frozen=True)
class _Layout:
    """Places of the columns in a row."""

    text: int | None
    id: int | None
    group: int | None
    subject: int | None
    prompt: int | None
    facts: list[tuple[int, str]]


def _layout(header: list[str], columns: dict[str, Any], where: str) -> _Layout:
    mend = f"name them in the column mapping; the file has {', '.join(header)}"
    unknown = set(columns) - set(_COLUMN_KEYS)
    if unknown:
        raise DataError(
            f"the column mapping has no key {', '.join(sorted(unknown))}",
            where=where,
            mend=f"its keys are {', '.join(_COLUMN_KEYS)}",
        )
    if len(set(header)) < len(header):
        raise DataError("two columns have the same name", where=where, mend="rename one")
    if not columns and {"prompt", "completion"} <= set(header):
        columns = {"prompt": "prompt", "text": "completion", "facts": []}
    columns.setdefault("text", "text")

    def place(name: str) -> int:
        if name not in header:
            raise DataError(f"there is no column {name!r}", where=where, mend=mend)
        return header.index(name)

    special = {key: None if columns.get(key) is None else place(columns[key]) for key in _COLUMN_KEYS if key != "facts"}
    facts = columns.get("facts")
    if facts is None:
        taken = set(special.values())
        facts = [name for number, name in enumerate(header) if number not in taken]
    names = facts.items() if isinstance(facts, Mapping) else ((name, name) for name in facts)
    return _Layout(facts=[(place(column), attribute) for column, attribute in names], **special)


def _check_mr(mr: str, where: str) -> None:
    try:
        parse_mr(mr)
    except ValueError as error:
        raise DataError(
            f"the meaning representation cannot be read at {str(error)!r}",
            where=where,
            mend="write it as name[Blue Spice], eatType[pub]",
        ) from error


def _full(cell: str, where: str, what: str) -> str:
    value = cell.strip()
    if not value:
        raise DataError(f"the {what} is empty", where=where, mend="fill it in, or take the row out")
    return value
