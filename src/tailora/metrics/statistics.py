"""The common form of all scores: counts for each text, and a function of their sums.

A corpus score is a function of sums over texts, so the sums of a resample are a product with the number of times that
each text was drawn: intervals and comparisons read no text again (Koehn 2004, "Statistical Significance Tests for
Machine Translation Evaluation").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tailora import __version__
from tailora.core.errors import DataError
from tailora.core.plural import plural

Doubles = NDArray[np.float64]
SEED = 12345
"""Of resamples, as in sacrebleu."""


Test = Literal["bootstrap", "randomisation"]
"""A test of the difference between two systems: paired bootstrap, or approximate randomisation."""


class Measurement(Protocol):
    """What a metric measured on the texts of a system."""

    @property
    def name(self) -> str:
        """Name of the metric, as tables show it."""

    @property
    def signature(self) -> str:
        """How it was computed, `key:value|…`."""

    @property
    def lower_is_better(self) -> bool:
        """Whether it counts errors."""

    @property
    def value(self) -> float:
        """The score of all texts together."""

    @property
    def by_text(self) -> Doubles:
        """[texts], the score of each text alone."""

    def __len__(self) -> int:
        """Return the number of texts."""

    def of(self, texts: Sequence[int]) -> Self:
        """Return the measurement of some texts, by their numbers."""

    def interval(self, draws: int, seed: int, level: float) -> tuple[float, float, str]:
        """Return the ends of the score's interval, and how they were computed, as a part of a signature."""

    def difference(self, other: Self, draws: int, seed: int, test: Test) -> Difference:
        """Return the difference from another system's score on the same records."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """The counts of a metric whose score is a function of sums over texts.

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

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, texts: Sequence[int]) -> Statistics:
        """Return the statistics of some texts, by their numbers."""
        return Statistics(self.name, self.signature, self.rows[list(texts)], self.total, self.lower_is_better)

    def interval(self, draws: int, seed: int, level: float) -> tuple[float, float, str]:
        """Return the percentile bootstrap interval, and the number of draws and the seed as a part of a signature."""
        scores = self.total(_drawn(len(self.rows), draws, seed) @ self.rows)
        low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high), f"bs:{draws}|seed:{seed}"

    def difference(self, other: Statistics, draws: int, seed: int, test: Test) -> Difference:
        """Return the difference from another system's score on the same records; see `compare`."""
        drawn = _drawn(len(self.rows), draws, seed)
        differences = self.total(drawn @ self.rows) - other.total(drawn @ other.rows)
        value = self.value - other.value
        low, high = np.quantile(differences, [0.025, 0.975])
        deviations = differences - differences.mean()
        if test == "randomisation":
            change = swaps(len(self.rows), draws, seed) @ (other.rows - self.rows)
            deviations = self.total(self.rows.sum(0) + change) - self.total(other.rows.sum(0) - change)
        return Difference(value, float(low), float(high), p_value(deviations, value))


@dataclass(frozen=True, slots=True)
class Score:
    """A score with its interval and its signature."""

    value: float
    low: float
    high: float
    signature: str


def interval(measured: Measurement, *, draws: int = 1000, seed: int = SEED, level: float = 0.95) -> Score:
    """Return a score with its interval: percentile bootstrap for scores that are functions of sums over texts.

    Args:
        measured: of one system.
        draws: number of resamples.
        seed: of the resampling.
        level: share of the resamples within the interval.
    """
    low, high, how = measured.interval(draws, seed, level)
    settings, mark, version = measured.signature.partition("|version:")
    return Score(measured.value, low, high, f"{settings}|{how}{mark}{version}")


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between two systems on the same records.

    Attributes:
        value: the first's score minus the second's.
        low, high: its 95% interval.
        p: probability of a difference at least as large, in either direction, if the systems do not differ.
    """

    value: float
    low: float
    high: float
    p: float


def compare(
    first: Measurement, second: Measurement, *, draws: int = 1000, seed: int = SEED, test: Test = "bootstrap"
) -> Difference:
    """Compare two systems on the same records.

    With paired bootstrap (Koehn 2004), p is the share of resamples whose difference deviates from their mean by at
    least the difference itself, in either direction; a system against itself has p = 1. (sacrebleu takes absolute
    values before the mean, which gives about half of it.) With approximate randomisation (Noreen 1989; Riezler and
    Maxwell 2005), p is the share of draws in which texts that are swapped between the systems, each with probability
    1/2, differ at least as much. Scores of diversity are always tested by randomisation: see `Diversity`.

    Raises:
        DataError: the systems were not scored on the same number of texts, or not in the same way.
    """
    if first.signature != second.signature or len(first) != len(second):
        raise DataError(
            f"{first.name} of {len(first)} texts ({first.signature}) cannot be compared with "
            f"{second.name} of {len(second)} ({second.signature})",
            hint="score both systems on the same records",
        )
    return first.difference(second, draws, seed, test)


def p_value(deviations: Doubles, difference: float) -> float:
    """Return the share of draws, one of them the observed one, that deviate at least as much as the difference.

    Args:
        deviations: [draws], differences that are distributed as if the systems did not differ.
        difference: the observed difference.
    """
    # Swapped counts are added up in another order than the observed ones.
    extreme = np.count_nonzero(np.abs(deviations) >= abs(difference) * (1 - 1e-9))
    return float((extreme + 1) / (len(deviations) + 1))


def swaps(texts: int, draws: int, seed: int) -> Doubles:
    """[draws, texts]: 1 where the texts of two systems are swapped, otherwise 0."""
    return np.random.default_rng(seed).integers(0, 2, (draws, texts)).astype(np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979): the chance of any false finding stays below the level.

    Args:
        p_values: of all tests of a family.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


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
    """Return how a score is computed: settings `key:value|…`, the number of references per record, and the version.

    Without references, as for scores of diversity, their number is left out.
    """
    if not references:
        return f"{settings}|version:tailora-{__version__}"
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
