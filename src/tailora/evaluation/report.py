"""The report of an evaluation: the rows of its tables of scores, and report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tailora.evaluation.groups import TITLES
from tailora.evaluation.marked_items import marked_item
from tailora.evaluation.scoring import Evaluation, score_texts
from tailora.metrics.slots import slot_reports
from tailora.metrics.statistics import Measurement
from tailora.metrics.suite import METRICS
from tailora.reports.evaluation import ScoreRow, page
from tailora.reports.tables import Table


def score_rows(evaluation: Evaluation, part: str) -> list[ScoreRow]:
    """Return the table of one part's scores, with a row for each requested metric."""
    scores, missing, rows = evaluation.scores[part], evaluation.measured.missing, []
    for name, metric in METRICS.items():
        if name in scores:
            rows.append(ScoreRow(metric.label, *score_texts(name, scores[name]), scores[name].signature))
        elif name in missing:
            rows.append(ScoreRow(metric.label, "–", "", missing[name]))
    return rows


def group_tables(evaluation: Evaluation) -> list[Table]:
    """Return a table for each division of the records: groups in rows, scores in columns."""
    names = [name for name in METRICS if name in evaluation.measured.statistics]
    head = ["group", "records", *(METRICS[name].label for name in names)]
    rows: dict[str, list[list[str]]] = {}
    for group in evaluation.groups:
        values = [score_texts(name, group.scores[name])[0] for name in names]
        rows.setdefault(group.by, []).append([group.name, f"{group.records:,}", *values])
    return [(TITLES[by], head, own) for by, own in rows.items()]


def report_html(evaluation: Evaluation, about: Sequence[str], cards: Sequence[Table], show: int) -> str:
    """Return the report as an HTML page.

    Args:
        evaluation: the scores and the texts.
        about: paragraphs at the top.
        cards: tables that follow the scores.
        show: number of texts to show, the worst first.
    """
    records, texts, statistics = evaluation.records, evaluation.texts, evaluation.measured.statistics
    reports = slot_reports(records, texts, evaluation.rules)
    quality = _by_text(statistics)
    order = sorted(range(len(records)), key=lambda number: (-reports[number].errors, quality[number], number))
    items = [
        marked_item(
            records[number],
            texts[number],
            reports[number],
            references=records[number].references[:3],
            note=_note(statistics, number),
        )
        for number in order[:show]
    ]
    tables = [(part if part != "all" else "Scores", score_rows(evaluation, part)) for part in evaluation.scores]
    compared = [] if evaluation.against is None else [_against(evaluation.against)]
    return page("Evaluation", about, tables, items, [*group_tables(evaluation), *compared, *cards])


def _against(differences: Mapping[str, Any]) -> Table:
    """Return the table of differences from the other system's texts."""
    rows = []
    for name, change in differences.items():
        metric = METRICS[name]
        difference, low, high = (f"{metric.scale * change[key]:+.2f}" for key in ("difference", "low", "high"))
        rows.append([metric.label, difference, f"{low} to {high}", f"{change['p']:.3f}"])
    return ("Difference from the other system", ["score", "difference", "95% interval", "p"], rows)


_OF_SINGLE_TEXTS = (
    *("rouge_l", "chrf", "chrf_pp", "webnlg_chrf", "meteor", "webnlg_meteor", "parent", "parent_c", "copied"),
    *("bleu", "multi_bleu", "nist", "cider"),
)


def _by_text(statistics: Mapping[str, Measurement]) -> list[float]:
    """Return one figure per text to sort by, higher is better: that of the first metric that scores single texts."""
    for name in _OF_SINGLE_TEXTS:
        if name in statistics:
            return [float(value) for value in statistics[name].by_text]
    (first, *_) = statistics.values()
    return [-float(value) if first.lower_is_better else float(value) for value in first.by_text]


def _note(statistics: Mapping[str, Measurement], number: int) -> str:
    names = ("rouge_l", "cider", "meteor", "webnlg_meteor", "ter", "webnlg_ter", "chrf")
    shown = [name for name in names if name in statistics]
    return ", ".join(
        f"{METRICS[name].label} {METRICS[name].scale * float(statistics[name].by_text[number]):.1f}" for name in shown
    )
