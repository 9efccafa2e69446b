"""Meaning representations: E2E's `name[Blue Spice], eatType[pub]`, and ViGGO's, `inform(name[Celeste], esrb[T])`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from tailora.data.values import DIALOGUE_ACT, Fact

MR_COLUMNS = ("mr", "meaning_representation")
"""Usual names of the column of meaning representations, in lower case."""
MR_TEXT_COLUMNS = ("ref", "text", "texts", "human_reference", "reference", "target", "references")
"""Usual names of the column of texts, in lower case."""
E2E_CLEANED_COLUMNS = ("fixed", "orig_mr")
"""Further columns of the cleaned E2E set, which are not read."""

_ACT = re.compile(r"\s*([A-Za-z_]\w*)\s*\((.*)\)\s*", re.DOTALL)
_OPEN_ACT = re.compile(r"\s*\w+\s*\([^()\[\]]*\[")
_LISTS = ("genres", "platforms", "player_perspective")  # ViGGO's slots with several values
_ASKED = "?"  # the value of a slot that a request names without one; as punctuation, no text leaves it out
_SLOT = re.compile(r"\s*([^\[\],]+?)\s*\[(.*?)\]\s*(?:,(?=[^\[\],]+\[)|$)", re.DOTALL)


def parse_mr(mr: str) -> tuple[Fact, ...]:
    """Parse a meaning representation such as `name[Blue Spice], eatType[pub]` or `inform(name[Celeste], esrb[T])`.

    Without a dialogue act, a slot that has no value, `food[]`, makes no fact. With one, the act is the first fact, a
    slot without a value, as in `request_attribute(esrb[])`, has the value "?", and each value of a list of genres,
    platforms or perspectives is a fact.

    Raises:
        ValueError: it cannot be read; the message is the part at which reading failed.
    """
    act = _ACT.fullmatch(mr)
    if act is not None:
        return (Fact(None, DIALOGUE_ACT, act[1]), *(fact for slot in _slots(act[2]) for fact in _facts_of_act(*slot)))
    if _OPEN_ACT.match(mr):
        raise ValueError(mr[:40])
    facts = tuple(Fact(None, name, value) for name, value in _slots(mr) if value)
    if not facts:
        raise ValueError("no slot has a value")
    return facts


def holds_slots(text: str) -> bool:
    """Return whether a text has the form of a meaning representation, with or without a dialogue act."""
    act = _ACT.fullmatch(text)
    slots = text if act is None else act[2]
    return "[" in slots and slots.rstrip(" \t\r\n,").endswith("]")


def listed_attributes(facts: Iterable[Fact]) -> set[str]:
    """Return the attributes to which a meaning representation with a dialogue act gives a list of values."""
    names = [fact.attribute for fact in facts]
    return {name for name in _LISTS if names.count(name) > 1} if DIALOGUE_ACT in names else set()


def written_mr(facts: Iterable[Fact]) -> str:
    """Return facts as a meaning representation that `parse_mr` reads back."""
    act = None
    values: dict[str, list[str]] = {}
    slots: list[tuple[str, str]] = []
    for fact in facts:
        if fact.attribute == DIALOGUE_ACT:
            act = fact.value
        elif fact.attribute in _LISTS and act is not None:
            values.setdefault(fact.attribute, []).append(fact.value)
            if len(values[fact.attribute]) == 1:
                slots.append((fact.attribute, ""))
        else:
            slots.append((fact.attribute, "" if act is not None and fact.value == _ASKED else fact.value))
    inner = ", ".join(f"{name}[{', '.join(values[name]) if name in values else value}]" for name, value in slots)
    return inner if act is None else f"{act}({inner})"


def _slots(mr: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each slot; a missing value is "". A comma may follow the last one."""
    mr = mr.rstrip().removesuffix(",")
    position = 0
    while position < len(mr):
        match = _SLOT.match(mr, position)
        if match is None or _swallows(match[2]):
            raise ValueError(mr[position : position + 40])
        yield match[1], match[2].strip()
        position = match.end()


def _swallows(value: str) -> bool:
    """Return whether a value goes on after its slot ends, as where another sign than a comma separates slots."""
    end, start = value.find("]"), value.find("[")
    return end >= 0 and not 0 <= start < end


def _facts_of_act(name: str, value: str) -> Iterator[Fact]:
    values = [part.strip() for part in value.split(",")] if name in _LISTS else [value]
    return (Fact(None, name, part or _ASKED) for part in values)


def looks_like_e2e(header: Sequence[str]) -> bool:
    """Whether a header has a column of meaning representations."""
    return first_column(header, MR_COLUMNS) is not None


def first_column(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    """Return the place of the first of the wanted names that a header has, whatever its case."""
    lower = [name.strip().casefold() for name in names]
    return next((lower.index(name) for name in wanted if name in lower), None)
