"""chrF and TER beside sacrebleu's."""

import pytest
from hypothesis import given
from sacrebleu.metrics import CHRF, TER

from tailora.metrics.chrf import chrf
from tailora.metrics.ter import ter
from texts import corpora, streams


@given(corpora())
def test_chrf_equals_sacrebleu(corpus):
    texts, references = corpus
    assert 100 * chrf(texts, references).value == pytest.approx(CHRF().corpus_score(texts, streams(references)).score)


@given(corpora())
def test_ter_of_a_corpus_is_made_of_its_texts(corpus):
    texts, references = corpus
    found = ter(texts, references)
    assert found.lower_is_better
    assert 100 * found.value == pytest.approx(TER().corpus_score(texts, streams(references)).score)
