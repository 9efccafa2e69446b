"""Tables of strings, and sheets of such tables, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A heading, the names of the columns, and the rows: strings as they are shown."""


@dataclass(frozen=True)
class Sheet:
    """The content of a report.

    Attributes:
        title: of the report.
        about: paragraphs before the tables.
        tables: in their order.
    """

    title: str
    about: Sequence[str]
    tables: Sequence[Table]


def as_markdown(sheet: Sheet) -> str:
    """Return the sheet as a Markdown document."""
    parts = [f"# {sheet.title}", *sheet.about]
    for heading, head, rows in sheet.tables:
        lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, rows)]
        parts += [f"## {heading}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def table_html(table: Table, *, numbers: bool = True) -> str:
    """Return a table under its heading as HTML.

    Args:
        table: the table.
        numbers: all columns but the first hold numbers and are aligned to the right.
    """
    return f"<h2>{escape(table[0])}</h2>{bare_table_html(table, numbers=numbers)}"


def bare_table_html(table: Table, *, numbers: bool = True) -> str:
    """Return a table without its heading as HTML; see `table_html`."""
    _, head, rows = table
    kind = "wide" if numbers else "wide words"
    header = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='{kind}'><table><tr>{header}</tr>{body}</table></div>"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
