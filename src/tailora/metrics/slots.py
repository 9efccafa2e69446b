"""Slot errors: which facts of a record a text says, leaves out, repeats or adds.

Values of E2E-like records are found by rules (`slot_rules`); any other value is searched as it is written, apart from
case, punctuation and spacing. Accents count, except where folding them cannot turn one word into another: see
`value_search.ValueSearch`. The measure compares wording, not meaning: human texts have some per cent of "errors" that
are unforeseen wordings, so compare systems with it, and read single texts with care.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tailora.data.values import Fact, Record
from tailora.metrics.slot_rules import AttributeRules, Rule, Rules, ValueIndex, Vocabulary, load_rules, vocabulary_of
from tailora.metrics.spelling import Span
from tailora.metrics.statistics import Doubles, Statistics, signature
from tailora.metrics.value_search import ValueSearch, is_negative, normalise, words_of

_NEGATIONS = r"\b(?:not|no|non|isnt|arent|doesnt|dont|never|nor|without|cannot)"
_NEGATION = re.compile(rf"{_NEGATIONS}\b")
_BETWEEN = "a|an|any|the|very|really|currently|have|has|offer|provide|serve|allow|accept|get|got|be"
_NEGATED_BEFORE = re.compile(rf"{_NEGATIONS} (?:(?:{_BETWEEN}) ){{0,3}}$")
_NEGATED_AFTER = re.compile(
    r" (?:(?:is|are) not|isnt|arent) (?:available|offered|provided|possible|allowed|included)\b"
)
_PART_END = re.compile(r" \.(?: |$)|\b(?:but|however|although|though)\b")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_VERB = re.compile(r"(?:is|has)[\s_]+(?=\S)", re.IGNORECASE)  # at the beginning of hasParking and is_vegan
_SENTENCE = 400  # characters in which a negation is looked for
_TRUTHS = ("yes", "no", "true", "false")


class Mention(NamedTuple):
    """A part of a text that says a fact.

    Attributes:
        start: index of its first character in the text.
        end: index after its last character.
        fact: what it says: a fact of the record, or an added one.
        added: whether the record lacks the fact.
    """

    start: int
    end: int
    fact: Fact
    added: bool


@dataclass(frozen=True, slots=True)
class SlotReport:
    """How a text renders the facts of a record.

    Attributes:
        slots: number of facts of the record.
        missing: facts that the text does not say.
        added: values of known attributes that the text says and the record does not have.
        repeated: facts said more than once, except those that may be, such as names.
        mentions: what it says where, in the order of the text.
        unsure: missing facts for which the text has words that may say them, according to the rules.
        doubtful: added facts for which the text has nothing but words that belong to other values.
        errors: number of missing, added and leaked facts; a wrong value in place of the right one counts once.
        leaked: values that the system was trained on, and that the text says and the record does not have.
    """

    slots: int
    missing: tuple[Fact, ...]
    added: tuple[Fact, ...]
    repeated: tuple[Fact, ...]
    mentions: tuple[Mention, ...] = ()
    unsure: tuple[Fact, ...] = ()
    doubtful: tuple[Fact, ...] = ()
    errors: int = 0
    leaked: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True)
class SlotErrorRate:
    """Slot errors of many texts; `value` is errors per slot: 0 or more, and more than 1 is possible."""

    slots: int
    errors: int
    missing: int
    added: int
    repeated: int
    leaked: int = 0

    @property
    def value(self) -> float:
        """Errors per slot."""
        return self.errors / self.slots if self.slots else 0.0


def slot_report(
    record: Record, text: str, vocabulary: Vocabulary | None = None, rules: Rules | None = None
) -> SlotReport:
    """Compare a text with the facts of its record.

    Args:
        record: with facts; a ready prompt has no slots.
        text: the text of the record.
        vocabulary: further values of attributes, from `vocabulary_of`, to detect added ones.
        rules: how texts say values; by default the bundled ones.
    """
    rules, facts = rules or load_rules(), record.stated
    vocabulary = vocabulary if isinstance(vocabulary, ValueIndex) else ValueIndex(vocabulary or {})

    def known() -> Iterator[str]:
        for values in vocabulary.values():
            yield from values

    names = [name for fact in facts for name in (fact.value, fact.subject) if name is not None]
    search = ValueSearch(text, names, known)
    said: dict[int, list[Span]] = {}
    by_rules: dict[str, list[int]] = defaultdict(list)
    literal: dict[tuple[str, ...], list[int]] = defaultdict(list)
    # Long values first, and literal ones before rules: "Raja Indian Cuisine" does not mention Indian food.
    for place in sorted(range(len(facts)), key=lambda place: -len(facts[place].value)):
        fact = facts[place]
        attribute = rules.of(fact.attribute)
        if attribute is not None and attribute.knows(fact.value):
            by_rules[attribute.name].append(place)
        else:
            literal[_wording(fact)].append(place)
    for alike in literal.values():
        spans = _literal_places(facts[alike[0]], search)
        # Facts with the same value share its mentions: "was born and died in Hanoi" says it once for both.
        said |= {place: spans[number :: len(alike)] or spans[-1:] for number, place in enumerate(alike)}
    added, leaked = _other_values(record, search, vocabulary, rules.known)
    doubtful: list[tuple[Fact, Span]] = []
    covered = rules.covers(record, vocabulary)
    for attribute in rules.to_search(record, vocabulary):
        for rule, span in _matches(attribute, search, covered):
            own = [place for place in by_rules[attribute.name] if facts[place].value in rule.values]
            for place in own:
                if not rule.generic or not said.get(place):
                    said.setdefault(place, []).append(span)
            if not own and not rule.generic:
                (doubtful if rule.doubtful else added).append((Fact(None, attribute.name, rule.usual), span))
    return _report(facts, said, added, doubtful, leaked, search, rules)


def _matches(attribute: AttributeRules, search: ValueSearch, covered: bool) -> Iterator[tuple[Rule, Span]]:
    """Yield the matches of an attribute's rules in their order, and remove those that are not doubtful.

    Doubtful rules are tried only if the rules cover the data, so that errors can be compared with published ones.
    """
    for rule in attribute.rules:
        if rule.doubtful and not covered:
            continue
        spans = search.find_rule(rule.pattern) if rule.doubtful else search.take_rule(rule.pattern)
        yield from ((rule, span) for span in spans)


def _report(
    facts: Sequence[Fact],
    said: Mapping[int, Sequence[Span]],
    added: Sequence[tuple[Fact, Span]],
    doubtful: Sequence[tuple[Fact, Span]],
    leaked: Sequence[tuple[Fact, Span]],
    search: ValueSearch,
    rules: Rules,
) -> SlotReport:
    """Return the report on a text in which facts were searched."""
    missing = tuple(fact for place, fact in enumerate(facts) if not said.get(place))
    often = [fact for place, fact in enumerate(facts) if len(said.get(place, ())) > 1]
    own = [(facts[place], span, False) for place, spans in said.items() for span in spans]
    others = [(fact, span, True) for fact, span in (*added, *doubtful, *leaked)]
    mentions = [
        Mention(*ends, fact, extra) for fact, span, extra in own + others if (ends := search.origin(span)) is not None
    ]
    certain = dict.fromkeys(fact for fact, _ in added)
    less = dict.fromkeys(fact for fact, _ in doubtful if fact not in certain)
    more = dict.fromkeys(fact for fact, _ in leaked)
    return SlotReport(
        slots=len(facts),
        missing=missing,
        added=(*certain, *less),
        repeated=tuple(fact for fact in often if not rules.is_open(fact)),
        mentions=tuple(sorted(mentions, key=lambda m: m[:2])),
        unsure=tuple(fact for fact in missing if _may_be_said(fact, search, rules)),
        doubtful=tuple(less),
        errors=_errors(missing, (*certain, *less, *more), rules),
        leaked=tuple(more),
    )


def _errors(missing: Iterable[Fact], added: Iterable[Fact], rules: Rules) -> int:
    """Return the number of missing and of added or leaked facts, of each attribute the larger one."""
    lacking, more = (Counter(rules.name_of(fact.attribute) for fact in facts) for facts in (missing, added))
    return sum((lacking | more).values())


def slot_reports(records: Sequence[Record], texts: Sequence[str], rules: Rules | None = None) -> list[SlotReport]:
    """Return the report of each text; values of the other records are the vocabulary."""
    vocabulary = vocabulary_of(records, rules)
    return [slot_report(record, text, vocabulary, rules) for record, text in zip(records, texts, strict=True)]


def slot_error_rate(records: Sequence[Record], texts: Sequence[str], rules: Rules | None = None) -> SlotErrorRate:
    """Sum the slot errors of one text for each record."""
    reports = slot_reports(records, texts, rules)
    return SlotErrorRate(
        slots=sum(report.slots for report in reports),
        errors=sum(report.errors for report in reports),
        missing=sum(len(report.missing) for report in reports),
        added=sum(len(report.added) for report in reports),
        repeated=sum(len(report.repeated) for report in reports),
        leaked=sum(len(report.leaked) for report in reports),
    )


def slot_errors(records: Sequence[Record], texts: Sequence[str], rules: Rules | None = None) -> Statistics:
    """Return slot errors per fact as statistics, for intervals and comparisons; lower is better."""
    reports = slot_reports(records, texts, rules)
    rows = np.array([(report.errors, report.slots) for report in reports], np.float64)
    settings = f"rules:{(rules or load_rules()).name}|values:as-written|case:folded"
    counted = signature(settings, [record.references for record in records])
    return Statistics("slot errors", counted, rows, _per_slot, lower_is_better=True)


def _per_slot(sums: Doubles) -> Doubles:
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))


def _may_be_said(fact: Fact, search: ValueSearch, rules: Rules) -> bool:
    """Whether what is left of a text has words that may say a fact."""
    attribute = rules.of(fact.attribute)
    own = [rule.unsure for rule in attribute.rules if fact.value in rule.values] if attribute is not None else []
    return any(pattern is not None and search.has_rule(pattern) for pattern in own)


def _wording(fact: Fact) -> tuple[str, ...]:
    """Return what facts have in common that a text says in the same words."""
    value = normalise(fact.value)
    if value in _TRUTHS:
        return ("", fact.attribute, value)
    return (*("-" if is_negative(fact.value) else ""), *words_of(value))


def _literal_places(fact: Fact, search: ValueSearch) -> list[Span]:
    value = normalise(fact.value)
    if value in _TRUTHS:
        words = _CAMEL.sub(" ", fact.attribute)
        verb = _VERB.match(words)
        places = search.places(words[verb.end() :] if verb else words)
        is_said = _is_denied if value in ("no", "false") else _is_affirmed
        return [place for place in sorted(places) if is_said(search.rest, place)][:1]
    has_words = bool(value.strip(" ,."))  # punctuation alone cannot be left out
    return search.take_value(fact.value) if has_words else [(0, 0)]


def _around(text: str, place: Span) -> tuple[str, str]:
    """Return what is before and after a place, as far as a sentence may reach."""
    start, end = place
    return text[max(start - _SENTENCE, 0) : start], text[end : end + _SENTENCE]


def _is_affirmed(text: str, place: Span) -> bool:
    """Whether the words around those of a truth value do not negate them, as in "is not a pet friendly place"."""
    before, after = _around(text, place)
    return not (_NEGATED_BEFORE.search(before) or _NEGATED_AFTER.match(after))


def _is_denied(text: str, place: Span) -> bool:
    """Whether there is a negation in the same sentence as the words of a truth value, on the same side of "but"."""
    before, after = _around(text, place)
    before, after = _PART_END.split(before)[-1], _PART_END.split(after)[0]
    return _NEGATION.search(before) is not None or _NEGATION.search(after) is not None


def _other_values(
    record: Record, search: ValueSearch, vocabulary: ValueIndex, known: ValueIndex
) -> tuple[list[tuple[Fact, Span]], list[tuple[Fact, Span]]]:
    """Return the values of other records and the known values in what is left of a text; the longest first.

    They are removed from the text. A value of several attributes is one of an attribute that the record lacks, if
    there is one. A known value that is a part of the record's own facts does not count.
    """
    own = {(fact.attribute, fact.value) for fact in record.facts}
    present = {fact.attribute for fact in record.facts}
    names = dict.fromkeys(part for fact in record.facts for part in (fact.subject or "", fact.attribute, fact.value))
    parts = " . ".join(map(normalise, names))
    trained = {fact: None for fact in known.candidates(search.rest) if f" {normalise(fact.value)} " not in f" {parts} "}
    candidates = [
        fact
        for fact in dict.fromkeys((*trained, *vocabulary.candidates(search.rest)))
        if (fact.attribute, fact.value) not in own
    ]
    added: list[tuple[Fact, Span]] = []
    leaked: list[tuple[Fact, Span]] = []
    for fact in sorted(candidates, key=lambda fact: (-len(fact.value), fact.attribute in present)):
        for place in search.take_whole(fact.value)[:1]:
            (leaked if fact in trained else added).append((fact, place))
    return added, leaked
