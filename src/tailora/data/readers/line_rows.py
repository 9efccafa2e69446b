"""Single rows of a large file with one row on each line, without reading the file into memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path

from tailora.core.errors import DataError
from tailora.data.text_files import base_suffix, open_unpacked

_JSON, _TABLES = (".jsonl", ".ndjson"), (".csv", ".tsv")
_SEPARATOR_LINE = re.compile(rb'"?sep=.', re.IGNORECASE)


class LineRows:
    """The rows of a file in UTF-8, plain or compressed, with one row on each line.

    Args:
        path: the file.
        header: the first line is a header, which is in every text that is read.

    Attributes:
        path: the file.
        notes: none.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, *, header: bool = False) -> None:
        self.path, self._header = path, header

    @cached_property
    def count(self) -> int:
        """Number of lines that are not blank, without the header."""
        return sum(1 for _ in self._lines()) - self._header

    def read(self, rows: Sequence[int] | None = None) -> str:
        """Return rows, and the header, on the lines on which they are; see `RowSource`.

        Raises:
            DataError: a line is not UTF-8.
        """
        wanted = count() if rows is None else iter(rows)
        following, parts, at = -1 if self._header else next(wanted, None), [], 1
        for row, (number, line) in enumerate(self._lines(), start=-1 if self._header else 0):
            if following is None:
                break
            if row == following:
                parts += ["\n" * (number - at), self._decoded(line, number)]
                following, at = next(wanted, None), number + 1
        return "".join(parts)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield (number from 1, line) of each line that is not blank."""
        with open_unpacked(self.path) as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())

    def _decoded(self, line: bytes, number: int) -> str:
        try:
            return line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n") + "\n"
        except UnicodeDecodeError as error:
            what = f"byte 0x{line[error.start]:02x} is not UTF-8"
            raise DataError(what, where=f"{self.path}:{number}", hint="save the file as UTF-8") from error


def line_rows(path: Path) -> LineRows | None:
    """Return the rows of a file of JSON lines or of a table; None for a file that has to be read as a whole.

    Tables are read as a whole if a quoted cell has a line end, or if quotation marks are in cells separated by tabs.
    """
    suffix = base_suffix(path)
    try:
        if suffix in _JSON:
            with open_unpacked(path) as file:
                first = next((line for line in file if line.strip()), b"")
            return LineRows(path) if isinstance(json.loads(first.decode("utf-8-sig")), dict) else None
        return LineRows(path, header=True) if suffix in _TABLES and _has_a_row_on_each_line(path) else None
    except (DataError, OSError, ValueError, RecursionError):  # reported when the file is read as a whole
        return None


def _has_a_row_on_each_line(path: Path) -> bool:
    """Return whether no cell of a table has a line end: a line within quotation marks has an odd number of them."""
    with open_unpacked(path) as file:
        first = next((line for line in file if line.strip()), b"")
        if b"\0" in first or _SEPARATOR_LINE.match(first) or (b"\t" in first and b'"' in first):
            return False
        if b"\t" in first:
            return not any(b'"' in line for line in file)
        return first.count(b'"') % 2 == 0 and not any(line.count(b'"') % 2 for line in file)
