"""NIST (Doddington 2002) as mteval-v13a computes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tailora.metrics.ngrams import ORDERS, Ngram, ngrams_of, shared
from tailora.metrics.statistics import Doubles, Statistics, check_texts, signature
from tailora.metrics.tokenizers import sacrebleu_tokenizer
from tailora.metrics.tokens import mteval

_BETA = -math.log(0.5) / math.log(1.5) ** 2  # texts two thirds as long as their references lose half


def nist(hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: str | None = None) -> Statistics:
    """Return NIST: information of n-grams shared with a reference per n-gram of the texts, orders 1 to 5; 0 or more.

    The information of an n-gram is log2 of the count of its first n-1 tokens in the references over its own count; in a
    resample it stays that of all references. Texts shorter than their references are penalised. The length of the
    references is their mean over all references of all records, times the number of texts.

    Args:
        hypotheses: one text for each record.
        references: of each record.
        tokenizer: None for mteval-v13a's tokens, or a name of `tokenizers.NAMES`.

    Raises:
        DataError: see `check_texts`.
        MissingExtraError: the tokenizer's package is not installed.
    """
    check_texts(hypotheses, references)
    tokens_of = mteval if tokenizer is None else sacrebleu_tokenizer(tokenizer)
    tokenised = [tuple(map(tokens_of, own)) for own in references]
    everywhere: Counter[Ngram] = Counter()
    for own in tokenised:
        for tokens in own:
            everywhere[()] += len(tokens)
            for order in range(1, ORDERS + 1):
                everywhere.update(ngrams_of(tokens, order))  # by elements: adding up counts is far slower
    zeros: dict[Ngram, int] = {}
    if tokenizer is None and ("0",) in everywhere:
        # mteval treats a first token "0" as false and takes the number of all tokens instead.
        zeros = {ngram: everywhere[()] for ngram in everywhere if len(ngram) == 2 and ngram[0] == "0"}

    def information(ngram: Ngram) -> float:
        return math.log2(zeros.get(ngram, everywhere[ngram[:-1]]) / everywhere[ngram])

    rows = []
    for text, own in zip(hypotheses, tokenised, strict=True):
        tokens = tokens_of(text)
        row = [1.0, float(len(tokens)), float(sum(map(len, own))), float(sum(map(bool, own)))]
        for order, matches in enumerate(shared(tokens, own)):
            row.append(sum(count * information(ngram) for ngram, count in matches.items()))
            row.append(float(max(len(tokens) - order, 0)))
        rows.append(row)
    case = "mteval-13a|case:lc-ascii" if tokenizer is None else f"{tokenizer}|case:lc"
    return Statistics("NIST", signature(f"tok:{case}|n:5", references), np.array(rows), _total)


def _total(sums: Doubles) -> Doubles:
    """From sums of texts, tokens, tokens of references, references, and for each order information and n-grams."""
    texts, written, tokens, references = (sums[..., place] for place in range(4))
    information, ngrams_written = sums[..., 4::2], sums[..., 5::2]
    precision = np.sum(information / np.maximum(ngrams_written, 1), axis=-1)
    wanted = texts * tokens / np.maximum(references, 1)
    ratio = np.clip(written / np.maximum(wanted, 1e-9), 1e-300, 1)
    return np.asarray(precision * np.exp(-_BETA * np.log(ratio) ** 2))
