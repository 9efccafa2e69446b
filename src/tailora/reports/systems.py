"""`report.html` of several systems: scores side by side, differences, and texts side by side. Plain values in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from tailora.core.plural import plural
from tailora.reports.filters import STYLE as FILTERS_STYLE
from tailora.reports.filters import kinds_of, script, toolbar
from tailora.reports.html_page import html_page
from tailora.reports.marked_texts import STYLE, marked
from tailora.reports.tables import Table, table_html

_STYLE = """
body { max-width: 78rem; }
.scores th, .scores td { vertical-align: top; }
.scores .best { font-weight: 700; }
.scores small, .scores sup { opacity: .75; font-weight: 400; }
.scores small { display: block; }
.scores sup { line-height: 0; }
.scores tr > :not(:first-child) { padding-left: .4rem; }
.wide th { white-space: normal; vertical-align: bottom; }
.wide th:first-child, .wide td:first-child { position: sticky; left: 0; background: Canvas; min-width: 6rem; }
details > summary h2 { display: inline; }
.fold { margin: 2rem 0; }
.versions { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: .6rem; }
.version { border: 1px solid var(--line); border-radius: .5rem; padding: .4rem .7rem .5rem; }
.version h3 { font-size: .9rem; margin: 0; opacity: .75; overflow-wrap: anywhere; }
.version p { margin: .3rem 0 0; overflow-wrap: anywhere; }
.version .text { font-weight: 400; }
.error { display: inline-block; font-size: .85rem; color: var(--wrong); margin-right: .6rem; }
article h3.id { font-size: .9rem; opacity: .75; margin: 0 0 .2rem; }
"""
_FOLDED_FROM = 12  # rows
_LEGEND = (
    "Underlined: the text says a fact of the record; dashed: a fact that the record does not have. "
    "Errors are found by rules; see the page on scores."
)


class Cell(NamedTuple):
    """A system's score.

    Attributes:
        value: the score as it is shown.
        interval: its interval; empty if there is none.
        is_best: whether no system has a better value.
        beats: labels of the systems that score significantly worse.
    """

    value: str
    interval: str
    is_best: bool
    beats: str


class ScoreTable(NamedTuple):
    """The scores of all systems on a part of the data.

    Attributes:
        title: of the table.
        systems: names of the systems.
        rows: label of each score, and a cell for each system.
    """

    title: str
    systems: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


@dataclass(frozen=True)
class SystemText:
    """The text of one system.

    Attributes:
        text: as the system wrote it.
        errors: (kind, fact) of each slot error, the kind "missing", "added", "leaked" or "repeated".
        marks: (start, end, fact, whether the record lacks it) of each mention in the text, in their order.
    """

    text: str
    errors: Sequence[tuple[str, str]]
    marks: Sequence[tuple[int, int, str, bool]]


@dataclass(frozen=True)
class SideBySide:
    """The texts of all systems about one record.

    Attributes:
        id: of the record.
        facts: of the record, as they are shown.
        versions: one for each system, in their order.
        references: some of the record's references.
    """

    id: str
    facts: Sequence[str]
    versions: Sequence[SystemText]
    references: Sequence[str]


def systems_page(
    title: str,
    about: Sequence[str],
    systems: Sequence[str],
    scores: Sequence[ScoreTable],
    tables: Sequence[Table],
    differences: Table,
    signatures: Sequence[tuple[str, str]],
    items: Sequence[SideBySide],
) -> str:
    """Return the whole page; it loads nothing from elsewhere.

    Args:
        title: of the page.
        about: paragraphs under the title.
        systems: names of the systems.
        scores: the table of each part of the data.
        tables: further tables.
        differences: of every pair of systems in each score; a long one is folded.
        signatures: label and signature of each score, or the reason why it is missing.
        items: the texts to show.
    """
    how = "".join(f"<p>{escape(name)} <code>{escape(text)}</code></p>" for name, text in signatures)
    parts = [
        *map(score_table_html, scores),
        f"<details class=note><summary>How they are computed</summary>{how}</details>",
        *map(table_html, tables),
        _folded(differences),
    ]
    if items:
        parts += [
            f"<h2>Texts side by side</h2><p class=note>{plural(len(items), 'record')}, the most errors first. "
            f"{_LEGEND}</p>",
            toolbar((_kinds(version) for item in items for version in item.versions), systems),
            *(_article(item, systems) for item in items),
            script(),
        ]
    return html_page(title, about, parts, STYLE + FILTERS_STYLE + _STYLE)


def letter(place: int) -> str:
    """Return the label of a system: A to Z, then A1 and so on."""
    return chr(ord("A") + place % 26) + (str(place // 26) if place >= 26 else "")


def score_table_html(table: ScoreTable) -> str:
    """Return the scores of all systems on a part of the data, with a heading."""
    head = "".join(f"<th>{letter(place)}.&nbsp;{escape(name)}</th>" for place, name in enumerate(table.systems))
    rows = "".join(f"<tr><td>{escape(label)}</td>{''.join(map(_cell, cells))}</tr>" for label, cells in table.rows)
    body = f"<table><tr><th>score</th>{head}</tr>{rows}</table>"
    return f"<h2>{escape(table.title)}</h2><div class='wide scores'>{body}</div>"


def _folded(table: Table) -> str:
    """Return a table that can be folded, and is if it is long."""
    heading, head, rows = table
    is_open = " open" if len(rows) <= _FOLDED_FROM else ""
    inner = table_html(("", head, rows)).removeprefix("<h2></h2>")
    return f"<details class=fold{is_open}><summary><h2>{escape(heading)}</h2></summary>{inner}</details>"


def _cell(cell: Cell) -> str:
    best = " class=best" if cell.is_best else ""
    beats = f"<sup>{escape(cell.beats)}</sup>" if cell.beats else ""
    interval = f"<small>{escape(cell.interval)}</small>" if cell.interval else ""
    return f"<td{best}>{escape(cell.value)}{beats}{interval}</td>"


def _article(item: SideBySide, systems: Sequence[str]) -> str:
    facts = "".join(f'<span class="fact">{escape(fact)}</span>' for fact in item.facts)
    versions = "".join(
        _version(version, place, name) for place, (name, version) in enumerate(zip(systems, item.versions, strict=True))
    )
    references = "".join(f"<li>{escape(text)}</li>" for text in item.references)
    listed = f"<details class=note><summary>References</summary><ul>{references}</ul></details>" if references else ""
    differ = "yes" if len({tuple(sorted(version.errors)) for version in item.versions}) > 1 else "no"
    return (
        f'<article data-differ="{differ}"><h3 class=id>record {escape(item.id)}</h3><p>{facts}</p>'
        f"<div class=versions>{versions}</div>{listed}</article>"
    )


def _version(version: SystemText, place: int, name: str) -> str:
    errors = "".join(f"<span class=error>{escape(kind)}: {escape(fact)}</span>" for kind, fact in version.errors)
    listed = f"<p>{errors}</p>" if errors else ""
    return (
        f'<section class="version" data-system="{place}" data-kinds="{_kinds(version)}">'
        f"<h3>{letter(place)}. {escape(name)}</h3>"
        f"<p class=text>{marked(version.text, version.marks)}</p>{listed}</section>"
    )


def _kinds(version: SystemText) -> str:
    return kinds_of([kind for kind, _ in version.errors])
