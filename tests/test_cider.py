"""CIDEr where its value is known."""

from __future__ import annotations

import pytest

from tailora.metrics.cider import cider


def test_texts_that_are_their_references_score_ten() -> None:
    texts = ["the red house by the sea", "a small dog ran over there", "nobody knows what they want"]
    assert cider(texts, [[text] for text in texts]).value == pytest.approx(10)


def test_what_every_record_says_counts_nothing() -> None:
    assert cider(["same old words here", "same old words here"], [["same old words here"]] * 2).value == 0


def test_lengths_and_repetitions_are_punished() -> None:
    references = [["the red house"], ["a dog"], ["two cats sleep"]]
    exact = cider(["the red house", "a dog", "two cats sleep"], references).by_text
    longer = cider(["the red house house house", "a dog", "two cats sleep"], references).by_text
    assert longer[0] < exact[0]
    assert longer[1] == exact[1]
