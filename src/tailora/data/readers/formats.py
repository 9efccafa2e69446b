"""Detection of a file's format by its content, and by its name where the content leaves a choice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from tailora.core.errors import DataError
from tailora.data.columns import name_key
from tailora.data.readers import delimited, json_text, piped
from tailora.data.readers.meaning_representations import looks_like_e2e
from tailora.data.readers.triples import is_hub_row
from tailora.data.text_files import base_suffix, lines_of
from tailora.data.trained_reading import TrainedReading

DataFormat = Literal["e2e", "piped", "webnlg-json", "webnlg-xml", "dart", "jsonl", "json", "csv", "tsv", "text"]
FORMATS: tuple[DataFormat, ...] = get_args(DataFormat)

_USUAL_NAMES = {"text", "texts", "prompt", "completion"}
_FAMILIES = (
    frozenset(("webnlg-xml",)),
    frozenset(("webnlg-json", "dart", "jsonl", "json")),
    frozenset(("e2e", "piped", "csv", "tsv")),
)
"""Formats between which the content may leave a choice: XML, JSON, and lines."""
_WEB_PAGE = re.compile(r"\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_MARKDOWN_RULE = re.compile(r"\s*\|?(?:\s*:?-+:?\s*\|)+(?:\s*:?-+:?\s*)?")


def choose_format(
    path: Path,
    text: str,
    columns: Mapping[str, Any] | None = None,
    trained: TrainedReading | None = None,
) -> str:
    """Return the format of a file for which the user names none.

    It is detected. If the adapter's training named a format that the content may have, or if it named columns that
    a table has, that counts first.

    Args:
        path: see `detect`.
        text: see `detect`.
        columns: see `detect`.
        trained: how the adapter's training read its data.

    Raises:
        DataError: the format cannot be recognised.
    """
    if trained is not None and columns is None:
        if trained.format is not None and any({trained.format, _rough_format(text)} <= own for own in _FAMILIES):
            return trained.format
        delimiter, header = delimited.header_of(text)
        wanted = {name_key(name) for name in trained.input_columns}
        if _rough_format(text) == "csv" and wanted and wanted <= {name_key(name) for name in header}:
            return "tsv" if delimiter == "\t" else "csv"
    return detect(path, text, columns)


def detect(path: Path, text: str, columns: Mapping[str, Any] | None = None) -> str:
    """Return the format of a file.

    Args:
        path: the file, for its suffix and for messages.
        text: its content.
        columns: a column mapping, which only a table or a list of plain objects can have.

    Raises:
        DataError: the format cannot be recognised.
    """
    rough = _rough_format(text)
    if rough == "webnlg-xml":
        _refuse_web_page(path, text)
        return rough
    if rough == "json":
        return "jsonl" if columns is not None else _json_format(text, str(path))
    _refuse_markdown(path, text)
    line = delimited.first_line(text)
    delimiter, header = delimited.header_of(text)
    if columns is None and looks_like_e2e(header):
        return "e2e"
    if columns is None and _is_piped(line, base_suffix(path)):
        return "piped"
    by_content = delimiter == "\t" or columns is not None or _USUAL_NAMES & {name.casefold() for name in header}
    if by_content or base_suffix(path) in (".csv", ".tsv"):
        return "tsv" if delimiter == "\t" else "csv"
    hint = f"name it with --format: {', '.join(FORMATS)}; a file of texts alone, one per line, is `text`"
    raise DataError("its format cannot be recognised", where=path, hint=hint)


def _rough_format(text: str) -> str:
    """One format of the family that the first character decides."""
    start = text.lstrip()[:1]
    return "webnlg-xml" if start == "<" else "json" if start in ("{", "[") else "csv"


def _refuse_web_page(path: Path, text: str) -> None:
    if _WEB_PAGE.match(text):
        hint = "fetch the file itself; on GitHub and on the hub, the link to it is called raw or download"
        raise DataError("is a web page, not a data file", where=path, hint=hint)


def _refuse_markdown(path: Path, text: str) -> None:
    lines = [line for line in lines_of(text[:10000]) if line.strip()]
    if len(lines) > 1 and "|" in lines[0] and _MARKDOWN_RULE.fullmatch(lines[1]):
        what = "is a Markdown table, not a data file"
        hint = "remove the line of dashes and the bars at the line ends, or save the table as CSV"
        raise DataError(what, where=path, hint=hint)


def _json_format(text: str, where: str) -> str:
    """The format of a JSON file by its first object."""
    _, first = next(json_text.values(text, where), (0, None))
    if isinstance(first, dict) and "tripleset" in first:
        return "dart"
    if isinstance(first, dict) and (isinstance(first.get("entries"), list) or is_hub_row(first)):
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
