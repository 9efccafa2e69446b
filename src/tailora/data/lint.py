"""What is wrong with a data set before a model learns it: doubles, empty facts, texts that leave facts out, leaks."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from tailora.data.suspects import suspicion
from tailora.data.values import Fact, Record

LONG_TEXT = 1000
"""Characters beyond which a text is reported as very long."""

_CODE_AFTER = 5  # records in which a value must be missing from the texts before it counts as a code
_SPLITS_OF_ONE = "records"
# UTF-8 read as Windows-1252 or Latin-1 ("Ã©", "â€™"), and what stands where a character could not be read.
_MISDECODED = re.compile("\ufffd|[ÃÂ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€|&(?:amp|lt|gt|quot|#\\d+);")
_LINE_END = re.compile(r"[\t\r\n]")
_PLACEHOLDERS = frozenset(("None", "NA", "-", "--", "?"))  # in lower case, "none" may be a value
_PLACEHOLDER_WORDS = frozenset(("nan", "null", "n/a", "#n/a", "<na>"))
_WORD = re.compile(r"\w+")
_FINISHED = re.compile(r"[.!?…。][\"'”’)\]\s]*$")
_USUALLY = 0.8  # of the texts must end a sentence before one that does not is worth a look


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth a look.

    Attributes:
        kind: one of `KINDS`.
        record: "split: id" of the record, or "id" where there are no splits; for an odd attribute its name.
        detail: what was found.
    """

    kind: str
    record: str
    detail: str


KINDS = {
    "duplicate record": "the same facts stand in two records",
    "duplicate text": "a record has the same text twice",
    "empty fact": "a value is empty",
    "placeholder": "a value looks like a word for a missing one; leave the cell empty or give null",
    "odd attribute": "an attribute looks like row numbers, ids, web addresses, splits or texts, not like facts",
    "conflict": "an attribute has two values",
    "unsaid value": "no text of the record mentions a value (yes, no and codes that texts rarely repeat aside)",
    "unfinished text": "a text does not end as a sentence does, where most texts do",
    "line end or tab": "a text has a line end or a tab in it, as after a quotation mark that was not closed",
    "long text": f"a text has more than {LONG_TEXT} characters",
    "no text": "a record has no text",
    "mis-decoded": "characters look as if the file had been read in the wrong encoding",
    "leak": "the same facts stand in two splits",
}


@dataclass(frozen=True)
class LintReport:
    """Everything found, in the order of the records."""

    findings: tuple[Finding, ...]
    records: int
    texts: int
    lengths: Mapping[str, int]
    """How many texts have so many words: "0-9", "10-19" and so on, none left out between."""

    def counts(self) -> dict[str, int]:
        """Return how often each kind was found, the kinds that were not left out."""
        counter = Counter(finding.kind for finding in self.findings)
        return {kind: counter[kind] for kind in KINDS if counter[kind]}

    def __str__(self) -> str:
        head = f"{self.records} records, {self.texts} texts"
        found = "; ".join(f"{kind}: {count}" for kind, count in self.counts().items())
        return f"{head}: {found or 'nothing found'}"


def lint(
    records: Sequence[Record] | Mapping[str, Sequence[Record]], *, listed: Container[str] = frozenset()
) -> LintReport:
    """Look through records, or through splits (name to records), and report; nothing is changed or raised.

    Args:
        records: of a file, or of each split.
        listed: attributes that may have several values, as those to which a file gives lists do.
    """
    splits = records if isinstance(records, Mapping) else {_SPLITS_OF_ONE: records}
    everything = [record for members in splits.values() for record in members]
    codes = _codes(everything)
    texts = [text for record in everything for text in record.references]
    sentences = sum(map(_is_finished, texts)) >= _USUALLY * max(len(texts), 1)
    findings = _odd_attributes(splits.values())
    first_seen: dict[tuple[object, ...], tuple[str, str]] = {}
    for split, members in splits.items():
        for record in members:
            name = record.id if splits is not records else f"{split}: {record.id}"
            key = (frozenset(record.facts), record.prompt)
            if key in first_seen:
                other_split, other = first_seen[key]
                findings.append(
                    Finding("duplicate record" if split == other_split else "leak", name, f"same facts as {other}")
                )
            else:
                first_seen[key] = split, name
            findings += [Finding(kind, name, detail) for kind, detail in _look(record, codes, sentences, listed)]
    return LintReport(tuple(findings), len(everything), len(texts), _lengths(texts))


def _lengths(texts: Sequence[str]) -> dict[str, int]:
    tens = Counter(len(text.split()) // 10 for text in texts)
    return {f"{10 * ten}-{10 * ten + 9}": tens[ten] for ten in range(max(tens, default=-1) + 1)}


def _is_finished(text: str) -> bool:
    return _FINISHED.search(text) is not None


def _look(record: Record, codes: Set[Fact], sentences: bool, listed: Container[str]) -> list[tuple[str, str]]:
    found = [("empty fact", fact.attribute) for fact in record.facts if not fact.value.strip()]
    found += [
        ("placeholder", f"{fact.attribute}: {fact.value}") for fact in record.facts if _is_placeholder(fact.value)
    ]
    found += [("conflict", detail) for detail in _conflicts(record.facts, listed)]
    if not record.references:
        found.append(("no text", "add one, or it cannot be learned from"))
    for text, count in Counter(record.references).items():
        if count > 1:
            found.append(("duplicate text", f"{count} times {_short(text)}"))
        if sentences and not _is_finished(text):
            found.append(("unfinished text", f"ends in {text[-20:]!r}"))
        if match := _LINE_END.search(text):
            found.append(("line end or tab", f"{match[0]!r} in {_short(text)}"))
        if len(text) > LONG_TEXT:
            found.append(("long text", f"{len(text)} characters"))
    for text in (*record.references, *(fact.value for fact in record.facts)):
        if match := _MISDECODED.search(text):
            found.append(("mis-decoded", f"{match[0]!r} in {_short(text)}"))
    if record.references:
        unsaid = [fact for fact in _unsaid(record) if _plain(fact) not in codes]
        found += [("unsaid value", f"{fact.attribute}: {_short(fact.value)}") for fact in unsaid]
    return found


def _odd_attributes(splits: Iterable[Sequence[Record]]) -> list[Finding]:
    """Attributes of the records themselves that are probably no facts in some split, each reported once."""
    clauses: dict[str, str] = {}
    for records in splits:  # row numbers begin anew in each
        values: dict[str, list[str]] = defaultdict(list)
        for record in records:
            for fact in record.facts:
                if fact.subject is None:
                    values[fact.attribute].append(fact.value)
        for attribute, own in values.items():
            if attribute not in clauses and (clause := suspicion(attribute, own)):
                clauses[attribute] = clause
    return [Finding("odd attribute", attribute, clause) for attribute, clause in clauses.items()]


def _is_placeholder(value: str) -> bool:
    return value in _PLACEHOLDERS or value.casefold() in _PLACEHOLDER_WORDS


def _conflicts(facts: Sequence[Fact], listed: Container[str]) -> list[str]:
    """Attributes of the record itself with several values, but not in a list; triples may well have several objects."""
    values: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        if fact.subject is None and fact.attribute not in listed:
            values[fact.attribute].add(fact.value)
    return [f"{attribute}: {', '.join(sorted(own))}" for attribute, own in values.items() if len(own) > 1]


def _unsaid(record: Record) -> list[Fact]:
    """The facts of which not one word stands in any text: spelling and order are the texts' own."""
    said = {word for text in record.references for word in _words(text)}
    values = [(fact, _words(fact.value)) for fact in record.facts]
    return [fact for fact, words in values if words and not words & {"yes", "no", "true", "false"} and not words & said]


def _codes(records: Sequence[Record]) -> set[Fact]:
    """Values that most texts say in other words, as "changes: none" becomes "direct"; without their subjects."""
    written = [record for record in records if record.references]
    all_uses = Counter(_plain(fact) for record in written for fact in record.facts)
    unsaid = Counter(_plain(fact) for record in written for fact in _unsaid(record))
    return {fact for fact, count in unsaid.items() if count >= _CODE_AFTER and 2 * count > all_uses[fact]}


def _plain(fact: Fact) -> Fact:
    return Fact(None, fact.attribute, fact.value)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.replace("_", " ").lower()))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
