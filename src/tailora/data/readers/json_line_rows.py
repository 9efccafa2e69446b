"""Single rows of a large file of JSON lines, without reading the file into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path

from tailora.core.errors import DataError

_SUFFIXES = (".jsonl", ".ndjson")


class JsonLineRows:
    """The rows of an uncompressed file in UTF-8 with one JSON object on each line.

    Attributes:
        path: the file.
        notes: none.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def count(self) -> int:
        """Number of lines that are not blank."""
        return sum(1 for _ in self._lines())

    def read(self, rows: Sequence[int] | None = None) -> str:
        """Return rows as JSON lines on the lines on which they are; see `RowSource`.

        Raises:
            DataError: a line is not UTF-8.
        """
        wanted = count() if rows is None else iter(rows)
        following, parts, at = next(wanted, None), [], 1
        for row, (number, line) in enumerate(self._lines()):
            if following is None:
                break
            if row == following:
                parts += ["\n" * (number - at), self._decoded(line, number)]
                following, at = next(wanted, None), number + 1
        return "".join(parts)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield (number from 1, line) of each line that is not blank."""
        with self.path.open("rb") as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())

    def _decoded(self, line: bytes, number: int) -> str:
        try:
            return line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n") + "\n"
        except UnicodeDecodeError as error:
            what = f"byte 0x{line[error.start]:02x} is not UTF-8"
            raise DataError(what, where=f"{self.path}:{number}", hint="save the file as UTF-8") from error


def json_line_rows(path: Path) -> JsonLineRows | None:
    """Return the rows of a file of JSON lines, by its name and its first line; None for any other file."""
    if path.suffix.lower() not in _SUFFIXES:
        return None
    try:
        with path.open("rb") as file:
            first = next((line for line in file if line.strip()), b"")
        return JsonLineRows(path) if isinstance(json.loads(first.decode("utf-8-sig")), dict) else None
    except (OSError, ValueError, RecursionError):  # reported when the file is read as a whole
        return None
