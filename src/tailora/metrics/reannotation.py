"""The facts that a text says, from its record's facts and the slot rules: what cleaning a data set consists of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tailora.data.values import DIALOGUE_ACT, Fact, Record
from tailora.metrics.slot_rules import Rules, load_rules
from tailora.metrics.slots import SlotReport

ErrorKind = Literal["missing", "added"]
UNSURE_WORDING = "the text has words that may say it"
NOT_AS_WRITTEN = "texts often say this attribute in other words"
NO_PLACE = "the file has no place for it"

_LITERAL_SHARE = 0.8
"""Share of an attribute's values that texts must say as they are written, for the others to be missing."""


class Undecided(NamedTuple):
    """A fact about which the rules cannot decide whether the text says it.

    Attributes:
        fact: of the record, or one that the text may add.
        reason: a clause.
        kept: whether the facts have it.
    """

    fact: Fact
    reason: str
    kept: bool


@dataclass(frozen=True, slots=True)
class Reannotation:
    """The facts of a record according to one of its texts.

    Attributes:
        facts: what the text says, in the data set's usual order.
        dropped: facts of the record that the text leaves out.
        added: facts that the text says and the record lacks.
        undecided: facts that the rules cannot decide on.
    """

    facts: tuple[Fact, ...]
    dropped: tuple[Fact, ...]
    added: tuple[Fact, ...]
    undecided: tuple[Undecided, ...]


class Annotator:
    """Re-annotates the records of a data set from their texts.

    A value that a rule describes is missing if no pattern matches. A value without a rule is searched as it is
    written: it counts as missing only if most texts of the data set say the values of its attribute that way.

    Args:
        records: one for each text.
        reports: what each text says of its record.
        rules: how texts say values; by default the bundled ones.
        only: correct one kind of error only; by default both.
        keep_unsure: keep facts that a text may say in words which the rules mark as unsure.
    """

    def __init__(
        self,
        records: Sequence[Record],
        reports: Sequence[SlotReport],
        rules: Rules | None = None,
        *,
        only: ErrorKind | None = None,
        keep_unsure: bool = False,
    ) -> None:
        self._rules, self._only, self._keep_unsure = rules or load_rules(), only, keep_unsure
        self._literal = _literal_attributes(records, reports, self._rules)
        self._before = _precedences(records)
        self._names: Counter[str] = Counter(fact.attribute for record in records for fact in record.facts)
        self._values = {(fact.attribute, fact.value) for record in records for fact in record.facts}

    def annotate(
        self, record: Record, report: SlotReport, possible: Collection[str] | None = None, *, single: bool = False
    ) -> Reannotation:
        """Return the facts of a record that a text says.

        Args:
            record: the record.
            report: what the text says of it.
            possible: the attributes that the file can hold; any by default.
            single: an attribute can have one value only.
        """
        dropped: list[Fact] = []
        undecided: list[Undecided] = []
        certain = [self._as_in_data(fact, record) for fact in report.added if fact not in report.doubtful]
        others = {fact.attribute for fact in certain} if self._only is None else set()
        for fact in report.missing if self._only != "added" else ():
            # A value that the text says takes the place of one that it does not say.
            reason = None if fact.attribute in others else self._doubt(fact, report)
            if reason is None or (reason == UNSURE_WORDING and not self._keep_unsure):
                dropped.append(fact)
            if reason is not None:
                undecided.append(Undecided(fact, reason, fact not in dropped))
        added: list[Fact] = []
        for own in report.added if self._only != "missing" else ():
            fact = self._as_in_data(own, record)
            if own in report.doubtful:
                undecided.append(Undecided(fact, UNSURE_WORDING, False))
                continue
            taken = {other.attribute for other in (*record.facts, *added) if other not in dropped}
            if (possible is not None and fact.attribute not in possible) or (single and fact.attribute in taken):
                undecided.append(Undecided(fact, NO_PLACE, False))
            elif fact not in record.facts and fact not in added:
                added.append(fact)
        facts = list(record.facts)
        for fact in added:
            replaced = [old for old in dropped if old.attribute == fact.attribute and old in facts]
            if replaced:
                facts[facts.index(replaced[0])] = fact
            else:
                facts.insert(self._place(fact, facts), fact)
        kept = tuple(fact for fact in facts if fact not in dropped)
        return Reannotation(kept, tuple(dropped), tuple(added), tuple(undecided))

    def _doubt(self, fact: Fact, report: SlotReport) -> str | None:
        """Return why a fact that no pattern found may be said after all; None if it is missing."""
        if fact in report.unsure:
            return UNSURE_WORDING
        attribute = self._rules.of(fact.attribute)
        ruled = attribute is not None and (attribute.knows(fact.value) or self._rules.is_name(fact.attribute))
        return None if ruled or fact.attribute in self._literal else NOT_AS_WRITTEN

    def _as_in_data(self, fact: Fact, record: Record) -> Fact:
        """Return an added fact with the attribute and the value written as the data set writes them."""
        attribute = self._rules.of(fact.attribute)
        if attribute is None:
            return fact
        own = [other.attribute for other in record.facts if self._rules.of(other.attribute) is attribute]
        known = [name for name, _ in self._names.most_common() if self._rules.of(name) is attribute]
        name = next(iter([*own, *known]), fact.attribute)
        written = [value for value in attribute.spellings(fact.value) if (name, value) in self._values]
        return Fact(None, name, next(iter(written), fact.value))

    def _place(self, fact: Fact, facts: Sequence[Fact]) -> int:
        """Return where a fact usually is among others: before the first that usually follows it."""
        for place, other in enumerate(facts):
            after = self._before[fact.attribute, other.attribute]
            if other.attribute != DIALOGUE_ACT and after > self._before[other.attribute, fact.attribute]:
                return place
        return len(facts)


def _literal_attributes(records: Sequence[Record], reports: Sequence[SlotReport], rules: Rules) -> set[str]:
    """Return the attributes whose values most texts say as they are written."""
    uses: Counter[str] = Counter()
    unsaid: Counter[str] = Counter()
    for record, report in zip(records, reports, strict=True):
        uses.update(fact.attribute for fact in record.stated)
        unsaid.update(fact.attribute for fact in report.missing)
    return {name for name, count in uses.items() if count - unsaid[name] >= _LITERAL_SHARE * count}


def _precedences(records: Iterable[Record]) -> Mapping[tuple[str, str], int]:
    """Count how often one attribute comes before another in a record."""
    orders = Counter(tuple(dict.fromkeys(fact.attribute for fact in record.facts)) for record in records)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for order, count in orders.items():
        for place, first in enumerate(order):
            for second in order[place + 1 :]:
                counts[first, second] += count
    return counts
