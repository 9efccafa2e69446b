"""Shared by the sample grammars: the task type, the assignment of values to splits, and small English helpers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Facts = dict[str, str]
Plan = Callable[[Facts, random.Random], str | None]
"""A sentence plan: says all facts in an order of its own, or None where it needs a fact that is missing."""

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Task:
    """A sample task.

    Attributes:
        name: of its folder.
        values: attribute to the values it can take, in the order in which a record gives its facts.
        chance: attribute to how often a record has it; 1 where none is given.
        fewest: facts that a record has at least.
        plans: sentence plans with their weights.
        names: the attribute of whose values one in eight stands in the test split only, and one in eight in valid only.
        pairs: attribute pairs of whose combinations one in eight stands in the test split only, and one in eight in
            the valid split only.
        different: attributes that never share a value.
    """

    name: str
    values: Mapping[str, Sequence[str]]
    chance: Mapping[str, float]
    fewest: int
    plans: Sequence[tuple[float, Plan]]
    names: str
    pairs: Sequence[tuple[str, str]]
    different: tuple[str, ...] = ()


def draw(task: Task, rng: random.Random) -> Facts:
    """Draw the facts of a record."""
    while True:
        facts = {
            attribute: rng.choice(values)
            for attribute, values in task.values.items()
            if rng.random() < task.chance.get(attribute, 1.0)
        }
        apart = [facts[attribute] for attribute in task.different if attribute in facts]
        if len(facts) >= task.fewest and len(set(apart)) == len(apart):
            return facts


def held_out(task: Task, facts: Facts) -> list[str]:
    """Return the split of each held-out choice in the facts: of the name, and of each pair that is present."""
    splits = []
    name = task.values[task.names].index(facts[task.names])
    if name % 8 < 2:
        splits.append(("test", "valid")[name % 8])
    for first, second in task.pairs:
        if first in facts and second in facts:
            place = task.values[first].index(facts[first]) + 3 * task.values[second].index(facts[second])
            splits.append({0: "test", 1: "valid"}.get(place % 8, "train"))
    return splits


def belongs(task: Task, facts: Facts, split: str) -> bool:
    """Whether a record may stand in a split.

    In `train` no choice may be held out for another split. In `valid` and `test` at least one must be held out for
    that very split, and none may be one that training sees or that the other holds.
    """
    found = held_out(task, facts)
    return all(each == split for each in found) and (split == "train" or split in found)


def write_texts(task: Task, facts: Facts, count: int, rng: random.Random) -> list[str]:
    """Return up to `count` different texts, by different plans while there are enough; facts may allow fewer."""
    texts: list[str] = []
    for _ in range(3):  # rounds: a plan that is used again may word a detail otherwise
        waiting = list(task.plans)
        while waiting and len(texts) < count:
            number = rng.choices(range(len(waiting)), [weight for weight, _ in waiting])[0]
            text = waiting.pop(number)[1](facts, rng)
            if text is not None and text not in texts:
                texts.append(text)
    return texts


def pick(rng: random.Random, usual: str, *others: str) -> str:
    """Return the usual wording two times in three, else one of the others."""
    return usual if rng.random() < 2 / 3 else rng.choice(others)


def a(noun: str) -> str:
    """Put the indefinite article before a noun phrase."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def both(parts: Sequence[str], word: str = "and") -> str:
    """Join as English does: `a, b and c`."""
    parts = [part for part in parts if part]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}" if parts else ""


def text_of(*sentences: str) -> str:
    """Join sentences, each with a capital and a full stop; empty ones fall away."""
    tidy = (" ".join(sentence.split()).replace(" ,", ",") for sentence in sentences)
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in tidy if sentence)
