"""Cleaning of a data set: the facts of its records are annotated again from the texts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tailora.core.errors import DataError
from tailora.data.records import DataFile
from tailora.data.rewriting import Rewriter, Version, Versions
from tailora.data.values import Fact, Record, content_key
from tailora.metrics.reannotation import Annotator, ErrorKind, Reannotation
from tailora.metrics.slot_rules import Rules, load_rules, vocabulary_of
from tailora.metrics.slots import SlotReport, slot_report


class Pair(NamedTuple):
    """A text with its record.

    Attributes:
        row: number of the row in its file, from 0.
        record: the record, with this text as its only reference.
        text: the text.
        report: what the text says of the record.
        new: the facts according to the text.
        outcome: "unchanged", "changed", or why the pair is left out: "duplicate", "overlap" or "no fact".
        overlaps: whether another file has the same facts, apart from names.
    """

    row: int
    record: Record
    text: str
    report: SlotReport
    new: Reannotation
    outcome: str
    overlaps: bool = False


@dataclass(frozen=True)
class AttributeErrors:
    """How often the texts differ from the facts of one attribute.

    Attributes:
        facts: number of facts.
        missing: facts that the text does not say.
        added: values that the text says and the record does not have.
    """

    facts: int
    missing: int
    added: int


@dataclass(frozen=True)
class Cleaning:
    """The result of cleaning a file.

    Attributes:
        pairs: the texts with their records, in the order of the file.
        before: slot errors by attribute.
        after: the same of the new file.
        rates: slot errors per fact before and after, as `tailora evaluate` counts them: a wrong value counts once.
        content: of the new file.
    """

    pairs: Sequence[Pair]
    before: Mapping[str, AttributeErrors]
    after: Mapping[str, AttributeErrors]
    rates: tuple[float, float]
    content: str

    def outcomes(self) -> dict[str, int]:
        """Return how many pairs have each outcome."""
        counts = Counter(pair.outcome for pair in self.pairs)
        return {name: counts[name] for name in ("unchanged", "changed", "duplicate", "overlap", "no fact")}


class Cleaner:
    """Cleans files.

    Args:
        rules: how texts say values; by default the bundled ones.
        only: correct one kind of error only; by default both.
        keep_unsure: keep facts that a text may say in words which the rules mark as unsure.
        keep_duplicates: keep pairs of equal facts and text.
        keep_overlap: keep pairs whose facts other files have.
    """

    def __init__(
        self,
        rules: Rules | None = None,
        *,
        only: ErrorKind | None = None,
        keep_unsure: bool = False,
        keep_duplicates: bool = False,
        keep_overlap: bool = False,
    ) -> None:
        self._rules, self._only = rules or load_rules(), only
        self._keep_unsure, self._keep_duplicates, self._keep_overlap = keep_unsure, keep_duplicates, keep_overlap

    def clean(self, data: DataFile, rewriter: Rewriter, others: Sequence[DataFile] = ()) -> Cleaning:
        """Annotate a file again.

        Args:
            data: the file.
            rewriter: writes the new file.
            others: files whose records the new file must not contain, before or after cleaning.

        Raises:
            DataError: the records have no facts, or no row would be left.
        """
        if not all(record.facts for record in data.rows):
            what = "has records without facts, with which no text can be compared"
            raise DataError(what, where=data.path, hint="give records with facts")
        records, reports = self._reports(data)
        annotator = Annotator(records, reports, self._rules, only=self._only, keep_unsure=self._keep_unsure)
        taken = {self._outline(record) for other in others for record in self._both(other)}
        pairs = list(self._pairs(data, records, reports, annotator, rewriter, taken))
        if all(pair.outcome not in ("unchanged", "changed") for pair in pairs):
            raise DataError("no row would be left", where=data.path, hint="check the rules, the facts and --against")
        kept = [pair for pair in pairs if pair.outcome in ("unchanged", "changed")]
        vocabulary = vocabulary_of(records, self._rules)
        new = [replace(pair.record, facts=pair.new.facts) for pair in kept]
        after = [
            pair.report if pair.outcome == "unchanged" else slot_report(record, pair.text, vocabulary, self._rules)
            for record, pair in zip(new, kept, strict=True)
        ]
        content = rewriter.write(_versions(data, pairs))
        rates = (_error_rate(reports), _error_rate(after))
        return Cleaning(pairs, self._errors(records, reports), self._errors(new, after), rates, content)

    def _reports(self, data: DataFile) -> tuple[list[Record], list[SlotReport]]:
        """Return a record and a report for each text."""
        records = [replace(record, references=(text,)) for record in data.rows for text in record.references]
        vocabulary = vocabulary_of(records, self._rules)
        return records, [slot_report(record, record.references[0], vocabulary, self._rules) for record in records]

    def _both(self, data: DataFile) -> Iterator[Record]:
        """Yield the records of a file as they are and as its texts say them."""
        records, reports = self._reports(data)
        yield from data.rows
        annotator = Annotator(records, reports, self._rules, only=self._only, keep_unsure=self._keep_unsure)
        for record, report in zip(records, reports, strict=True):
            yield replace(record, facts=annotator.annotate(record, report).facts)

    def _outline(self, record: Record) -> tuple[object, ...]:
        """Return what overlapping records have in common: their facts, whatever the values of names."""
        facts = tuple(replace(fact, value="") if self._rules.is_name(fact.attribute) else fact for fact in record.facts)
        return content_key(replace(record, facts=facts, group=None, adapter=None))

    def _pairs(
        self,
        data: DataFile,
        records: Sequence[Record],
        reports: Sequence[SlotReport],
        annotator: Annotator,
        rewriter: Rewriter,
        taken: set[tuple[object, ...]],
    ) -> Iterator[Pair]:
        rows = [row for row, record in enumerate(data.rows) for _ in record.references]
        seen: set[tuple[object, ...]] = set()
        for row, record, report in zip(rows, records, reports, strict=True):
            new = annotator.annotate(record, report, rewriter.attributes, single=rewriter.single)
            changed = replace(record, facts=new.facts)
            key = (*content_key(changed), *record.references)
            overlaps = bool(taken) and self._outline(changed) in taken
            if not new.facts:
                outcome = "no fact"
            elif key in seen and not self._keep_duplicates:
                outcome = "duplicate"
            elif overlaps and not self._keep_overlap:
                outcome = "overlap"
            else:
                outcome = "changed" if new.dropped or new.added else "unchanged"
            seen.add(key)
            yield Pair(row, record, record.references[0], report, new, outcome, overlaps)

    def _errors(self, records: Sequence[Record], reports: Sequence[SlotReport]) -> dict[str, AttributeErrors]:
        """Count errors by attribute; names that the rules give for added facts are those of the records."""
        own = {fact.attribute: None for record in records for fact in record.facts}
        names = {attribute: name for name in own if (attribute := self._rules.of(name)) is not None}

        def name_of(fact: Fact) -> str:
            attribute = self._rules.of(fact.attribute)
            return fact.attribute if attribute is None else names.get(attribute, fact.attribute)

        facts = Counter(fact.attribute for record in records for fact in record.stated)
        missing = Counter(fact.attribute for report in reports for fact in report.missing)
        added = Counter(name_of(fact) for report in reports for fact in report.added)
        every = dict.fromkeys([*own, *added])
        return {name: AttributeErrors(facts[name], missing[name], added[name]) for name in every}


def _error_rate(reports: Sequence[SlotReport]) -> float:
    return sum(report.errors for report in reports) / max(sum(report.slots for report in reports), 1)


def as_json(pair: Pair) -> dict[str, Any]:
    """Return what was done with a pair, as a JSON object."""

    def parts(facts: Iterable[Fact]) -> list[list[str]]:
        return [[part for part in (fact.subject, fact.attribute, fact.value) if part is not None] for fact in facts]

    undecided = [
        {"fact": parts([item.fact])[0], "reason": item.reason, "kept": item.kept} for item in pair.new.undecided
    ]
    return {
        "row": pair.row + 1,
        "id": pair.record.id,
        "text": pair.text,
        "outcome": pair.outcome,
        "overlaps": pair.overlaps,
        "dropped": parts(pair.new.dropped),
        "added": parts(pair.new.added),
        "undecided": undecided,
    }


def _versions(data: DataFile, pairs: Sequence[Pair]) -> list[Versions]:
    """Return what becomes of each row: texts that say the same facts stay together."""
    by_row: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_row[pair.row].append(pair)
    rows: list[Versions] = []
    for number in range(len(data.rows)):
        own = by_row[number]
        if all(pair.outcome == "unchanged" for pair in own):
            rows.append(None)
            continue
        texts: dict[tuple[Fact, ...], list[str]] = defaultdict(list)
        for pair in own:
            if pair.outcome in ("unchanged", "changed"):
                texts[pair.new.facts].append(pair.text)
        rows.append([Version(facts, tuple(said)) for facts, said in texts.items()])
    return rows
