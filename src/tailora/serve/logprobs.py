"""Texts and log-probabilities of completions in the forms of OpenAI's two APIs."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from tailora.data.text_stream import cut_at
from tailora.data.tokenizer import Tokenizer
from tailora.engine.decoding import Alternatives, Completion


def text_of(tokenizer: Tokenizer, completion: Completion, stop: Sequence[str]) -> str:
    """Return the text of a completion, up to a stop string."""
    return cut_at(tokenizer.decode_written(completion.token_ids), stop)


def without_end(tokenizer: Tokenizer, completion: Completion) -> int:
    """Return the number of tokens without a special token that ended the text."""
    return len(completion.token_ids) - ends_unseen(tokenizer, completion.token_ids, completion.finish_reason)


def ends_unseen(tokenizer: Tokenizer, ids: Sequence[int], reason: str | None) -> bool:
    """Return whether the last token is a special token that ended the text, and is not part of it."""
    return reason == "stop" and bool(ids) and ids[-1] in tokenizer.special_ids


class CompletionLogprobs:
    """Log-probabilities of one text's tokens in the form of /v1/completions, in several parts.

    Args:
        tokenizer: of the base.
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
        """Return the log-probabilities of the next tokens.

        Args:
            ids: token ids.
            logprobs: of each token; None where it is not known.
            top: most likely tokens in each place; may be empty.
            prompt: whether the tokens belong to the prompt, whose special tokens are not part of the text.
        """
        offsets, words = [], []
        for token in ids:
            begins = prompt and not self._begun
            words.append(self._word(token, begins=begins))
            if prompt and token in self._tokenizer.special_ids:
                offsets.append(self._offset)
                continue
            self._begun = True
            data = self._tokenizer.token_bytes(token, begins=begins)
            # Bytes of a character that this token does not continue become a replacement character before it.
            offsets.append(self._offset + (not _continues(self._decoder.getstate()[0], data)))
            self._offset += len(self._decoder.decode(data))
        alternatives = [
            None if place is None else {self._word(token): value for token, value in place} for place in top[: len(ids)]
        ]
        return {
            "tokens": words,
            "token_logprobs": list(logprobs[: len(ids)]),
            "top_logprobs": alternatives or None,
            "text_offset": offsets,
        }

    def _word(self, token: int, *, begins: bool = False) -> str:
        """A token as text, or in OpenAI's notation for bytes if it is a part of a character."""
        data = self._tokenizer.token_bytes(token, begins=begins)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _continues(begun: bytes, data: bytes) -> bool:
    """Whether these bytes may follow the first bytes of a character, if there are any."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(begun + data[:1])
    except UnicodeDecodeError:
        return not begun
    return True


def chat_logprobs(
    tokenizer: Tokenizer, ids: Sequence[int], logprobs: Sequence[float], top: Sequence[Alternatives]
) -> dict[str, Any]:
    """Return log-probabilities in the form of /v1/chat/completions; arguments as for `CompletionLogprobs.add`."""
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
    data = tokenizer.token_bytes(token)
    return {"token": data.decode(errors="replace"), "logprob": value, "bytes": list(data)}
