"""`report.html` of an evaluation: the scores, and every text with its facts, the worst first. Plain values in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tailora.core.plural import plural
from tailora.reports.filters import STYLE as FILTERS_STYLE
from tailora.reports.filters import script, toolbar
from tailora.reports.html_page import html_page
from tailora.reports.marked_texts import LEGEND, STYLE, Item, article, kinds_of_item
from tailora.reports.tables import Table, table_html


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
            f"<h2>Texts, the worst first</h2><p class=note>{plural(len(items), 'text')}. {LEGEND}</p>",
            toolbar(map(kinds_of_item, items)),
            *map(article, items),
            script(),
        ]
    return html_page(title, about, parts, STYLE + FILTERS_STYLE)


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
