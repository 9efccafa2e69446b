"""Texts and log-probabilities in OpenAI's forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bases import save_tokenizer
from tailora.data.tokenizer import Tokenizer
from tailora.serve.texts import CompletionLogprobs


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return Tokenizer.from_folder(folder)


def characters(told: bytes) -> list[int]:
    """Of each byte, the number of the character that it belongs to once wrong ones are replaced as Unicode advises."""
    found: list[int] = []
    while len(found) < len(told):
        rest = told[len(found) :]
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
def test_a_token_begins_at_its_first_character(tokenizer: Tokenizer, told: bytes) -> None:
    of_byte = {tokenizer.token_bytes(token): token for token in range(tokenizer.vocab_size)}
    ids = [of_byte[bytes([byte])] for byte in told]
    parts = CompletionLogprobs(tokenizer)
    offsets = [parts.add([token], [0.0], [])["text_offset"][0] for token in ids]
    assert offsets == characters(told)
    assert CompletionLogprobs(tokenizer).add(ids, [0.0] * len(ids), [])["text_offset"] == offsets
