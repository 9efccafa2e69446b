"""The HTML page of `tailora lint`: counts, findings with examples, and the values of attributes. Plain values in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tailora.reports.html_page import html_page
from tailora.reports.marked_texts import LEGEND, STYLE, Item, article
from tailora.reports.tables import Table, bare_table_html, table_html

_STYLE = (
    STYLE
    + """
.bars { display: grid; grid-template-columns: max-content 1fr; gap: .15rem .8rem; max-width: 40rem; }
.bars span { text-align: right; font-variant-numeric: tabular-nums; }
.bars i { display: block; background: #4a7fb5; border-radius: .2rem; height: 1.1rem; min-width: 1px; }
.bars div { display: flex; gap: .5rem; align-items: center; }
td:first-child { overflow-wrap: anywhere; }
h3 { margin: 1.5rem 0 .3rem; font-size: 1.1rem; }
"""
)


@dataclass(frozen=True)
class FindingExample:
    """A finding to show.

    Attributes:
        where: the record or what else it is about.
        detail: what was noticed.
        item: the record with the text; None for a finding that is not about one record.
    """

    where: str
    detail: str
    item: Item | None


@dataclass(frozen=True)
class FindingKind:
    """The findings of one kind.

    Attributes:
        name: of the kind.
        count: how many there are.
        meaning: in one clause.
        examples: some of them.
    """

    name: str
    count: int
    meaning: str
    examples: Sequence[FindingExample]


def data_check_page(
    title: str,
    about: Sequence[str],
    kinds: Sequence[FindingKind],
    tables: Sequence[Table],
    folded: Sequence[Table],
    lengths: Mapping[str, int],
) -> str:
    """Return the whole page; it loads nothing from elsewhere.

    Args:
        title: of the page.
        about: paragraphs under the title.
        kinds: the findings.
        tables: further tables, after that of the findings.
        folded: tables after these that are shown on request.
        lengths: number of texts by their number of words, as "10-19".
    """
    rows = [[kind.name, f"{kind.count:,}", kind.meaning] for kind in kinds]
    parts = [_counts(rows) if kinds else "<p>No findings.</p>"]
    parts += [table_html(table) for table in tables]
    parts += [f"<details><summary>{escape(table[0])}</summary>{bare_table_html(table)}</details>" for table in folded]
    parts += [_bars(lengths)] if lengths else []
    shown = [kind for kind in kinds if kind.examples]
    if shown:
        parts.append(f"<h2>Examples</h2><p class=note>{LEGEND}</p>")
    for kind in shown:
        count = f"{len(kind.examples)} of {kind.count:,}" if len(kind.examples) < kind.count else f"{kind.count:,}"
        parts.append(f"<h3>{escape(kind.name)}</h3><p class=note>{escape(kind.meaning)}; {count} shown</p>")
        parts += [_example(example) for example in kind.examples]
    return html_page(title, about, parts, _STYLE)


def _counts(rows: Sequence[Sequence[str]]) -> str:
    """Return the table of findings, whose last column wraps."""
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{count}</td><td style='white-space:normal'>{escape(meaning)}</td></tr>"
        for name, count, meaning in rows
    )
    head = "<tr><th>finding</th><th>count</th><th>meaning</th></tr>"
    return f"<h2>Findings</h2><div class='wide words'><table>{head}{body}</table></div>"


def _bars(lengths: Mapping[str, int]) -> str:
    most = max(lengths.values())
    bars = "".join(
        f"<span>{escape(words)}</span><div><i style='width:{70 * count / most:.1f}%'></i>{count:,}</div>"
        for words, count in lengths.items()
    )
    return f"<h2>Words per text</h2><div class=bars>{bars}</div>"


def _example(example: FindingExample) -> str:
    if example.item is None:
        return f"<article><p>{escape(example.where)}: {escape(example.detail)}</p></article>"
    return article(example.item)
