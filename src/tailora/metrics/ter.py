"""TER (Snover et al. 2006), as sacrebleu's port of Tercom computes it and as WebNLG 2020's script does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from sacrebleu.metrics import TER

from tailora.metrics.statistics import Doubles, Statistics, check_texts, mean, signature
from tailora.metrics.tokenizers import sacrebleu_tokenizer
from tailora.metrics.tokens import webnlg


def ter(hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: str | None = None) -> Statistics:
    """Return TER: edits and shifts to the closest reference per token of the references; 0 or more, lower is better.

    Args:
        hypotheses: one text for each record.
        references: of each record.
        tokenizer: None for tokens between spaces, as in Tercom, or a name of `tokenizers.NAMES`.

    Raises:
        DataError: see `check_texts`.
        MissingExtraError: the tokenizer's package is not installed.
    """
    check_texts(hypotheses, references)
    metric = TER()
    if tokenizer is not None:
        cut = sacrebleu_tokenizer(tokenizer)
        hypotheses = [" ".join(cut(text)) for text in hypotheses]
        cut_references = [[" ".join(cut(reference)) for reference in own] for own in references]
    else:
        cut_references = [list(own) for own in references]
    scores = [metric.sentence_score(text, own) for text, own in zip(hypotheses, cut_references, strict=True)]
    rows = np.array([(score.num_edits, score.ref_length) for score in scores], np.float64)
    settings = f"sacrebleu|case:lc|tok:{tokenizer or 'tercom'}|norm:no|punct:yes"
    return Statistics("TER", signature(settings, references), rows, _per_token, lower_is_better=True)


def _per_token(sums: Doubles) -> Doubles:
    edits, tokens = sums[..., 0], sums[..., 1]
    # As in sacrebleu, any text against an empty reference is one error.
    return np.asarray(np.where(tokens > 0, edits / np.maximum(tokens, 1e-9), np.minimum(edits, 1)))


def webnlg_ter(hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, most: int = 6) -> Statistics:
    """Return the mean over texts of the least TER to any of the first `most` references; lower is better.

    This is TER of WebNLG 2020's script, which uses pyter; pyter chooses shifts more freely than Tercom. Texts are first
    lower-cased and split at every sign, as the LoRA paper does for WebNLG and DART.

    Args:
        hypotheses: one text for each record.
        references: of each record.
        most: how many references count.

    Raises:
        DataError: see `check_texts`.
    """
    check_texts(hypotheses, references)
    rows = [
        (min(_ter(webnlg(text), webnlg(reference)) for reference in own[:most]), 1.0)
        for text, own in zip(hypotheses, references, strict=True)
    ]
    settings = f"pyter|case:lc|tok:words|most:{most}|mean:texts"
    return Statistics("TER, WebNLG", signature(settings, references), np.array(rows), mean, lower_is_better=True)


@lru_cache(maxsize=1 << 13)
def _ter(text: tuple[str, ...], reference: tuple[str, ...]) -> float:
    """Apply the shift that saves most edits until none saves any; return shifts and edits per word of the reference."""
    if not reference:
        return 1.0
    where: dict[str, int] = {}
    for place, word in enumerate(reference):
        where[word] = where.get(word, 0) | 1 << place
    shifts, words, edits = 0, list(text), _edits(text, where, len(reference))
    while edits:
        options = [(_edits(shifted, where, len(reference)), shifted) for shifted in _shifted(words, reference)]
        least = min((cost for cost, _ in options), default=edits)
        if least >= edits:
            break
        # Of equal savings, pyter takes the words that come last in the alphabet.
        shifts, edits, words = shifts + 1, least, max(shifted for cost, shifted in options if cost == least)
    return (shifts + edits) / len(reference)


def _shifted(words: list[str], reference: tuple[str, ...]) -> Iterator[list[str]]:
    """Yield the text with each longest run of words that the reference has elsewhere moved to that place."""
    for start, word in enumerate(words):
        for place, other in enumerate(reference):
            if word != other or start == place:
                continue
            end = start + 1
            while end < len(words) and place + end - start < len(reference):
                if words[end] != reference[place + end - start]:
                    break
                end += 1
            rest = words[:start] + words[end:]
            yield rest[:place] + words[start:end] + rest[place:]


def _edits(words: Sequence[str], where: dict[str, int], length: int) -> int:
    """Levenshtein distance to a reference, by bit vectors of the places of its words (Myers 1999, Hyyrö 2003)."""
    everything = (1 << length) - 1
    plus, minus, distance, last = everything, 0, length, 1 << (length - 1)
    for word in words:
        hits = where.get(word, 0)
        diagonal = (((hits & plus) + plus) ^ plus) | hits | minus
        up, down = (minus | ~(diagonal | plus)) & everything, plus & diagonal
        distance += bool(up & last) - bool(down & last)
        up, down = (up << 1 | 1) & everything, (down << 1) & everything
        plus, minus = (down | ~(diagonal | up)) & everything, up & diagonal
    return distance
