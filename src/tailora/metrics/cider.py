"""CIDEr (Vedantam et al. 2015, arXiv:1411.5726) as the COCO caption scripts compute it: clipped, lengths compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from tailora.metrics.ngrams import Ngram, ngrams
from tailora.metrics.statistics import Statistics, check_texts, mean
from tailora.metrics.tokens import treebank

_ORDERS = 4
_SIGMA = 6.0  # of the penalty on differences of length, in bigrams


def cider(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """Mean over orders 1 to 4 and references of the cosine of tf-idf vectors, times 10, averaged over texts.

    An n-gram's document frequency is the number of records any of whose references has it. In a resample these
    frequencies stay those of all texts.

    Raises:
        DataError: see `check_texts`.
    """
    check_texts(hypotheses, references)
    counted = [[_count(each) for each in own] for own in references]
    frequency: Counter[Ngram] = Counter()
    for own in counted:
        frequency.update(set().union(*(each for counts in own for each in counts)))
    rare = math.log(len(references))
    idf = {ngram: rare - math.log(texts) for ngram, texts in frequency.items()}

    def cosine(weights: dict[Ngram, float], norm: float, counts: Counter[Ngram]) -> float:
        product = 0.0
        for ngram, weight in weights.items():
            if ngram in counts:
                other = counts[ngram] * idf[ngram]
                product += min(weight, other) * other
        other_norm = _norm(count * idf[ngram] for ngram, count in counts.items())
        return product / (norm * other_norm) if norm and other_norm else product

    rows = []
    for text, own in zip(hypotheses, counted, strict=True):
        counts = _count(text)
        vectors = [{ngram: count * idf.get(ngram, rare) for ngram, count in each.items()} for each in counts]
        norms, length = [_norm(each.values()) for each in vectors], counts[1].total()
        total = 0.0
        for reference in own:
            penalty = math.exp(-((length - reference[1].total()) ** 2) / (2 * _SIGMA**2))
            total += penalty * sum(map(cosine, vectors, norms, reference))
        rows.append((10 * total / len(own) / _ORDERS, 1.0))
    return Statistics("CIDEr", "tok:ptb-3.4.1|case:lc|n:4|sigma:6|df:references", np.array(rows), mean)


def _count(text: str) -> tuple[Counter[Ngram], ...]:
    return ngrams(treebank(text))[:_ORDERS]


def _norm(weights: Iterable[float]) -> float:
    return math.sqrt(sum(weight * weight for weight in weights))
