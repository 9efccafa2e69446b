"""A slot-filling baseline for E2E-like records: fixed sentences that state every fact once, without training.

A trained system should beat it in more than copying: its texts are complete, correct and plain.
"""

from __future__ import annotations

from tailora.data.values import Record

_NAMES = {"Type": "eatType", "price": "priceRange", "family friendly": "familyFriendly", "rating": "customer rating"}
_SAID = ("name", "eatType", "food", "priceRange", "customer rating", "area", "familyFriendly", "near")


def fill(record: Record) -> str:
    """Return the text of a record; attributes that E2E does not have are said as "Its <attribute> is <value>."."""
    facts = {_NAMES.get(fact.attribute, fact.attribute): fact.value for fact in record.facts}
    name = facts.get("name", "It")
    sentences = [" ".join([f"{name} is {_kind(facts)}", *_where(facts)])]
    having = _having(facts)
    if having:
        sentences.append(f"It has {having}")
    if "familyFriendly" in facts:
        sentences.append(f"It is {'' if facts['familyFriendly'] == 'yes' else 'not '}family-friendly")
    sentences += [f"Its {attribute} is {value}" for attribute, value in facts.items() if attribute not in _SAID]
    return " ".join(f"{sentence}." for sentence in sentences)


def _kind(facts: dict[str, str]) -> str:
    venue = facts.get("eatType", "place")
    food = facts.get("food", "")
    serving = (
        f" that serves {food if food[:1].isupper() and food != 'Fast food' else food.lower()} food" if food else ""
    )
    if food.lower().endswith(" food"):
        serving = serving.removesuffix(" food")
    return f"{'an' if venue[:1].lower() in 'aeiou' else 'a'} {venue}{serving}"


def _where(facts: dict[str, str]) -> list[str]:
    area, near = facts.get("area"), facts.get("near")
    return [*([f"in the {area} area"] if area else []), *([f"near {near}"] if near else [])]


def _having(facts: dict[str, str]) -> str:
    price, rating = facts.get("priceRange", ""), facts.get("customer rating", "")
    parts = []
    if price:
        article = "an" if price[:1].lower() in "aeiou" else "a"
        parts.append(f"{article} {price} price range" if price.isalpha() else f"a price range of {price}")
    if rating:
        article = "an" if rating[:1].lower() in "aeiou" else "a"
        parts.append(f"{article} {rating} customer rating" if rating.isalpha() else f"a customer rating of {rating}")
    return " and ".join(parts)
