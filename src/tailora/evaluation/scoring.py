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
        records: with their references.
        texts: in the order of the records.
        scores: part of the data ("all", "seen", "unseen") to metric to score.
        measured: what the metrics counted on all records.
        against: metric to the difference from another system's texts, as JSON has it; None where there are none.
        rules: how texts express values.
    """

    records: Sequence[Record]
    texts: Sequence[str]
    scores: Mapping[str, Mapping[str, Score]]
    measured: Measured
    against: Mapping[str, Any] | None
    rules: Rules

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Each part's scores as its scores.json has them; a metric that could not be computed says why."""
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
    """Which scores to compute, and how.

    Everything that can fail without texts fails here, since writing texts may take hours.

    Args:
        records: with references; with facts for "slots".
        metrics: names; by default those that the field reports of such records.
        tokenizer: see `metrics.suite.measure`.
        slot_rules: file of rules for how texts express values, besides the bundled ones.
        draws: bootstrap resamples for the intervals.

    Attributes:
        names: the metrics.
        unavailable: those of them that this machine lacks the programs for, each with its error.

    Raises:
        DataError: slot errors are asked for and no record has facts, or the rules cannot be read.
        MissingExtraError: no metric that was asked for can be computed here, or the tokenizer's package is missing.
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
            parts: numbers of the records in each part of the data, "all" among them; by default that alone.
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
        """How much better the texts score than the others, metric by metric."""
        both = [name for name in first.statistics if name in second.statistics]
        differences = {
            name: compare(first.statistics[name], second.statistics[name], draws=self._draws) for name in both
        }
        return {
            name: {"difference": d.value, "low": d.low, "high": d.high, "p": d.p} for name, d in differences.items()
        }


def score_texts(name: str, score: Score) -> tuple[str, str]:
    """A score's value and its interval as papers print them."""
    metric, digits = METRICS[name], 2 if METRICS[name].scale == 1 else 1
    value, low, high = (f"{metric.scale * number:.{digits}f}" for number in (score.value, score.low, score.high))
    return value, f"{low} to {high}"
