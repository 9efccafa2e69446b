"""What each column of a table is: chosen by the user, known from training, or recognised by its name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from tailora.core.errors import DataError
from tailora.core.plural import plural
from tailora.data.columns import name_key, spell_name
from tailora.data.readers.meaning_representations import (
    E2E_CLEANED_COLUMNS,
    MR_COLUMNS,
    MR_TEXT_COLUMNS,
    first_column,
    holds_slots,
)
from tailora.data.suspects import (
    HOLDS_TEXTS,
    is_id_name,
    is_text_name,
    is_unnamed,
    long_texts,
    not_a_fact,
    plain_name,
    suspicion,
)
from tailora.data.trained_reading import TrainedReading

SINGLE_ROLES = ("id", "group", "language", "subject", "prompt", "mr")
_LISTED = 5  # columns named in a note
_MISSING_WORDS = frozenset(("NA", "N/A", "n/a", "#N/A"))
_CODE = re.compile(r"[A-Z]{2}")  # of a country or a state
_PARTS_OF_FACTS = (("attribute", "predicate", "relation"), ("value", "object"))
_ROLE_NAMES = {
    "language": ("the language of the texts", ("language", "lang", "ngôn ngữ")),
    "group": ("a group that the record belongs to", ("group", "nhóm")),
}

Cell = tuple[str, ...]
"""The values of a cell: none if it is empty, several for a JSON list."""
Rows = Sequence[tuple[int, Sequence[Cell]]]
"""(line, cells) of each row."""


@dataclass(frozen=True)
class Layout:
    """Places of the columns in a row.

    Attributes:
        facts: (place, attribute) of each column of facts.
        id_by_name: the id's column was recognised by its name, not chosen.
    """

    text: int | None
    id: int | None
    group: int | None
    language: int | None
    subject: int | None
    prompt: int | None
    mr: int | None
    facts: list[tuple[int, str]]
    id_by_name: bool = False

    def roles(self, names: Sequence[str]) -> dict[str, str]:
        """Return the role of each column that has a name, `ignore` for those that are not read; see `columns.ROLES`."""
        roles = {name: "ignore" for name in names if not is_unnamed(name)}
        roles |= {names[place]: "facts" for place, _ in self.facts}
        single = {role: getattr(self, role) for role in ("text", *SINGLE_ROLES)}
        return roles | {names[place]: role for role, place in single.items() if place is not None}


def layout_of(
    names: list[str],
    rows: Rows,
    columns: Mapping[str, Any],
    where: str,
    *,
    needs_text: bool,
    trained: TrainedReading | None = None,
) -> tuple[Layout, list[str]]:
    """Return the role of each column, and notes on columns whose role was not chosen.

    Args:
        names: of the columns.
        rows: the cells, which decide what a column looks like.
        columns: the chosen roles; see `tables.parse_rows`.
        where: file and line of the header, for messages.
        needs_text: raise an error if there is no column of texts.
        trained: how the adapter's training read its data.

    Raises:
        DataError: a chosen column is missing, has two roles, or two columns have one name.
    """
    header = _Header(names, where)
    roles = {role: header.place(columns[role], role) for role in SINGLE_ROLES if columns.get(role) is not None}
    if "facts" not in columns and not {"mr", "prompt"} & roles.keys():
        roles |= _usual_role(names, rows, columns)
    text = _text_place(header, rows, columns, roles, needs_text)
    taken = set(roles.values()) | ({text} if text is not None else set())
    ignored = _ignored(header, columns, taken, needs_text)
    facts = _chosen_facts(header, columns["facts"], ignored, text) if "facts" in columns else None
    left = [place for place in range(len(names)) if place not in taken | ignored]
    chosen = {place for place, _ in facts or ()}
    known = {plain_name(name) for name in (trained.attributes if trained else ())}
    ids = [p for p in left if p not in chosen and is_id_name(names[p]) and plain_name(names[p]) not in known]
    notes = [_id_note(names[place], first=place == ids[0] and "id" not in roles) for place in ids if facts is None]
    id_by_name = bool(ids) and "id" not in columns
    if id_by_name:
        roles["id"] = ids[0]
    left = [place for place in left if place not in ids]
    if facts is None and {"mr", "prompt"} & roles.keys():
        unnamed = _unnamed_notes(names, left, rows)
        facts, notes = [], notes + unnamed + _not_read(names, left, rows, "mr" in roles)
    elif facts is None:
        facts, more = _all_facts(names, left, rows)
        notes += more
    unchosen = [place for place, _ in facts if "facts" not in columns]
    notes += _missing_words(names, [*unchosen, *([text] if text is not None else [])], rows)
    places = {role: roles.get(role) for role in SINGLE_ROLES}
    return Layout(text=text, facts=facts, id_by_name=id_by_name, **places), notes


def columns_of_training(
    trained: TrainedReading, names: Sequence[str], where: str, *, sparse: bool
) -> tuple[Mapping[str, Any], list[str]]:
    """Return the column roles of an adapter's training, as far as a table has the columns, and notes.

    Args:
        trained: how the training read its data.
        names: of the table's columns.
        where: file and line of the header, for messages.
        sparse: the rows are JSON objects, which leave out what has no value.

    Raises:
        DataError: the table lacks columns that prompts were made of; in a sparse one, all of them.
    """
    header = _Header(names, where)
    lacking = [name for name in trained.input_columns if header.find(name) is None]
    if lacking and not (sparse and len(lacking) < len(trained.input_columns)):
        what = f"the adapter was trained on {_columns(lacking)}, which the file does not have"
        hint = "add what is missing (cells may be empty), or name the facts with --columns"
        raise DataError(what, where=where, hint=f"{hint}; the file has {header.shown}")
    fitting: dict[str, Any] = {}
    for role, value in trained.columns.items():
        if isinstance(value, Mapping):
            fitting[role] = {name: attribute for name, attribute in value.items() if header.find(name) is not None}
        elif isinstance(value, tuple):
            fitting[role] = tuple(name for name in value if header.find(name) is not None)
        elif value is None or header.find(value) is not None:
            fitting[role] = value
    notes = [f"no record has a value for {_columns(lacking)}, which the adapter was trained on"] if lacking else []
    return fitting, notes


def _columns(names: Sequence[str]) -> str:
    return f"the column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"


class _Header:
    """The names of a table's columns, found as they are written or without regard to case and Unicode form."""

    def __init__(self, names: Sequence[str], where: str) -> None:
        named = [name for name in names if not is_unnamed(name)]
        spellings: dict[str, str] = {}
        for name in named:
            other = spellings.setdefault(unicodedata.normalize("NFC", name), name)
            if other != name or named.count(name) > 1:
                forms = "" if other == name else ", in two Unicode forms that look the same"
                raise DataError(f"two columns are called {name!r}{forms}", where=where, hint="rename one")
        self.names = names
        self.where = where

    @property
    def shown(self) -> str:
        """The names, for a message."""
        return ", ".join(name or "(without a name)" for name in self.names)

    def find(self, name: str) -> int | None:
        """Return the index of a column; None if no column has this name."""
        if name in self.names:
            return self.names.index(name)
        places = [place for place, own in enumerate(self.names) if name_key(own) == name_key(name)]
        return places[0] if len(places) == 1 else None

    def place(self, name: str, role: str) -> int:
        """Like `find`; an error if there is none."""
        place = self.find(name)
        if place is None:
            self.refuse(name, f"say which column it is with --columns {role}=NAME")
        return place

    def refuse(self, name: str, hint: str) -> NoReturn:
        """Raise the error for a column that is missing."""
        raise DataError(f"there is no column {name!r}", where=self.where, hint=f"{hint}; the file has {self.shown}")


def _usual_role(names: Sequence[str], rows: Rows, columns: Mapping[str, Any]) -> dict[str, int]:
    """Return the column of meaning representations, or else of prompts, recognised by its name."""
    mr = first_column(names, MR_COLUMNS)
    if "mr" not in columns and mr is not None and _holds_mrs(mr, names, rows):
        return {"mr": mr}
    prompt = first_column(names, ("prompt",))
    return {"prompt": prompt} if "prompt" not in columns and prompt is not None else {}


def _chosen_facts(header: _Header, chosen: Any, ignored: Iterable[int], text: int | None) -> list[tuple[int, str]]:
    """Return the columns that the user names as facts, with the names from the header or from the user's mapping."""
    places = [(header.place(column, "facts"), column) for column in chosen]
    if both := [column for place, column in places if place in ignored]:
        what = f"the column {both[0]!r} is among the facts and among the columns to ignore"
        raise DataError(what, where=header.where, hint="name it once")
    if twice := [column for n, (place, column) in enumerate(places) if place in dict(places[:n])]:
        raise DataError(f"the column {twice[0]!r} is twice among the facts", where=header.where, hint="name it once")
    if copied := [header.names[place] for place, _ in places if place == text]:
        what = f"the column {copied[0]!r} contains the texts and is among the facts"
        raise DataError(what, where=header.where, hint="prompts would contain the texts; remove it from the facts")
    if isinstance(chosen, Mapping):
        return [(place, chosen[column]) for place, column in places]
    return [(place, header.names[place]) for place, _ in places]


def _all_facts(names: Sequence[str], left: Sequence[int], rows: Rows) -> tuple[list[tuple[int, str]], list[str]]:
    """Return all remaining columns with a name, and notes on those that are probably not facts."""
    facts: list[tuple[int, str]] = []
    notes = _unnamed_notes(names, left, rows)
    values = {place: [value for _, row in rows for value in row[place]] for place in left}
    long = long_texts(values)
    for place in left:
        name = names[place]
        if is_unnamed(name):
            continue
        facts.append((place, name))
        if role := next((role for role, (_, usual) in _ROLE_NAMES.items() if plain_name(name) in usual), None):
            what = _ROLE_NAMES[role][0]
            hint = f"if it is {what}, add --columns {role}={spell_name(name)}"
            notes.append(f"the column {name!r} is read as a fact; {hint}")
        elif clause := suspicion(name, values[place]) or (HOLDS_TEXTS if place in long else None):
            notes.append(not_a_fact(name, clause))
    parts = [next((name for _, name in facts if plain_name(name) in usual), None) for usual in _PARTS_OF_FACTS]
    if all(parts):
        what = f"the columns {parts[0]!r} and {parts[1]!r} look like one fact in each row, and each row is a record"
        hint = 'write all facts of a text into one row, or into JSON lines: {"facts": [["attribute", "value"], …], …}'
        notes.append(f"{what}; {hint}")
    return facts, notes


def _missing_words(names: Sequence[str], places: Iterable[int], rows: Rows) -> list[str]:
    """Return notes on columns with words for a missing value that may also be values, such as NA for Namibia."""
    notes = []
    for place in places:
        values = [value for _, row in rows for value in row[place]]
        words = [value for value in values if value in _MISSING_WORDS]
        if words and not all(map(_CODE.fullmatch, values)):
            count = plural(len(words), "row")
            what = (
                f"the column {names[place]!r} has {words[0]!r} in {count}, which R and Excel write for a missing value"
            )
            notes.append(f"{what}; leave such cells empty")
    return notes


def _text_place(
    header: _Header, rows: Rows, columns: Mapping[str, Any], roles: Mapping[str, int], needs_text: bool
) -> int | None:
    """Return the column of the texts; None if there is none and none is needed."""
    if "text" in columns:
        name = columns["text"]
        if name is None:
            if needs_text:
                hint = "name it with --columns text=NAME; training and scoring need texts"
                raise DataError("no column of texts is chosen", where=header.where, hint=hint)
            return None
        return header.place(name, "text") if needs_text else header.find(name)
    usual = MR_TEXT_COLUMNS if "mr" in roles else ("text", "texts", *(("completion",) if "prompt" in roles else ()))
    places = [place for name in usual if (place := header.find(name)) is not None and place not in roles.values()]
    if places or not needs_text:
        return places[0] if places else None
    values = {place: [value for _, row in rows for value in row[place]] for place in range(len(header.names))}
    likely = [p for p, own in enumerate(header.names) if is_text_name(own)] or long_texts(values)
    hint = "say which column it is with --columns text=NAME"
    if len(likely) == 1:
        own = header.names[likely[0]]
        hint = f"if {own!r} contains the texts, add --columns text={spell_name(own)}"
    header.refuse("ref" if "mr" in roles else "completion" if "prompt" in roles else "text", hint)


def _ignored(header: _Header, columns: Mapping[str, Any], taken: set[int], needs_text: bool) -> set[int]:
    """Return the columns to leave out; without need for texts, some of them may be missing from the file."""
    places = {header.place(name, "ignore") if needs_text else header.find(name) for name in columns.get("ignore", ())}
    present = {place for place in places if place is not None}
    if both := present & taken:
        what = f"the column {header.names[min(both)]!r} has a role and is among the columns to ignore"
        raise DataError(what, where=header.where, hint="name it once")
    return present


def _holds_mrs(place: int, names: Sequence[str], rows: Rows) -> bool:
    """Whether the table has E2E's columns only, or its first meaning representation looks like one."""
    known = {*MR_COLUMNS, *MR_TEXT_COLUMNS, *E2E_CLEANED_COLUMNS}
    first = next((row[place][0] for _, row in rows if row[place]), "")
    return {name.casefold() for name in names} <= known or holds_slots(first)


def _not_read(names: Sequence[str], left: Iterable[int], rows: Rows, has_mr: bool) -> list[str]:
    filled = [place for place in left if not is_unnamed(names[place]) and any(row[place] for _, row in rows)]
    over = [names[place] for place in filled if names[place].casefold() not in E2E_CLEANED_COLUMNS]
    if not over:
        return []
    content = "the meaning representations" if has_mr else "the prompts"
    shown = ", ".join(map(repr, over[:_LISTED])) + (f" and {len(over) - _LISTED} more" if len(over) > _LISTED else "")
    return [f"only {content} are read, not the column{'s' if len(over) > 1 else ''} {shown}"]


def _id_note(name: str, *, first: bool) -> str:
    what = "is taken as the id of each row, not as a fact" if first else "is an id by its name and is not read"
    return f"the column {name!r} {what}; to read it as a fact, name all facts with --columns facts=…"


def _unnamed_notes(names: Sequence[str], left: Iterable[int], rows: Rows) -> list[str]:
    """Return notes on columns without a name that have values."""
    notes = []
    for place in left:
        if is_unnamed(names[place]) and any(row[place] for _, row in rows):
            label = f"is called {names[place]!r}" if names[place] else "has no name"
            what = f"column {place + 1} {label}, probably contains row numbers, and is left out"
            notes.append(f"{what}; name it if it is a fact")
    return notes
