"""Scores of several systems on the same records, with a test of every pair."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from tailora.core.console import as_text
from tailora.core.files import write_text
from tailora.evaluation.systems_comparison import PairDifference, SystemsComparison
from tailora.evaluation.systems_report import SystemsReport
from tailora.evaluation.systems_tables import terminal_note, terminal_tables
from tailora.metrics.statistics import Score
from tailora.reports.systems import score_table_html


@dataclass(frozen=True, eq=False, repr=False)
class SystemScores(Mapping[str, Mapping[str, Score]]):
    """Scores by the systems' and the metrics' names: `scores["ours"]["bleu"].value`.

    Attributes:
        records: how many records were scored.
        result: the content of scores.json, as `tailora evaluate A B --json` prints it.
        differences: of every pair of systems in every metric, with `p` as tested and as corrected by Holm's method.
        latex: a table of the scores in LaTeX.
    """

    records: int
    result: dict[str, Any]
    differences: Sequence[PairDifference]
    latex: str
    _scores: Mapping[str, Mapping[str, Score]]
    _tables: tuple[Table, ...]
    _note: str
    _html: str
    _page: str

    @classmethod
    def of(cls, comparison: SystemsComparison, about: Sequence[str], show: int) -> SystemScores:
        """Return the scores of a comparison; the report page has `about` at its top and `show` records."""
        report = SystemsReport(comparison)
        return cls(
            len(comparison.records),
            comparison.as_json(),
            comparison.differences,
            report.tex(),
            {name: evaluation.scores["all"] for name, evaluation in comparison.systems.items()},
            tuple(terminal_tables(report)),
            terminal_note(report),
            "".join(map(score_table_html, report.score_tables())),
            report.html(about, show),
        )

    def __getitem__(self, name: str) -> Mapping[str, Score]:
        return self._scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the report page, with the texts of all systems side by side, to an HTML file; return its path."""
        write_text(path, self._page)
        return Path(path)

    def __repr__(self) -> str:
        return as_text(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._tables
        yield self._note

    def _repr_html_(self) -> str:
        return self._html
