"""Invalid bodies of requests: pydantic's errors as one error in plain words, which names the client's own fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError

from tailora.serve.api_error import ApiError
from tailora.serve.wording import field_of

_SHOWN = 3  # problems in one message
_NOT_AN_OBJECT = "the body is not a JSON object; send one, with `Content-Type: application/json`"
_SCALARS = ("str", "int", "float", "bool")  # what pydantic calls them in the place of an error
_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "none_required": "null",
}
_LENGTHS = {
    "too_long": ("at most", "entry", "entries"),
    "too_short": ("at least", "entry", "entries"),
    "string_too_long": ("at most", "character", "characters"),
    "string_too_short": ("at least", "character", "characters"),
}
_RULES = {
    "missing": "is missing",
    "extra_forbidden": "this field does not exist; remove it",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "int_parsing_size": "is too large a number",
    "string_unicode": "must be valid Unicode",
}


def invalid_body(error: RequestValidationError) -> ApiError:
    """Return the response to an invalid body.

    Alternatives of a field's type are joined in one problem: "must be text or a list". A problem of several fields
    begins with the one to change.
    """
    types: dict[str, list[str]] = {}
    rules: dict[str, list[str]] = {}
    for details in error.errors():
        place = _place(details, error.body)
        types.setdefault(place, []).extend(_types(details))
        rules.setdefault(place, []).extend(_rules(details, place))
    problems = []
    for place, words in types.items():
        if place and any(other.startswith((f"{place}.", f"{place}[")) for other in types):
            words = []  # another alternative of its type fits, except for what is wrong inside
            if not rules[place]:
                continue
        if _RULES["finite_number"] in rules[place]:
            words = []  # it is a number, as one alternative wants
        wanted = [] if not words else [f"must be {_either(words)}"] if place else [_NOT_AN_OBJECT]
        problems.append((place, " or ".join(dict.fromkeys((*wanted, *rules[place])))))
    message = "; ".join(f"{place}: {text}" if place else text for place, text in problems[:_SHOWN])
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    named = next((place for place, _ in problems if place), None)
    return ApiError(400, message + more, param=named or field_of(message.partition(" ")[0]))


def _types(details: Mapping[str, Any]) -> list[str]:
    """The types or values that a field accepts, if a value of another type is what is wrong."""
    if details["type"] == "literal_error":
        return str(details["ctx"]["expected"]).replace(" or ", ", ").split(", ")
    return [_TYPES[details["type"]]] if details["type"] in _TYPES else []


def _rules(details: Mapping[str, Any], place: str) -> list[str]:
    """The rule that a value breaks, if its type is right."""
    kind, context = details["type"], details.get("ctx", {})
    if _types(details):
        return []
    if kind == "json_invalid":
        return [f"the body is not valid JSON ({context['error']}); send one JSON object"]
    if kind == "missing" and not place:
        return [_NOT_AN_OBJECT]
    if kind == "value_error":
        return [str(context["error"])]
    if kind in _LENGTHS:
        return [_length(*_LENGTHS[kind], context)]
    return [_RULES.get(kind, "is not valid").format(**{name: _number(value) for name, value in context.items()})]


def _length(bound: str, one: str, several: str, context: Mapping[str, Any]) -> str:
    limit = context["max_length" if bound == "at most" else "min_length"]
    if bound == "at most" and limit == 0:
        return "must be empty"
    if bound == "at least" and limit == 1:
        return "must not be empty"
    return f"must have {bound} {limit} {one if limit == 1 else several}"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def _either(words: list[str]) -> str:
    *first, last = dict.fromkeys(word for word in words if word != "a whole number" or "a number" not in words)
    return f"{', '.join(first)} or {last}" if first else last


def _place(details: Mapping[str, Any], body: Any) -> str:
    """The path of a field in the body, without pydantic's names for the alternatives of its type."""
    path = details["loc"][1:] if details["loc"][:1] == ("body",) else details["loc"]
    kept, value = [], body
    for number, part in enumerate(path):
        inside = part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int)
        if inside:
            value = value[part]
        elif number + 1 < len(path) or not isinstance(value, dict) or "[" in str(part) or part in _SCALARS:
            continue  # the name of an alternative; a field that is absent from its object stays
        kept.append(f"[{part}]" if isinstance(part, int) else f".{part}")
    return "".join(kept).removeprefix(".")
