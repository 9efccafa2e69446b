"""BLEU as sacrebleu computes it, for texts with any number of references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics import BLEU

from tailora.errors import DataError


@dataclass(frozen=True, slots=True)
class BleuScore:
    """Corpus BLEU, 0 to 100, and sacrebleu's signature of how it was computed."""

    value: float
    signature: str


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, lowercase: bool = False) -> BleuScore:
    """Score texts against their references (Papineni et al. 2002; Post 2018 for the signature).

    Args:
        hypotheses: one text a record.
        references: for each text one or more references; their numbers may differ.
        lowercase: compare without regard to case.

    Raises:
        DataError: there is nothing to score, the numbers differ, or a text has no reference.
    """
    if not hypotheses or len(hypotheses) != len(references):
        raise DataError(
            f"{len(hypotheses)} texts against references for {len(references)}", mend="give one text for each record"
        )
    lacking = [number for number, own in enumerate(references, start=1) if not own]
    if lacking:
        raise DataError(
            f"text {lacking[0]} has no reference ({len(lacking)} such)", mend="score records with references"
        )
    # sacrebleu takes one stream a reference position, and None where a text has no reference at that position.
    width = max(len(own) for own in references)
    streams = [[own[place] if place < len(own) else None for own in references] for place in range(width)]
    metric = BLEU(lowercase=lowercase)
    score = metric.corpus_score(list(hypotheses), streams)
    return BleuScore(float(score.score), str(metric.get_signature()))
