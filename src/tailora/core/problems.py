"""What is wrong with settings, in our own words: one problem for each field, all of them in one error."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tailora.core.errors import SettingsError
from tailora.core.fields import choices, flag, shape, wanted

_TWINS = ("data", "input")  # the records that commands learn from, and those that they write about
_SHOWN = 80  # characters of a value in an error


class Problem(NamedTuple):
    """One thing wrong with settings: the field, what is wrong, and the hint."""

    field: str
    what: str
    hint: str | None = None


class InvalidSettingsError(SettingsError):
    """Every problem of one set of settings, reported in one line.

    Args:
        problems: at least one.
        place: returns what to call a field: its name, its flag, or the file, line and key it was read from.
    """

    def __init__(self, problems: Sequence[Problem], place: Callable[[str], str] = str) -> None:
        self.problems = tuple(problems)
        first, *others = problems
        more = "".join(f"; {SettingsError(p.what, where=place(p.field), hint=p.hint)}" for p in others)
        super().__init__(first.what, where=place(first.field), hint=f"{first.hint or ''}{more}".removeprefix("; "))


class FieldError(ValueError):
    """What a validator of one field raises to give a hint as well."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.hint = hint


def problems_of(fields: Mapping[str, FieldInfo], error: ValidationError, first: str | None = None) -> list[Problem]:
    """Return one problem for each field that pydantic refused; pydantic reports each member of a union by itself.

    Args:
        fields: the fields of the settings.
        error: what pydantic raised.
        first: the field whose value follows the command without a flag, if there is one.
    """
    by_field: dict[str, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_field.setdefault(str(details["loc"][0]) if details["loc"] else "", []).append(details)
    return [_problem(fields, name, details[0], first) for name, details in by_field.items()]


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return a hint: the known name most like another, or what is said otherwise."""
    names = list(known)
    twin = name.replace(*_TWINS) if _TWINS[0] in name else name.replace(*_TWINS[::-1])
    likely = [known for known in names if name.strip("-") == _initials(known)]
    close = [twin] if twin != name and twin in names else likely or difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else otherwise


def _initials(name: str) -> str:
    """Return the first letters of a name's words: "lr" for `--learning-rate`."""
    return "".join(word[:1] for word in name.replace("_", "-").split("-"))


def shown(value: Any) -> str:
    """Return a value as an error shows it: yes and no for truth values, long ones cut."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _problem(fields: Mapping[str, FieldInfo], name: str, details: ErrorDetails, first: str | None) -> Problem:
    kind, value = details["type"], details.get("input")
    if kind == "missing" and name == first:
        return Problem(name, "is missing", "give it after the command")
    if kind == "missing":
        return Problem(name, "is missing", f"give {flag(name)} or `{name}:` in the configuration")
    if kind == "extra_forbidden" or name not in fields:
        return Problem(name, "no such setting", nearest(name, fields, "see --help for those that exist"))
    if kind in {"value_error", "assertion_error"}:
        cause = details.get("ctx", {}).get("error", details["msg"])
        return Problem(name, str(cause), getattr(cause, "hint", None))
    field, (_, *path) = fields[name], details["loc"]
    hint = _likely(field, value)
    if shape(field) == "many" and any(isinstance(step, int) for step in path):
        return Problem(name, f"each value must be {wanted(field, part='item')}, not {shown(value)}", hint)
    if shape(field) == "mapping" and path:
        part, subject = ("key", "each key") if path[-1] == "[key]" else ("item", f"the value of {path[0]!r}")
        return Problem(name, f"{subject} must be {wanted(field, part=part)}, not {shown(value)}", hint)  # type: ignore[arg-type]
    return Problem(name, f"must be {wanted(field)}, not {shown(value)}", hint)


def _likely(field: FieldInfo, value: Any) -> str | None:
    close = difflib.get_close_matches(value, choices(field), n=1) if isinstance(value, str) else []
    return f"did you mean {close[0]}?" if close else None
