"""Which facts a text says, leaves out, repeats or makes up: slot errors, told by rules and by normalised values.

Rules for E2E-like records are in `e2e_slots.yaml`; any other value is looked for as it is written, apart from case,
punctuation and spacing. Accents count, except where leaving them out cannot turn one word into another: see
`value_search.ValueSearch`. The measure reads wording, not meaning: on human texts it shows some per cent of
"errors" that are unforeseen wordings, so compare systems by it, and read single texts with care.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from tailora.core.errors import DataError
from tailora.data.values import Fact, Record
from tailora.metrics.spelling import Place
from tailora.metrics.statistics import Floats, Statistics, signature
from tailora.metrics.value_search import RulePattern, ValueSearch, normalise

_RULES_FILE = Path(__file__).with_name("e2e_slots.yaml")
_NEGATION = re.compile(r"\b(not|no|non|isnt|arent|doesnt|dont|never|nor|without|cannot)\b")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

Vocabulary = Mapping[str, frozenset[str]]


class Mention(NamedTuple):
    """A place where a text says something.

    Attributes:
        start: of its first letter in the text.
        end: after its last letter.
        fact: what it says; one of the record's own, or one that was added.
        added: whether the record lacks it.
    """

    start: int
    end: int
    fact: Fact
    added: bool


@dataclass(frozen=True, slots=True)
class SlotReport:
    """What a text does with a record's facts.

    Attributes:
        slots: facts that were looked for.
        missing: facts that the text does not say.
        added: values of known attributes that the text says and the record does not have.
        repeated: facts said more than once, the name apart.
        mentions: where it says what, in its order.
    """

    slots: int
    missing: tuple[Fact, ...]
    added: tuple[Fact, ...]
    repeated: tuple[Fact, ...]
    mentions: tuple[Mention, ...] = ()

    @property
    def errors(self) -> int:
        """Missing, added and repeated facts; a wrong value in the place of the right one counts once."""
        missing = {fact.attribute for fact in self.missing}
        return len(self.missing) + len(self.repeated) + sum(fact.attribute not in missing for fact in self.added)


@dataclass(frozen=True, slots=True)
class SlotErrorRate:
    """Slot errors over many texts; `value` is errors per slot, from 0, and may pass 1."""

    slots: int
    errors: int
    missing: int
    added: int
    repeated: int

    @property
    def value(self) -> float:
        """Errors per slot."""
        return self.errors / self.slots if self.slots else 0.0


@dataclass(frozen=True)
class _Rule:
    usual: str
    values: frozenset[str]
    pattern: RulePattern
    generic: bool


@dataclass(frozen=True)
class _Attribute:
    name: str
    rules: tuple[_Rule, ...]
    closed: bool
    open: bool

    def knows(self, value: str) -> bool:
        return any(value in rule.values for rule in self.rules)


def slot_report(
    record: Record, text: str, vocabulary: Vocabulary | None = None, rules: Rules | None = None
) -> SlotReport:
    """Compare a text with the facts of its record.

    Args:
        record: one that has facts; a ready prompt has no slots.
        text: what was written for it.
        vocabulary: further values that attributes take, as `vocabulary_of` gives them, to find added ones.
        rules: how texts say values; by default the bundled ones.
    """
    rules = rules or load_rules()

    def known() -> Iterator[str]:
        for values in (vocabulary or {}).values():
            yield from values

    names = [name for fact in record.facts for name in (fact.value, fact.subject) if name is not None]
    search = ValueSearch(text, names, known)
    said: dict[int, list[Place]] = {}
    by_rules: dict[str, list[int]] = defaultdict(list)
    # Long values first, and literal ones before rules: "Raja Indian Cuisine" is no mention of Indian food.
    for place in sorted(range(len(record.facts)), key=lambda place: -len(record.facts[place].value)):
        fact = record.facts[place]
        attribute = rules.of(fact.attribute)
        if attribute is not None and attribute.knows(fact.value):
            by_rules[attribute.name].append(place)
        else:
            said[place] = _literal_places(fact, search)
    added: list[tuple[Fact, Place]] = []
    for attribute in rules.to_search(record):
        values = {record.facts[place].value: place for place in by_rules[attribute.name]}
        for rule in attribute.rules:
            hit = [place for value, place in values.items() if value in rule.values]
            for span in search.take_rule(rule.pattern):
                for place in hit:
                    if not rule.generic or not said.get(place):
                        said.setdefault(place, []).append(span)
                if not hit and not rule.generic:
                    added.append((Fact(None, attribute.name, rule.usual), span))
    added += _added_literals(record, search, vocabulary or {})
    missing = tuple(fact for place, fact in enumerate(record.facts) if not said.get(place))
    often = [fact for place, fact in enumerate(record.facts) if len(said.get(place, ())) > 1]
    repeated = tuple(fact for fact in often if not rules.is_open(fact))
    own = [(record.facts[place], span, False) for place, spans in said.items() for span in spans]
    found = [(fact, span, True) for fact, span in added]
    mentions = [
        Mention(*ends, fact, extra) for fact, span, extra in own + found if (ends := search.origin(span)) is not None
    ]
    unique = tuple(dict.fromkeys(fact for fact, _ in added))
    return SlotReport(len(record.facts), missing, unique, repeated, tuple(sorted(mentions, key=lambda m: m[:2])))


def slot_reports(records: Sequence[Record], texts: Sequence[str], rules: Rules | None = None) -> list[SlotReport]:
    """The report of each text; values of the other records count as vocabulary."""
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
    )


def slot_errors(records: Sequence[Record], texts: Sequence[str], rules: Rules | None = None) -> Statistics:
    """The same for intervals and comparisons: errors per fact, lower is better; records without facts count nothing."""
    reports = slot_reports(records, texts, rules)
    rows = np.array([(report.errors, report.slots) for report in reports], np.float64)
    settings = f"rules:{(rules or load_rules()).name}|values:as-written|case:folded"
    counted = signature(settings, [record.references for record in records])
    return Statistics("slot errors", counted, rows, _per_slot, lower_is_better=True)


def _per_slot(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))


def vocabulary_of(records: Iterable[Record], rules: Rules | None = None) -> Vocabulary:
    """Return the values that occur of every attribute that the rules call closed and that no rule knows."""
    rules = rules or load_rules()
    found: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for fact in record.facts:
            attribute = rules.of(fact.attribute)
            if attribute is not None and attribute.closed and not attribute.knows(fact.value):
                found[fact.attribute].add(fact.value)
    return {attribute: frozenset(values) for attribute, values in found.items()}


@dataclass(frozen=True)
class Rules:
    """How texts say values: groups of attributes, each searched where a record has one of its attributes.

    Attributes:
        name: told in signatures.
        groups: attributes by name and by alias.
    """

    name: str
    groups: tuple[Mapping[str, _Attribute], ...]

    def of(self, attribute: str) -> _Attribute | None:
        """What the rules say of an attribute."""
        return next((group[attribute] for group in self.groups if attribute in group), None)

    def is_open(self, fact: Fact) -> bool:
        """Whether a fact may be said often, as a name is."""
        attribute = self.of(fact.attribute)
        return attribute is not None and attribute.open

    def to_search(self, record: Record) -> list[_Attribute]:
        """The attributes with rules that such a record can have, in the order of the rules."""
        names = {fact.attribute for fact in record.facts}
        found: list[_Attribute] = []
        for group in self.groups:
            ruled = list({attribute.name: attribute for attribute in group.values() if attribute.rules}.values())
            present = {group[name].name for name in names if name in group}
            found += ruled if any(attribute.name in present for attribute in ruled) else []
        return found


@cache
def load_rules(path: Path | None = None) -> Rules:
    """The bundled rules, and those of a file of the same form before them.

    Raises:
        DataError: the file cannot be read, or is not of that form.
    """
    own = _group(_RULES_FILE)
    if path is None:
        return Rules("e2e", (own,))
    more = _group(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    # An attribute that the file redefines is the file's alone.
    left = {name: attribute for name, attribute in own.items() if attribute.name not in more}
    return Rules(f"e2e+{digest}", (more, left))


def _group(path: Path) -> dict[str, _Attribute]:
    table: dict[str, _Attribute] = {}
    hint = "write it as docs/evaluate.md shows"
    try:
        for name, entry in yaml.safe_load(path.read_text(encoding="utf-8"))["attributes"].items():
            rules = tuple(_rule(rule) for rule in entry.get("rules", []))
            attribute = _Attribute(str(name), rules, bool(entry.get("closed")), bool(entry.get("open")))
            table |= dict.fromkeys([str(name), *map(str, entry.get("aliases", []))], attribute)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot be read ({reason})", where=path, hint="name a file of slot rules") from error
    except re.error as error:
        raise DataError(f"{error.pattern!r} is no regular expression: {error.msg}", where=path, hint=hint) from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError("is no file of slot rules", where=path, hint=hint) from error
    return table


def _rule(entry: dict[str, Any]) -> _Rule:
    listed = [str(value) for value in entry["values"]]
    spaced = [value.replace("£", "£ ").replace("-", " - ") for value in listed]  # as the LoRA paper's files have them
    for each in entry["patterns"]:
        re.compile(each)  # so that a mistake is reported with its own pattern
    pattern = "|".join(f"(?:{each})" for each in entry["patterns"])
    return _Rule(
        usual=listed[0],
        values=frozenset([*listed, *spaced]),
        pattern=RulePattern(pattern),
        generic=bool(entry.get("generic")),
    )


def _literal_places(fact: Fact, search: ValueSearch) -> list[Place]:
    value = normalise(fact.value)
    if value in ("yes", "no", "true", "false"):
        words = search.places(_CAMEL.sub(" ", fact.attribute))
        negated = _NEGATION.search(search.rest) is not None
        return words[:1] if negated or value in ("yes", "true") else []
    return search.take_value(fact.value) if value else [(0, 0)]


def _added_literals(record: Record, search: ValueSearch, vocabulary: Vocabulary) -> list[tuple[Fact, Place]]:
    own = {(fact.attribute, fact.value) for fact in record.facts}
    return [
        (Fact(None, attribute, value), places[0])
        for attribute, values in vocabulary.items()
        for value in sorted(values)
        if (attribute, value) not in own and (places := search.places(value))
    ]
