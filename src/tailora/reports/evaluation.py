"""`report.html` of an evaluation: the scores, and every text beside its facts, the worst first. Plain values in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tailora.reports.tables import Table, table_html

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --said: #2a7d2a; --wrong: #c22e2e; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
article { border-top: 1px solid var(--line); padding: .8rem 0; }
article p { margin: .3rem 0; }
.note, .references { opacity: .75; font-size: .9rem; }
.fact { display: inline-block; border: 1px solid var(--line); border-radius: .6rem; font-size: .85rem; }
.fact { padding: 0 .5rem; margin: .1rem .2rem .1rem 0; }
.missing { border-color: var(--wrong); text-decoration: line-through; }
.added, .repeated { border: 2px dashed var(--wrong); }
mark { background: none; color: inherit; border-bottom: 2px solid var(--said); }
mark.invented { border-bottom: 2px dashed var(--wrong); }
"""


@dataclass(frozen=True)
class Row:
    """A line of the table of scores: strings as they are shown."""

    name: str
    value: str
    interval: str
    how: str


@dataclass(frozen=True)
class Item:
    """A text with what was wrong in it.

    Attributes:
        id: of its record.
        text: as it was written.
        facts: (attribute, value, state), the state "said", "missing", "repeated" or "added".
        marks: (start, end, fact, whether it was added) of places in the text, in their order.
        references: some of the record's own texts.
        note: its scores, as they are shown.
    """

    id: str
    text: str
    facts: Sequence[tuple[str, str, str]]
    marks: Sequence[tuple[int, int, str, bool]]
    references: Sequence[str]
    note: str


def page(
    title: str,
    about: Sequence[str],
    tables: Sequence[tuple[str, Sequence[Row]]],
    items: Sequence[Item],
    more: Sequence[Table] = (),
) -> str:
    """The whole page, `more` tables after those of scores; it asks for nothing from elsewhere."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in about),
        *(_table(name, rows) for name, rows in tables),
        *map(table_html, more),
        f"<h2>Texts, the worst first</h2><p class=note>{len(items)} shown. Underlined: where the text says a "
        "fact, dashed where the record lacks it. Facts that the text does not say are struck out; those it adds or "
        "says again have a dashed border.</p>",
        *map(_article, items),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(name: str, rows: Sequence[Row]) -> str:
    body = "".join(
        f"<tr><td>{escape(row.name)}</td><td>{escape(row.value)}</td><td>{escape(row.interval)}</td>"
        f'<td class="note">{escape(row.how)}</td></tr>'
        for row in rows
    )
    head = "<tr><th>score</th><th>value</th><th>95% interval</th><th>how</th></tr>"
    return f"<h2>{escape(name)}</h2><table>{head}{body}</table>"


def _article(item: Item) -> str:
    facts = "".join(
        f'<span class="fact {state}" title="{state}">{escape(attribute)}: {escape(value)}</span>'
        for attribute, value, state in item.facts
    )
    references = "".join(f"<p class=references>{escape(text)}</p>" for text in item.references)
    return (
        f"<article><p>{facts}</p><p><b>{_marked(item.text, item.marks)}</b></p>{references}"
        f"<p class=note>record {escape(item.id)}; {escape(item.note)}</p></article>"
    )


def _marked(text: str, marks: Sequence[tuple[int, int, str, bool]]) -> str:
    """The text with its mentions of facts marked; of two that overlap, the first."""
    parts, end = [], 0
    for first, last, fact, added in marks:
        if first >= end:
            kind = " class=invented" if added else ""
            parts += [escape(text[end:first]), f'<mark{kind} title="{escape(fact)}">{escape(text[first:last])}</mark>']
            end = last
    return "".join(parts) + escape(text[end:]) or "(no text)"
