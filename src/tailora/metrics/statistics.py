"""What all scores have in common: numbers for each text, and one figure made of their sums.

A corpus score is a function of sums over texts, so that a resample of the texts is a product with how often each was
drawn: intervals and comparisons read no text again (Koehn 2004, "Statistical Significance Tests for Machine Translation
Evaluation").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tailora import __version__
from tailora.core.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a metric counted.

    Attributes:
        name: of the metric, as tables have it.
        signature: how it was computed, `key:value|…`.
        rows: [texts, counts], what each text adds.
        total: from sums of rows, [..., counts], to scores, [...].
        lower_is_better: whether it counts errors.
    """

    name: str
    signature: str
    rows: Floats
    total: Callable[[Floats], Floats]
    lower_is_better: bool = False

    @property
    def value(self) -> float:
        """The score of all texts together."""
        return float(self.total(self.rows.sum(0)))

    @property
    def by_text(self) -> Floats:
        """[texts], the score of each text alone."""
        return np.asarray(self.total(self.rows))

    def of(self, texts: Sequence[int]) -> Statistics:
        """The same of some texts only, by their numbers."""
        return Statistics(self.name, self.signature, self.rows[list(texts)], self.total, self.lower_is_better)


@dataclass(frozen=True, slots=True)
class Score:
    """A score with the interval that most resamples of the texts fall into."""

    value: float
    low: float
    high: float
    signature: str


def interval(measured: Statistics, *, draws: int = 1000, seed: int = 12345, level: float = 0.95) -> Score:
    """A score with its percentile bootstrap interval.

    Args:
        measured: of one system.
        draws: how many resamples.
        seed: of their drawing.
        level: share of the resamples within the interval.
    """
    scores = measured.total(_drawn(len(measured.rows), draws, seed) @ measured.rows)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return Score(measured.value, float(low), float(high), measured.signature)


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better one system scores than another on the same texts.

    Attributes:
        value: the first's score less the second's.
        low, high: its 95% bootstrap interval.
        p: how often a difference at least as large comes about by the choice of texts alone.
    """

    value: float
    low: float
    high: float
    p: float


def compare(first: Statistics, second: Statistics, *, draws: int = 1000, seed: int = 12345) -> Difference:
    """Paired bootstrap of two systems' scores on the same texts (Koehn 2004).

    p is the share of resamples whose difference is as far from their mean as the difference itself is from 0, or
    further, on either side; a system against itself has p = 1. (sacrebleu takes absolute values before the mean, which
    gives about half of it.)

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
    """Raise `DataError` unless there are texts, as many as records, and a reference for each."""
    if not hypotheses or len(hypotheses) != len(references):
        raise DataError(
            f"{len(hypotheses)} texts against references for {len(references)}", hint="give one text for each record"
        )
    lacking = [number for number, own in enumerate(references, start=1) if not own]
    if lacking:
        raise DataError(
            f"text {lacking[0]} has no reference ({len(lacking)} such)", hint="score records with references"
        )


def signature(settings: str, references: Sequence[Sequence[str]]) -> str:
    """How a score was computed: settings `key:value|…`, how many references the records have, and Tailora's version."""
    numbers = {len(own) for own in references}
    counted = f"{min(numbers)}" if len(numbers) == 1 else f"{min(numbers)}-{max(numbers)}"
    return f"{settings}|refs:{counted}|version:tailora-{__version__}"


def mean(sums: Floats) -> Floats:
    """A `total` of rows (score, 1)."""
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))


def _drawn(texts: int, draws: int, seed: int) -> Floats:
    """[draws, texts], how often each text was drawn."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(texts, np.full(texts, 1 / texts), size=draws).astype(np.float64)
