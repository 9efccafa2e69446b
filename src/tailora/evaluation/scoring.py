"""Score texts for records, in total and by part of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailora.core.errors import DataError
from tailora.data.known_values import KnownValues
from tailora.data.values import Record
from tailora.evaluation.groups import Group, GroupScores, score_groups
from tailora.metrics.slot_rules import Rules, load_rules
from tailora.metrics.statistics import Score, Test, compare, interval
from tailora.metrics.suite import METRICS, NEED_FACTS, Measured, MetricName, measure, unavailable, usual
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
        groups: the scores of groups of records.
    """

    records: Sequence[Record]
    texts: Sequence[str]
    scores: Mapping[str, Mapping[str, Score]]
    measured: Measured
    against: Mapping[str, Any] | None
    rules: Rules
    groups: Sequence[GroupScores] = ()

    def groups_as_json(self) -> dict[str, dict[str, Any]]:
        """Return the content of groups.json: the groups of each division, with their scores."""
        divisions: dict[str, dict[str, Any]] = {}
        for group in self.groups:
            scores = {name: _as_json(score) for name, score in group.scores.items()}
            divisions.setdefault(group.by, {})[group.name] = {"records": group.records, "scores": scores}
        return divisions

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Return the content of scores.json for each part, with the reason for a metric that could not be computed."""
        missing = {
            name: {"value": None, "low": None, "high": None, "signature": None, "missing": why}
            for name, why in self.measured.missing.items()
        }
        return {
            part: {name: _as_json(score) for name, score in scores.items()} | missing
            for part, scores in self.scores.items()
        }


class Scoring:
    """The metrics to compute, and their settings.

    Everything that can be checked without texts is checked here, because writing texts may take hours.

    Args:
        records: the records with references, and with facts for the metrics that compare texts with them.
        metrics: names; by default those usually reported for such records.
        tokenizer: see `metrics.suite.measure`.
        slot_rules: file of rules for how texts express values, besides the bundled ones.
        draws: bootstrap resamples for the intervals.
        training: records that the systems were trained on, for "parent_c".
        known: values that the systems were trained on; texts that say them although a record lacks them have errors.

    Attributes:
        names: the metrics.
        draws: bootstrap resamples for the intervals and the differences.
        unavailable: the metrics whose programs are not installed, with the error of each.

    Raises:
        DataError: a requested metric needs facts that records lack, or training data; or the rules cannot be read.
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
        training: Sequence[Record] | None = None,
        known: KnownValues | None = None,
    ) -> None:
        self.names: Sequence[str] = metrics or usual(records)
        self._check_needs(records, training)
        self._rules, self._tokenizer, self.draws = load_rules(slot_rules).with_known(known or {}), tokenizer, draws
        self._training = training
        self.unavailable = unavailable(self.names)
        if metrics and set(metrics) <= set(self.unavailable):
            raise self.unavailable[metrics[0]]
        if tokenizer is not None:
            sacrebleu_tokenizer(tokenizer)

    def _check_needs(self, records: Sequence[Record], training: Sequence[Record] | None) -> None:
        """Raise `DataError` if facts or training data are missing."""
        lacking = [record.id for record in records if not record.stated]
        for name in self.names:
            # Slot errors and copied values of a record without facts are none; PARENT is not defined.
            if name in NEED_FACTS and len(lacking) >= (1 if name.startswith("parent") else max(len(records), 1)):
                whose = "the records have none" if len(lacking) == len(records) else f"record {lacking[0]!r} has none"
                what = f"{METRICS[name].label} needs facts, and {whose}"
                raise DataError(what, where="metrics", hint=f"leave {name} out")
        if "parent_c" in self.names and training is None:
            hint = "name the data that the system was trained on with --train"
            raise DataError("PARENT-C needs training data", where="metrics", hint=hint)

    def evaluate(
        self,
        records: Sequence[Record],
        texts: Sequence[str],
        parts: Mapping[str, Sequence[int]] | None = None,
        others: Sequence[str] | None = None,
        *,
        test: Test = "bootstrap",
        groups: Sequence[Group] = (),
    ) -> Evaluation:
        """Score one text for each record.

        Args:
            records: with references.
            texts: in their order.
            parts: numbers of the records in each part of the data, including "all"; by default "all" only.
            others: another system's texts to compare with.
            test: of the difference from them.
            groups: further groups of the records to score.

        Raises:
            DataError: a record lacks a reference, or the numbers differ.
        """
        parts = {"all": range(len(records))} if parts is None else parts
        measured = measure(records, texts, self.names, self._rules, self._tokenizer, self._training)

        def score(numbers: Sequence[int]) -> dict[str, Score]:
            return {name: interval(own.of(numbers), draws=self.draws) for name, own in measured.statistics.items()}

        scores = {part: score(numbers) for part, numbers in parts.items()}
        against = None
        if others is not None:
            second = measure(records, others, self.names, self._rules, self._tokenizer, self._training)
            against = self._compared(measured, second, test)
        by_group = score_groups(groups, score)
        return Evaluation(records, texts, scores, measured, against, self._rules, by_group)

    def _compared(self, first: Measured, second: Measured, test: Test) -> dict[str, Any]:
        """Return by how much the texts score better than the others, by metric."""
        both = [name for name in first.statistics if name in second.statistics]
        differences = {
            name: compare(first.statistics[name], second.statistics[name], draws=self.draws, test=test) for name in both
        }
        return {
            name: {"difference": d.value, "low": d.low, "high": d.high, "p": d.p} for name, d in differences.items()
        }


def _as_json(score: Score) -> dict[str, Any]:
    return {"value": score.value, "low": score.low, "high": score.high, "signature": score.signature}


def score_texts(name: str, score: Score) -> tuple[str, str]:
    """Return a score's value and its interval as printed in papers."""
    metric, digits = METRICS[name], 2 if METRICS[name].scale == 1 else 1
    value, low, high = (f"{metric.scale * number:.{digits}f}" for number in (score.value, score.low, score.high))
    return value, f"{low} to {high}"
