"""Train connections: origin, destination, time, duration and fare."""

from __future__ import annotations

import random

from sample_tasks.grammar import Facts, Task, a, both, pick, text_of

_FIRST = ("Ash", "Brook", "Clear", "Elm", "Fern", "Green", "Hazel", "Long", "North", "Stone", "West", "Winter")
_SECOND = ("field", "ford", "ham", "port", "ton", "wick")
_TOWNS = [first + _SECOND[(n + k) % 6] for n, first in enumerate(_FIRST) for k in (0, 2, 3)]
_MINUTES = ("05", "20", "35", "50")
_DEPARTURES = [f"{hour:02d}:{minute}" for hour in range(6, 14) for minute in _MINUTES]
_ARRIVALS = [f"{hour}:{minute}" for hour in range(14, 22) for minute in _MINUTES]  # never before a departure


def _train(facts: Facts) -> str:
    return f"{facts.get('type', '')} train".strip()


def _changes(facts: Facts) -> str:
    """`runs without a change`, `needs two changes`: what a train does."""
    number = facts.get("changes", "")
    if number == "none":
        return "runs without a change"
    return f"needs {number} change{'s' if number != 'one' else ''}" if number else ""


def _ticket(facts: Facts) -> str:
    return f"a ticket costs {facts['price']}" if "price" in facts else ""


def _platform(facts: Facts) -> str:
    return f"from platform {facts['platform']}" if "platform" in facts else ""


def _rest(facts: Facts, *said: str) -> str:
    """Say what is left in one sentence: the duration, the changes, the price."""
    parts = [
        f"takes {facts['duration']}" if "duration" in facts and "duration" not in said else "",
        _changes(facts) if "changes" not in said else "",
    ]
    does = both(parts)
    clauses = [f"it {does}" if does else "", _ticket(facts) if "price" not in said else ""]
    return both(clauses)


def _arrival(facts: Facts, rng: random.Random) -> str:
    return f"it {pick(rng, 'arrives', 'gets there')} at {facts['arrival']}" if "arrival" in facts else ""


def _train_first(facts: Facts, rng: random.Random) -> str:
    opening = f"the {_train(facts)} from {facts['from']} to {facts['to']} leaves at {facts['departure']}"
    return text_of(f"{opening} {_platform(facts)}", _arrival(facts, rng), _rest(facts))


def _there_is(facts: Facts, rng: random.Random) -> str:
    opening = f"there is {a(_train(facts))} from {facts['from']} to {facts['to']} at {facts['departure']}"
    platform = f"it leaves {_platform(facts)}" if "platform" in facts else ""
    return text_of(opening, platform, _rest(facts), _arrival(facts, rng))


def _time_first(facts: Facts, rng: random.Random) -> str:
    opening = f"at {facts['departure']}, {a(_train(facts))} leaves {facts['from']} for {facts['to']} {_platform(facts)}"
    return text_of(opening, _rest(facts), _arrival(facts, rng))


def _traveller(facts: Facts, rng: random.Random) -> str:
    verb = pick(rng, "take", "you can take")
    opening = f"to get from {facts['from']} to {facts['to']}, {verb} the {facts['departure']} {_train(facts)}"
    return text_of(f"{opening} {_platform(facts)}", _arrival(facts, rng), _rest(facts))


def _arrival_first(facts: Facts, rng: random.Random) -> str | None:
    if "arrival" not in facts:
        return None
    opening = f"you will be in {facts['to']} at {facts['arrival']} if you take the {_train(facts)} from {facts['from']}"
    return text_of(f"{opening} at {facts['departure']}", _platform_sentence(facts), _rest(facts))


def _price_first(facts: Facts, rng: random.Random) -> str | None:
    if "price" not in facts:
        return None
    opening = f"for {facts['price']}, the {_train(facts)} takes you from {facts['from']} to {facts['to']}"
    leaving = f"it leaves at {facts['departure']} {_platform(facts)}"
    return text_of(opening, leaving, _arrival(facts, rng), _rest(facts, "price"))


def _duration_first(facts: Facts, rng: random.Random) -> str | None:
    if "duration" not in facts:
        return None
    opening = f"it takes {facts['duration']} from {facts['from']} to {facts['to']} by {_train(facts)}"
    leaving = f"the train leaves at {facts['departure']} {_platform(facts)}"
    return text_of(opening, leaving, _arrival(facts, rng), _rest(facts, "duration"))


def _platform_sentence(facts: Facts) -> str:
    return f"it leaves {_platform(facts)}" if "platform" in facts else ""


TASK = Task(
    name="trains",
    values={
        "from": _TOWNS,
        "to": _TOWNS,
        "type": ["express", "regional", "night", "local"],
        "departure": _DEPARTURES,
        "arrival": _ARRIVALS,
        "platform": [str(number) for number in range(1, 13)],
        "duration": ["40 minutes", "55 minutes", "one hour", "90 minutes", "two hours", "three hours"],
        "changes": ["none", "one", "two", "three"],
        "price": [f"{euros} euros" for euros in (8, 12, 15, 19, 24, 29, 36, 42, 58)],
    },
    chance={"type": 0.6, "arrival": 0.5, "platform": 0.5, "duration": 0.5, "changes": 0.5, "price": 0.5},
    fewest=4,
    plans=[
        (6, _train_first),
        (3, _there_is),
        (2, _time_first),
        (2, _traveller),
        (1.5, _arrival_first),
        (1.5, _price_first),
        (1.5, _duration_first),
    ],
    names="from",
    pairs=[("from", "to"), ("type", "changes")],
    different=("from", "to"),
)
