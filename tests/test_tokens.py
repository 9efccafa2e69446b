"""Tokens beside what mteval-v13a and the Stanford tokenizer 3.4.1 gave for the same texts."""

from __future__ import annotations

from typing import Any

import pytest

from tailora.metrics.tokens import mteval, treebank

# Asked of the program itself; its punctuation dropped as the COCO scripts drop it.
TREEBANK = {
    "It is high.. Price is low..": "it is high price is low",
    "It costs less than £20... Yes.": "it costs less than # 20 yes",
    "He lives in the U.S. The end.": "he lives in the u.s. the end",
    "J. Smith met A. B. Jones Jr. He said": "j. smith met a. b. jones jr. he said",
    "plan B. The end": "plan b the end",
    "plan b. the end": "plan b. the end",
    "Acme Inc.": "acme inc.",
    "rock 'n' roll and 'em 'twas 'tis": "rock 'n' roll and 'em 't was 't is",
    "'quoted words' and \"double\" it's the Johnsons' house's": "quoted words and double it 's the johnsons house 's",
    "-25 to -30, x -5 x-5 (-5) 3 - 5": "-25 to -30 x -5 x-5 -lrb- -5 -rrb- 3 5",
    ".88 and 0.88 or no.88 or 1.fc or a.b or 3.the": ".88 and 0.88 or no. 88 or 1 fc or a.b or 3 the",
    "adv. math. syst. no. 5 No. The St. Mary": "adv. math syst no. 5 no the st. mary",
    "gonna cannot don't can't DON'T I'm they've": "gon na can not do n't ca n't do n't i 'm they 've",
    "AT&T R&D B & B black&white": "at&t r&d b & b black & white",
    "a/b 4/5 and/or 18L/36R 1 / 2": "a/b 4/5 and/or 18l/36r 1 / 2",
    "#1 20% $30 US$30 £20-25 €5 20,000 a,b": "# 1 20 % $ 30 us$ 30 # 20-25 $ 5 20,000 a b",
    "10:30 at 10:30pm 3rd 5of5 v8 o'clock O'Donnell 5-star": "10:30 at 10:30 pm 3rd 5of5 v8 o'clock o'donnell 5-star",
    "it’s it–is “quotes” ‘q’": "it 's it is quotes q",
    "wow!! wow?! ok??": "wow !! wow ?! ok ??",
    "ex-wife's non-family-friendly French,family-friendly": "ex-wife 's non-family-friendly french,family-friendly",
    "İzmir Café Ahri'ahn Marc'Antonio Hook'em": "i̇zmir café ahri'ahn marc antonio hook 'em",
    "the city center., close; 2006.It states.The": "the city center. close 2006 it states.the",
    "": "",
}


@pytest.mark.parametrize("text", TREEBANK)
def test_treebank(text: Any) -> None:
    assert " ".join(treebank(text)) == TREEBANK[text]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It isn't family-friendly.", "it isn't family-friendly ."),
        ("Costs £20-25, or $1,000.50 (5/5)", "costs £20 - 25 , or $ 1,000.50 ( 5 / 5 )"),
        ("Wait...  what? &quot;A&amp;B&quot;", 'wait . . . what ? " a & b "'),
        ("  ", ""),
    ],
)
def test_mteval(text: str, tokens: str) -> None:
    assert " ".join(mteval(text)) == tokens
