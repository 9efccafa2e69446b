"""The fields of settings classes in words: what a field holds, in which range, and its default."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

Shape = Literal["bool", "many", "mapping", "one"]
NONE_TYPE = type(None)
_NOUNS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    Path: "a path",
    str: "text",
    bool: "yes or no",
    Any: "a value",
}


class Verbatim:
    """Marks a field of several texts, `Annotated[tuple[str, ...], Verbatim()]`, that may hold commas and white space.

    Each flag, or one text in YAML, is then one value as it is, where other fields of several texts are split at commas.
    A mapping with this mark gets the texts of its flags and interprets them in a validator.
    """


class Unset:
    """Says in the help what None means for a field: `Annotated[int | None, Unset("all")]` shows "default: all".

    Args:
        meaning: what happens where the field is not set, as a noun phrase.
    """

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning


def flag(name: str) -> str:
    """Return the flag of a field: `--batch-size` for `batch_size`."""
    return f"--{name.replace('_', '-')}"


def arms(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the one annotation itself."""
    return get_args(annotation) if get_origin(annotation) in {Union, types.UnionType} else (annotation,)


def leaves(annotation: Any) -> set[Any]:
    """Return every plain type and every `Literal` within an annotation."""
    inner = get_args(annotation)
    if not inner or get_origin(annotation) is Literal:
        return {annotation}
    return set().union(*(leaves(part) for part in inner))


def is_optional(field: FieldInfo) -> bool:
    """Return whether a field may hold None."""
    return bool({NONE_TYPE, Any} & set(arms(field.annotation)))


def is_verbatim(field: FieldInfo) -> bool:
    """Return whether a field is marked with `Verbatim`."""
    return any(isinstance(mark, Verbatim) for mark in field.metadata)


def shape(field: FieldInfo) -> Shape:
    """Return how a field takes its value: as a switch, as one value, as several, or as keys with values."""
    kinds = {get_origin(arm) or arm for arm in arms(field.annotation) if arm is not NONE_TYPE}
    if kinds == {bool}:
        return "bool"
    if kinds & {tuple, list, Sequence}:
        return "many"
    return "mapping" if kinds & {dict, Mapping} else "one"


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words to choose from for a field's value, or for each of its values; empty if any text is accepted."""
    if shape(field) == "mapping":
        return ()
    literals = [leaf for arm in arms(field.annotation) for leaf in _ordered_leaves(arm) if get_origin(leaf) is Literal]
    return tuple(dict.fromkeys(str(choice) for leaf in literals for choice in get_args(leaf)))


def metavar(field: FieldInfo) -> str:
    """Return the placeholder of a value in the help: N, X, TEXT, PATH, KEY=VALUE, or the words to choose from."""
    if shape(field) == "mapping":
        return "KEY=VALUE"
    words = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
    kinds = [
        word
        for arm in arms(field.annotation)
        for leaf in _ordered_leaves(arm)
        for word in ([words[leaf]] if leaf in words else map(str, get_args(leaf)))
    ]
    return "|".join(dict.fromkeys(kinds)) or "VALUE"


def bounds(field: FieldInfo) -> str:
    """Return the range of a field's number in words, such as "at least 1" or "from 0 to 1"; empty without one."""
    low, high = _bound(field, "ge", "gt"), _bound(field, "le", "lt")
    if low and high and low[0] == "ge" and high[0] == "le":
        return f"from {low[1]} to {high[1]}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return " and ".join(f"{words[kind]} {number}" for kind, number in filter(None, (low, high)))


def wanted(field: FieldInfo, *, part: Literal["whole", "item", "key"] = "whole") -> str:
    """Return what a field accepts, in words: "a whole number of at least 1", "linear or cosine".

    Args:
        field: the field.
        part: what to describe of a field with several values: all of it, one value, or the key of one.
    """
    kind = shape(field)
    (annotation, *_) = [arm for arm in arms(field.annotation) if arm is not NONE_TYPE]
    if kind == "bool":
        return "yes or no"
    if kind == "one":
        return _wanted_value(field.annotation, field)
    inner = get_args(annotation) or (Any, Any)
    if kind == "many":
        item = _wanted_value(inner[0], None)
        return item if part == "item" else f"a list (each item: {item})"
    if part == "key":
        return _wanted_value(inner[0], None)
    item = _wanted_value(inner[1], None)
    return item if part == "item" else f"a mapping (each value: {item})"


def default_text(field: FieldInfo) -> str:
    """Return a field's default for the help, for None and empty ones what `Unset` says; empty if there is none."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None or default in ((), [], {}):
        return next((mark.meaning for mark in reversed(field.metadata) if isinstance(mark, Unset)), "")
    if default is PydanticUndefined or default == "":
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple | list):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def help_of(field: FieldInfo) -> str:
    """Return a field's description with its range and its default, or that it is required."""
    default = default_text(field)
    notes = [bounds(field), "required" if field.is_required() else f"default: {default}" if default else ""]
    note = "; ".join(filter(None, notes))
    return f"{field.description or ''} ({note})".strip() if note else field.description or ""


def parts(field: FieldInfo, text: str) -> list[str]:
    """Return the values in one text: split at commas, but not within the braces of a regular expression's {1,2}."""
    if is_verbatim(field):
        return [text]
    return [part.strip() for part in re.split(r",(?![^{]*\})", text) if part.strip()]


def takes_none(field: FieldInfo) -> bool:
    """Return whether the word none means None in a field: the field is optional, and none is not one of its choices."""
    return is_optional(field) and "none" not in choices(field)


def _wanted_value(annotation: Any, field: FieldInfo | None) -> str:
    limits = bounds(field) if field else ""
    nouns: list[str] = []
    words: list[str] = []
    for arm in arms(annotation):
        for leaf in _ordered_leaves(arm):
            if get_origin(leaf) is Literal:
                words += map(str, get_args(leaf))
            elif leaf in (int, float) and limits:
                nouns.append(f"{_NOUNS[leaf]} {'of ' if limits.startswith('at ') else ''}{limits}")
            elif leaf is str and field and any(isinstance(m, annotated_types.MinLen) for m in field.metadata):
                nouns.append("text that is not empty")
            elif leaf is not NONE_TYPE:
                nouns.append(_NOUNS.get(leaf, "a value"))
    options = list(dict.fromkeys(nouns + words))
    return " or ".join(filter(None, (", ".join(options[:-1]), options[-1])))


def _ordered_leaves(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    if not inner or get_origin(annotation) is Literal:
        return [annotation]
    return [leaf for part in inner if part is not Ellipsis for leaf in _ordered_leaves(part)]


def _bound(field: FieldInfo, *kinds: str) -> tuple[str, str] | None:
    for mark in field.metadata:
        for kind in kinds:
            if (number := getattr(mark, kind, None)) is not None:
                return kind, str(number) if isinstance(number, int) else f"{typing.cast('float', number):g}"
    return None
