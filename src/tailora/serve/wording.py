"""Errors of the user in the words of the HTTP API: fields of requests and settings of the server instead of flags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from tailora.core.fields import choices
from tailora.serve.schema.adapters import LoadBody, UnloadBody
from tailora.serve.schema.chat import ChatBody
from tailora.serve.schema.completions import CompletionBody
from tailora.serve.schema.files import FileBody
from tailora.serve.schema.records import RecordsBody
from tailora.serve.schema.responses import ResponsesBody
from tailora.serve.schema.tokens import DetokenizeBody, TokenizeBody
from tailora.serve.settings import ServeSettings

BODIES = (
    *(ChatBody, CompletionBody, DetokenizeBody, FileBody, LoadBody),
    *(RecordsBody, ResponsesBody, TokenizeBody, UnloadBody),
)
FIELDS = frozenset(name for body in BODIES for name in body.model_fields)
"""Names of the fields of all requests."""
_FLAG = re.compile(
    r"--(?P<name>[a-z][a-z0-9_-]*)(?: (?P<role>\w+)=(?P<column>\"(?:[^\"]|\"\")*\"|[^\s,;)]+)| (?P<word>\w+))?"
)
_PLACE = re.compile(r"(?P<field>\w+)(\[\d+\])*")


def field_of(where: str | None) -> str | None:
    """Return the place of an error if it is a field of a request, or an entry of one such as `records[0]`."""
    match = _PLACE.fullmatch(where or "")
    return where if match is not None and match["field"] in FIELDS else None


def in_api_words(text: str, renamed: Mapping[str, str] | None = None) -> str:
    """Return a part of a message in which flags are fields of requests or settings of the server.

    Args:
        text: the part.
        renamed: what the API calls names that are other ones elsewhere in Tailora.
    """
    text = _FLAG.sub(lambda flag: _words(flag) or f"`{_name(flag)}`{_word(flag)}", text)
    return _renamed(text, renamed or {})


def hint_in_api_words(hint: str, renamed: Mapping[str, str] | None = None) -> str:
    """Return a hint likewise; without the clauses that advise what neither a request nor a server has."""
    clauses = [clause for clause in hint.split("; ") if all(map(_words, _FLAG.finditer(clause)))]
    return in_api_words("; ".join(clauses), renamed)


def _words(flag: re.Match[str]) -> str | None:
    """Return a flag and its value as a field of a request or as a setting of the server; None if it is neither."""
    name, role = _name(flag), flag["role"]
    if name in FIELDS and role is not None:
        column = flag["column"]
        column = column[1:-1].replace('""', '"') if column.startswith('"') else column
        return f'"{name}": {json.dumps({role: column}, ensure_ascii=False)}'
    if name in FIELDS:
        return f"`{name}`{_word(flag)}"
    field = ServeSettings.model_fields.get(name)
    if field is None:
        return None
    if flag["word"] in choices(field):
        return f"the server's setting `{name}: {flag['word']}`"
    return f"the server's setting `{name}`{_word(flag)}"


def _name(flag: re.Match[str]) -> str:
    return flag["name"].replace("-", "_")


def _word(flag: re.Match[str]) -> str:
    """Return what follows a flag and is not known to be its value."""
    return f" {flag['word']}" if flag["word"] else ""


def _renamed(text: str, renamed: Mapping[str, str]) -> str:
    return re.sub(r"\b\w+\b", lambda word: renamed.get(word[0], word[0]), text)
