"""BLEU beside sacrebleu's, and what is particular to the two scripts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from tailora.errors import DataError
from tailora.metrics.bleu import bleu, multi_bleu
from texts import corpora, streams


@given(corpora())
def test_equals_sacrebleu_on_any_corpus(corpus):
    texts, references = corpus
    theirs = BLEU(lowercase=True).corpus_score(texts, streams(references)).score
    assert 100 * bleu(texts, references).value == pytest.approx(theirs, abs=1e-9)


def test_case_and_differing_numbers_of_references():
    texts = ["The cat sat on the mat .", "A dog ran over the road ."]
    assert bleu(texts, [[texts[0].upper()], ["x", texts[1]]]).value == pytest.approx(1)


def test_nothing_to_compare():
    with pytest.raises(DataError, match="text 1 has no reference"):
        bleu(["a"], [[]])
    with pytest.raises(DataError, match="2 texts against references for 1"):
        bleu(["a", "b"], [["a"]])


def test_multi_bleu_takes_the_first_references_and_does_not_smooth():
    text = "one two three four five"
    late = [["x"] * 6 + [text]]
    assert multi_bleu([text], late).value == 0 < bleu([text], late).value
    assert multi_bleu([text], late, most=7).value == pytest.approx(1)
    assert (
        multi_bleu(["one two three nine five"], [[text]]).value == 0 < bleu(["one two three nine five"], [[text]]).value
    )


@given(st.lists(st.text("ab .", min_size=1), min_size=1, max_size=3))
def test_a_corpus_of_its_own_references_is_perfect_or_empty(texts):
    value = bleu(texts, [[text] for text in texts]).value
    assert 0 <= value <= 1 + 1e-9
