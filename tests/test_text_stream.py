"""Text piece by piece is the whole text, whatever the tokens cut apart."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bases import SENTENCEPIECE, save_sentencepiece
from tailora.data.text_stream import TextStream, cut_at
from tailora.data.tokenizer import Tokenizer
from tailora.models.catalog import TINY_FOLDER

TOKENIZER = Tokenizer.from_folder(TINY_FOLDER)
PLAIN = st.text(alphabet="ab .\n£é日😀", max_size=30)


STOPS = st.lists(st.sampled_from(["\n\n", "ab", "é日", "a", ". a", " ", " a", " ab", "\n", "a ", " \n"]), max_size=2)


@given(text=PLAIN, stop=STOPS)
def test_the_pieces_are_the_text(text: str, stop: list[str]) -> None:
    tokens = TOKENIZER.encode(text)
    stream = TextStream(TOKENIZER, stop)
    pieces = [stream.add([token]) for token in tokens]
    pieces.append(stream.end())
    assert "".join(pieces) == cut_at(TOKENIZER.decode(tokens), stop).strip()


@given(tokens=st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=20))
def test_any_tokens_give_the_same_text_as_at_once(tokens: list[int]) -> None:
    stream = TextStream(TOKENIZER)
    assert "".join([*(stream.add([token]) for token in tokens), stream.end()]) == TOKENIZER.decode(tokens).strip()


@given(text=PLAIN, stop=STOPS)
def test_white_space_stays_where_it_is_asked_for(text: str, stop: list[str]) -> None:
    tokens = TOKENIZER.encode(text)
    stream = TextStream(TOKENIZER, stop, strip=False)
    pieces = [*(stream.add([token]) for token in tokens), stream.end()]
    assert "".join(pieces) == cut_at(TOKENIZER.decode(tokens), stop)


@pytest.fixture(scope="module", params=SENTENCEPIECE)
def sentencepiece(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_sentencepiece(folder, request.param)
    return Tokenizer.from_folder(folder)


@given(tokens=st.lists(st.integers(0, 308), max_size=20))
@example(tokens=[3, 306, 131])  # a byte, an id that the vocabulary lacks, and half of a character
@example(tokens=[131, 1, 306, 3])
def test_spaces_and_bytes_of_sentencepiece_come_as_at_once(sentencepiece: Tokenizer, tokens: list[int]) -> None:
    """A space at the front belongs to the text; bytes are decoded together with those beside them."""
    stream = TextStream(sentencepiece, strip=False)
    pieces = [*(stream.add([token]) for token in tokens), stream.end()]
    assert "".join(pieces) == sentencepiece.decode_written(tokens)


def test_a_character_of_several_tokens_comes_whole() -> None:
    tokens = TOKENIZER.encode("x😀y")
    assert len(tokens) > 4
    stream = TextStream(TOKENIZER)
    assert [piece for token in tokens if (piece := stream.add([token]))] == ["x", "😀", "y"]


@pytest.mark.parametrize(("text", "expected"), [("abc\n\nd", "abc"), ("abc", "abc"), ("", ""), ("\n\n", "")])
def test_cut_at(text: str, expected: str) -> None:
    assert cut_at(text, ["\n\n", "zz"]) == expected


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        (" END rest", " END", ""),
        ("\n\nab", "\n\n", ""),
        ("  ab\n\nb", "\n\n", "ab"),
        (" a b", " ", ""),
        ("ab .", "b .", "a"),
    ],
)
def test_stop_strings_are_looked_for_before_white_space_goes(text: str, stop: str, expected: str) -> None:
    tokens = TOKENIZER.encode(text)
    stream = TextStream(TOKENIZER, [stop])
    assert "".join([*(stream.add([token]) for token in tokens), stream.end()]) == expected
    assert cut_at(TOKENIZER.decode(tokens), [stop]).strip() == expected
