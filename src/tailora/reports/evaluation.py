"""`report.html` of an evaluation: the scores, and every text with its facts, the worst first. Plain values in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tailora.core.plural import plural
from tailora.reports.html_page import html_page
from tailora.reports.tables import Table, table_html

_STYLE = """
:root { --said: #2a7d2a; --wrong: #c22e2e; }
details { margin: .5rem 0; }
details code { overflow-wrap: anywhere; font-size: .85rem; }
article { border-top: 1px solid var(--line); padding: .8rem 0; }
article p { margin: .3rem 0; }
article .text { font-weight: 600; }
article ul { margin: .3rem 0; padding-left: 1.2rem; }
.fact { display: inline-block; border: 1px solid var(--line); border-radius: .6rem; font-size: .85rem; }
.fact { padding: 0 .5rem; margin: .1rem .2rem .1rem 0; }
.missing { border-color: var(--wrong); text-decoration: line-through; }
.added, .repeated { border: 2px dashed var(--wrong); }
mark { background: none; color: inherit; border-bottom: 2px solid var(--said); }
mark.invented { border-bottom: 2px dashed var(--wrong); }
"""
_LEGEND = (
    "Underlined: the text says a fact of the record; dashed: a fact that the record does not have. "
    "Facts that the text leaves out are struck through; facts that it adds or repeats have a dashed border."
)


@dataclass(frozen=True)
class ScoreRow:
    """A line of the table of scores, as strings.

    Attributes:
        name: of the metric.
        value: the score, or a dash for one that could not be computed.
        interval: its 95% interval; empty for a score that could not be computed.
        how: its signature, or the reason why it could not be computed.
    """

    name: str
    value: str
    interval: str
    how: str


@dataclass(frozen=True)
class Item:
    """A text with the facts of its record.

    Attributes:
        id: of the record.
        text: as the system wrote it.
        facts: (attribute, value, state), the state "said", "missing", "repeated" or "added".
        marks: (start, end, fact, whether the record lacks it) of each mention in the text, in their order.
        references: some of the record's references.
        note: the text's own scores, as a string.
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
    tables: Sequence[tuple[str, Sequence[ScoreRow]]],
    items: Sequence[Item],
    more: Sequence[Table] = (),
) -> str:
    """Return the whole page; it loads nothing from elsewhere.

    Args:
        title: of the page.
        about: paragraphs under the title.
        tables: heading and lines of each table of scores.
        items: the texts to show.
        more: further tables, after those of scores.
    """
    parts = [
        *(_table(name, rows) for name, rows in tables),
        *(table_html(table, numbers=not table[0].startswith("Settings")) for table in more),
    ]
    if items:
        parts += [
            f"<h2>Texts, the worst first</h2><p class=note>{plural(len(items), 'text')}. {_LEGEND}</p>",
            *map(_article, items),
        ]
    return html_page(title, about, parts, _STYLE)


def _table(name: str, rows: Sequence[ScoreRow]) -> str:
    body = "".join(
        f"<tr><td>{escape(row.name)}</td><td>{escape(row.value)}</td><td>{escape(row.interval)}</td></tr>"
        for row in rows
    )
    head = "<tr><th>score</th><th>value</th><th>95% interval</th></tr>"
    lacking = "".join(f"<p class=note>{escape(row.name)}: {escape(row.how)}</p>" for row in rows if not row.interval)
    signatures = "".join(
        f"<p>{escape(row.name)} <code>{escape(row.how)}</code></p>" for row in rows if row.interval and row.how
    )
    details = (
        f"<details class=note><summary>How they are computed</summary>{signatures}</details>" if signatures else ""
    )
    return f"<h2>{escape(name)}</h2><div class=wide><table>{head}{body}</table></div>{lacking}{details}"


def _article(item: Item) -> str:
    facts = "".join(
        f'<span class="fact {state}" title="{state}">{escape(attribute)}: {escape(value)}</span>'
        for attribute, value, state in item.facts
    )
    references = "".join(f"<li>{escape(text)}</li>" for text in item.references)
    listed = f"<ul class=note>{references}</ul>" if references else ""
    note = "; ".join(filter(None, [f"record {item.id}", item.note]))
    return (
        f"<article><p>{facts}</p><p class=text>{_marked(item.text, item.marks)}</p>{listed}"
        f"<p class=note>{escape(note)}</p></article>"
    )


def _marked(text: str, marks: Sequence[tuple[int, int, str, bool]]) -> str:
    """Return the text as HTML with its mentions of facts marked; of two that overlap, the first."""
    parts, end = [], 0
    for first, last, fact, added in marks:
        if first >= end:
            kind = " class=invented" if added else ""
            parts += [escape(text[end:first]), f'<mark{kind} title="{escape(fact)}">{escape(text[first:last])}</mark>']
            end = last
    return "".join(parts) + escape(text[end:]) or "(no text)"
