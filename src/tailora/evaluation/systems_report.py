"""The reports of a comparison of systems: report.html, CSV files and a LaTeX table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from tailora.core.files import write_text
from tailora.data.values import Fact
from tailora.evaluation.groups import TITLES
from tailora.evaluation.scoring import score_texts
from tailora.evaluation.systems_comparison import LEVEL, PairDifference, SystemsComparison, too_few_draws
from tailora.metrics.slots import SlotReport, slot_reports
from tailora.metrics.suite import METRICS
from tailora.reports.latex import latex
from tailora.reports.systems import Cell, ScoreTable, SideBySide, SystemText, letter, systems_page
from tailora.reports.tables import Table

_TESTS = {"bootstrap": "paired bootstrap", "randomisation": "approximate randomisation"}


def errors_of(report: SlotReport) -> list[tuple[str, Fact]]:
    """Return the slot errors of a text: (kind, fact), the kind "missing", "added", "leaked" or "repeated"."""
    kinds = {
        "missing": report.missing,
        "added": report.added,
        "leaked": report.leaked,
        "repeated": report.repeated,
    }
    return [(kind, fact) for kind, facts in kinds.items() for fact in facts]


class SystemsReport:
    """The tables and texts of a comparison.

    Args:
        comparison: of the systems.
    """

    def __init__(self, comparison: SystemsComparison) -> None:
        self._comparison = comparison
        self._names = list(comparison.systems)
        self._letters = {name: letter(place) for place, name in enumerate(self._names)}
        rules = next(iter(comparison.systems.values())).rules
        self._reports = {
            name: slot_reports(comparison.records, evaluation.texts, rules)
            for name, evaluation in comparison.systems.items()
        }

    def save(self, folder: Path, about: Sequence[str], show: int) -> Path:
        """Write scores.json, the CSV files, scores.tex and report.html into a folder, and return the path of the last.

        Args:
            folder: where the files belong.
            about: see `html`.
            show: see `html`.
        """
        files = {
            "scores.json": json.dumps(self._comparison.as_json(), indent=2) + "\n",
            "scores.csv": self.scores_csv(),
            "differences.csv": self.differences_csv(),
            "groups.csv": self.groups_csv(),
            "texts.csv": self.texts_csv(),
            "scores.tex": self.tex(),
            "report.html": self.html(about, show),
        }
        for name, content in files.items():
            write_text(folder / name, content)
        return folder / "report.html"

    def html(self, about: Sequence[str], show: int) -> str:
        """Return report.html.

        Args:
            about: paragraphs at the top.
            show: number of records whose texts are shown, the most errors first.
        """
        errors = [self._errors()] if self._has_facts else []
        tables = [*errors, *self._groups()]
        notes = [*about, self.note]
        items = self._items(show)
        scores, differences = self.score_tables(), self._differences()
        return systems_page("Evaluation", notes, self._names, scores, tables, differences, self._signatures, items)

    def tex(self) -> str:
        """Return scores.tex."""
        return latex(self.score_tables(), self._signatures, self.note)

    @property
    def test(self) -> str:
        """The test of differences in words."""
        test, draws = _TESTS[self._comparison.test], self._comparison.draws
        return f"{test}, {draws:,} draws, p < {LEVEL} after Holm's correction for the pairs of systems"

    @property
    def warning(self) -> str:
        """A sentence if the draws are too few for any difference to be significant, otherwise ""."""
        return too_few_draws(self._comparison)

    @property
    def note(self) -> str:
        """A sentence on intervals and tests, and the warning if there is one."""
        sentence = "Small figures are 95% intervals. Superscripts name the systems that score significantly worse"
        return f"{sentence} ({self.test}). {self.warning}".strip()

    def score_tables(self) -> list[ScoreTable]:
        """Return the table of scores of each part of the data; systems that differ are named for all records only."""
        first = next(iter(self._comparison.systems.values()))
        return [
            ScoreTable("Scores" if part == "all" else f"Scores, {part}", self._names, self._rows(part))
            for part in first.scores
        ]

    def _rows(self, part: str) -> list[tuple[str, list[Cell]]]:
        rows = []
        for name, metric in METRICS.items():
            scores = [evaluation.scores[part].get(name) for evaluation in self._comparison.systems.values()]
            known = [score.value for score in scores if score is not None]
            if not known:
                continue
            lower = self._lower_is_better(name)
            best = min(known) if lower else max(known)
            cells = []
            for system, score in zip(self._names, scores, strict=True):
                if score is None:
                    cells.append(Cell("–", "", False, ""))
                    continue
                beaten = self._comparison.beaten(name, system) if part == "all" else []
                value, interval = score_texts(name, score)
                letters = " ".join(self._letters[other] for other in beaten)
                cells.append(Cell(value, interval.replace(" to ", "–"), score.value == best, letters))
            rows.append((f"{metric.label}\u00a0{'↓' if lower else '↑'}", cells))
        return rows

    def _lower_is_better(self, metric: str) -> bool:
        measured = (evaluation.measured.statistics.get(metric) for evaluation in self._comparison.systems.values())
        return next(own.lower_is_better for own in measured if own is not None)

    @property
    def _signatures(self) -> list[tuple[str, str]]:
        first = next(iter(self._comparison.systems.values()))
        known = [(METRICS[name].label, score.signature) for name, score in first.scores["all"].items()]
        return known + [(METRICS[name].label, why) for name, why in first.measured.missing.items()]

    @property
    def _has_facts(self) -> bool:
        return any(record.stated for record in self._comparison.records)

    def _differences(self) -> Table:
        rows = []
        for pair in self._comparison.differences:
            metric, difference = METRICS[pair.metric], pair.difference
            numbers = (difference.value, difference.low, difference.high)
            value, low, high = (f"{metric.scale * number:+.2f}".replace("-", "−") for number in numbers)
            systems = f"{self._letters[pair.first]}\u00a0−\u00a0{self._letters[pair.second]}"
            significant = "yes" if pair.is_significant else "no"
            rows.append(
                [
                    f"{metric.label}, {systems}",
                    value,
                    f"{low} to {high}",
                    p_text(difference.p),
                    p_text(pair.corrected),
                    significant,
                ]
            )
        head = ["score", "difference", "95% interval", "p", "p, Holm", "significant"]
        return ("Differences", head, rows)

    def _groups(self) -> list[Table]:
        """Return a table for each division of the records: groups in rows, systems in columns, with one score each."""
        evaluations = list(self._comparison.systems.values())
        shown = next((name for name in METRICS if name in evaluations[0].measured.statistics), None)
        if shown is None:
            return []
        head = ["group", "records", *(f"{self._letters[name]}. {name}" for name in self._names)]
        rows: dict[str, list[list[str]]] = {}
        for groups in zip(*(evaluation.groups for evaluation in evaluations), strict=True):
            values = [score_texts(shown, group.scores[shown])[0] if shown in group.scores else "–" for group in groups]
            rows.setdefault(groups[0].by, []).append([groups[0].name, f"{groups[0].records:,}", *values])
        return [(f"{TITLES[by]}, {METRICS[shown].label}", head, own) for by, own in rows.items()]

    def _errors(self) -> Table:
        rows = []
        for name, reports in self._reports.items():
            kinds = [kind for report in reports for kind, _ in errors_of(report)]
            faultless = sum(not report.errors for report in reports)
            counts = [f"{kinds.count(kind):,}" for kind in ("missing", "added", "leaked", "repeated")]
            share = f"{100 * faultless / len(reports):.1f}%"
            rows.append([f"{self._letters[name]}. {name}", *counts, share])
        return (
            "Facts left out, added and repeated",
            ["system", "left out", "added", "leaked", "repeated", "texts without errors"],
            rows,
        )

    def _items(self, show: int) -> list[SideBySide]:
        records = self._comparison.records
        totals = [sum(reports[number].errors for reports in self._reports.values()) for number in range(len(records))]
        order = sorted(range(len(records)), key=lambda number: (-totals[number], number))
        return [
            SideBySide(
                id=records[number].id,
                facts=[fact_text(fact) for fact in records[number].facts],
                versions=[self._version(name, number) for name in self._names],
                references=records[number].references[:3],
            )
            for number in order[:show]
        ]

    def _version(self, name: str, number: int) -> SystemText:
        report = self._reports[name][number]
        return SystemText(
            text=self._comparison.systems[name].texts[number],
            errors=[(kind, fact_text(fact)) for kind, fact in errors_of(report)],
            marks=[(m.start, m.end, fact_text(m.fact), m.added) for m in report.mentions],
        )

    def scores_csv(self) -> str:
        """Return scores.csv: a row for each system, part of the data and score."""
        rows = (
            [system, part, name, score.value, score.low, score.high, score.signature]
            for system, evaluation in self._comparison.systems.items()
            for part, scores in evaluation.scores.items()
            for name, score in scores.items()
        )
        return _csv(["system", "part", "metric", "value", "low", "high", "signature"], rows)

    def groups_csv(self) -> str:
        """Return groups.csv: a row for each system, group of records and score."""
        rows = (
            [system, group.by, group.name, group.records, name, score.value, score.low, score.high]
            for system, evaluation in self._comparison.systems.items()
            for group in evaluation.groups
            for name, score in group.scores.items()
        )
        return _csv(["system", "by", "group", "records", "metric", "value", "low", "high"], rows)

    def differences_csv(self) -> str:
        """Return differences.csv: a row for each pair of systems and score."""
        head = ["metric", "first", "second", "difference", "low", "high", "p", "p_holm"]
        return _csv(head, map(_difference_row, self._comparison.differences))

    def texts_csv(self) -> str:
        """Return texts.csv: a row for each record, with each system's text and its errors."""
        head = ["id", *chain.from_iterable((name, f"{name}: errors") for name in self._names)]
        rows = []
        for number, record in enumerate(self._comparison.records):
            row = [record.id]
            for name in self._names:
                version = self._version(name, number)
                row += [version.text, "; ".join(f"{kind} {fact}" for kind, fact in version.errors)]
            rows.append(row)
        return _csv(head, rows)


def _difference_row(pair: PairDifference) -> list[object]:
    difference = pair.difference
    values = [difference.value, difference.low, difference.high, difference.p, pair.corrected]
    return [pair.metric, pair.first, pair.second, *values]


def p_text(p: float) -> str:
    """Return a p-value as tables show it."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def fact_text(fact: Fact) -> str:
    """Return a fact as reports show it."""
    value = f"{fact.attribute}: {fact.value}"
    return value if fact.subject is None else f"{fact.subject}, {value}"


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return buffer.getvalue()
