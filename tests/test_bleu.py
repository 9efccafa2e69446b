"""BLEU beside sacrebleu's, and what is particular to the two scripts."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from corpora import corpora, streams
from tailora.core.errors import DataError
from tailora.metrics.bleu import bleu, multi_bleu


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "zh", "char", "none"])
@given(corpora())
def test_equals_sacrebleu_on_any_corpus(tokenizer: str, corpus: Any) -> None:
    texts, references = corpus
    theirs = BLEU(lowercase=True, tokenize=tokenizer, force=True).corpus_score(texts, streams(references)).score
    assert 100 * bleu(texts, references, tokenizer=tokenizer).value == pytest.approx(theirs, abs=1e-9)
    theirs = BLEU(lowercase=True, tokenize=tokenizer, smooth_method="none", force=True)
    found = multi_bleu(texts, references, tokenizer=tokenizer)
    assert 100 * found.value == pytest.approx(theirs.corpus_score(texts, streams(references)).score, abs=1e-9)
    assert f"tok:{tokenizer}|case:lc|smooth:none" in found.signature


def test_what_mteval_does_where_sacrebleu_gives_nothing() -> None:
    # mteval-v13a printed these: orders without n-grams are left out, and a corpus without any match is smoothed.
    assert bleu(["the"], [["the"]]).value == 1
    assert bleu(["zz yy"], [["a cafe by the river"]]).value == pytest.approx(math.exp(-1.5) / 2)
    assert bleu(["", ""], [["a"], ["b"]]).value == 0
    # It knows no case of letters beyond A to Z.
    assert bleu(["CAFE"], [["cafe"]]).value == 1 > bleu(["CAFÉ"], [["café"]]).value == pytest.approx(0.5**0.25)


def test_case_and_differing_numbers_of_references() -> None:
    texts = ["The cat sat on the mat .", "A dog ran over the road ."]
    assert bleu(texts, [[texts[0].upper()], ["x", texts[1]]]).value == pytest.approx(1)


def test_nothing_to_compare() -> None:
    with pytest.raises(DataError, match="record 1 has no reference"):
        bleu(["a"], [[]])
    with pytest.raises(DataError, match="2 texts for 1 record"):
        bleu(["a", "b"], [["a"]])


def test_multi_bleu_takes_the_first_references_and_does_not_smooth() -> None:
    text = "one two three four five"
    late = [["x"] * 6 + [text]]
    assert multi_bleu([text], late).value == 0 < bleu([text], late).value
    assert multi_bleu([text], late, most=7).value == pytest.approx(1)
    assert (
        multi_bleu(["one two three nine five"], [[text]]).value == 0 < bleu(["one two three nine five"], [[text]]).value
    )


@given(st.lists(st.text("ab .", min_size=1), min_size=1, max_size=3))
def test_a_corpus_of_its_own_references_is_perfect_or_empty(texts: Any) -> None:
    value = bleu(texts, [[text] for text in texts]).value
    assert 0 <= value <= 1 + 1e-9
