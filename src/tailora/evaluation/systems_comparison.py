"""Several systems on the same records: the scores of each, and the differences of every pair."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tailora.data.values import Record
from tailora.evaluation.groups import Group
from tailora.evaluation.scoring import Evaluation, Scoring
from tailora.metrics.statistics import SEED, Difference, Test, compare, holm

LEVEL = 0.05
"""Largest corrected p-value at which a difference is called significant."""


class PairDifference(NamedTuple):
    """The difference between two systems in one score.

    Attributes:
        metric: name of the score.
        first: name of a system.
        second: name of the system that it is compared with.
        difference: the first's score minus the second's.
        corrected: its p-value, corrected for the number of pairs by Holm's method.
    """

    metric: str
    first: str
    second: str
    difference: Difference
    corrected: float

    @property
    def is_significant(self) -> bool:
        """Whether the corrected p-value is below `LEVEL`."""
        return self.corrected < LEVEL


@dataclass(frozen=True, eq=False)
class SystemsComparison:
    """The scores of several systems on the same records.

    Attributes:
        records: the records with their references.
        systems: the evaluation of each system, by its name.
        differences: of every pair of systems, by metric.
        test: how they were tested.
        draws: number of resamples.
    """

    records: Sequence[Record]
    systems: Mapping[str, Evaluation]
    differences: Sequence[PairDifference]
    test: Test
    draws: int

    def beaten(self, metric: str, system: str) -> list[str]:
        """Return the systems that score significantly worse than a system."""
        first = next(iter(self.systems.values())).measured.statistics[metric]
        sign = -1 if first.lower_is_better else 1
        worse = []
        for pair in self.differences:
            if pair.metric == metric and pair.is_significant and system in (pair.first, pair.second):
                gain = sign * pair.difference.value
                if (gain > 0) == (system == pair.first):
                    worse.append(pair.second if system == pair.first else pair.first)
        return worse

    def as_json(self) -> dict[str, Any]:
        """Return the content of scores.json."""
        differences = [
            {
                "metric": pair.metric,
                "first": pair.first,
                "second": pair.second,
                "difference": pair.difference.value,
                "low": pair.difference.low,
                "high": pair.difference.high,
                "p": pair.difference.p,
                "p_holm": pair.corrected,
            }
            for pair in self.differences
        ]
        systems = {name: evaluation.as_json() for name, evaluation in self.systems.items()}
        groups = {name: evaluation.groups_as_json() for name, evaluation in self.systems.items()}
        how = {"test": self.test, "draws": self.draws, "seed": SEED}
        return {"systems": systems, "differences": differences, "groups": groups, **how}


def compare_systems(
    scoring: Scoring,
    records: Sequence[Record],
    texts: Mapping[str, Sequence[str]],
    parts: Mapping[str, Sequence[int]],
    *,
    test: Test = "bootstrap",
    groups: Sequence[Group] = (),
) -> SystemsComparison:
    """Score several systems, and test the differences of every pair of them.

    The p-values of all pairs are corrected together, for each score on its own: with several scores, the question is
    which systems differ in a score.

    Args:
        scoring: the metrics and their settings.
        records: with references.
        texts: by system, one for each record.
        parts: numbers of the records in each part of the data, including "all".
        test: of the differences.
        groups: further groups of the records to score.

    Raises:
        DataError: a record lacks a reference, or the numbers differ.
    """
    systems = {name: scoring.evaluate(records, own, parts, groups=groups) for name, own in texts.items()}
    differences: list[PairDifference] = []
    pairs = list(itertools.combinations(systems, 2))
    for metric in scoring.names:
        compared = []
        for first, second in pairs:
            own, other = (systems[name].measured.statistics.get(metric) for name in (first, second))
            if own is not None and other is not None:
                compared.append((first, second, compare(own, other, draws=scoring.draws, test=test)))
        corrected = holm([difference.p for _, _, difference in compared])
        differences += [PairDifference(metric, *pair, p) for pair, p in zip(compared, corrected, strict=True)]
    return SystemsComparison(records, systems, differences, test, scoring.draws)


def too_few_draws(comparison: SystemsComparison) -> str:
    """Return a sentence if no corrected p-value can be below `LEVEL` with so few draws, otherwise ""."""
    pairs = len(list(itertools.combinations(comparison.systems, 2)))
    needed = int(pairs / LEVEL)
    if comparison.draws > needed:
        return ""
    return (
        f"With {pairs} pairs and {comparison.draws:,} draws no difference can be significant after correction; use "
        f"--draws {2 * needed}."
    )
