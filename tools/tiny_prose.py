"""Documents without a record for the pre-training of `tiny`: tales, letters, dialogues, definitions, steps, lists."""

from __future__ import annotations

from random import Random

from tiny_words import (
    ADJECTIVES,
    ADVERBS,
    DAYS,
    NOUNS,
    PREPOSITIONS,
    SAMPLERS,
    THINGS,
    VERBS_PAST,
    invented,
    person,
    phrase,
    place,
    proper_name,
)  # fmt: skip


def _object(rng: Random) -> str:
    article = rng.choice(("the", "the", "the", "a", "every", "this", "that", "no", "his", "her", "their", "our", "my"))
    noun = phrase(rng)
    return f"{'an' if article == 'a' and noun[0] in 'aeiou' else article} {noun}"


def _where(rng: Random) -> str:
    return f"{rng.choice(PREPOSITIONS)} {rng.choice((_object(rng), _object(rng), place(rng)))}"


def _sentence(rng: Random, subject: str) -> str:
    roll = rng.random()
    clause = f"{rng.choice(VERBS_PAST)} {_object(rng)}"
    if roll < 0.25:
        return f"{subject} {clause}."
    if roll < 0.45:
        return f"{subject} {rng.choice(ADVERBS)} {clause} {_where(rng)}."
    if roll < 0.6:
        return f"On {rng.choice(DAYS)}, {subject} {clause} and {rng.choice(VERBS_PAST)} {_object(rng)}."
    if roll < 0.7:
        return f"{subject} was {rng.choice(ADJECTIVES)}, but {_object(rng)} was {rng.choice(ADJECTIVES)}."
    if roll < 0.8:
        return f"There was {rng.choice(('a', 'one', 'only one'))} {rng.choice(NOUNS)} {_where(rng)}."
    if roll < 0.9:
        return f"When {subject} {clause}, {_object(rng)} {rng.choice(VERBS_PAST)} {_object(rng)}."
    return f'"{_object(rng).capitalize()} is {rng.choice(ADVERBS)} {rng.choice(ADJECTIVES)}," said {subject}.'


def tale(rng: Random) -> str:
    """A few sentences about one or two people."""
    cast = [person(rng), person(rng)]
    return " ".join(_sentence(rng, rng.choice((cast[0], cast[0], cast[1]))) for _ in range(rng.randint(2, 6)))


def letter(rng: Random) -> str:
    """A letter with its greeting and signature."""
    sender, receiver, town = person(rng), person(rng), place(rng)
    asks = rng.choice(("Could you send me", "Please bring me", "I would like to have", "We still need"))
    wished = f"{rng.choice(ADJECTIVES)} {rng.choice(THINGS)}"
    return (
        f"{town}, {SAMPLERS['date'](rng)}\n\nDear {receiver},\n\n{_sentence(rng, rng.choice((sender, 'We', 'I')))} "
        f"{asks} {rng.choice(('some', 'more', 'all the'))} {wished}? {_sentence(rng, rng.choice(('They', receiver)))} "
        f"The {wished} must be in {town} by {rng.choice(DAYS)}.\n\nYours,\n{sender}"
    )


def dialogue(rng: Random) -> str:
    """Two people asking and telling each other where something is and whose."""
    first, second = person(rng), person(rng)
    thing, site, owner = phrase(rng), place(rng), person(rng)
    return (
        f"{first}: Where is the {thing}?\n{second}: The {thing} is in {site}.\n{first}: In {site}? Whose is it?\n"
        f"{second}: It belongs to {owner}. {_sentence(rng, owner)}\n{first}: Then I will ask {owner} for the {thing}."
    )


def definition(rng: Random) -> str:
    """A word of an invented language and its meaning, with a sentence that uses it."""
    term, meaning = invented(rng, 3).lower(), phrase(rng)
    tongue = invented(rng, 3)
    label = rng.choice(("noun", "n.", "word"))
    return (
        f"{term} ({label}): {rng.choice(('a kind of', 'the name of a', 'any'))} {meaning}. "
        f'In {tongue}, "{term}" means "{meaning}". {rng.choice(("The", "Every", "This"))} {term} was '
        f"{_where(rng)}, so they said: {term}!"
    )


def recipe(rng: Random) -> str:
    """A list of parts and the steps that use them, each part once."""
    product = proper_name(rng)
    parts = [
        (str(rng.randint(1, 90)), f"{rng.choice(ADJECTIVES)} {rng.choice(THINGS)}") for _ in range(rng.randint(2, 5))
    ]
    verbs = ("Take", "Add", "Mix in", "Wash", "Cut", "Fold", "Dry", "Weigh", "Bring", "Warm")
    steps = [f"{step}. {rng.choice(verbs)} {count} {part}." for step, (count, part) in enumerate(parts, 1)]
    listed = "\n".join(f"- {part}: {count}" for count, part in parts)
    return f"How to make {product}\n{listed}\n" + "\n".join(steps) + f"\nNow {product} is ready."


def word_list(rng: Random) -> str:
    """A list of invented or ordinary words, then the same list again in another notation, as it was or turned round."""
    names = [proper_name(rng) if rng.random() < 0.7 else invented(rng, 4) for _ in range(rng.randint(2, 8))]
    label, again = rng.choice(
        (("Copy", names), ("Again", names), ("Backwards", names[::-1]), ("Sorted", sorted(names)))
    )
    first, second = rng.sample((", ", "\n", " | ", "; ", " and ", "\n- "), 2)
    return f"{first.join(names)}\n{label}: {second.join(again)}"
