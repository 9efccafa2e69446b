"""Products of a small shop: kind, material, maker and price."""

from __future__ import annotations

import random

from sample_tasks.grammar import Facts, Task, a, both, pick, text_of

_MAKERS = ("Harlow", "Brightside", "Northway", "Linden", "Corvid", "Sunfield", "Marlow & Reed", "Tallis")
_LINES = ("Aster", "Breeze", "Comet", "Drift", "Ember", "Flint", "Grove", "Haven", "Isle", "Juniper", "Kite", "Lark")


def _kind(facts: Facts, *adjectives: str) -> str:
    """`a blue oak desk lamp`."""
    words = [*adjectives, facts.get("colour", ""), facts.get("material", ""), facts["category"]]
    return a(" ".join(word for word in words if word))


def _maker(facts: Facts) -> str:
    return f"by {facts['brand']}" if "brand" in facts else ""


def _weight(facts: Facts) -> str:
    return f"weighs {facts['weight']}" if "weight" in facts else ""


def _warranty(facts: Facts) -> str:
    return f"comes with a warranty of {facts['warranty']}" if "warranty" in facts else ""


def _price(facts: Facts) -> str:
    return f"costs {facts['price']}" if "price" in facts else ""


def _stock(facts: Facts, rng: random.Random) -> str:
    if "inStock" not in facts:
        return ""
    if facts["inStock"] == "yes":
        return pick(rng, "it is in stock", "you can have it from stock")
    return pick(rng, "it is not in stock", "at the moment it is not in stock")


def _it(*parts: str) -> str:
    does = both(parts)
    return f"it {does}" if does else ""


def _name_first(facts: Facts, rng: random.Random) -> str:
    opening = f"the {facts['name']} is {_kind(facts)} {_maker(facts)}"
    return text_of(opening, _it(_weight(facts), _price(facts), _warranty(facts)), _stock(facts, rng))


def _offer(facts: Facts, rng: random.Random) -> str | None:
    if "brand" not in facts:
        return None
    verb = pick(rng, "offers", "makes")
    opening = f"{facts['brand']} {verb} the {facts['name']}, {_kind(facts)}"
    return text_of(opening, _it(_price(facts), _weight(facts)), _it(_warranty(facts)), _stock(facts, rng))


def _price_first(facts: Facts, rng: random.Random) -> str | None:
    if "price" not in facts:
        return None
    opening = f"for {facts['price']} you get the {facts['name']}, {_kind(facts)} {_maker(facts)}"
    return text_of(opening, _stock(facts, rng), _it(_weight(facts), _warranty(facts)))


def _looking(facts: Facts, rng: random.Random) -> str:
    opening = f"if you are looking for {_kind(facts)}, try the {facts['name']} {_maker(facts)}"
    return text_of(opening, _it(_weight(facts), _warranty(facts)), _it(_price(facts)), _stock(facts, rng))


def _warranty_first(facts: Facts, rng: random.Random) -> str | None:
    if "warranty" not in facts:
        return None
    opening = f"with a warranty of {facts['warranty']}, the {facts['name']} is {_kind(facts)} {_maker(facts)}"
    return text_of(opening, _it(_price(facts), _weight(facts)), _stock(facts, rng))


def _stock_first(facts: Facts, rng: random.Random) -> str | None:
    if "inStock" not in facts:
        return None
    state = "in stock" if facts["inStock"] == "yes" else "not in stock"
    opening = f"the {facts['name']} {_maker(facts)} is {state}"
    return text_of(opening, f"it is {_kind(facts)}", _it(_price(facts), _weight(facts), _warranty(facts)))


def _there_is(facts: Facts, rng: random.Random) -> str:
    does = both([_weight(facts), _price(facts), _warranty(facts)])
    opening = f"there is {_kind(facts)} called the {facts['name']}"
    maker = f"it is made {_maker(facts)}" if "brand" in facts else ""
    return text_of(opening, maker, f"it {does}" if does else "", _stock(facts, rng))


TASK = Task(
    name="products",
    values={
        "name": [f"{line} {number}" for n, line in enumerate(_LINES) for number in (10 + n, 200 + 10 * n, 3 + n, 500)],
        "category": ["desk lamp", "armchair", "backpack", "kettle", "bookshelf", "wall clock", "toaster", "umbrella"],
        "brand": list(_MAKERS),
        "colour": ["blue", "green", "red", "black", "white", "yellow", "grey", "orange"],
        "material": ["oak", "steel", "leather", "glass", "bamboo", "cotton"],
        "weight": ["300 g", "750 g", "1.2 kg", "2 kg", "4.5 kg", "9 kg"],
        "price": ["£12", "£19.50", "£25", "£34", "£49", "£65", "£80", "£120"],
        "warranty": ["one year", "two years", "three years", "five years"],
        "inStock": ["yes", "no"],
    },
    chance={
        "brand": 0.6,
        "colour": 0.7,
        "material": 0.5,
        "weight": 0.5,
        "price": 0.6,
        "warranty": 0.45,
        "inStock": 0.5,
    },
    fewest=4,
    plans=[
        (6, _name_first),
        (3, _there_is),
        (2, _offer),
        (2, _looking),
        (1.5, _price_first),
        (1.5, _warranty_first),
        (1.5, _stock_first),
    ],
    names="name",
    pairs=[("category", "colour"), ("brand", "price")],
)
