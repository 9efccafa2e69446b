"""BLEU with differing numbers of references."""

import pytest

from tailora.errors import DataError
from tailora.metrics.bleu import bleu


def test_variable_references_and_case():
    texts = ["The cat sat on the mat .", "A dog ran over the road ."]
    assert bleu(texts, [[texts[0]], ["x", texts[1]]]).value == pytest.approx(100)
    lower = [[text.lower()] for text in texts]
    assert bleu(texts, lower).value < bleu(texts, lower, lowercase=True).value == pytest.approx(100)


def test_nothing_to_compare():
    with pytest.raises(DataError, match="text 1 has no reference"):
        bleu(["a"], [[]])
