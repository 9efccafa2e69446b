"""BLEU (Papineni et al. 2002), as mteval-v13a computes it for E2E and as multi-bleu does for WebNLG and DART."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tailora.metrics.ngrams import shared
from tailora.metrics.statistics import Floats, Statistics, check_texts
from tailora.metrics.tokens import mteval

_ORDERS = 4


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """Corpus BLEU, 0 to 1, of texts in lower case, tokenised as mteval does it; any number of references.

    A reference's length is that of the closest, the shorter of two. Of an order without any match the precision
    is a half, a quarter and so on of one match, as mteval smooths it.

    Raises:
        DataError: see `check_texts`.
    """
    return _bleu("BLEU", "tok:mteval-13a|case:lc|smooth:exp|refs:any|length:closest", hypotheses, references, _smoothed)


def multi_bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, most: int = 6) -> Statistics:
    """Corpus BLEU, 0 to 1, as multi-bleu computes it: no smoothing, only the first `most` references.

    The LoRA paper scores WebNLG and DART so, with six references, lower-cased and tokenised.

    Raises:
        DataError: see `check_texts`.
    """
    signature = f"tok:mteval-13a|case:lc|smooth:none|refs:{most}|length:closest"
    return _bleu("multi-BLEU", signature, hypotheses, [own[:most] for own in references], _bare)


def _bleu(
    name: str,
    signature: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    precisions: Callable[[Floats, Floats], Floats],
) -> Statistics:
    check_texts(hypotheses, references)
    rows = []
    for text, own in zip(hypotheses, references, strict=True):
        tokens, others = mteval(text), tuple(mteval(each) for each in own)
        closest = min(map(len, others), key=lambda length: (abs(length - len(tokens)), length))
        row = [len(tokens), closest]
        for order, matches in enumerate(shared(tokens, others)[:_ORDERS]):
            row += [sum(matches.values()), max(len(tokens) - order, 0)]
        rows.append(row)

    def total(sums: Floats) -> Floats:
        """From sums of (tokens, tokens of the closest references, and of each order matches and n-grams)."""
        written, wanted = sums[..., 0], sums[..., 1]
        with np.errstate(divide="ignore"):
            logarithms = np.log(precisions(sums[..., 2::2], sums[..., 3::2])).mean(-1)
        brevity = np.minimum(0.0, 1 - wanted / np.maximum(written, 1e-9))
        return np.asarray(np.exp(brevity + logarithms))

    return Statistics(name, signature, np.array(rows, np.float64), total)


def _bare(matches: Floats, ngrams_written: Floats) -> Floats:
    return np.asarray(matches / np.maximum(ngrams_written, 1))


def _smoothed(matches: Floats, ngrams_written: Floats) -> Floats:
    halvings = np.cumsum(matches == 0, axis=-1)
    # A corpus without one matching token, or without any n-gram of an order, has no BLEU to smooth.
    assumed = np.where((matches[..., :1] > 0) & (ngrams_written > 0), 0.5**halvings, 0.0)
    return np.asarray(np.where(matches > 0, matches, assumed) / np.maximum(ngrams_written, 1))
