"""The scores of several systems as tables of a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from tailora.evaluation.systems_report import SystemsReport
from tailora.reports.systems import letter


def terminal_tables(report: SystemsReport) -> Iterator[Table]:
    """Yield a table for each part of the data, with scores in rows and systems in columns."""
    for scores in report.score_tables():
        table = Table(title=scores.title)
        table.add_column("score")
        for place, name in enumerate(scores.systems):
            table.add_column(Text(f"{letter(place)}. {name}"), justify="right")
        for label, cells in scores.rows:
            values = [f"{cell.value} [{cell.beats}]" if cell.beats else cell.value for cell in cells]
            table.add_row(label, *map(Text, values))
        yield table


def terminal_note(report: SystemsReport) -> str:
    """Return what the letters of the tables mean, and a warning if no difference can be significant."""
    note = f"Letters in brackets name the systems that score significantly worse ({report.test}). {report.warning}"
    return note.strip()
