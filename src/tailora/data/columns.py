"""Roles of table columns, and how they are written on the command line and in YAML."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from tailora.core.errors import SettingsError
from tailora.data.readers.json_text import unique_keys

ROLES = ("text", "facts", "ignore", "id", "group", "language", "subject", "prompt", "mr")
_MANY = ("facts", "ignore")
_EXAMPLE = "write ROLE=COLUMN, for example text=ref,facts=name+area,ignore=id"


def name_key(name: str) -> str:
    """Return what columns of the same name have in common, whatever its case, Unicode form and white space."""
    return " ".join(unicodedata.normalize("NFC", name).split()).casefold()


def parse_columns(texts: Sequence[str]) -> dict[str, Any]:
    """Read `text=ref,facts=name+area,ignore="row, id"`, from one flag or several.

    Several columns of one role are joined by `+`, or the role is repeated. A name that contains a comma, a plus, an
    equals sign or spaces at its ends is written in quotation marks, a quotation mark in it twice. `text=` and
    `text=none` mean that there is no such column. A text that begins with `{` is JSON: roles to column names.

    Raises:
        SettingsError: a part is not of this form, or a role is not known.
    """
    roles: dict[str, Any] = {}
    for text in texts:
        if text.lstrip().startswith("{"):
            try:
                mapping = json.loads(text, object_pairs_hook=unique_keys)
            except (ValueError, RecursionError) as error:
                raise SettingsError(f"is not valid JSON ({error})", where="columns", hint=_EXAMPLE) from error
            pairs = list(mapping.items())
        else:
            pairs = [_pair(part) for part in _split(text, ",") if part.strip()]
        for role, columns in pairs:
            if role in _MANY and isinstance(columns, list) and isinstance(roles.get(role), list):
                columns = roles[role] + columns
            elif role in roles:
                raise SettingsError(f"the role {role} is given twice", where="columns", hint="name one column for it")
            roles[role] = columns
    return roles


def check_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return a column mapping in its normal form: facts and ignore as collections, other roles as names or None.

    Raises:
        SettingsError: a role is not known, or has a value of another kind.
    """
    checked: dict[str, Any] = {}
    for role, value in columns.items():
        if role not in ROLES:
            raise SettingsError(f"there is no role {role!r}", where="columns", hint=f"the roles are {', '.join(ROLES)}")
        if role not in _MANY:
            if isinstance(value, Mapping | Sequence | set) and not isinstance(value, str):
                what = f"the role {role} takes one column, not {value!r}"
                raise SettingsError(what, where="columns", hint=_EXAMPLE)
            checked[role] = None if value is None or value == "" else _checked_name(value, role)
        elif isinstance(value, Mapping) and role == "facts":
            checked[role] = {
                _checked_name(column, role): _checked_name(attribute, f"{role}, column {column!r}")
                for column, attribute in value.items()
            }
        elif isinstance(value, Sequence) and not isinstance(value, str):
            checked[role] = tuple(_checked_name(column, role) for column in value)
        else:
            checked[role] = () if value is None else (_checked_name(value, role),)
    return checked


def _checked_name(value: Any, role: str) -> str:
    """Return the name of a column or an attribute; a number, such as a year, is a name, too."""
    if isinstance(value, bool):
        what = f"{role}: a column is named by text, not by {value}"
        hint = "put the name in quotation marks: YAML reads no, off, on and yes without them as false and true"
        raise SettingsError(what, where="columns", hint=hint)
    if not isinstance(value, str | int | float | date):
        raise SettingsError(f"{role}: {value!r} is not a name", where="columns", hint=_EXAMPLE)
    if not str(value).strip():
        raise SettingsError(f"{role}: the name is empty", where="columns", hint=_EXAMPLE)
    return str(value)


def spell_columns(columns: Mapping[str, Any]) -> str:
    """Return a column mapping as a text that `parse_columns` reads back."""
    return json.dumps(columns, ensure_ascii=False)


def show_columns(columns: Mapping[str, Any]) -> str:
    """Return a checked column mapping as it is written on the command line, for messages."""
    parts = []
    for role, value in columns.items():
        if isinstance(value, Mapping):
            names = "+".join(f"{spell_name(column)} (as {attribute})" for column, attribute in value.items())
        else:
            names = "+".join(map(spell_name, [value] if isinstance(value, str) else value or ()))
        parts.append(f"{role}={names}")
    return ", ".join(parts)


def spell_name(name: str) -> str:
    """Return a column's name as it is written on the command line."""
    plain = name == name.strip() and not set(name) & set(',+="') and name.lower() != "none"
    return name if plain and " " not in name else '"' + name.replace('"', '""') + '"'


def _pair(part: str) -> tuple[str, Any]:
    role, separator, names = part.partition("=")
    role = role.strip()
    if part.count('"') % 2:
        raise SettingsError(f"a quotation mark is not closed in {part.strip()!r}", where="columns", hint=_EXAMPLE)
    if not separator:
        raise SettingsError(f"must be ROLE=COLUMN, not {part.strip()!r}", where="columns", hint=_EXAMPLE)
    if role not in _MANY:
        bare = names.strip()
        return role, None if bare.lower() in ("", "none") else _name(bare)
    return role, [_name(name.strip()) for name in _split(names, "+") if name.strip()]


def _name(text: str) -> str:
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        return text[1:-1].replace('""', '"')
    return text


def _split(text: str, separator: str) -> list[str]:
    """Split at separators that are not within quotation marks."""
    parts, inside = [""], False
    for letter in text:
        inside ^= letter == '"'
        if letter == separator and not inside:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
