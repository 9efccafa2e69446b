"""Rules of how texts say the values of a record's facts: bundled ones for E2E, and users' own."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from tailora.core.errors import DataError, unreadable
from tailora.core.yaml_file import UniqueKeyLoader
from tailora.data.values import Fact, Record
from tailora.metrics.scripts import is_spaceless
from tailora.metrics.spelling import without_accents
from tailora.metrics.value_search import RulePattern, normalise

_WORD = re.compile(r"\w+")
_ARTICLES = frozenset(("the", "a", "an", ",", "."))
_RULES_FILE = Path(__file__).with_name("e2e_slots.yaml")


Vocabulary = Mapping[str, frozenset[str]]
"""Values by attribute."""


class ValueIndex(dict[str, frozenset[str]]):
    """Values of a data set by attribute, and which of them a text may contain."""

    def candidates(self, text: str) -> list[Fact]:
        """Return the values whose first word a normalised text has, and those in scripts without spaces."""
        index = self._by_word
        words = _words(text)
        return [fact for word in ("", *words, *(word[:-1] for word in words)) for fact in index.get(word, ())]

    @cached_property
    def _by_word(self) -> Mapping[str, Sequence[Fact]]:
        index: dict[str, list[Fact]] = defaultdict(list)
        for attribute, values in self.items():
            for value in sorted(values):
                text = normalise(value)
                words = [word for word in text.split() if word not in _ARTICLES] or text.split()
                first = next(iter(_WORD.findall(_plain(words[0]))), None) if words else None
                if first is not None:
                    index["" if any(map(is_spaceless, text)) else first].append(Fact(None, attribute, value))
        return index


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(_WORD.findall(_plain(text))))


def _plain(text: str) -> str:
    return without_accents(text)[0].replace("ı", "i")


@dataclass(frozen=True)
class Rule:
    """One way in which texts say some values of an attribute.

    Attributes:
        usual: the value that stands for all of them.
        values: as records write them.
        pattern: what texts say.
        generic: says a value, but is never an added or a repeated one.
        doubtful: matches across words that belong to other values. It counts if the rules cover the data, and no data
            is changed because of it.
        unsure: what texts say that may or may not mean the values; None for nothing.
    """

    usual: str
    values: frozenset[str]
    pattern: RulePattern
    generic: bool
    doubtful: bool = False
    unsure: RulePattern | None = None


@dataclass(frozen=True)
class AttributeRules:
    """The rules for one attribute.

    Attributes:
        name: as the rules call it.
        rules: in the order in which they are tried.
        closed: a value that only other records have counts as added.
        open: a value may be said more than once.
    """

    name: str
    rules: tuple[Rule, ...]
    closed: bool
    open: bool

    def knows(self, value: str) -> bool:
        """Whether a rule describes a value."""
        return any(value in rule.values for rule in self.rules)

    def spellings(self, usual: str) -> tuple[str, ...]:
        """Return the ways in which data sets write the value that stands for those of a rule."""
        return _spellings(usual) if self.knows(usual) else (usual,)


@dataclass(frozen=True)
class Rules:
    """How texts say values: groups of attributes, each searched if a record has one of its attributes.

    Attributes:
        name: for signatures.
        groups: for each group, its attributes by name and by alias.
        known: values that a system was trained on, which its texts may say although a record lacks them.
    """

    name: str
    groups: tuple[Mapping[str, AttributeRules], ...]
    known: ValueIndex = field(default_factory=lambda: ValueIndex())

    def with_known(self, values: Mapping[str, Iterable[str]]) -> Rules:
        """Return the rules for a system that was trained on values; those that a rule describes are left out."""
        known = {name: frozenset(own) - self._described(name, own) for name, own in values.items()}
        known = {name: own for name, own in known.items() if own}
        if not known:
            return self
        digest = hashlib.sha256(repr([(name, sorted(own)) for name, own in sorted(known.items())]).encode())
        return replace(self, name=f"{self.name}+known.{digest.hexdigest()[:8]}", known=ValueIndex(known))

    def _described(self, attribute: str, values: Iterable[str]) -> set[str]:
        own = self.of(attribute)
        return set() if own is None else {value for value in values if own.knows(value)}

    def of(self, attribute: str) -> AttributeRules | None:
        """Return the rules for an attribute, None if there are none."""
        return next((group[attribute] for group in self.groups if attribute in group), None)

    def is_open(self, fact: Fact) -> bool:
        """Whether a fact may be said often, as a name is."""
        attribute = self.of(fact.attribute)
        return attribute is not None and attribute.open

    def name_of(self, attribute: str) -> str:
        """Return what the rules call an attribute; its own name if they do not have it."""
        own = self.of(attribute)
        return attribute if own is None else own.name

    def covers(self, record: Record, vocabulary: Vocabulary) -> bool:
        """Whether the rules describe all values of the closed attributes that they have rules for, as they do in E2E.

        Args:
            record: the record.
            vocabulary: values of the data set that no rule describes.
        """
        own = ((fact.attribute, fact.value) for fact in record.facts)
        others = ((name, value) for name, values in vocabulary.items() for value in values)
        for name, value in (*own, *others):
            attribute = self.of(name)
            if attribute is not None and attribute.closed and attribute.rules and not attribute.knows(value):
                return False
        return True

    def is_name(self, attribute: str) -> bool:
        """Whether the values of an attribute are names: the rules have the attribute without patterns for values."""
        own = self.of(attribute)
        return own is not None and not own.rules

    def to_search(self, record: Record, vocabulary: Vocabulary) -> list[AttributeRules]:
        """Return the attributes with rules that such a record can have, in the order of the rules.

        Args:
            record: the record.
            vocabulary: its attributes are those of the data set.
        """
        names = {fact.attribute for fact in record.facts} | vocabulary.keys()
        searched: list[AttributeRules] = []
        for group in self.groups:
            ruled = list({attribute.name: attribute for attribute in group.values() if attribute.rules}.values())
            present = {group[name].name for name in names if name in group}
            searched += ruled if any(attribute.name in present for attribute in ruled) else []
        return searched


_NOT_RULES = (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What reading a YAML file of another content as rules raises."""


@cache
def load_rules(path: Path | None = None) -> Rules:
    """Return the bundled rules, after those of a file if there is one.

    Args:
        path: a YAML file as docs/evaluate.md describes it.

    Raises:
        DataError: the file cannot be read, or is not of that form.
    """
    own = _group(_RULES_FILE)
    if path is None:
        return Rules("e2e", (own,))
    more = _group(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    # The file replaces all rules for an attribute that it describes.
    left = {name: attribute for name, attribute in own.items() if attribute.name not in more}
    return Rules(f"e2e+{digest}", (more, left))


def _group(path: Path) -> dict[str, AttributeRules]:
    table: dict[str, AttributeRules] = {}
    hint = "write it as docs/evaluate.md describes"
    try:
        for name, entry in yaml.load(path.read_text(encoding="utf-8"), UniqueKeyLoader)["attributes"].items():
            rules = tuple(_rule(rule) for rule in entry.get("rules", []))
            attribute = AttributeRules(str(name), rules, bool(entry.get("closed")), bool(entry.get("open")))
            table |= dict.fromkeys([str(name), *map(str, entry.get("aliases", []))], attribute)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(unreadable(error), where=path, hint="name a file of slot rules") from error
    except re.error as error:
        raise DataError(f"{error.pattern!r} is not a regular expression: {error.msg}", where=path, hint=hint) from error
    except yaml.MarkedYAMLError as error:
        place = path if error.problem_mark is None else f"{path}:{error.problem_mark.line + 1}"
        raise DataError(f"is not valid YAML: {error.problem}", where=place, hint="correct that line") from error
    except _NOT_RULES as error:
        raise DataError("is not a file of slot rules", where=path, hint=hint) from error
    return table


def _rule(entry: dict[str, Any]) -> Rule:
    listed = [str(value) for value in entry["values"]]
    unsure = entry.get("unsure", [])
    for pattern in (*entry["patterns"], *unsure):
        re.compile(pattern)  # so that a mistake is reported with its own pattern
    return Rule(
        usual=listed[0],
        values=frozenset(written for value in listed for written in _spellings(value)),
        pattern=_joined(entry["patterns"]),
        generic=bool(entry.get("generic")),
        doubtful=bool(entry.get("doubtful")),
        unsure=_joined(unsure) if unsure else None,
    )


def _joined(patterns: Iterable[str]) -> RulePattern:
    return RulePattern("|".join(f"(?:{pattern})" for pattern in patterns))


def _spellings(value: str) -> tuple[str, ...]:
    """Return a value as it is and, if that differs, as the LoRA paper's files have it."""
    return tuple(dict.fromkeys((value, value.replace("£", "£ ").replace("-", " - "))))


def vocabulary_of(records: Iterable[Record], rules: Rules | None = None) -> ValueIndex:
    """Return the attributes of records that have rules, and those of their values that no rule describes.

    Values of attributes that are not closed are left out.
    """
    rules = rules or load_rules()
    occurring: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for fact in record.facts:
            attribute = rules.of(fact.attribute)
            if attribute is None:
                continue
            values = occurring[fact.attribute]
            if attribute.closed and not attribute.knows(fact.value):
                values.add(fact.value)
    return ValueIndex({attribute: frozenset(values) for attribute, values in occurring.items()})
