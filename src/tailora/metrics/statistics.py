"""The common form of all scores: counts for each text, and a function of their sums.

A corpus score is a function of sums over texts, so the sums of a resample are a product with the number of times that
each text was drawn: intervals and comparisons read no text again (Koehn 2004, "Statistical Significance Tests for
Machine Translation Evaluation").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tailora import __version__
from tailora.core.errors import DataError
from tailora.core.plural import plural

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Statistics:
    """The counts of a metric.

    Attributes:
        name: of the metric, as tables show it.
        signature: how it was computed, `key:value|…`.
        rows: [texts, counts], the counts of each text.
        total: from sums of rows, [..., counts], to scores, [...].
        lower_is_better: whether it counts errors.
    """

    name: str
    signature: str
    rows: Doubles
    total: Callable[[Doubles], Doubles]
    lower_is_better: bool = False

    @property
    def value(self) -> float:
        """The score of all texts together."""
        return float(self.total(self.rows.sum(0)))

    @property
    def by_text(self) -> Doubles:
        """[texts], the score of each text alone."""
        return np.asarray(self.total(self.rows))

    def of(self, texts: Sequence[int]) -> Statistics:
        """Return the statistics of some texts, by their numbers."""
        return Statistics(self.name, self.signature, self.rows[list(texts)], self.total, self.lower_is_better)


@dataclass(frozen=True, slots=True)
class Score:
    """A score with its bootstrap interval and its signature."""

    value: float
    low: float
    high: float
    signature: str


def interval(measured: Statistics, *, draws: int = 1000, seed: int = 12345, level: float = 0.95) -> Score:
    """Return a score with its percentile bootstrap interval.

    Args:
        measured: the counts of one system.
        draws: number of resamples.
        seed: of the resampling.
        level: share of the resamples within the interval.
    """
    scores = measured.total(_drawn(len(measured.rows), draws, seed) @ measured.rows)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return Score(measured.value, float(low), float(high), measured.signature)


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between two systems on the same records.

    Attributes:
        value: the first's score minus the second's.
        low, high: its 95% bootstrap interval.
        p: share of resamples in which the choice of records alone makes a difference at least as large.
    """

    value: float
    low: float
    high: float
    p: float


def compare(first: Statistics, second: Statistics, *, draws: int = 1000, seed: int = 12345) -> Difference:
    """Compare two systems on the same records by paired bootstrap (Koehn 2004).

    p is the share of resamples whose difference deviates from their mean by at least the difference itself, in either
    direction; a system against itself has p = 1. (sacrebleu takes absolute values before the mean, which gives about
    half of it.)

    Raises:
        DataError: the systems were not scored on the same number of texts, or not in the same way.
    """
    if first.signature != second.signature or len(first.rows) != len(second.rows):
        raise DataError(
            f"{first.name} of {len(first.rows)} texts ({first.signature}) cannot be compared with "
            f"{second.name} of {len(second.rows)} ({second.signature})",
            hint="score both systems on the same records",
        )
    drawn = _drawn(len(first.rows), draws, seed)
    differences = first.total(drawn @ first.rows) - second.total(drawn @ second.rows)
    value = first.value - second.value
    extreme = np.count_nonzero(np.abs(differences - differences.mean()) >= abs(value))
    low, high = np.quantile(differences, [0.025, 0.975])
    return Difference(value, float(low), float(high), float((extreme + 1) / (draws + 1)))


def check_texts(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise `DataError` unless there is one text for each record, and each record has a reference."""
    if not hypotheses or len(hypotheses) != len(references):
        raise DataError(
            f"{plural(len(hypotheses), 'text')} for {plural(len(references), 'record')}",
            hint="give one text for each record",
        )
    lacking = [number for number, own in enumerate(references, start=1) if not own]
    if lacking:
        raise DataError(
            f"record {lacking[0]} has no reference ({len(lacking)} of {len(references)} lack one)",
            hint="score records with references",
        )


def signature(settings: str, references: Sequence[Sequence[str]]) -> str:
    """Return how a score is computed: settings `key:value|…`, the number of references per record, and the version."""
    numbers = {len(own) for own in references}
    counted = f"{min(numbers)}" if len(numbers) == 1 else f"{min(numbers)}-{max(numbers)}"
    return f"{settings}|refs:{counted}|version:tailora-{__version__}"


def mean(sums: Doubles) -> Doubles:
    """Return the mean of scores: the `total` of rows (score, 1)."""
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))


def _drawn(texts: int, draws: int, seed: int) -> Doubles:
    """[draws, texts]: the number of times each text was drawn."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(texts, np.full(texts, 1 / texts), size=draws).astype(np.float64)
