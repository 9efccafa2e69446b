"""TER (Snover et al. 2006) by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import TER

from tailora.metrics.statistics import Floats, Statistics, check_texts


def ter(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """Edits and shifts to the closest reference, per token of the references; from 0 up, lower is better.

    Raises:
        DataError: see `check_texts`.
    """
    check_texts(hypotheses, references)
    metric = TER()
    scores = [metric.sentence_score(text, list(own)) for text, own in zip(hypotheses, references, strict=True)]
    rows = np.array([(score.num_edits, score.ref_length) for score in scores], np.float64)
    return Statistics(
        "TER", "sacrebleu|case:lc|tok:tercom|norm:no|punct:yes|refs:any", rows, _total, lower_is_better=True
    )


def _total(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1e-9))
