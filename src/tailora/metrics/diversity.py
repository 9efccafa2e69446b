"""Diversity of a system's texts: distinct n-grams, and the mean segmental type-token ratio. References play no part.

Such scores are not sums over texts, and a resample with repeated texts is less diverse by construction, so the
bootstrap does not apply. Intervals of distinct-n come from the jackknife, which leaves out a hundredth of the texts at
a time; its variance is too large rather than too small (Efron and Stein 1981). Those of MSTTR come from the standard
error of its segments. Differences are tested by approximate randomisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailora.metrics.ngrams import ngrams_of
from tailora.metrics.statistics import Difference, Doubles, Test, p_value, signature, swaps
from tailora.metrics.tokenizers import sacrebleu_tokenizer

_SEGMENT = 100  # tokens
_GROUPS = 100  # of the jackknife

Units = NDArray[np.int64]


class Kind(NamedTuple):
    """How the diversity of texts is computed from their units.

    Attributes:
        score: from the units of all texts to the score.
        error: from the units of the texts of one system to the standard error of its score, or from those of two
            systems to that of the difference.
        how: the name of `error` in signatures.
    """

    score: Callable[[Units], float]
    error: Callable[[Sequence[Sequence[Units]]], float]
    how: str


@dataclass(frozen=True, eq=False)
class Diversity:
    """The tokens or n-grams of a system's texts, and the score of any selection of texts.

    Attributes:
        name: of the metric, as tables show it.
        signature: how it was computed, `key:value|…`.
        texts: the units of each text: tokens, or n-grams of them.
        kind: how the score and its error are computed.
        lower_is_better: always False.
    """

    name: str
    signature: str
    texts: Sequence[Sequence[object]]
    kind: Kind
    lower_is_better: bool = False

    @property
    def value(self) -> float:
        """The score of all texts together."""
        (units,) = _numbered([self.texts])
        return self.kind.score(_joined(units))

    @property
    def by_text(self) -> Doubles:
        """[texts], the score of each text alone."""
        (units,) = _numbered([self.texts])
        return np.array([self.kind.score(own) for own in units], np.float64)

    def __len__(self) -> int:
        return len(self.texts)

    def of(self, texts: Sequence[int]) -> Diversity:
        """Return the diversity of some texts, by their numbers."""
        return Diversity(self.name, self.signature, [self.texts[number] for number in texts], self.kind)

    def interval(self, draws: int, seed: int, level: float) -> tuple[float, float, str]:
        """Return the interval by the standard error, within 0 and 1, and how the error was estimated."""
        width = NormalDist().inv_cdf((1 + level) / 2) * self.kind.error(_numbered([self.texts]))
        return max(self.value - width, 0.0), min(self.value + width, 1.0), f"interval:{self.kind.how}"

    def difference(self, other: Diversity, draws: int, seed: int, test: Test) -> Difference:
        """Return the difference from another system's score: p by randomisation, the interval by the standard error."""
        both = _numbered([self.texts, other.texts])
        value = self.value - other.value
        width = NormalDist().inv_cdf(0.975) * self.kind.error(both)
        units = _joined([own for pair in zip(*both, strict=True) for own in pair])
        lengths = [len(own) for pair in zip(*both, strict=True) for own in pair]
        origin = np.repeat(np.arange(2 * len(self.texts)), lengths)  # even for this system's texts, odd for the other's
        text, is_other = origin // 2, origin % 2 == 1
        deviations = []
        for swap in swaps(len(self.texts), draws, seed):
            chosen = is_other == (swap[text] == 1)
            deviations.append(self.kind.score(units[chosen]) - self.kind.score(units[~chosen]))
        return Difference(value, value - width, value + width, p_value(np.array(deviations, np.float64), value))


def distinct(hypotheses: Sequence[str], order: int, *, tokenizer: str | None = None) -> Diversity:
    """Return distinct-n: the number of different n-grams over the number of all n-grams (Li et al. 2016); 0 to 1.

    N-grams lie within one text. The score falls with the number of texts, so compare systems on the same records.

    Args:
        hypotheses: one text for each record.
        order: n, at least 1.
        tokenizer: None for sacrebleu's 13a, or a name of `tokenizers.NAMES`; texts are lower-cased.

    Raises:
        MissingExtraError: the tokenizer's package is not installed.
    """
    cut = sacrebleu_tokenizer(tokenizer or "13a")
    texts = [tuple(ngrams_of(cut(text), order)) for text in hypotheses]
    settings = f"tok:{tokenizer or '13a'}|case:lc|n:{order}"
    return Diversity(f"distinct-{order}", signature(settings, ()), texts, _OF_NGRAMS)


def msttr(hypotheses: Sequence[str], *, tokenizer: str | None = None) -> Diversity:
    """Return MSTTR-100: the mean share of different tokens in segments of 100 tokens (Johnson 1944); 0 to 1.

    The texts are joined in their order and cut into segments; a shorter rest at the end does not count, unless there is
    nothing else.

    Args:
        hypotheses: one text for each record.
        tokenizer: None for sacrebleu's 13a, or a name of `tokenizers.NAMES`; texts are lower-cased.

    Raises:
        MissingExtraError: the tokenizer's package is not installed.
    """
    cut = sacrebleu_tokenizer(tokenizer or "13a")
    settings = f"tok:{tokenizer or '13a'}|case:lc|segment:{_SEGMENT}"
    return Diversity("MSTTR", signature(settings, ()), [cut(text) for text in hypotheses], _OF_SEGMENTS)


def _distinct(units: Units) -> float:
    return float(np.count_nonzero(np.bincount(units)) / len(units)) if len(units) else 0.0


def _segments(units: Units) -> Doubles:
    """Return the share of different tokens in each segment; all tokens are one segment if they do not fill one."""
    segments = len(units) // _SEGMENT
    if not segments:
        return np.array([_distinct(units)])
    ordered = np.sort(units[: segments * _SEGMENT].reshape(segments, _SEGMENT))
    return np.asarray((np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1) + 1) / _SEGMENT)


def _segmental(units: Units) -> float:
    return float(_segments(units).mean())


def _jackknife(systems: Sequence[Sequence[Units]]) -> float:
    """Return the standard error of distinct-n, or of the difference of two, by leaving out groups of texts."""
    groups = min(_GROUPS, len(systems[0]))
    scores = [[_distinct(_joined(_without(units, group, groups))) for units in systems] for group in range(groups)]
    values = np.array([own[0] - own[-1] if len(own) > 1 else own[0] for own in scores])
    return float(np.sqrt((groups - 1) / groups * ((values - values.mean()) ** 2).sum()))


def _segments_error(systems: Sequence[Sequence[Units]]) -> float:
    """Return the standard error of the mean of segments, or of the difference of two such means."""
    segments = [_segments(_joined(units)) for units in systems]
    return math.sqrt(sum(float(own.var(ddof=1)) / len(own) for own in segments if len(own) > 1))


_OF_NGRAMS = Kind(_distinct, _jackknife, "jackknife")
_OF_SEGMENTS = Kind(_segmental, _segments_error, "segments")


def _numbered(systems: Sequence[Sequence[Sequence[object]]]) -> list[list[Units]]:
    """Return the units of each system's texts as numbers that are shared by all systems."""
    numbers: dict[object, int] = {}
    return [
        [np.array([numbers.setdefault(unit, len(numbers)) for unit in text], np.int64) for text in texts]
        for texts in systems
    ]


def _joined(units: Sequence[Units]) -> Units:
    return np.concatenate(units) if units else np.zeros(0, np.int64)


def _without(units: Sequence[Units], group: int, groups: int) -> list[Units]:
    return [own for number, own in enumerate(units) if number % groups != group]
