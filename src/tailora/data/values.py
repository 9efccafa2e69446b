"""Facts, records, and the rows of files that records are made of."""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tailora.core.errors import DataError
from tailora.data.mixtures import Mixture

DIALOGUE_ACT = "dialogue act"
"""Attribute of the fact that says what a text does (inform, confirm, request, …), as in ViGGO."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One statement: an attribute and its value, of a named subject (triples) or of the record itself."""

    subject: str | None
    attribute: str
    value: str


class Turn(NamedTuple):
    """A message of a conversation.

    Attributes:
        role: "system", "user" or "assistant".
        content: its text.
        learnt: whether training learns to write it; only an assistant's message can be learnt.
    """

    role: str
    content: str
    learnt: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """A record: input facts and reference texts.

    Attributes:
        id: unique within its file, unless records were read one for each row and two rows are equal.
        facts: in the order of the source.
        references: zero or more texts, in order of first appearance; equal texts are kept as often as they occur.
        group: the source's own grouping, such as WebNLG's category.
        prompt: a ready prompt that the source gives instead of facts; of a conversation, its last message.
        adapter: the name of the adapter to write with, or several with weights; "" for the base model alone; None where
            the source names none.
        language: the language of the texts, as the source names it; None where it names none.
        messages: the conversation to which the references are answers; empty where the source gives none.
        where: file and line of its first row, for messages; empty if it is from no file.
    """

    id: str
    facts: tuple[Fact, ...]
    references: tuple[str, ...]
    group: str | None = None
    prompt: str | None = None
    adapter: str | Mixture | None = None
    language: str | None = None
    messages: tuple[Turn, ...] = ()
    where: str = field(default="", compare=False, repr=False)

    @property
    def place(self) -> str:
        """The record in a message: its file and line, and its id."""
        return f"{self.where}, record {self.id}" if self.where else f"record {self.id}"

    @property
    def stated(self) -> tuple[Fact, ...]:
        """The facts that a text can state: all but the dialogue act."""
        return tuple(fact for fact in self.facts if fact.attribute != DIALOGUE_ACT)


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference as its source has it.

    Attributes:
        text: without white space at its ends; "" where the source has one that is blank.
        language: as the source names it; None where it names none.
        marked: annotators marked it as faulty.
    """

    text: str
    language: str | None = None
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: a line, a table row, or the entry of a corpus.

    Attributes:
        where: file and line, for messages.
        facts: see `Record`, as are group, prompt, adapter and messages.
        texts: all its references.
        id: None where the source gives none.
        language: the language that the row as a whole is in; None where the source names none.
        entry: the source has gathered the texts of this row itself, so it is a record on its own.
        id_by_name: the id is from a column that nobody chose, recognised by its name.
    """

    where: str
    facts: tuple[Fact, ...]
    texts: tuple[Reference, ...]
    id: str | None = None
    group: str | None = None
    prompt: str | None = None
    adapter: str | Mixture | None = None
    language: str | None = None
    entry: bool = False
    id_by_name: bool = False
    messages: tuple[Turn, ...] = ()


@dataclass
class Parsed:
    """The content of a file, as a reader returns it.

    Attributes:
        rows: in the order of the file.
        notes: sentences for the user, for example on columns that were left out.
        listed: attributes to which some row gives a list of values.
        columns_from_training: the rows were read with the columns of an adapter's training.
        roles: of a table, the role of each column that has a name.
    """

    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)
    columns_from_training: bool = False
    roles: dict[str, str] = field(default_factory=dict)


def records_of_rows(rows: Sequence[Row], file: str, *, by_line: bool = False) -> list[Record]:
    """Return one record for each row, in their order.

    A row without an id is called by its ordinal number, from 1, or `row-N` where another row has that id. The id of a
    corpus entry, or one that was recognised by its column's name, gets the row's number where another row has it.

    Args:
        rows: of a file.
        file: its name, for messages.
        by_line: a row's number is that of its line, unless several rows are on one.

    Raises:
        DataError: two rows with different content have the same id.
    """
    taken = {row.id for row in rows}
    owners: dict[str, tuple[object, ...]] = {}
    records = []
    for number, row in zip(_numbers(rows, by_line=by_line), rows, strict=True):
        name = row.id if row.id is not None else _free(str(number), f"row-{number}", taken)
        record = Record(
            name,
            row.facts,
            tuple(text.text for text in row.texts),
            row.group,
            row.prompt,
            row.adapter,
            row.language,
            row.messages,
            row.where,
        )
        content = content_key(record)
        # Challenge files may be joined; an id column may identify the subject of several rows.
        if (row.entry and name in owners) or (row.id_by_name and owners.get(name, content) != content):
            name = _free(f"{name}#{number}", f"{name}#{number}#", set(owners))
            record = replace(record, id=name)
        if owners.setdefault(name, content) != content:
            raise DataError(
                f"the id {name!r} is on two rows with different content",
                where=row.where or file,
                hint="make ids unique, or choose another column as the id",
            )
        records.append(record)
    return records


def _numbers(rows: Sequence[Row], *, by_line: bool) -> Sequence[int]:
    lines = [int(row.where.rpartition(":")[2]) for row in rows] if by_line else []
    return lines if by_line and len(set(lines)) == len(rows) else range(1, len(rows) + 1)


def gather(rows: Sequence[Row], records: Sequence[Record]) -> tuple[list[Record], list[int]]:
    """Gather rows that differ in their texts only into one record with several references.

    Args:
        rows: of a file.
        records: one for each row.

    Returns:
        Records in order of first appearance, each with the id of its first row; and for each row the number of its
        record. The entries of a corpus that has gathered its texts itself (WebNLG, DART) stay as they are.
    """
    numbers: dict[tuple[object, ...], int] = {}
    texts: list[list[str]] = []
    firsts: list[Record] = []
    places = []
    for position, (row, record) in enumerate(zip(rows, records, strict=True)):
        key = (position,) if row.entry else content_key(record)
        number = numbers.setdefault(key, len(firsts))
        if number == len(firsts):
            firsts.append(record)
            texts.append([])
        texts[number].extend(record.references)
        places.append(number)
    gathered = [replace(record, references=tuple(own)) for record, own in zip(firsts, texts, strict=True)]
    return gathered, places


def content_key(record: Record) -> tuple[object, ...]:
    """Return a key that is equal for two rows of the same record.

    The order of the facts, white space within them, composed and decomposed letters (Unicode's NFC and NFD), and the
    case of a language tag make no difference.
    """
    facts = tuple(sorted(_spelling(fact) for fact in record.facts))
    prompt = None if record.prompt is None else unicodedata.normalize("NFC", record.prompt)
    language = None if record.language is None else record.language.casefold()
    earlier = tuple((role, unicodedata.normalize("NFC", content)) for role, content, _ in record.messages[:-1])
    return (facts, prompt, record.group, record.adapter, language, earlier)


def _spelling(fact: Fact) -> tuple[str, ...]:
    """Return the parts of a fact in NFC with single spaces: two without a subject, three with one."""
    parts = (fact.attribute, fact.value) if fact.subject is None else (fact.subject, fact.attribute, fact.value)
    return tuple(" ".join((part if part.isascii() else unicodedata.normalize("NFC", part)).split()) for part in parts)


def _free(name: str, otherwise: str, taken: Container[str | None]) -> str:
    if name not in taken:
        return name
    while otherwise in taken:
        otherwise += "-"
    return otherwise
