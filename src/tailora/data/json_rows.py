"""Rows in memory as JSON lines, so that data frames, dictionaries and columnar files are read as one format."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tailora.data.text_files import BYTE_ORDER_MARK

DOUBLE = 8
"""Bytes of a float as Python has it; shorter ones have fewer digits."""


def json_lines(rows: Iterable[Mapping[Any, Any]]) -> str:
    """Return rows as the text of a file of JSON lines, one object for each row."""
    return "".join(
        json.dumps(
            {str(key).removeprefix(BYTE_ORDER_MARK): plain_value(value) for key, value in row.items()},
            ensure_ascii=False,
        )
        + "\n"
        for row in rows
    )


def on_their_lines(text: str, rows: Sequence[int]) -> str:
    """Return lines, each on the line of its row; the lines between them are blank.

    Args:
        text: the lines.
        rows: the number of the row of each line from 0, ascending.
    """
    parts, line = [], 0
    for row, own in zip(rows, text.split("\n"), strict=False):
        parts += ["\n" * (row - line), own, "\n"]
        line = row + 1
    return "".join(parts)


def plain_value(value: Any) -> Any:
    """Return a cell as a JSON value: missing values become null, numpy numbers numbers, other objects text.

    A date and time at midnight becomes a date, as in the files that pandas writes.
    """
    if type(value).__module__ == "numpy":
        if getattr(value, "shape", ()):
            return [plain_value(item) for item in value]
        short = value.dtype.kind == "f" and value.dtype.itemsize < DOUBLE
        value = float(str(value)) if short else value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if type(value).__name__ in {"NAType", "NaTType"}:
        return None
    if isinstance(value, datetime.datetime) and value.tzinfo is None and value.time() == datetime.time():
        return str(value.date())
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    return str(value)
