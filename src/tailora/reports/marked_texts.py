"""Texts with the facts of their records, in which the parts that say a fact are marked, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tailora.reports.filters import kinds_of

STYLE = """
:root { --said: #2a7d2a; --wrong: #c22e2e; }
@media (prefers-color-scheme: dark) { :root { --said: #5fc25f; --wrong: #ff8080; } }
details { margin: .5rem 0; }
details code { overflow-wrap: anywhere; font-size: .85rem; }
article { border-top: 1px solid var(--line); padding: .8rem 0; }
article p { margin: .3rem 0; }
article .text { font-weight: 600; }
article ul { margin: .3rem 0; padding-left: 1.2rem; }
.fact { display: inline-block; border: 1px solid var(--line); border-radius: .6rem; font-size: .85rem; }
.fact { padding: 0 .5rem; margin: .1rem .2rem .1rem 0; }
.missing { border-color: var(--wrong); text-decoration: line-through; }
.added, .leaked, .repeated { border: 2px dashed var(--wrong); }
mark { background: none; color: inherit; border-bottom: 2px solid var(--said); }
mark.invented { border-bottom: 2px dashed var(--wrong); }
"""
"""Rules of CSS of these texts."""

LEGEND = (
    "Underlined: the text says a fact of the record; dashed: a fact that the record does not have. "
    "Facts that the text leaves out are struck through; facts that it adds or repeats, and values that leaked from "
    "training, have a dashed border."
)
"""What the marks mean."""


@dataclass(frozen=True)
class Item:
    """A text with the facts of its record.

    Attributes:
        id: of the record.
        text: as the system wrote it.
        facts: (attribute, value, state), the state "said", "missing", "repeated", "added" or "leaked".
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


def article(item: Item) -> str:
    """Return a text with its facts, references and note."""
    facts = "".join(
        f'<span class="fact {state}" title="{state}">{escape(attribute)}: {escape(value)}</span>'
        for attribute, value, state in item.facts
    )
    references = "".join(f"<li>{escape(text)}</li>" for text in item.references)
    listed = f"<ul class=note>{references}</ul>" if references else ""
    note = "; ".join(filter(None, [f"record {item.id}", item.note]))
    kinds = kinds_of_item(item)
    return (
        f'<article class="version" data-kinds="{kinds}"><p>{facts}</p>'
        f"<p class=text>{marked(item.text, item.marks)}</p>{listed}<p class=note>{escape(note)}</p></article>"
    )


def kinds_of_item(item: Item) -> str:
    """Return the kinds of a text for the filters; see `kinds_of`."""
    return kinds_of([state for _, _, state in item.facts])


def marked(text: str, marks: Sequence[tuple[int, int, str, bool]]) -> str:
    """Return the text as HTML with its mentions of facts marked; of two that overlap, the first."""
    parts, end = [], 0
    for first, last, fact, added in marks:
        if first >= end:
            kind = " class=invented" if added else ""
            parts += [escape(text[end:first]), f'<mark{kind} title="{escape(fact)}">{escape(text[first:last])}</mark>']
            end = last
    return "".join(parts) + escape(text[end:]) or "(no text)"
