"""Texts and log-probabilities of completions in the forms of OpenAI's two APIs."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from tailora.data.text_stream import cut_at
from tailora.data.tokenizer import Tokenizer
from tailora.engine.decoding import Alternatives, Completion


def text_of(tokenizer: Tokenizer, completion: Completion, stop: Sequence[str]) -> str:
    """What was written, as it was written, up to a stop string."""
    return cut_at(tokenizer.decode_written(completion.token_ids), stop)


def without_end(tokenizer: Tokenizer, completion: Completion) -> int:
    """How many tokens there are before the one that ended the text, if a special token did."""
    return len(completion.token_ids) - ends_unseen(tokenizer, completion.token_ids, completion.finish_reason)


def ends_unseen(tokenizer: Tokenizer, ids: Sequence[int], reason: str | None) -> bool:
    """Whether the last token ended a text that it is no part of."""
    return reason == "stop" and bool(ids) and ids[-1] in tokenizer.special_ids


class CompletionLogprobs:
    """Log-probabilities as /v1/completions tells them, of one text's tokens as they come.

    Args:
        tokenizer: of the tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0
        self._begun = False

    def add(
        self,
        ids: Sequence[int],
        logprobs: Sequence[float | None],
        top: Sequence[Alternatives | None],
        *,
        prompt: bool = False,
    ) -> dict[str, Any]:
        """What is to be told of some more tokens.

        Args:
            ids: the tokens.
            logprobs: of each; None where nothing is known.
            top: what else was likely in each place; may be empty.
            prompt: whether the tokens are the prompt's, whose special tokens have no place in the text.
        """
        offsets, words = [], []
        for token in ids:
            begins = prompt and not self._begun
            words.append(self._word(token, begins=begins))
            if prompt and token in self._tokenizer.special_ids:
                offsets.append(self._offset)
                continue
            self._begun = True
            told = self._tokenizer.token_bytes(token, begins=begins)
            # Bytes of a character that this token does not go on with are a replacement character before it.
            offsets.append(self._offset + (not _goes_on(self._decoder.getstate()[0], told)))
            self._offset += len(self._decoder.decode(told))
        likely = [
            None if place is None else {self._word(token): value for token, value in place} for place in top[: len(ids)]
        ]
        return {
            "tokens": words,
            "token_logprobs": list(logprobs[: len(ids)]),
            "top_logprobs": likely or None,
            "text_offset": offsets,
        }

    def _word(self, token: int, *, begins: bool = False) -> str:
        """A token as text; OpenAI's form for one that is a part of a character."""
        told = self._tokenizer.token_bytes(token, begins=begins)
        try:
            return told.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in told)


def _goes_on(begun: bytes, told: bytes) -> bool:
    """Whether the first bytes of a character, if any, may be followed by these."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(begun + told[:1])
    except UnicodeDecodeError:
        return not begun
    return True


def chat_logprobs(
    tokenizer: Tokenizer, ids: Sequence[int], logprobs: Sequence[float], top: Sequence[Alternatives]
) -> dict[str, Any]:
    """Log-probabilities as /v1/chat/completions tells them; arguments as above."""
    places: list[Alternatives] = [*top, *[()] * (len(ids) - len(top))]
    return {
        "content": [
            {
                **_chat_token(tokenizer, token, value),
                "top_logprobs": [_chat_token(tokenizer, *alternative) for alternative in place],
            }
            for token, value, place in zip(ids, logprobs, places, strict=False)
        ]
    }


def _chat_token(tokenizer: Tokenizer, token: int, value: float) -> dict[str, Any]:
    told = tokenizer.token_bytes(token)
    return {"token": told.decode(errors="replace"), "logprob": value, "bytes": list(told)}
