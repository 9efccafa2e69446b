"""Restaurants with the attribute names of the E2E challenge; names, values and wording are our own."""

from __future__ import annotations

import random

from sample_tasks.grammar import Facts, Task, a, both, pick, text_of

_FIRST = (
    *("Copper", "Silver", "Amber", "Crimson", "Quiet", "Hungry"),
    *("Merry", "Lucky", "Wooden", "Painted", "Little", "Velvet"),
)
_SECOND = (
    *("Kettle", "Lantern", "Spoon", "Table", "Fox", "Heron", "Anchor", "Orchard"),
    *("Garden", "Oven", "Pepper", "Barrel", "Plate", "Bell", "Swan", "Oak"),
)
_OWNERS = ["Anna", "Marco", "Helen", "Oscar", "Rosa", "Victor"]
_ROOMS = ["Kitchen", "Corner", "House", "Terrace"]
_PLACES = ["Maple", "Castle", "Mill", "Garden", "Bridge", "Tower", "Chapel", "Harbour"]
_LANDMARKS = ["Park", "Museum", "Cinema", "Hotel", "Station", "Library"]

_NAMES = [
    *(f"The {first} {_SECOND[(3 * n + k) % 16]}" for n, first in enumerate(_FIRST) for k in (0, 5, 9)),
    *(f"{first} {_SECOND[(3 * n + k) % 16]}" for n, first in enumerate(_FIRST) for k in (2, 12)),
    *(f"{owner}'s {room}" for owner in _OWNERS for room in _ROOMS),
]
_LOW, _MODERATE, _HIGH = ("cheap", "low"), ("moderate", "moderate"), ("high", "high")
_PRICE_WORD = dict((_LOW, _MODERATE, _HIGH))


def _kind(facts: Facts, adjective: str = "") -> str:
    """`a family-friendly Greek bistro`, `a place for Greek food`, `a place`."""
    food, venue = facts.get("food", ""), facts.get("eatType", "")
    words = [adjective, food if venue else "", venue or "place"]
    noun = a(" ".join(word for word in words if word))
    return f"{noun} for {food} food" if food and not venue else noun


def _near(facts: Facts) -> str:
    if "near" not in facts:
        return ""
    article = "" if facts["near"].endswith(("Park", "Station")) else "the "
    return f"near {article}{facts['near']}"


def _area(facts: Facts) -> str:
    return f"in the {facts['area']} area" if "area" in facts else ""


def _where(facts: Facts) -> str:
    return " ".join(part for part in (_area(facts), _near(facts)) if part)


def _prices(facts: Facts) -> str:
    """`low prices`, `meals for under £15`: what a place has."""
    price = facts.get("priceRange", "")
    if price in _PRICE_WORD:
        return f"{_PRICE_WORD[price]} prices"
    return f"meals for {price}" if price else ""


def _price_clause(facts: Facts) -> str:
    """`prices are low`, `a meal costs under £15`."""
    price = facts.get("priceRange", "")
    if price in _PRICE_WORD:
        return f"prices are {_PRICE_WORD[price]}"
    return f"a meal costs {price}" if price else ""


def _rating(facts: Facts) -> str:
    """`a high customer rating`, `a customer rating of 4 out of 5`: what a place has."""
    rating = facts.get("customer rating", "")
    if "out of" in rating:
        return f"a customer rating of {rating}"
    return f"{a(rating)} customer rating" if rating else ""


def _rating_clause(facts: Facts) -> str:
    rating = facts.get("customer rating", "")
    return f"its customer rating is {rating}" if rating else ""


def _family(facts: Facts, rng: random.Random) -> str:
    """A sentence of its own about families."""
    if "familyFriendly" not in facts:
        return ""
    if facts["familyFriendly"] == "yes":
        return pick(rng, "It is family-friendly", "Families with children are welcome")
    return pick(rng, "It is not family-friendly", "It is not a place for children")


def _has(facts: Facts, subject: str = "it has") -> str:
    having = both([_rating(facts), _prices(facts)])
    return f"{subject} {having}" if having else ""


def _name_first(facts: Facts, rng: random.Random) -> str:
    return text_of(f"{facts['name']} is {_kind(facts)} {_where(facts)}", _has(facts), _family(facts, rng))


def _there_is(facts: Facts, rng: random.Random) -> str:
    opening = f"there is {_kind(facts)} called {facts['name']} {_where(facts)}"
    return text_of(opening, _family(facts, rng), both([_rating_clause(facts), _price_clause(facts)]))


def _place_first(facts: Facts, rng: random.Random) -> str | None:
    if not _where(facts):
        return None
    verb = pick(rng, "you will find", "you can visit")
    having = _has(facts, "with")
    opening = f"{_where(facts)}, {verb} {facts['name']}, {_kind(facts)} {having}"
    return text_of(opening, _family(facts, rng))


def _food_first(facts: Facts, rng: random.Random) -> str | None:
    if "food" not in facts:
        return None
    venue = f", {a(facts['eatType'])}" if "eatType" in facts else ""
    opening = f"for {facts['food']} food, try {facts['name']}{venue} {_where(facts)}"
    return text_of(opening, both([_price_clause(facts), _rating_clause(facts)]), _family(facts, rng))


def _family_first(facts: Facts, rng: random.Random) -> str | None:
    if "familyFriendly" not in facts:
        return None
    adjective = "family-friendly" if facts["familyFriendly"] == "yes" else ""
    close = "" if adjective else "it is not family-friendly"
    if not adjective:
        return text_of(close.replace("it", facts["name"], 1), f"it is {_kind(facts)} {_where(facts)}", _has(facts))
    return text_of(f"{facts['name']} is {_kind(facts, adjective)} {_where(facts)}", _has(facts))


def _rating_first(facts: Facts, rng: random.Random) -> str | None:
    if "customer rating" not in facts:
        return None
    opening = f"with {_rating(facts)}, {facts['name']} is {_kind(facts)} {_where(facts)}"
    return text_of(opening, _price_clause(facts), _family(facts, rng))


def _price_first(facts: Facts, rng: random.Random) -> str | None:
    if "priceRange" not in facts:
        return None
    opening = f"{facts['name']} is {_kind(facts)} with {_prices(facts)}"
    place = f"you will find it {_where(facts)}" if _where(facts) else ""
    return text_of(opening, place, _rating_clause(facts), _family(facts, rng))


def _apposition(facts: Facts, rng: random.Random) -> str | None:
    if not _has(facts):
        return None
    comma = "," if _where(facts) or "food" in facts or "eatType" in facts else ""
    return text_of(f"{facts['name']}, {_kind(facts)} {_where(facts)}{comma} {_has(facts, 'has')}", _family(facts, rng))


TASK = Task(
    name="restaurants",
    values={
        "name": _NAMES,
        "eatType": ["restaurant", "bistro", "pub", "tea room", "wine bar", "coffee shop"],
        "food": ["Greek", "Thai", "Mexican", "Polish", "Vietnamese", "Spanish", "Turkish", "Korean", "vegetarian"],
        "priceRange": ["cheap", "moderate", "high", "under £15", "£15-25", "over £40"],
        "customer rating": ["low", "average", "high", "2 out of 5", "3 out of 5", "4 out of 5", "5 out of 5"],
        "area": ["old town", "harbour", "market square", "hillside", "railway station", "university"],
        "familyFriendly": ["yes", "no"],
        "near": [f"{place} {landmark}" for place in _PLACES for landmark in _LANDMARKS],
    },
    chance={
        "eatType": 0.8,
        "food": 0.75,
        "priceRange": 0.6,
        "customer rating": 0.6,
        "area": 0.65,
        "familyFriendly": 0.5,
        "near": 0.5,
    },
    fewest=3,
    plans=[
        (6, _name_first),
        (3, _there_is),
        (2, _place_first),
        (1.5, _food_first),
        (1.5, _family_first),
        (1.5, _rating_first),
        (1.5, _price_first),
        (1.5, _apposition),
    ],
    names="name",
    pairs=[("food", "area"), ("name", "near")],
)
