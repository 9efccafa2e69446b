"""Score texts for records, in total and by part of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailora.core.errors import DataError
from tailora.data.values import Record
from tailora.metrics.slot_rules import Rules, load_rules
from tailora.metrics.statistics import Score, compare, interval
from tailora.metrics.suite import METRICS, Measured, MetricName, measure, unavailable, usual
from tailora.metrics.tokenizers import TokenizerName, sacrebleu_tokenizer


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of one text for each record.

    Attributes:
        records: the records with their references.
        texts: one text per record, in the same order.
        scores: the scores by part of the data ("all", "seen", "unseen") and metric.
        measured: the statistics of the metrics on all records.
        against: differences from another system's texts by metric, as JSON values; None without such texts.
        rules: rules for how texts express values.
    """

    records: Sequence[Record]
    texts: Sequence[str]
    scores: Mapping[str, Mapping[str, Score]]
    measured: Measured
    against: Mapping[str, Any] | None
    rules: Rules

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Return the content of scores.json for each part, with the reason for a metric that could not be computed."""
        missing = {
            name: {"value": None, "low": None, "high": None, "signature": None, "missing": why}
            for name, why in self.measured.missing.items()
        }
        return {
            part: {
                name: {"value": s.value, "low": s.low, "high": s.high, "signature": s.signature}
                for name, s in scores.items()
            }
            | missing
            for part, scores in self.scores.items()
        }


class Scoring:
    """The metrics to compute, and their settings.

    Everything that can be checked without texts is checked here, because writing texts may take hours.

    Args:
        records: the records with references, and with facts for the metric "slots".
        metrics: names; by default those usually reported for such records.
        tokenizer: see `metrics.suite.measure`.
        slot_rules: file of rules for how texts express values, besides the bundled ones.
        draws: bootstrap resamples for the intervals.

    Attributes:
        names: the metrics.
        unavailable: the metrics whose programs are not installed, with the error of each.

    Raises:
        DataError: slot errors are requested and no record has facts, or the rules cannot be read.
        MissingExtraError: none of the requested metrics can be computed, or the tokenizer's package is not installed.
    """

    def __init__(
        self,
        records: Sequence[Record],
        metrics: Sequence[MetricName] = (),
        *,
        tokenizer: TokenizerName | None = None,
        slot_rules: Path | None = None,
        draws: int = 1000,
    ) -> None:
        self.names: Sequence[str] = metrics or usual(records)
        if "slots" in self.names and not any(record.facts for record in records):
            raise DataError(
                "slot errors need facts, and the records have none", where="metrics", hint="leave slots out"
            )
        self._rules, self._tokenizer, self._draws = load_rules(slot_rules), tokenizer, draws
        self.unavailable = unavailable(self.names)
        if metrics and set(metrics) <= set(self.unavailable):
            raise self.unavailable[metrics[0]]
        if tokenizer is not None:
            sacrebleu_tokenizer(tokenizer)

    def evaluate(
        self,
        records: Sequence[Record],
        texts: Sequence[str],
        parts: Mapping[str, Sequence[int]] | None = None,
        others: Sequence[str] | None = None,
    ) -> Evaluation:
        """Score one text for each record.

        Args:
            records: with references.
            texts: in their order.
            parts: numbers of the records in each part of the data, including "all"; by default "all" only.
            others: another system's texts to compare with.

        Raises:
            DataError: a record lacks a reference, or the numbers differ.
        """
        parts = {"all": range(len(records))} if parts is None else parts
        measured = measure(records, texts, self.names, self._rules, self._tokenizer)
        scores = {
            part: {
                name: interval(statistics.of(numbers), draws=self._draws)
                for name, statistics in measured.statistics.items()
            }
            for part, numbers in parts.items()
        }
        against = None
        if others is not None:
            against = self._compared(measured, measure(records, others, self.names, self._rules, self._tokenizer))
        return Evaluation(records, texts, scores, measured, against, self._rules)

    def _compared(self, first: Measured, second: Measured) -> dict[str, Any]:
        """Return by how much the texts score better than the others, by metric."""
        both = [name for name in first.statistics if name in second.statistics]
        differences = {
            name: compare(first.statistics[name], second.statistics[name], draws=self._draws) for name in both
        }
        return {
            name: {"difference": d.value, "low": d.low, "high": d.high, "p": d.p} for name, d in differences.items()
        }


def score_texts(name: str, score: Score) -> tuple[str, str]:
    """Return a score's value and its interval as printed in papers."""
    metric, digits = METRICS[name], 2 if METRICS[name].scale == 1 else 1
    value, low, high = (f"{metric.scale * number:.{digits}f}" for number in (score.value, score.low, score.high))
    return value, f"{low} to {high}"
