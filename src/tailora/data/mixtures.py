"""Several adapters with weights that write one text, as rows of data, settings and requests name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Mixture = tuple[tuple[str, float], ...]
"""Names of adapters, each once, and the factors of their effects; their sum is added to the base."""
HEAVIEST = 100
"""Largest weight of an adapter; the smallest is its negative."""
_FORMS = 'write {"e2e": 0.7, "formal": 0.3}, or [{"name": "e2e", "weight": 0.7}, …]'


class MixtureError(ValueError):
    """A mixture that cannot be read.

    Args:
        what: what is wrong, in one clause.
        hint: what to do about it.
    """

    def __init__(self, what: str, hint: str = _FORMS) -> None:
        super().__init__(what)
        self.hint = hint


def read_mixture(value: Mapping[Any, Any] | Iterable[Any]) -> Mixture:
    """Return the adapters and weights of a JSON object or list.

    Args:
        value: {name: weight}, or a list of {"name": …, "weight": …} or [name, weight]. A weight that is not given is 1.

    Raises:
        MixtureError: it has another form, is empty, names an adapter twice, or has a weight that is out of range.
    """
    pairs = list(value.items()) if isinstance(value, Mapping) else [_pair(item) for item in value]
    if not pairs:
        raise MixtureError("names no adapter")
    for name, weight in pairs:
        if not isinstance(name, str) or not name.strip():
            raise MixtureError(f"{name!r} is not the name of an adapter")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) <= HEAVIEST:
            what = f"the weight of {name!r} must be a number from -{HEAVIEST} to {HEAVIEST}, not {weight!r}"
            raise MixtureError(what, hint="correct the weight")
    mixture = tuple((name.strip(), float(weight)) for name, weight in pairs)
    names = [name for name, _ in mixture]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise MixtureError(f"the adapter {twice!r} is named twice", hint="add its weights")
    return mixture


def parse_mixture(text: str) -> Mixture:
    """Return the adapters and weights of a text such as `e2e:0.7+formal:0.3`.

    Raises:
        MixtureError: see `read_mixture`.
    """
    hint = "write ADAPTER:WEIGHT+ADAPTER:WEIGHT, for example e2e:0.7+formal:0.3"
    pairs = []
    for part in text.split("+"):
        name, colon, weight = part.rpartition(":")
        try:
            pairs.append([name, float(weight)])
        except ValueError:
            colon = ""
        if not colon:
            raise MixtureError(f"{part.strip()!r} is not an adapter with a weight", hint=hint)
    return read_mixture(pairs)


def mixture_text(mixture: Mixture) -> str:
    """Return a mixture in words, such as "0.7 e2e + 0.3 formal"."""
    return " + ".join(f"{weight:g} {name}" for name, weight in mixture)


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping) and "name" in item and item.keys() <= {"name", "weight"}:
        return item["name"], item.get("weight", 1.0)
    if isinstance(item, list | tuple) and len(item) == 2:
        return item[0], item[1]
    raise MixtureError(f"{item!r} is not an adapter with a weight")
