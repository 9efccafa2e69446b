"""BLEU (Papineni et al. 2002), as mteval-v13a computes it for E2E and as multi-bleu does for WebNLG and DART."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tailora.metrics.ngrams import shared
from tailora.metrics.statistics import Doubles, Statistics, check_texts, signature
from tailora.metrics.tokenizers import Tokenizer, sacrebleu_tokenizer
from tailora.metrics.tokens import mteval, words

_ORDERS = 4


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: str | None = None) -> Statistics:
    """Return corpus BLEU, 0 to 1, with any number of references.

    The reference length is that of the reference closest in length; of two equally close ones, of the shorter.

    Args:
        hypotheses: one text for each record.
        references: of each record.
        tokenizer: None for mteval-v13a's tokens, case and smoothing: the first order without a match counts as half
            a match, the next as a quarter, and an order without n-grams is left out. With a name of `tokenizers.NAMES`,
            lower-cased texts are scored as sacrebleu does, and a corpus without any match has a BLEU of 0.

    Raises:
        DataError: see `check_texts`.
        MissingExtraError: the tokenizer's package is not installed.
    """
    if tokenizer is None:
        settings = "tok:mteval-13a|case:lc-ascii|smooth:mteval|length:closest"
        return _bleu("BLEU", settings, hypotheses, references, mteval, _mteval)
    settings = f"tok:{tokenizer}|case:lc|smooth:exp|length:closest"
    return _bleu("BLEU", settings, hypotheses, references, sacrebleu_tokenizer(tokenizer), _exponential)


def multi_bleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, most: int = 6, tokenizer: str | None = None
) -> Statistics:
    """Return corpus BLEU, 0 to 1, without smoothing, with the first `most` references.

    By default texts are lower-cased and split at every sign before multi-bleu-detok.perl reads them, as the LoRA paper
    does for WebNLG and DART, with six references. With the tokenizer "none" this is multi-bleu.perl on lower-cased
    texts.

    Args:
        hypotheses: one text for each record.
        references: of each record.
        most: how many references count.
        tokenizer: a name of `tokenizers.NAMES`.

    Raises:
        DataError: see `check_texts`.
        MissingExtraError: the tokenizer's package is not installed.
    """
    tokens = words if tokenizer is None else sacrebleu_tokenizer(tokenizer)
    settings = f"tok:{tokenizer or 'words+13a'}|case:lc|smooth:none|most:{most}|length:closest"
    return _bleu("multi-BLEU", settings, hypotheses, [own[:most] for own in references], tokens, _plain)


def _bleu(
    name: str,
    settings: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokens_of: Tokenizer,
    precisions: Callable[[Doubles, Doubles], Doubles],
) -> Statistics:
    check_texts(hypotheses, references)
    rows = []
    for text, own in zip(hypotheses, references, strict=True):
        tokens, others = tokens_of(text), tuple(map(tokens_of, own))
        closest = min(map(len, others), key=lambda length: (abs(length - len(tokens)), length))
        row = [len(tokens), closest]
        for order, matches in enumerate(shared(tokens, others)[:_ORDERS]):
            row += [sum(matches.values()), max(len(tokens) - order, 0)]
        rows.append(row)

    def total(sums: Doubles) -> Doubles:
        """From sums of tokens, tokens of the closest references, and for each order matches and n-grams."""
        written, wanted = sums[..., 0], sums[..., 1]
        with np.errstate(divide="ignore"):
            logarithms = np.log(precisions(sums[..., 2::2], sums[..., 3::2])).mean(-1)
        brevity = np.minimum(0.0, 1 - wanted / np.maximum(written, 1))
        return np.asarray(np.where(written > 0, np.exp(brevity + logarithms), 0.0))

    return Statistics(name, signature(settings, references), np.array(rows, np.float64), total)


def _plain(matches: Doubles, ngrams_written: Doubles) -> Doubles:
    return np.asarray(matches / np.maximum(ngrams_written, 1))


def _mteval(matches: Doubles, ngrams_written: Doubles) -> Doubles:
    """mteval-v13a's `bleu_score`."""
    unmatched = (matches == 0) & (ngrams_written > 0)
    counted = np.where(unmatched, 0.5 ** np.cumsum(unmatched, axis=-1), matches)
    return np.asarray(np.where(ngrams_written > 0, counted / np.maximum(ngrams_written, 1), 1.0))


def _exponential(matches: Doubles, ngrams_written: Doubles) -> Doubles:
    """sacrebleu's `smooth_method="exp"`: like mteval's, but 0 without any match, or for an order without n-grams."""
    halvings = np.cumsum(matches == 0, axis=-1)
    assumed = np.where((matches[..., :1] > 0) & (ngrams_written > 0), 0.5**halvings, 0.0)
    return np.asarray(np.where(matches > 0, matches, assumed) / np.maximum(ngrams_written, 1))
