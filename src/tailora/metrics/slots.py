"""Which facts a text says, leaves out, repeats or makes up: slot errors, told by rules and by normalised values.

Rules for E2E-like records stand in `e2e_slots.yaml`; any other value is looked for as it stands, apart from case,
accents, punctuation and spacing. The measure reads wording, not meaning: on human texts it shows some per cent of
"errors" that are unforeseen wordings, so compare systems by it, and read single texts with care.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tailora.data.values import Fact, Record
from tailora.metrics.statistics import Floats, Statistics

_RULES_FILE = Path(__file__).with_name("e2e_slots.yaml")
_GONE = "\x00"  # stands where a mention was; no pattern reaches across it
_NEGATION = re.compile(r"\b(not|no|non|isnt|arent|doesnt|dont|never|nor|without|cannot)\b")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

Vocabulary = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class SlotReport:
    """What a text does with a record's facts.

    Attributes:
        slots: facts that were looked for.
        missing: facts that the text does not say.
        added: values of known attributes that the text says and the record does not have.
        repeated: facts said more than once, the name apart.
    """

    slots: int
    missing: tuple[Fact, ...]
    added: tuple[Fact, ...]
    repeated: tuple[Fact, ...]

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
    pattern: re.Pattern[str]
    generic: bool


@dataclass(frozen=True)
class _Attribute:
    name: str
    rules: tuple[_Rule, ...]
    closed: bool
    open: bool

    def knows(self, value: str) -> bool:
        return any(value in rule.values for rule in self.rules)


def normalise(text: str) -> str:
    """Lower the case, drop accents and apostrophes, part hyphens, and set commas and full stops as tokens.

    "It isn't family - friendly; £ 20-25." becomes "it isnt family friendly , £20 25 .".
    """
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).lower()
    text = re.sub(r"['’`´]", "", text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"\.(?!\d)|[!?]", " . ", text)
    text = re.sub(r"[,;:()]", " , ", text)
    text = re.sub(r"[^\w\s£$€.,+/%&]|_", " ", text)
    text = re.sub(r"([£$€])\s+(?=\d)", r"\1", text)
    return " ".join(text.split())


def slot_report(record: Record, text: str, vocabulary: Vocabulary | None = None) -> SlotReport:
    """Compare a text with the facts of its record.

    Args:
        record: one that has facts; a ready prompt has no slots.
        text: what was written for it.
        vocabulary: further values that attributes take, as `vocabulary_of` gives them, to find added ones.
    """
    rest = normalise(text)
    said: dict[int, int] = {}
    by_rules: dict[str, list[int]] = defaultdict(list)
    # Long values first, and literal ones before rules: "Raja Indian Cuisine" is no mention of Indian food.
    for place in sorted(range(len(record.facts)), key=lambda place: -len(record.facts[place].value)):
        fact = record.facts[place]
        attribute = _attributes().get(fact.attribute)
        if attribute is not None and attribute.knows(fact.value):
            by_rules[attribute.name].append(place)
        else:
            rest, said[place] = _take_literal(fact, rest)
    added: list[Fact] = []
    for attribute in _to_search(record):
        values = {record.facts[place].value: place for place in by_rules[attribute.name]}
        rest, mentions = _take_rules(attribute, rest)
        for rule in mentions:
            hit = [place for value, place in values.items() if value in rule.values]
            for place in hit:
                said[place] = said.get(place, 0) + (not rule.generic or place not in said)
            if not hit and not rule.generic:
                added.append(Fact(None, attribute.name, rule.usual))
    added += _added_literals(record, rest, vocabulary or {})
    missing = tuple(fact for place, fact in enumerate(record.facts) if not said.get(place))
    repeated = tuple(fact for place, fact in enumerate(record.facts) if said.get(place, 0) > 1 and not _is_open(fact))
    return SlotReport(len(record.facts), missing, tuple(dict.fromkeys(added)), repeated)


def slot_error_rate(records: Sequence[Record], texts: Sequence[str]) -> SlotErrorRate:
    """Sum the slot errors of one text for each record; values of the other records count as vocabulary."""
    vocabulary = vocabulary_of(records)
    reports = [slot_report(record, text, vocabulary) for record, text in zip(records, texts, strict=True)]
    return SlotErrorRate(
        slots=sum(report.slots for report in reports),
        errors=sum(report.errors for report in reports),
        missing=sum(len(report.missing) for report in reports),
        added=sum(len(report.added) for report in reports),
        repeated=sum(len(report.repeated) for report in reports),
    )


def slot_errors(records: Sequence[Record], texts: Sequence[str]) -> Statistics:
    """The same for intervals and comparisons: errors per fact, lower is better; records without facts count nothing."""
    vocabulary = vocabulary_of(records)
    reports = [slot_report(record, text, vocabulary) for record, text in zip(records, texts, strict=True)]
    rows = np.array([(report.errors, report.slots) for report in reports], np.float64)
    return Statistics("slot errors", "rules:e2e|values:normalised", rows, _per_slot, lower_is_better=True)


def _per_slot(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))


def vocabulary_of(records: Iterable[Record]) -> Vocabulary:
    """Return the values that occur of every attribute that the rules call closed and that no rule knows."""
    found: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for fact in record.facts:
            attribute = _attributes().get(fact.attribute)
            if attribute is not None and attribute.closed and not attribute.knows(fact.value):
                found[fact.attribute].add(fact.value)
    return {attribute: frozenset(values) for attribute, values in found.items()}


@cache
def _attributes() -> dict[str, _Attribute]:
    """Return the rules by attribute name and by alias."""
    table: dict[str, _Attribute] = {}
    for name, entry in yaml.safe_load(_RULES_FILE.read_text(encoding="utf-8"))["attributes"].items():
        rules = tuple(_rule(rule) for rule in entry.get("rules", []))
        attribute = _Attribute(name, rules, entry.get("closed", False), entry.get("open", False))
        table |= dict.fromkeys([name, *entry.get("aliases", [])], attribute)
    return table


def _rule(entry: dict[str, Any]) -> _Rule:
    listed = entry["values"]
    spaced = [value.replace("£", "£ ").replace("-", " - ") for value in listed]  # as the LoRA paper's files have them
    pattern = "|".join(f"(?:{each})" for each in entry["patterns"])
    return _Rule(
        usual=listed[0],
        values=frozenset([*listed, *spaced]),
        pattern=re.compile(rf"(?<![\w£])(?:{pattern})(?!\w)"),
        generic=entry.get("generic", False),
    )


def _to_search(record: Record) -> list[_Attribute]:
    """Return all attributes with rules for an E2E-like record, in the order of the rules; none for another record."""
    ruled = list({attribute.name: attribute for attribute in _attributes().values() if attribute.rules}.values())
    present = {_attributes()[fact.attribute].name for fact in record.facts if fact.attribute in _attributes()}
    return ruled if any(attribute.name in present for attribute in ruled) else []


def _take_rules(attribute: _Attribute, text: str) -> tuple[str, list[_Rule]]:
    mentions: list[_Rule] = []
    for rule in attribute.rules:
        text, count = rule.pattern.subn(_GONE, text)
        mentions += [rule] * count
    return text, mentions


def _take_literal(fact: Fact, text: str) -> tuple[str, int]:
    value = normalise(fact.value)
    if value in ("yes", "no", "true", "false"):
        words = normalise(_CAMEL.sub(" ", fact.attribute))
        said = _literal(words).search(text) is not None
        negated = _NEGATION.search(text) is not None
        return text, int(said and (negated or value in ("yes", "true")))
    return _literal(value).subn(_GONE, text) if value else (text, 1)


@cache
def _literal(value: str) -> re.Pattern[str]:
    """Match a normalised value, whatever commas and full stops stand in it, with or without its first article."""
    words = [re.escape(word) for word in value.split() if word not in (",", ".")]
    if len(words) > 1 and words[0] in ("the", "a", "an"):
        words = words[1:]
    return re.compile(r"(?<!\w)" + r"[\s.,]+".join(words) + r"(?!\w)")


def _added_literals(record: Record, text: str, vocabulary: Vocabulary) -> list[Fact]:
    return [
        Fact(None, attribute, value)
        for attribute, values in vocabulary.items()
        for value in sorted(values)
        if Fact(None, attribute, value) not in record.facts and _literal(normalise(value)).search(text)
    ]


def _is_open(fact: Fact) -> bool:
    attribute = _attributes().get(fact.attribute)
    return attribute is not None and attribute.open
