"""Delimited text (CSV, TSV and similar) as rows of cells."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence

from tailora.core.errors import DataError
from tailora.core.plural import plural
from tailora.data.text_files import lines_of

DELIMITERS = ",;\t|"
_HEADER_LINES = 20  # lines that a header with line ends in its cells may have
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)
QUOTED = re.compile(r'"(?:[^"]|"")*"')
"""A cell in quotation marks."""
_NEEDS_QUOTES = re.compile(r'[",;\t\r\n]')

Lines = Iterator[tuple[int, list[str]]]


def first_line(text: str) -> str:
    """Return the first line that is not empty, without the `sep=;` that Excel reads."""
    if match := _SEPARATOR_LINE.match(text):
        text = text[match.end() :]
    return next((line for line in lines_of(text) if line.strip()), "")


def header_of(text: str, delimiter: str | None = None) -> tuple[str, list[str]]:
    """Return the delimiter of a table, and the cells of its header.

    By default the delimiter is the one that splits the header most, among those that split the next line into as many
    cells if there is one. Delimiters within quotation marks do not count. A first line `sep=;`, which Excel reads,
    names the delimiter.
    """
    if match := _SEPARATOR_LINE.match(text):
        delimiter, text = delimiter or match[1], text[match.end() :]
    lines = list(itertools.islice((line for line in lines_of(text) if line.strip()), _HEADER_LINES))
    by_delimiter: dict[str, list[str]] = {}
    alike: dict[str, bool] = {}
    for mark in delimiter or DELIMITERS:
        cells, used = _header_cells(lines, mark)
        by_delimiter[mark] = cells
        alike[mark] = len(cells) > 1 and len(_cells("".join(lines[used : used + 1]), mark)) == len(cells)
    best = max(by_delimiter, key=lambda mark: (alike[mark], len(by_delimiter[mark])))
    return best, [cell.strip() for cell in by_delimiter[best]]


def rows(text: str, where: str, delimiter: str | None = None) -> Lines:
    """Yield (line of its first character, cells) of each row, the header first; empty rows are skipped.

    A row may lack cells below columns without a name at the end, which programs write for empty columns of a sheet.

    Args:
        text: the file's content.
        where: the file's name, for messages.
        delimiter: by default that of the header; see `header_of`.

    Raises:
        DataError: quotation marks do not match, a row has another number of cells than the header, or repeats it.
    """
    delimiter, _ = header_of(text, delimiter)
    first = 1
    if match := _SEPARATOR_LINE.match(text):
        text, first = text[match.end() :], 2
    # A lone quotation mark is common in TSV and would swallow rows; elsewhere it is an error.
    lines = (_literal(text, delimiter) if delimiter == "\t" else None) or _quoted(text, where, delimiter, first)
    width = named = 0
    header: list[str] = []
    for line, cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if header and cells[0].strip() == header[0] and [cell.strip() for cell in cells] == header:
            hint = "remove the line; it is left over where several files were joined"
            raise DataError("the row repeats the header", where=f"{where}:{line}", hint=hint)
        if not width:
            width, named = len(cells), _named(cells)
            header = [cell.strip() for cell in cells] if named > 1 else []
        if len(cells) < named or any(cell.strip() for cell in cells[width:]):
            raise DataError(
                f"{len(cells)} cells where the header has {width}",
                where=f"{where}:{line}",
                hint="give every row the header's columns, and quote cells that contain the delimiter",
            )
        yield line, [*cells[:width], *[""] * (width - len(cells))]


def swallowed(rows: Sequence[tuple[int, Sequence[str]]], delimiter: str) -> list[str]:
    """Return a note on the first quoted cell whose further lines look like rows, as after a lone quotation mark.

    Args:
        rows: (line, cells) of each row, the header first.
        delimiter: of the cells.
    """
    width = len(rows[0][1]) if rows else 0
    for line, cells in rows:
        for cell in cells:
            further = lines_of(cell)[1:]
            if width > 1 and further and all(own.count(delimiter) == width - 1 for own in further):
                count = plural(len(further), "line")
                what = f"the quoted cell that begins on line {line} contains {count} with as many cells as the header"
                return [f'{what}; if they are rows, write the quotation mark before them as ""']
    return []


def _header_cells(lines: Sequence[str], mark: str) -> tuple[list[str], int]:
    """Return the cells of the header, in which a quoted one may have line ends, and the number of its lines."""
    for count in range(1, len(lines) + 1):
        own = "\n".join(lines[:count])
        if own.count('"') % 2 == 0:
            cells = _cells(own, mark)
            return (cells, count) if cells else (_cells(lines[0], mark), 1)
    return _cells(lines[0], mark) if lines else [], 1


def _named(header: Sequence[str]) -> int:
    """Return the number of columns up to the last one that has a name."""
    return max((place for place, name in enumerate(header, start=1) if name.strip()), default=0)


def _cells(line: str, delimiter: str) -> list[str]:
    """Return the cells of a line, as far as they can be recognised without the following lines."""
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=delimiter != "\t"), [])
    except csv.Error:
        return []


def _quoted(text: str, where: str, delimiter: str, first: int) -> Lines:
    """Yield rows as in RFC 4180; white space before a quotation mark is ignored."""
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=delimiter, strict=True, skipinitialspace=delimiter != "\t")
    line = first
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + first
    except csv.Error as error:
        raise DataError(
            f"the row that begins here cannot be read ({error})",
            where=f"{where}:{line}",
            hint='close the quotation, and write a quotation mark inside a cell as ""',
        ) from error


def _literal(text: str, delimiter: str) -> Lines | None:
    """Return the rows of a file with one row per line; None if quoted cells span lines or contain the delimiter.

    Quotation marks stay in the texts unless the file quotes as a program does: every cell that begins with one is
    well formed, and either the whole header is quoted or every quoted cell has a reason to be.
    """
    lines = [(number, line.split(delimiter)) for number, line in enumerate(lines_of(text), start=1) if line.strip()]
    width, named = len(lines[0][1]), _named(lines[0][1])
    if any(len(cells) < named or any(cell.strip() for cell in cells[width:]) for _, cells in lines):
        return None
    opened = [cell for _, cells in lines for cell in cells if cell.startswith('"')]
    quotes = all(QUOTED.fullmatch(cell) for cell in opened) and (
        all(cell.startswith('"') for cell in lines[0][1]) or all(_NEEDS_QUOTES.search(cell[1:-1]) for cell in opened)
    )
    if not quotes:
        return iter(lines)
    return ((number, [_unquoted(cell) for cell in cells]) for number, cells in lines)


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if cell.startswith('"') else cell
