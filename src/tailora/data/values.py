"""Facts and records: the values that every reader makes and every other part speaks of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tailora.errors import DataError


@dataclass(frozen=True, slots=True)
class Fact:
    """One statement: an attribute and its value, of a named subject (triples) or of the record itself."""

    subject: str | None
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class Record:
    """What is to be said, and the texts that people wrote for it.

    Attributes:
        id: unique within its file.
        facts: in the order of the source.
        references: zero or more texts, in order of first appearance; equal texts stay as often as they stood there.
        group: the source's own division, as WebNLG's category.
        prompt: a ready prompt that the source gave instead of facts.
        adapter: the name of the one to write with, "" for the base model alone; None where the source names none.
    """

    id: str
    facts: tuple[Fact, ...]
    references: tuple[str, ...]
    group: str | None = None
    prompt: str | None = None
    adapter: str | None = None


class RecordBuilder:
    """Gathers rows into records: rows that differ in their text only become one record with many references.

    Records come out in order of first appearance. A record without an id of its own gets its ordinal number, from 1.
    """

    def __init__(self) -> None:
        self._texts: dict[tuple[tuple[Fact, ...], str | None, str | None, str | None, str | None], list[str]] = {}

    def add(
        self,
        facts: tuple[Fact, ...],
        texts: Iterable[str],
        *,
        id: str | None = None,  # the field's own name
        group: str | None = None,
        prompt: str | None = None,
        adapter: str | None = None,
    ) -> None:
        """Add a row with its text or texts, or with none."""
        self._texts.setdefault((facts, id, group, prompt, adapter), []).extend(texts)

    def records(self) -> list[Record]:
        """Return the records gathered so far."""
        return [
            Record(id or str(number), facts, tuple(texts), group, prompt, adapter)
            for number, ((facts, id, group, prompt, adapter), texts) in enumerate(self._texts.items(), start=1)
        ]


def check_ids(records: Iterable[Record], where: str) -> None:
    """Raise `DataError` when two records carry the same id."""
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            raise DataError(
                f"the id {record.id!r} stands on two different records", where=where, mend="make ids unique"
            )
        seen.add(record.id)
