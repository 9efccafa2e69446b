"""Tables of texts, and reports made of them, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A heading, the names of the columns, and rows of texts."""


@dataclass(frozen=True)
class Sheet:
    """What a report says, before it has a form.

    Attributes:
        title: of the whole.
        about: paragraphs before the tables.
        tables: in their order.
    """

    title: str
    about: Sequence[str]
    tables: Sequence[Table]


def as_markdown(told: Sheet) -> str:
    """The sheet as a Markdown document."""
    parts = [f"# {told.title}", *told.about]
    for heading, head, rows in told.tables:
        lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, rows)]
        parts += [f"## {heading}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def table_html(table: Table) -> str:
    """A table under its heading, as HTML."""
    heading, head, rows = table
    header = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<h2>{escape(heading)}</h2><div class=wide><table><tr>{header}</tr>{body}</table></div>"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
