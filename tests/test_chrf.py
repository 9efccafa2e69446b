"""chrF and TER beside sacrebleu's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from sacrebleu.metrics import CHRF, TER

from corpora import corpora, streams
from tailora.metrics.chrf import chrf, chrf_pp, webnlg_chrf
from tailora.metrics.ter import ter


@given(corpora())
def test_chrf_equals_sacrebleu(corpus: Any) -> None:
    texts, references = corpus
    assert 100 * chrf(texts, references).value == pytest.approx(CHRF().corpus_score(texts, streams(references)).score)


@given(corpora())
def test_chrf_with_words_equals_sacrebleu(corpus: Any) -> None:
    texts, references = corpus
    theirs = CHRF(word_order=2).corpus_score(texts, streams(references)).score
    assert 100 * chrf_pp(texts, references).value == pytest.approx(theirs)
    first = [own[:1] for own in references]  # of equally good references chrF++.py takes the first, sacrebleu may not
    theirs = CHRF(word_order=2, eps_smoothing=True).corpus_score(texts, streams(first)).score
    assert 100 * webnlg_chrf(texts, first).value == pytest.approx(theirs)


@given(corpora())
def test_ter_of_a_corpus_is_made_of_its_texts(corpus: Any) -> None:
    texts, references = corpus
    found = ter(texts, references)
    assert found.lower_is_better
    assert 100 * found.value == pytest.approx(TER().corpus_score(texts, streams(references)).score)
