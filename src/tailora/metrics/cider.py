"""CIDEr (Vedantam et al. 2015, arXiv:1411.5726) as the COCO caption scripts compute it: clipped, lengths compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from tailora.metrics.ngrams import Ngram, ngrams
from tailora.metrics.statistics import Statistics, check_texts, mean, signature
from tailora.metrics.tokenizers import coco_tokenizer

_ORDERS = 4
_SIGMA = 6.0  # of the Gaussian penalty on differences in length, in bigrams


def cider(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: str | None = None
) -> Statistics:
    """Return CIDEr-D: 10 times the cosine of tf-idf vectors, averaged over orders 1 to 4, references and texts.

    Counts are clipped to those of the reference, and a Gaussian penalty applies to differences in length. The document
    frequency of an n-gram is the number of records with a reference that contains it. In a resample these frequencies
    stay those of all records.

    Args:
        hypotheses: one text for each record.
        references: of each record.
        tokenizer: None for Penn Treebank tokens, or a name of `tokenizers.NAMES`; punctuation is dropped from both.

    Raises:
        DataError: see `check_texts`.
        MissingExtraError: the tokenizer's package is not installed.
    """
    check_texts(hypotheses, references)
    tokens_of, name = coco_tokenizer(tokenizer)
    counted = [[ngrams(tokens_of(text))[:_ORDERS] for text in own] for own in references]
    frequency: Counter[Ngram] = Counter()
    for own in counted:
        frequency.update(set().union(*(ngrams_in for orders in own for ngrams_in in orders)))
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
        counts = ngrams(tokens_of(text))[:_ORDERS]
        vectors = [{ngram: count * idf.get(ngram, rare) for ngram, count in ngrams_in.items()} for ngrams_in in counts]
        norms, length = [_norm(vector.values()) for vector in vectors], counts[1].total()
        total = 0.0
        for reference in own:
            penalty = math.exp(-((length - reference[1].total()) ** 2) / (2 * _SIGMA**2))
            total += penalty * sum(map(cosine, vectors, norms, reference))
        rows.append((10 * total / len(own) / _ORDERS, 1.0))
    return Statistics(
        "CIDEr", signature(f"tok:{name}|case:lc|n:4|sigma:6|df:references", references), np.array(rows), mean
    )


def _norm(weights: Iterable[float]) -> float:
    return math.sqrt(sum(weight * weight for weight in weights))
