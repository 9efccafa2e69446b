"""ROUGE-L (Lin 2004) as the COCO caption scripts compute it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tailora.metrics.statistics import Statistics, check_texts, mean, signature
from tailora.metrics.tokenizers import coco_tokenizer

_BETA = 1.2


def rouge_l(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: str | None = None
) -> Statistics:
    """Return ROUGE-L: F (beta 1.2) of the longest common subsequence, averaged over texts; 0 to 1.

    The best precision and the best recall over the references count; they may come from different references.

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
    rows = [
        (_score(tokens_of(text), [tokens_of(reference) for reference in own]), 1.0)
        for text, own in zip(hypotheses, references, strict=True)
    ]
    return Statistics("ROUGE-L", signature(f"tok:{name}|case:lc|beta:1.2", references), np.array(rows), mean)


def _score(text: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    # In the scripts, a text without tokens is one empty token, which equals that of another such text.
    text, references = text or ("",), [reference or ("",) for reference in references]
    common = [common_length(text, reference) for reference in references]
    precision = max(common) / len(text)
    recall = max(length / len(reference) for length, reference in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, a column of the table in the bits of a number (Hyyrö 2004)."""
    where: dict[str, int] = {}
    for place, token in enumerate(first):
        where[token] = where.get(token, 0) | 1 << place
    everything = (1 << len(first)) - 1
    column = everything
    for token in second:
        hits = column & where.get(token, 0)
        column = ((column + hits) | (column - hits)) & everything
    return len(first) - column.bit_count()
