"""The pre-training text of `tiny`: documents about invented things of many domains, in many written forms.

Most documents hold a record (attributes and values) and a text that expresses it, in one of many notations and orders,
so that a model learns to copy arbitrary names and values from a list into fluent sentences. The others are
descriptions, questions, letters, tales and lists. Everything is drawn from a seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from tiny_domains import DOMAINS, Attribute, Domain
from tiny_prose import definition, dialogue, letter, recipe, tale, word_list
from tiny_words import SAMPLERS

END_OF_TEXT = "<|endoftext|>"
DIRECT_SHARE = 0.02
"""How many of the record documents have end-of-text itself between record and text: enough that a model can attend
across it, too few for it to expect a description there."""

_AN = re.compile(r"\b([Aa])\(n\) (?=[\"']?(\w))")


def articles(text: str) -> str:
    """Replace every `a(n)` by "a" or "an", whichever fits the next letter."""
    return _AN.sub(lambda match: match[1] + ("n " if match[2].lower() in "aeiou8" else " "), text)


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Stated:
    """A value drawn for an attribute, with the key it goes under in this document."""

    attribute: Attribute
    key: str
    value: str

    def say(self, phrases: tuple[str, ...], rng: Random) -> str:
        """One of `phrases` with the value in it; of a yes-or-no attribute, the half that holds."""
        phrase = rng.choice(phrases)
        if " // " in phrase:
            return phrase.split(" // ")[self.value == "no"]
        return phrase.replace("{}", self.value)


@dataclass(frozen=True)
class Thing:
    """One invented thing: its domain, the noun for it, the pronoun, its name and what is stated of it."""

    domain: Domain
    kind: str
    pronoun: str
    name: str
    facts: tuple[Stated, ...]


def draw_thing(rng: Random, domain: Domain | None = None, fewest: int = 0, most: int = 7) -> Thing:
    """Draw a thing with `fewest` to `most` attributes in random order."""
    domain = domain or rng.choice(DOMAINS)
    count = min(rng.randint(fewest, most), len(domain.attributes))
    facts = tuple(
        Stated(attribute, rng.choice(attribute.keys), SAMPLERS[attribute.sampler](rng))
        for attribute in rng.sample(domain.attributes, count)
    )
    name = SAMPLERS[domain.name_sampler](rng)
    return Thing(domain, rng.choice(domain.kinds), rng.choice(domain.pronouns), name, facts)


def describe(thing: Thing, rng: Random, omit: float = 0.02) -> str:
    """Say a thing's facts in one to four sentences, in a new order; each is left out with probability `omit`."""
    facts = [fact for fact in thing.facts if rng.random() >= omit]
    rng.shuffle(facts)
    sentences = [_opening(thing, facts, rng)]
    while facts:
        sentences.append(_further(thing, facts, rng))
    return articles(" ".join(sentences))


def _take(facts: list[Stated], role: Callable[[Attribute], tuple[str, ...]], most: int, rng: Random) -> list[str]:
    """Take up to `most` facts that have phrases in this role off the list and say them."""
    taken = [fact for fact in facts if role(fact.attribute)][:most]
    for fact in taken:
        facts.remove(fact)
    return [fact.say(role(fact.attribute), rng) for fact in taken]


def _predicates(attribute: Attribute) -> tuple[str, ...]:
    return attribute.predicates


def _modifiers(attribute: Attribute) -> tuple[str, ...]:
    return attribute.modifiers


def _premodifiers(attribute: Attribute) -> tuple[str, ...]:
    return attribute.premodifiers


def _adverbials(attribute: Attribute) -> tuple[str, ...]:
    return tuple(phrase for phrase in attribute.modifiers if not phrase.startswith(("that ", "who ", "where ")))


def _lead(facts: list[Stated], rng: Random) -> str:
    """One fact as the beginning of a sentence, "" where none is left that can be said so."""
    return capitalised("".join(_take(facts, _adverbials, 1, rng)))


def _noun_phrase(thing: Thing, facts: list[Stated], rng: Random, most: int = 2) -> str:
    before = _take(facts, _premodifiers, rng.choice((0, 1, 1, 2)), rng)
    after = _take(facts, _modifiers, rng.randint(0, most), rng)
    joined = (", " if len(after) > 2 else " ").join(after) if rng.random() < 0.5 else " and ".join(after)
    return f"a(n) {' '.join([*before, thing.kind])} {joined}".strip()


def _opening(thing: Thing, facts: list[Stated], rng: Random) -> str:
    """The first sentence: it names the thing and takes some facts off the list."""
    name = thing.name
    roll = rng.random()
    if roll < 0.12 and facts:
        return f"{name} {' and '.join(_take(facts, _predicates, rng.choice((1, 1, 2)), rng))}."
    if roll < 0.20 and facts:
        return f"The {thing.kind} {name} {' and '.join(_take(facts, _predicates, rng.choice((1, 2)), rng))}."
    if roll < 0.30:
        lead = _lead(facts, rng)
        if lead:
            return f"{lead}, {name} is {_noun_phrase(thing, facts, rng, 1)}."
    noun_phrase = _noun_phrase(thing, facts, rng)
    rest = _take(facts, _predicates, rng.choice((1, 1, 2)), rng) if rng.random() < 0.5 else []
    tail = " and ".join(rest)
    if roll < 0.42:
        called = rng.choice(("called", "named", "by the name of"))
        return f"There is {noun_phrase} {called} {name}" + (f" that {tail}." if tail else ".")
    if roll < 0.52 and tail:
        return f"{name}, {noun_phrase}, {tail}."
    if roll < 0.60 and tail:
        return f"{capitalised(noun_phrase)}, {name} {tail}."
    if roll < 0.68 and not tail:
        return f"{capitalised(noun_phrase)} is {name}."
    if roll < 0.68 and thing.pronoun == "It":
        return f"{capitalised(noun_phrase)} is {name}, and it {tail}."
    if roll < 0.80 and tail:
        return f"{name} is {noun_phrase} {'which' if thing.pronoun == 'It' and rng.random() < 0.4 else 'that'} {tail}."
    if tail:
        return f"{name} is {noun_phrase} and {tail}."
    return f"{name} is {noun_phrase}."


def _further(thing: Thing, facts: list[Stated], rng: Random) -> str:
    """A sentence after the first."""
    pronoun = thing.pronoun
    subject = rng.choice((pronoun, pronoun, pronoun, f"The {thing.kind}", thing.name, f"This {thing.kind}"))
    said = _take(facts, _predicates, rng.choice((1, 1, 2, 2, 3)), rng)
    body = f"{', '.join(said[:-1])} and {said[-1]}" if len(said) > 1 else said[0]
    roll = rng.random()
    if roll < 0.1:
        return (
            f"Also, {pronoun.lower()} {body}."
            if body.startswith(("is ", "was ", "has "))
            else f"{subject} also {body}."
        )
    if roll < 0.16 and len(said) == 2:
        return f"{subject} {said[0]}, but {pronoun.lower()} {said[1]}."
    if roll < 0.24:
        lead = _lead(facts, rng)
        if lead:
            return f"{lead}, {rng.choice((pronoun.lower(), thing.name))} {body}."
    return f"{subject} {body}."


@dataclass(frozen=True)
class Notation:
    """How one document writes records: the case of keys, the signs around them, the order of its entries."""

    case: Callable[[str], str]
    key_value: str
    between: str
    name_key: str
    kind_key: str
    name_first: bool
    wrap: str


def _camel(key: str) -> str:
    first, *rest = key.split(" ")
    return first + "".join(part.capitalize() for part in rest)


_CASES: tuple[Callable[[str], str], ...] = (
    str,
    str,
    str.capitalize,
    _camel,
    str.upper,
    lambda key: key.replace(" ", "_"),
)
_KEY_VALUE = (" : ", ": ", ": ", " = ", "=", " -> ", "\t", "[{}]", " is ", " - ", '": "')
_BETWEEN = (" | ", " | ", ", ", "\n", "\n", "; ", " / ", " ; ", "\n- ", " || ", " & ")
_BRIDGES = (
    "\n", " => ", " -> ", "\n\n", " || ", "\nText: ", "\nDescription: ", " # ", "\nIn words: ", "\n=> ", " ~ ",
    "\n---\n", "\nSentence: ", "\nAnswer: ", " >> ", "\n\nText\n",
)  # fmt: skip


def draw_notation(rng: Random) -> Notation:
    return Notation(
        case=rng.choice(_CASES),
        key_value=rng.choice(_KEY_VALUE),
        between=rng.choice(_BETWEEN),
        name_key=rng.choice(("name", "name", "name", "title", "called", "subject", "who", "item")),
        kind_key=rng.choice(("type", "type", "kind", "class", "category", "what")),
        name_first=rng.random() < 0.8,
        wrap=rng.choice(("  ", "  ", "  ", "  ", "[]", "()", "<>", "{}")),
    )


def entries(thing: Thing, notation: Notation, rng: Random, kind_stated: bool) -> list[tuple[str, str]]:
    """The keys and values of a thing as a document gives them."""
    rows = [(notation.case(fact.key), fact.value) for fact in thing.facts]
    if kind_stated:
        rows.insert(rng.randint(0, len(rows)), (notation.case(notation.kind_key), thing.kind))
    rows.insert(0 if notation.name_first else rng.randint(0, len(rows)), (notation.case(notation.name_key), thing.name))
    return rows


def record(thing: Thing, notation: Notation, rng: Random) -> str:
    """A thing as a list of keys and values."""
    rows = entries(thing, notation, rng, rng.random() < 0.85)
    if notation.key_value == "[{}]":
        written = [f"{key}[{value}]" for key, value in rows]
    elif notation.key_value == '": "':
        written = [f'"{key}": "{value}"' for key, value in rows]
    else:
        written = [f"{key}{notation.key_value}{value}" for key, value in rows]
    return f"{notation.wrap[0]}{notation.between.join(written)}{notation.wrap[1]}".strip(" ")


def record_then_texts(rng: Random) -> str:
    """A record and one or several texts that say it."""
    thing, notation, bridge = draw_thing(rng, fewest=1), draw_notation(rng), rng.choice(_BRIDGES)
    if rng.random() < DIRECT_SHARE:
        bridge = f"{END_OF_TEXT} "
    data = record(thing, notation, rng)
    texts = [describe(thing, rng) for _ in range(rng.choice((1, 1, 2, 3, 4)))]
    if len(texts) > 1 and rng.random() < 0.4:
        return f"{data}\n" + "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))
    joint = rng.choice(("\n", "\nor: ", " / ", bridge)) if END_OF_TEXT not in bridge else "\n"
    return data + bridge + joint.join(texts)


def several_records(rng: Random) -> str:
    """Two or three records of one domain in one notation, each with its text: later ones follow the example."""
    notation, bridge, domain = draw_notation(rng), rng.choice(_BRIDGES), rng.choice(DOMAINS)
    things = [draw_thing(rng, domain, fewest=1, most=5) for _ in range(rng.choice((2, 2, 3)))]
    return "\n\n".join(record(thing, notation, rng) + bridge + describe(thing, rng) for thing in things)


def table_then_text(rng: Random) -> str:
    """A table of things with the same columns, then a sentence for each or for one of them."""
    domain = rng.choice(DOMAINS)
    attributes = rng.sample(domain.attributes, min(rng.randint(2, 4), len(domain.attributes)))
    kind, sign = rng.choice(domain.kinds), rng.choice((" | ", "\t", ", ", " ; "))
    keys = [rng.choice(attribute.keys) for attribute in attributes]
    things = []
    for _ in range(rng.randint(2, 4)):
        facts = [Stated(a, key, SAMPLERS[a.sampler](rng)) for a, key in zip(attributes, keys, strict=True)]
        things.append(
            Thing(domain, kind, rng.choice(domain.pronouns), SAMPLERS[domain.name_sampler](rng), tuple(facts))
        )
    rows = [sign.join(["name", *keys]), *(sign.join([t.name, *(fact.value for fact in t.facts)]) for t in things)]
    told = things if rng.random() < 0.4 else [rng.choice(things)]
    return "\n".join(rows) + "\n\n" + "\n".join(f"{t.name}: {describe(t, rng)}" for t in told)


def triples_then_text(rng: Random) -> str:
    """Triples of subject, attribute and value, then the text."""
    thing = draw_thing(rng, fewest=1, most=6)
    sign = rng.choice((" | ", ", ", " : ", " -> ", "\t"))
    case = rng.choice(_CASES)
    triples = [sign.join((thing.name, case(key), value)) for key, value in
               [(fact.key, fact.value) for fact in thing.facts] + [("type", thing.kind)]]  # fmt: skip
    if rng.random() < 0.4:
        triples = [f"({triple})" for triple in triples]
    return rng.choice((" | ", "\n", " && ", "; ")).join(triples) + rng.choice(_BRIDGES) + describe(thing, rng)


def text_then_record(rng: Random) -> str:
    """A text, then the record that can be read from it."""
    thing = draw_thing(rng, fewest=1)
    return describe(thing, rng, omit=0) + rng.choice(_BRIDGES) + record(thing, draw_notation(rng), rng)


def text_alone(rng: Random) -> str:
    return describe(draw_thing(rng), rng)


def questions(rng: Random) -> str:
    """A record or a text, then questions about it with their answers."""
    thing = draw_thing(rng, fewest=2)
    source = record(thing, draw_notation(rng), rng) if rng.random() < 0.6 else describe(thing, rng, omit=0)
    asked = rng.sample(thing.facts, min(len(thing.facts), rng.randint(1, 3)))
    sign = rng.choice((("Q: ", "A: "), ("Question: ", "Answer: "), ("- ", "- ")))
    lines = []
    for fact in asked:
        subject = rng.choice((thing.name, f"the {thing.kind} {thing.name}"))
        question = rng.choice(
            (f"What is the {fact.key} of {subject}?", f"What do we know of the {fact.key} of {subject}?")
        )
        short = rng.random() < 0.5
        answer = fact.value if short else f"{thing.name} {fact.say(fact.attribute.predicates, rng)}."
        lines.append(f"{sign[0]}{question}\n{sign[1]}{answer}")
    return articles(source + "\n" + "\n".join(lines))


def paraphrases(rng: Random) -> str:
    """The same facts said twice or three times."""
    thing = draw_thing(rng, fewest=1)
    return rng.choice(("\n", "\nIn other words: ", "\n\n")).join(
        describe(thing, rng) for _ in range(rng.choice((2, 3)))
    )


FORMS: tuple[tuple[int, Callable[[Random], str]], ...] = (
    (40, record_then_texts),
    (10, several_records),
    (6, table_then_text),
    (8, triples_then_text),
    (4, text_then_record),
    (6, text_alone),
    (5, questions),
    (4, paraphrases),
    (4, tale),
    (2, letter),
    (2, dialogue),
    (2, definition),
    (2, recipe),
    (3, word_list),
)
"""How often each form of document appears, and the function that writes it."""


def documents(seed: int) -> Iterator[str]:
    """Documents without end, from a seed."""
    rng = Random(f"tiny/{seed}")
    weights, writers = zip(*FORMS, strict=True)
    while True:
        yield rng.choices(writers, weights)[0](rng)
