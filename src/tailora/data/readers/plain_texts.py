"""Texts without records: a line for each text, or JSON objects with a `text`."""

from __future__ import annotations

from tailora.core.errors import DataError
from tailora.data.readers import json_text
from tailora.data.text_files import lines_of
from tailora.data.values import Parsed, Reference, Row


def parse(text: str, where: str) -> Parsed:
    """Read texts, each of which is a record with an empty prompt.

    Args:
        text: the file's content: JSON objects with a `text`, or lines, of which blank ones are left out.
        where: the file's name, for messages.

    Raises:
        DataError: an object has no text.
    """
    if text.lstrip().startswith(("{", "[")):
        values = [(line, _text(value, f"{where}:{line}")) for line, value in json_text.values(text, where)]
    else:
        values = [(line, own.strip()) for line, own in enumerate(lines_of(text), start=1) if own.strip()]
    return Parsed([Row(f"{where}:{line}", (), (Reference(own),), prompt="", entry=True) for line, own in values])


def _text(value: object, where: str) -> str:
    own = value.get("text") if isinstance(value, dict) else value
    if not isinstance(own, str):
        raise DataError("has no 'text'", where=where, hint='write {"text": …}')
    return own.strip()
