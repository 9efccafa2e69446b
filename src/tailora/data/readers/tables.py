"""Tables: any CSV, TSV or list of plain JSON objects with a header, and the E2E challenge's `mr,ref`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tailora.core.errors import DataError
from tailora.data.columns import spell_name
from tailora.data.readers import delimited
from tailora.data.readers.json_text import MISSING, NestedValue
from tailora.data.readers.meaning_representations import holds_slots, listed_attributes, looks_like_e2e, parse_mr
from tailora.data.readers.table_layout import Cell, Layout, columns_of_training, layout_of
from tailora.data.readers.text_lists import check_references
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Fact, Parsed, Reference, Row

_WHOLE_FLOAT = re.compile(r"-?\d+\.0")
_TRUTHS = {
    **dict.fromkeys(("True", "true", "TRUE"), "yes"),
    **dict.fromkeys(("False", "false", "FALSE"), "no"),
}
"""Cells that programs write for truth values, which JSON records write as `true` and `false`."""


def parse(
    text: str,
    where: str,
    columns: Mapping[str, Any] | None = None,
    delimiter: str | None = None,
    *,
    needs_text: bool = False,
    e2e: bool = False,
    trained: TrainedReading | None = None,
) -> Parsed:
    """Read a text with delimiters.

    Args:
        text: the file's content.
        where: the file's name, for messages.
        columns: see `parse_rows`.
        delimiter: by default the one of comma, semicolon, tab and pipe that occurs most in the header.
        needs_text: see `parse_rows`.
        e2e: the user says that the table is E2E's, with meaning representations in the column `mr`.
        trained: see `parse_rows`.

    Raises:
        DataError: the table cannot be read.
    """
    lines = delimited.rows(text, where, delimiter)
    first, header = next(lines, (0, []))
    if not header:
        raise DataError("has no header", where=where, hint="write the names of the columns into the first row")
    names = [name.strip() for name in header]
    _refuse_record(names, f"{where}:{first}")
    if e2e and not (columns and "mr" in columns) and not looks_like_e2e(names):
        what = f"the header is {','.join(header)!r} and has no column 'mr'"
        raise DataError(what, where=f"{where}:{first}", hint="give an E2E file, or name the column: --columns mr=NAME")
    table = list(lines)
    rows = ((line, [cell_of(cell) for cell in cells]) for line, cells in table)
    truths = _TRUTHS if trained is None or trained.plain_values else {}
    at = f"{where}:{first}"
    parsed = parse_rows(names, rows, where, at, columns, needs_text=needs_text, trained=trained, truths=truths)
    if not parsed.columns_from_training and "facts" not in (columns or {}):
        parsed.notes += _floats_of_gaps(names, [cells for _, cells in table], parsed.roles)
    parsed.notes += delimited.swallowed([(first, header), *table], delimited.header_of(text, delimiter)[0])
    return parsed


def _floats_of_gaps(names: Sequence[str], rows: Sequence[Sequence[str]], roles: Mapping[str, str]) -> list[str]:
    """Return notes on columns of facts with missing values, for which pandas has turned whole numbers into floats."""
    notes = []
    for place, name in enumerate(names):
        values = [value for row in rows for value in cell_of(row[place])] if roles.get(name) == "facts" else []
        if values and len(values) < len(rows) and all(map(_WHOLE_FLOAT.fullmatch, values)):
            what = f"the column {name!r} has missing values, for which pandas turns whole numbers into floats: 3 is 3.0"
            notes.append(f"{what}; write them without decimals if new records will have them so")
    return notes


def parse_rows(
    header: Sequence[str],
    rows: Iterable[tuple[int, Sequence[Cell]]],
    where: str,
    at_header: str,
    columns: Mapping[str, Any] | None = None,
    *,
    needs_text: bool = False,
    trained: TrainedReading | None = None,
    truths: Mapping[str, str] | None = None,
    sparse: bool = False,
) -> Parsed:
    """Read the rows of a table.

    Args:
        header: the names of the columns.
        rows: (line, cells) of each row, as many cells as the header has.
        where: the file's name, for messages.
        at_header: file and line of the header, for messages.
        columns: which column is what, by role. `text` (default: the column `text`; None for none), `id`, `group`,
            `language`, `subject`, `prompt` and `mr` (meaning representations such as `name[Blue Spice]`) name one
            column each. `facts` names the columns that are attributes, or maps columns to attribute names; by default
            all that are left, except those of `ignore`, those without a name, and ids by their names
            (`suspects.ID_NAMES`, of which the first is the id). Case matters only where it distinguishes two columns.
        needs_text: raise an error if there is no column of texts.
        trained: how the adapter's training read its data; its columns are the default for `columns`.
        truths: how values of facts that are truth values are read.
        sparse: the rows are JSON objects, which leave out what has no value.

    Cells that are empty, or say NaN or null, make no fact.

    Raises:
        DataError: a column is missing, or a row cannot be read.
    """
    cells = list(rows)
    names = list(header)
    from_training = columns is None and trained is not None and bool(trained.columns)
    lacking: list[str] = []
    if from_training and trained is not None:
        columns, lacking = columns_of_training(trained, names, at_header, sparse=sparse)
    layout, notes = layout_of(names, cells, columns or {}, at_header, needs_text=needs_text, trained=trained)
    if sparse:
        _refuse_nested(names, cells, layout, where)
    mrs: dict[str, tuple[Fact, ...]] = {}
    parsed = Parsed([_row(row, f"{where}:{line}", layout, mrs, truths or {}) for line, row in cells], lacking + notes)
    parsed.listed = {name for place, name in layout.facts if any(len(row[place]) > 1 for _, row in cells)}
    parsed.listed.update(name for facts in mrs.values() for name in listed_attributes(facts))
    parsed.columns_from_training = from_training
    parsed.roles = layout.roles(names)
    return parsed


def nested_hint(name: str) -> str:
    """Return what to do about a value that is an object or a list of lists."""
    leave_out = f"leave it out with --columns ignore={spell_name(name)}"
    return f"a fact is text, a number or a list of them: give its parts keys of their own, or {leave_out}"


def _refuse_nested(
    names: Sequence[str], rows: Iterable[tuple[int, Sequence[Cell]]], layout: Layout, where: str
) -> None:
    """Raise `DataError` for an object in a column that is read."""
    single = (layout.text, layout.id, layout.group, layout.language, layout.subject, layout.prompt, layout.mr)
    read = {place for place, _ in layout.facts} | {place for place in single if place is not None}
    for line, row in rows:
        for place in sorted(read):
            for value in row[place]:
                if isinstance(value, NestedValue):
                    what = f"the value of {names[place]!r} is {value.kind}"
                    raise DataError(what, where=f"{where}:{line}", hint=nested_hint(names[place]))


def _row(
    row: Sequence[Cell], at: str, layout: Layout, mrs: dict[str, tuple[Fact, ...]], truths: Mapping[str, str]
) -> Row:
    subject = None
    if layout.subject is not None:
        subject = _one(row, layout.subject, at, "subject")
        if subject is None:
            raise DataError("the subject is empty", where=at, hint="fill it in, or remove the row")
    facts = tuple(
        Fact(subject, attribute, truths.get(value, value)) for place, attribute in layout.facts for value in row[place]
    )
    if layout.mr is not None:
        mr = _one(row, layout.mr, at, "meaning representation") or ""
        if mr not in mrs:
            mrs[mr] = _checked_mr(mr, at)
        facts = mrs[mr] + facts
    prompt = None
    if layout.prompt is not None:
        prompt = _one(row, layout.prompt, at, "prompt")
        if prompt is None:
            raise DataError("the prompt is empty", where=at, hint="fill it in, or remove the row")
    elif not facts:
        raise DataError("the row has no fact", where=at, hint="fill in at least one fact, or remove the row")
    language = None if layout.language is None else _one(row, layout.language, at, "language")
    texts = () if layout.text is None else row[layout.text] or ("",)
    check_references(texts, at)
    return Row(
        at,
        facts,
        tuple(Reference(text, language) for text in texts),
        id=None if layout.id is None else _one(row, layout.id, at, "id"),
        group=None if layout.group is None else _one(row, layout.group, at, "group"),
        prompt=prompt,
        language=language,
        id_by_name=layout.id_by_name,
    )


def _one(row: Sequence[Cell], place: int, at: str, what: str) -> str | None:
    if len(row[place]) > 1:
        raise DataError(f"the {what} is a list", where=at, hint="give one value")
    return row[place][0] if row[place] else None


def value_of(text: str) -> str:
    """Return the value of a fact's cell, with truth values as yes and no; "" if there is none."""
    return next((_TRUTHS.get(value, value) for value in cell_of(text)), "")


def cell_of(text: str) -> Cell:
    """Return the value in a cell of a text with delimiters; none if it is empty or marks a missing value."""
    value = text.strip()
    return () if not value or value in MISSING else (value,)


def _refuse_record(header: Sequence[str], where: str) -> None:
    """Raise `DataError` if a header contains a meaning representation: the file has no header."""
    for name in header:
        if holds_slots(name):
            what = f"the first row is a record, not a header: {name[:40]!r}"
            raise DataError(what, where=where, hint="write the names of the columns above it, for example mr,ref")


def _checked_mr(mr: str, where: str) -> tuple[Fact, ...]:
    try:
        return parse_mr(mr)
    except ValueError as error:
        raise DataError(
            f"the meaning representation cannot be read at {str(error)!r}",
            where=where,
            hint="write it as name[Blue Spice], eatType[pub]",
        ) from error
