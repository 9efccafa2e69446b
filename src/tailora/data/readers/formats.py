"""Which format a file has, by its content, and by its name where the content leaves it open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailora.core.errors import DataError
from tailora.data.readers import delimited, json_text, piped, tables
from tailora.data.text_files import base_suffix

FORMATS = ("e2e", "piped", "webnlg-json", "webnlg-xml", "dart", "jsonl", "json", "csv", "tsv")

_USUAL_NAMES = {"text", "texts", "prompt", "completion"}


def detect(path: Path, text: str, columns: Mapping[str, Any] | None = None) -> str:
    """Return the format of a file.

    Args:
        path: the file, for its suffix and for messages.
        text: its content.
        columns: a column mapping, which only a table or a list of plain objects can have.

    Raises:
        DataError: the format cannot be recognised.
    """
    start = text.lstrip()
    if start.startswith("<"):
        return "webnlg-xml"
    if start.startswith(("{", "[")):
        return "jsonl" if columns is not None else _json_format(text, str(path))
    line = delimited.first_line(text)
    delimiter, header = delimited.header_of(text)
    if columns is None and tables.looks_like_e2e(header):
        return "e2e"
    if columns is None and _is_piped(line, base_suffix(path)):
        return "piped"
    by_content = delimiter == "\t" or columns is not None or _USUAL_NAMES & {name.casefold() for name in header}
    if by_content or base_suffix(path) in (".csv", ".tsv"):
        return "tsv" if delimiter == "\t" else "csv"
    raise DataError("its format cannot be recognised", where=path, hint=f"name it: one of {', '.join(FORMATS)}")


def _json_format(text: str, where: str) -> str:
    """The format of a JSON file by its first object."""
    _, first = next(json_text.values(text, where), (0, None))
    if isinstance(first, dict) and "tripleset" in first:
        return "dart"
    if isinstance(first, dict) and isinstance(first.get("entries"), list):
        return "webnlg-json"
    return "jsonl"


def _is_piped(line: str, suffix: str) -> bool:
    """Whether a line has the LoRA paper's form, with or without a text."""
    facts, mark, _ = line.partition("||")
    if suffix in (".csv", ".tsv") and not mark:
        return False
    try:
        return bool(piped.parse_facts(facts))
    except ValueError:
        return bool(mark) and suffix not in (".csv", ".tsv")
