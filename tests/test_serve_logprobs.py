"""Texts and log-probabilities in OpenAI's forms."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bases import SENTENCEPIECE, save_sentencepiece, save_tokenizer
from tailora.data.tokenizer import Tokenizer
from tailora.serve.logprobs import CompletionLogprobs, chat_logprobs


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return Tokenizer.from_folder(folder)


def characters(result: bytes) -> list[int]:
    """Of each byte, the number of the character that it belongs to once wrong ones are replaced as Unicode advises."""
    found: list[int] = []
    while len(found) < len(result):
        rest = result[len(found) :]
        try:
            length = len(rest.decode()[0].encode())
        except UnicodeDecodeError as error:
            length = len(rest[: error.start].decode()[0].encode()) if error.start else error.end
        found += [found[-1] + 1 if found else 0] * length
    return found


@given(
    st.lists(st.binary(min_size=1, max_size=4) | st.text(min_size=1, max_size=2).map(str.encode), max_size=12).map(
        b"".join
    )
)
def test_a_token_begins_at_its_first_character(tokenizer: Tokenizer, result: bytes) -> None:
    of_byte = {tokenizer.token_bytes(token): token for token in range(tokenizer.vocab_size)}
    ids = [of_byte[bytes([byte])] for byte in result]
    parts = CompletionLogprobs(tokenizer)
    offsets = [parts.add([token], [0.0], [])["text_offset"][0] for token in ids]
    assert offsets == characters(result)
    assert CompletionLogprobs(tokenizer).add(ids, [0.0] * len(ids), [])["text_offset"] == offsets


@pytest.mark.parametrize("kind", SENTENCEPIECE)
def test_words_of_sentencepiece_are_text(tmp_path: Path, kind: str) -> None:
    """No word divider of the vocabulary, no name of a byte; offsets count characters of the text."""
    save_sentencepiece(tmp_path, kind)
    tokenizer = Tokenizer.from_folder(tmp_path)
    ids = [*tokenizer.encode(" The pub\né.", continues=True), tokenizer.eos_id]
    text = tokenizer.decode_written(ids)
    result = CompletionLogprobs(tokenizer).add(ids[:-1], [0.0] * len(ids), [((ids[0], -1.0), (13, -2.0))] * len(ids))
    assert result["tokens"][:4] == [" T", "h", "e", " "]
    assert result["tokens"][6:] == ["\n", "bytes:\\xc3", "bytes:\\xa9", "."]
    assert set(result["top_logprobs"][0]) == {" T", "\n"}
    assert text == " The pub\né."
    for word, offset in zip(result["tokens"], result["text_offset"], strict=True):
        assert word.startswith("bytes:") or text[offset:].startswith(word)
    chat = chat_logprobs(tokenizer, ids[:-1], [0.0] * len(ids), [])["content"]
    assert bytes(byte for each in chat for byte in each["bytes"]).decode() == text
    prompt = [*tokenizer.bos_ids, *tokenizer.encode("name : T")]
    result = CompletionLogprobs(tokenizer).add(prompt, [0.0] * len(prompt), [], prompt=True)
    assert "".join(result["tokens"][1:]) == tokenizer.decode(prompt) == "name : T"
    assert result["text_offset"][:2] == [0, 0]
    assert [
        ("name : T"[at:]).startswith(w) for at, w in zip(result["text_offset"][1:], result["tokens"][1:], strict=True)
    ]
