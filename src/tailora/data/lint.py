"""Checks of a data set before training: duplicates, empty facts, texts that leave facts out, leaks between splits."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from tailora.core.plural import plural
from tailora.data.near_duplicates import LEAST_SIMILARITY, near_duplicates
from tailora.data.suspects import HOLDS_TEXTS, long_texts, suspicion
from tailora.data.values import Fact, Record, content_key

LONG_TEXT = 1000
"""Characters beyond which a text is reported as very long."""

_CODE_AFTER = 5  # records in which a value must be missing from the texts before it counts as a code
_ONE_FILE = "all"
# UTF-8 read as Windows-1252 or Latin-1 ("Ã©", "â€™"), and the replacement for a character that could not be read.
_MISDECODED = re.compile("\ufffd|[ÃÂ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€|&(?:amp|lt|gt|quot|#\\d+);")
_LINE_END = re.compile(r"[\t\r\n]")
_PLACEHOLDERS = frozenset(("None", "NA", "-", "--", "?"))  # in lower case, "none" may be a value
_PLACEHOLDER_WORDS = frozenset(("nan", "null", "n/a", "#n/a", "<na>"))
_WORD = re.compile(r"\w+")
_FINISHED = re.compile(r"[.!?…。][\"'”’)\]\s]*$")
_USUALLY = 0.8  # share of texts that must end a sentence before one that does not is reported


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at.

    Attributes:
        kind: one of `KINDS`.
        record: "split: id" of the record, or "id" where there are no splits; for an odd attribute its name; for records
            without a text the split.
        detail: what was noticed.
        count: how many records the finding covers.
        text: the text of the record that it is about; None where it is about the record.
    """

    kind: str
    record: str
    detail: str
    count: int = 1
    text: str | None = None


KINDS = {
    "duplicate record": "two records have the same facts",
    "duplicate text": "a record has the same text twice",
    "near duplicate": f"two records have nearly the same text, with {LEAST_SIMILARITY:.0%} or more of its phrases",
    "empty fact": "a value is empty",
    "placeholder": "a value looks like a placeholder for a missing value; leave the cell empty or use null",
    "odd attribute": "an attribute looks like row numbers, ids, web addresses, splits, texts or lists, not like a fact",
    "conflict": "an attribute has two values",
    "unsaid value": "no text of the record mentions a value (yes, no and codes that texts rarely repeat aside)",
    "unfinished text": "a text does not end like a sentence, although most texts do",
    "line end or tab": "a text contains a line end or a tab, as after an unclosed quotation mark",
    "long text": f"a text has more than {LONG_TEXT:,} characters",
    "no text": "a record has no text; it cannot be used for training",
    "mis-decoded": "characters look as if the file was read in the wrong encoding",
    "leak": "two splits contain the same facts",
}


@dataclass(frozen=True)
class LintReport:
    """All findings, in the order of the records.

    Attributes:
        findings: what was noticed.
        records: how many records there are.
        texts: how many texts there are.
        lengths: number of texts by their number of words: "0-9", "10-19" and so on, without gaps.
    """

    findings: tuple[Finding, ...]
    records: int
    texts: int
    lengths: Mapping[str, int]

    def counts(self) -> dict[str, int]:
        """Return how often each kind occurs; kinds that do not occur are left out."""
        counter: Counter[str] = Counter()
        for finding in self.findings:
            counter[finding.kind] += finding.count
        return {kind: counter[kind] for kind in KINDS if counter[kind]}

    def __str__(self) -> str:
        head = f"{plural(self.records, 'record')}, {plural(self.texts, 'text')}"
        kinds = "; ".join(f"{kind}: {count:,}" for kind, count in self.counts().items())
        return f"{head}: {kinds or 'no findings'}"


def lint(
    records: Sequence[Record] | Mapping[str, Sequence[Record]], *, listed: Container[str] = frozenset()
) -> LintReport:
    """Check records; nothing is changed or raised.

    Args:
        records: of a file, or of each split by its name.
        listed: attributes that may have several values, as those to which a file gives lists.
    """
    splits = records if isinstance(records, Mapping) else {_ONE_FILE: records}
    everything = [record for members in splits.values() for record in members]
    codes = _codes(everything)
    texts = [text for record in everything for text in record.references]
    sentences = sum(map(_is_finished, texts)) >= _USUALLY * max(len(texts), 1)
    findings = _odd_attributes(splits.values())
    first_seen: dict[tuple[object, ...], tuple[str, str]] = {}
    keys = [_facts_key(record) for record in everything]
    following = iter(keys)
    for split, members in splits.items():
        for record in members:
            name = record_name(record, split if splits is records else None)
            key = next(following)
            if key in first_seen:
                other_split, other = first_seen[key]
                kind = "duplicate record" if split == other_split else "leak"
                findings.append(Finding(kind, name, f"same facts as {other}"))
            else:
                first_seen[key] = split, name
            findings += [
                Finding(kind, name, detail, text=text) for kind, detail, text in _look(record, codes, sentences, listed)
            ]
        findings += _without_text(split, members)
    findings += _near_duplicates(splits, keys, named=splits is records)
    return LintReport(tuple(findings), len(everything), len(texts), _lengths(texts))


def record_name(record: Record, split: str | None = None) -> str:
    """Return the name of a record in findings: "split: id", or "id" where there are no splits."""
    return record.id if split is None else f"{split}: {record.id}"


def _facts_key(record: Record) -> tuple[object, ...]:
    """Return what records with the same facts have in common."""
    key = content_key(replace(record, group=None, adapter=None))
    return (*key, record.references) if record.prompt == "" else key  # a text without a record


def _near_duplicates(splits: Mapping[str, Sequence[Record]], keys: Sequence[Hashable], *, named: bool) -> list[Finding]:
    """One finding for each record with a text that is nearly equal to one of an earlier record with other facts."""
    members = [(split if named else None, record) for split, records in splits.items() for record in records]
    texts = [text for _, record in members for text in record.references]
    numbers: dict[Hashable, int] = {}
    firsts = [numbers.setdefault(key, number) for number, key in enumerate(keys)]
    owners = [number for number, (_, record) in enumerate(members) for _ in record.references]
    findings: dict[int, Finding] = {}
    for near in near_duplicates(texts, [firsts[owner] for owner in owners]):
        (split, record), (other_split, other) = members[owners[near.text]], members[owners[near.earlier]]
        like = f"{near.similarity:.0%} like {record_name(other, other_split)}: {_short(texts[near.earlier])}"
        finding = Finding("near duplicate", record_name(record, split), like, text=texts[near.text])
        findings.setdefault(owners[near.text], finding)
    return list(findings.values())


def _without_text(split: str, records: Sequence[Record]) -> list[Finding]:
    """One finding for all records of a split that have no text."""
    lacking = [record.id for record in records if not record.references]
    if not lacking:
        return []
    detail = f"{len(lacking):,} of {plural(len(records), 'record')}, the first with the id {lacking[0]!r}"
    return [Finding("no text", split, detail, len(lacking))]


def _lengths(texts: Sequence[str]) -> dict[str, int]:
    tens = Counter(len(text.split()) // 10 for text in texts)
    return {f"{10 * ten}-{10 * ten + 9}": tens[ten] for ten in range(max(tens, default=-1) + 1)}


def _is_finished(text: str) -> bool:
    return _FINISHED.search(text) is not None


def _look(
    record: Record, codes: Set[Fact], sentences: bool, listed: Container[str]
) -> list[tuple[str, str, str | None]]:
    """Return (kind, detail, text) of each finding in a single record; the text is None for one about the facts."""
    noticed: list[tuple[str, str, str | None]] = []
    asks = record.stated != record.facts  # a dialogue act may ask for a value, which is "?"
    for fact in record.facts:
        if not fact.value.strip():
            noticed.append(("empty fact", fact.attribute, None))
        elif _is_placeholder(fact.value) and not (asks and fact.value == "?"):
            noticed.append(("placeholder", f"{fact.attribute}: {fact.value}", None))
        if match := _MISDECODED.search(fact.value):
            noticed.append(("mis-decoded", f"{match[0]!r} in {_short(fact.value)}", None))
    noticed += [("conflict", detail, None) for detail in _conflicts(record.facts, listed)]
    for text, count in Counter(record.references).items():
        if count > 1:
            noticed.append(("duplicate text", f"{count} times {_short(text)}", text))
        if sentences and not _is_finished(text):
            noticed.append(("unfinished text", f"ends in {text[-20:]!r}", text))
        if match := _LINE_END.search(text):
            noticed.append(("line end or tab", f"{match[0]!r} in {_short(text)}", text))
        if len(text) > LONG_TEXT:
            noticed.append(("long text", f"{len(text):,} characters", text))
        if match := _MISDECODED.search(text):
            noticed.append(("mis-decoded", f"{match[0]!r} in {_short(text)}", text))
    if record.references:
        unsaid = [fact for fact in _unsaid(record) if _plain(fact) not in codes]
        noticed += [("unsaid value", f"{fact.attribute}: {_short(fact.value)}", None) for fact in unsaid]
    return noticed


def _odd_attributes(splits: Iterable[Sequence[Record]]) -> list[Finding]:
    """Return a finding for each attribute of the records themselves that is probably not a fact in some split."""
    clauses: dict[str, str] = {}
    for records in splits:  # row numbers restart in each split
        values: dict[str, list[str]] = defaultdict(list)
        for record in records:
            for fact in record.facts:
                if fact.subject is None:
                    values[fact.attribute].append(fact.value)
        long = long_texts(values)
        for attribute, own in values.items():
            clause = suspicion(attribute, own) or (HOLDS_TEXTS if attribute in long else None)
            if attribute not in clauses and clause:
                clauses[attribute] = clause
    return [Finding("odd attribute", attribute, clause) for attribute, clause in clauses.items()]


def _is_placeholder(value: str) -> bool:
    return value in _PLACEHOLDERS or value.casefold() in _PLACEHOLDER_WORDS


def _conflicts(facts: Sequence[Fact], listed: Container[str]) -> list[str]:
    """Return the attributes of the record itself that have several values without a list; triples are not checked."""
    values: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        if fact.subject is None and fact.attribute not in listed:
            values[fact.attribute].add(fact.value)
    return [f"{attribute}: {', '.join(sorted(own))}" for attribute, own in values.items() if len(own) > 1]


def _unsaid(record: Record) -> list[Fact]:
    """Return the facts none of whose words occurs in a text, ignoring case and order."""
    said = {word for text in record.references for word in _words(text)}
    values = [(fact, _words(fact.value)) for fact in record.stated]
    return [fact for fact, words in values if words and not words & {"yes", "no", "true", "false"} and not words & said]


def _codes(records: Sequence[Record]) -> set[Fact]:
    """Return the values that most texts express in other words ("changes: none" as "direct"), without subjects."""
    written = [record for record in records if record.references]
    all_uses = Counter(_plain(fact) for record in written for fact in record.stated)
    unsaid = Counter(_plain(fact) for record in written for fact in _unsaid(record))
    return {fact for fact, count in unsaid.items() if count >= _CODE_AFTER and 2 * count > all_uses[fact]}


def _plain(fact: Fact) -> Fact:
    return Fact(None, fact.attribute, fact.value)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(unicodedata.normalize("NFC", text).replace("_", " ").lower()))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
