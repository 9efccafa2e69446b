"""Groups of records that are scored separately: by category, by number of facts, by entities seen in training."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from tailora.core.errors import DataError
from tailora.core.plural import plural
from tailora.data.input_rows import InputRows
from tailora.data.values import Record
from tailora.evaluation.parts import TrainingData
from tailora.metrics.statistics import Score

Division = Literal["category", "facts", "entities"]
"""What records are divided by."""
TITLES: Mapping[str, str] = {
    "category": "By category",
    "facts": "By number of facts",
    "entities": "By entities seen in training",
}
MOST = 30
"""Largest number of groups of a division; a group for each record says nothing."""
_ENTITIES = ("all seen", "some seen", "none seen")


class Group(NamedTuple):
    """Records that are scored separately.

    Attributes:
        by: what the records are divided by.
        name: of the group.
        numbers: of its records.
    """

    by: Division
    name: str
    numbers: Sequence[int]


@dataclass(frozen=True)
class GroupScores:
    """The scores of a group.

    Attributes:
        by: what the records are divided by.
        name: of the group.
        records: how many it has.
        scores: by metric.
    """

    by: Division
    name: str
    records: int
    scores: Mapping[str, Score]


def groups_of(
    records: Sequence[Record], training: TrainingData, chosen: Sequence[Division] | None = None
) -> list[Group]:
    """Return the groups of each division that has from two to `MOST` groups.

    An entity is a subject or a value of a fact. Those of a record are seen if training facts have them, in any place.

    Args:
        records: the records to score.
        training: the data that the system was trained on.
        chosen: the divisions; by default all, and entities only where reading the training data is worth it: for
            triples, or if the user named the data.

    Raises:
        DataError: the training data cannot be read, or are needed and not known.
    """
    triples = any(fact.subject is not None for record in records for fact in record.facts)
    divisions: Sequence[Division] = get_args(Division) if chosen is None else chosen
    groups: list[Group] = []
    for by in divisions:
        if by == "category":
            names = [record.group for record in records]
            groups += _groups(by, names, sorted(name for name in set(names) if name is not None))
        elif by == "facts":
            counts = sorted({len(record.stated) for record in records})
            groups += _groups(by, [_facts(len(record.stated)) for record in records], list(map(_facts, counts)))
        elif chosen is not None and not training.is_known:
            hint = "name the data that the system was trained on with --train"
            raise DataError("a division by entities needs training data", where="by", hint=hint)
        elif training.is_known and (chosen is not None or triples or training.is_named):
            seen = {name for record in training.records for name in _entities(record)}
            groups += _groups(by, [_kind(_entities(record), seen) for record in records], _ENTITIES)
    return groups


def spread(groups: Sequence[Group], rows: InputRows) -> list[Group]:
    """Return the groups of the rows that the records were gathered from."""
    return [group._replace(numbers=rows.numbers(group.numbers)) for group in groups]


def score_groups(groups: Sequence[Group], score: Callable[[Sequence[int]], Mapping[str, Score]]) -> list[GroupScores]:
    """Return the scores of each group.

    Args:
        groups: the groups.
        score: from numbers of records to their scores by metric.
    """
    return [GroupScores(group.by, group.name, len(group.numbers), score(group.numbers)) for group in groups]


def _groups(by: Division, names: Sequence[str | None], order: Sequence[str]) -> list[Group]:
    numbers = {name: [number for number, own in enumerate(names) if own == name] for name in order}
    filled = [Group(by, name, own) for name, own in numbers.items() if own]
    return filled if 2 <= len(filled) <= MOST else []


def _facts(count: int) -> str:
    return plural(count, "fact")


def _entities(record: Record) -> set[str]:
    names = (name for fact in record.stated for name in (fact.subject, fact.value) if name is not None)
    return {unicodedata.normalize("NFC", name) for name in names}


def _kind(entities: set[str], seen: set[str]) -> str | None:
    if not entities:
        return None
    known = len(entities & seen)
    return _ENTITIES[0] if known == len(entities) else _ENTITIES[1] if known else _ENTITIES[2]
