"""Tables: any CSV, TSV or list of plain JSON objects with a header, and the E2E challenge's `mr,ref`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tailora.core.errors import DataError
from tailora.data.columns import spell_name
from tailora.data.readers import delimited
from tailora.data.suspects import is_unnamed, suspicion
from tailora.data.values import Fact, Parsed, Row, Text

_SLOT = re.compile(r"\s*([^\[\],]+?)\s*\[(.*?)\]\s*(?:,(?=[^\[\],]+\[)|$)", re.DOTALL)
_MISSING = frozenset(("NaN", "nan", "null", "NULL", "<NA>"))
"""Cells that pandas and databases write for a value that is missing."""
_MR_NAMES = ("mr", "meaning_representation")
_MR_TEXTS = ("ref", "text", "texts", "human_reference", "reference", "references")
_E2E_CLEANED = ("fixed", "orig_mr")
_SINGLE = ("id", "group", "language", "subject", "prompt", "mr")
_LISTED = 5  # columns named in a note

Cell = tuple[str, ...]
"""The values of a cell: none if it is empty, several where a JSON list stands in it."""


def parse(
    text: str,
    where: str,
    columns: Mapping[str, Any] | None = None,
    delimiter: str | None = None,
    *,
    needs_text: bool = False,
    e2e: bool = False,
) -> Parsed:
    """Read a text with delimiters; see `parse_rows`.

    Args:
        text: the file's content.
        where: the file's name, for messages.
        columns: see `parse_rows`.
        delimiter: by default the one of comma, semicolon, tab and pipe that the header has most of.
        needs_text: see `parse_rows`.
        e2e: the table is said to be E2E's, with meaning representations in the column `mr`.
    """
    lines = delimited.rows(text, where, delimiter)
    first, header = next(lines)
    names = [name.strip() for name in header]
    if e2e and not (columns and "mr" in columns) and not looks_like_e2e(names):
        what = f"the header is {','.join(header)!r} and has no column 'mr'"
        raise DataError(what, where=f"{where}:{first}", hint="give an E2E file, or name the column: --columns mr=NAME")
    rows = ((line, [_cell(cell) for cell in cells]) for line, cells in lines)
    return parse_rows(names, rows, where, f"{where}:{first}", columns, needs_text=needs_text)


def looks_like_e2e(header: Sequence[str]) -> bool:
    """Whether a header has a column of meaning representations."""
    return _first_of(header, _MR_NAMES) is not None


def parse_rows(
    header: Sequence[str],
    rows: Iterable[tuple[int, Sequence[Cell]]],
    where: str,
    at_header: str,
    columns: Mapping[str, Any] | None = None,
    *,
    needs_text: bool = False,
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
            all that are left, except those of `ignore` and those without a name. Upper and lower case count only
            where they tell two columns apart.
        needs_text: raise an error if there is no column of texts.

    Cells that are empty, or say NaN or null, make no fact.
    """
    cells = list(rows)
    layout, notes = _layout(list(header), cells, columns or {}, at_header, needs_text)
    mrs: dict[str, tuple[Fact, ...]] = {}
    parsed = Parsed([_row(row, f"{where}:{line}", layout, mrs) for line, row in cells], notes)
    parsed.listed = {name for place, name in layout.facts if any(len(row[place]) > 1 for _, row in cells)}
    return parsed


def parse_mr(mr: str) -> tuple[Fact, ...]:
    """Parse a meaning representation such as `name[Blue Spice], eatType[pub]`; ValueError where it is not one.

    A slot without a value, `food[]`, makes no fact.
    """
    facts = []
    position = 0
    while position < len(mr):
        match = _SLOT.match(mr, position)
        if match is None:
            raise ValueError(mr[position : position + 40])
        if match[2].strip():
            facts.append(Fact(None, match[1], match[2].strip()))
        position = match.end()
    if not facts:
        raise ValueError("no slot has a value")
    return tuple(facts)


@dataclass(frozen=True)
class _Layout:
    """Places of the columns in a row."""

    text: int | None
    id: int | None
    group: int | None
    language: int | None
    subject: int | None
    prompt: int | None
    mr: int | None
    facts: list[tuple[int, str]]


class _Header:
    """The names of a table's columns, found as they are written or without regard to case."""

    def __init__(self, names: Sequence[str], where: str) -> None:
        named = [name for name in names if not is_unnamed(name)]
        if len(set(named)) < len(named):
            twice = next(name for name in named if named.count(name) > 1)
            raise DataError(f"two columns are called {twice!r}", where=where, hint="rename one")
        self.names = names
        self.where = where

    def find(self, name: str) -> int | None:
        """The place of a column, None where there is none of this name."""
        if name in self.names:
            return self.names.index(name)
        places = [place for place, own in enumerate(self.names) if own.casefold() == name.strip().casefold()]
        return places[0] if len(places) == 1 else None

    def place(self, name: str, role: str) -> int:
        """Like `find`; an error where there is none."""
        found = self.find(name)
        if found is None:
            shown = ", ".join(own or "(without a name)" for own in self.names)
            what = f"there is no column {name!r}"
            hint = f"say which column it is with --columns {role}=NAME; the file has {shown}"
            raise DataError(what, where=self.where, hint=hint)
        return found


def _layout(
    names: list[str], cells: Sequence[tuple[int, Sequence[Cell]]], columns: Mapping[str, Any], at: str, needs_text: bool
) -> tuple[_Layout, list[str]]:
    """What each column is, and what the user should know of those that nobody chose."""
    header = _Header(names, at)
    roles = {role: header.place(columns[role], role) for role in _SINGLE if columns.get(role) is not None}
    if "facts" not in columns and not {"mr", "prompt"} & roles.keys():
        roles |= _usual_role(names, cells, columns)
    text = _text_place(header, columns, roles, needs_text)
    taken = set(roles.values()) | ({text} if text is not None else set())
    ignored = _ignored(header, columns, taken, needs_text)
    notes: list[str] = []
    if "facts" in columns:
        facts = _chosen_facts(header, columns["facts"], ignored)
    else:
        left = [place for place in range(len(names)) if place not in taken | ignored]
        if {"mr", "prompt"} & roles.keys():
            facts, notes = [], _not_read(names, left, cells, "mr" in roles)
        else:
            facts, notes = _all_facts(names, left, cells, roles, may_have_id="id" not in columns)
    places = {role: roles.get(role) for role in _SINGLE}
    return _Layout(text=text, facts=facts, **places), notes


def _usual_role(
    names: Sequence[str], cells: Sequence[tuple[int, Sequence[Cell]]], columns: Mapping[str, Any]
) -> dict[str, int]:
    """The column of meaning representations, or else of prompts, where a table has one by its name."""
    mr = _first_of(names, _MR_NAMES)
    if "mr" not in columns and mr is not None and _holds_mrs(mr, names, cells):
        return {"mr": mr}
    prompt = _first_of(names, ("prompt",))
    return {"prompt": prompt} if "prompt" not in columns and prompt is not None else {}


def _chosen_facts(header: _Header, chosen: Any, ignored: Iterable[int]) -> list[tuple[int, str]]:
    """The columns that the user names as facts, called as in the header or as the user maps them."""
    places = [(header.place(column, "facts"), column) for column in chosen]
    if both := [column for place, column in places if place in ignored]:
        what = f"the column {both[0]!r} is among the facts and among the columns to ignore"
        raise DataError(what, where=header.where, hint="name it once")
    if isinstance(chosen, Mapping):
        return [(place, chosen[column]) for place, column in places]
    return [(place, header.names[place]) for place, _ in places]


def _all_facts(
    names: Sequence[str],
    left: Sequence[int],
    cells: Sequence[tuple[int, Sequence[Cell]]],
    roles: dict[str, int],
    *,
    may_have_id: bool,
) -> tuple[list[tuple[int, str]], list[str]]:
    """Every column that is left, but those without a name and a column `id` that tells rows apart."""
    facts, notes = [], []
    for place in left:
        name = names[place]
        if is_unnamed(name):
            if _filled(place, cells):
                notes.append(_unnamed_note(place, name))
        elif may_have_id and name.casefold() == "id" and _identifies(place, left, cells):
            roles["id"] = place
            notes.append(f"the column {name!r} is taken as the id of each row, not as a fact")
        else:
            facts.append((place, name))
            if clause := suspicion(name, [value for _, row in cells for value in row[place]]):
                way = f"leave it out with --columns ignore={spell_name(name)}, or choose with --columns facts=…"
                notes.append(f"the column {name!r} is read as a fact, but {clause}; {way}")
    return facts, notes


def _text_place(header: _Header, columns: Mapping[str, Any], roles: Mapping[str, int], needs_text: bool) -> int | None:
    """The column of the texts; None where there is none and none is needed."""
    if "text" in columns:
        name = columns["text"]
        if name is None:
            if needs_text:
                hint = "name it with --columns text=NAME; training and scoring need texts"
                raise DataError("no column of texts is chosen", where=header.where, hint=hint)
            return None
        return header.place(name, "text") if needs_text else header.find(name)
    usual = _MR_TEXTS if "mr" in roles else ("text", "texts", *(("completion",) if "prompt" in roles else ()))
    places = [place for name in usual if (place := header.find(name)) is not None and place not in roles.values()]
    if not places and needs_text:
        return header.place("ref" if "mr" in roles else "completion" if "prompt" in roles else "text", "text")
    return places[0] if places else None


def _ignored(header: _Header, columns: Mapping[str, Any], taken: set[int], needs_text: bool) -> set[int]:
    """Columns to leave out; a file that is only written about may lack some of them."""
    places = {header.place(name, "ignore") if needs_text else header.find(name) for name in columns.get("ignore", ())}
    found = {place for place in places if place is not None}
    if both := found & taken:
        what = f"the column {header.names[min(both)]!r} has a role and is among the columns to ignore"
        raise DataError(what, where=header.where, hint="name it once")
    return found


def _row(row: Sequence[Cell], at: str, layout: _Layout, mrs: dict[str, tuple[Fact, ...]]) -> Row:
    subject = None
    if layout.subject is not None:
        subject = _one(row, layout.subject, at, "subject")
        if subject is None:
            raise DataError("the subject is empty", where=at, hint="fill it in, or remove the row")
    facts = tuple(Fact(subject, attribute, value) for place, attribute in layout.facts for value in row[place])
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
        raise DataError("the row has no fact", where=at, hint="fill a cell beside the text, or remove the row")
    language = None if layout.language is None else _one(row, layout.language, at, "language")
    texts = () if layout.text is None else row[layout.text] or ("",)
    return Row(
        at,
        facts,
        tuple(Text(text, language) for text in texts),
        id=None if layout.id is None else _one(row, layout.id, at, "id"),
        group=None if layout.group is None else _one(row, layout.group, at, "group"),
        prompt=prompt,
        language=language,
    )


def _one(row: Sequence[Cell], place: int, at: str, what: str) -> str | None:
    if len(row[place]) > 1:
        raise DataError(f"the {what} is a list", where=at, hint="give one value")
    return row[place][0] if row[place] else None


def _cell(text: str) -> Cell:
    value = text.strip()
    return () if not value or value in _MISSING else (value,)


def _filled(place: int, cells: Iterable[tuple[int, Sequence[Cell]]]) -> bool:
    return any(row[place] for _, row in cells)


def _first_of(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    """The place of the first of the wanted names that is there, whatever its case."""
    lower = [name.strip().casefold() for name in names]
    return next((lower.index(name) for name in wanted if name in lower), None)


def _holds_mrs(place: int, names: Sequence[str], cells: Iterable[tuple[int, Sequence[Cell]]]) -> bool:
    """Whether the table has E2E's columns only, or its first meaning representation looks like one."""
    known = {*_MR_NAMES, *_MR_TEXTS, *_E2E_CLEANED}
    first = next((row[place][0] for _, row in cells if row[place]), "")
    return {name.casefold() for name in names} <= known or ("[" in first and first.endswith("]"))


def _identifies(place: int, left: Sequence[int], cells: Iterable[tuple[int, Sequence[Cell]]]) -> bool:
    """Whether a column tells rows apart: no value is on two rows whose other cells differ."""
    owners: dict[Cell, tuple[Cell, ...]] = {}
    others = [other for other in left if other != place]
    for _, row in cells:
        if len(row[place]) > 1:
            return False
        content = tuple(row[other] for other in others)
        if row[place] and owners.setdefault(row[place], content) != content:
            return False
    return bool(owners)


def _not_read(
    names: Sequence[str], left: Iterable[int], cells: Sequence[tuple[int, Sequence[Cell]]], has_mr: bool
) -> list[str]:
    over = [names[place] for place in left if names[place].casefold() not in _E2E_CLEANED and _filled(place, cells)]
    if not over:
        return []
    beside = "the meaning representations" if has_mr else "the prompts"
    shown = ", ".join(map(repr, over[:_LISTED])) + (f" and {len(over) - _LISTED} more" if len(over) > _LISTED else "")
    return [f"beside {beside}, {'these columns are' if len(over) > 1 else 'this column is'} not read: {shown}"]


def _unnamed_note(place: int, name: str) -> str:
    called = f"is called {name!r}" if name else "has no name"
    return f"column {place + 1} {called}, probably row numbers, and is left out; name it in the header if it is a fact"


def _checked_mr(mr: str, where: str) -> tuple[Fact, ...]:
    try:
        return parse_mr(mr)
    except ValueError as error:
        raise DataError(
            f"the meaning representation cannot be read at {str(error)!r}",
            where=where,
            hint="write it as name[Blue Spice], eatType[pub]",
        ) from error
