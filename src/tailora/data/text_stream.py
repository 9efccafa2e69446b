"""Incremental decoding: whole characters only, nothing of a stop string, and white space at the ends as chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tailora.data.tokenizer import Tokenizer

_CUT = "\ufffd"  # how a tokenizer decodes the bytes of an incomplete character


def cut_at(text: str, stop: Sequence[str]) -> str:
    """Return a text up to the first occurrence of a stop string."""
    return text[: min((place for string in stop if (place := text.find(string)) >= 0), default=len(text))]


class TextStream:
    """Decodes tokens incrementally; the joined pieces equal `cut_at(decode_written(all), stop)`, stripped if chosen.

    Args:
        tokenizer: the tokenizer of the tokens.
        stop: strings before which the text ends.
        strip: remove white space at both ends of the text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, strip: bool = True) -> None:
        self._tokenizer, self._stop, self._strip = tokenizer, tuple(stop), strip
        self._ids: list[int] = []
        self._start = self._read = 0  # begin of the context for decoding, and number of decoded tokens
        self._pending = ""  # text that may be the beginning of a stop string, or white space at the end
        self._begun = self._stopped = False

    def add(self, tokens: Iterable[int]) -> str:
        """Add tokens and return the text that is certain."""
        self._ids += tokens
        return self._certain(self._fresh(last=False), last=False)

    def end(self) -> str:
        """Return the rest of the text; no tokens follow."""
        return self._certain(self._fresh(last=True), last=True)

    def _fresh(self, last: bool) -> str:
        """Return the text of new tokens once they end with a whole character."""
        # Decoded after earlier tokens, because the text of a token may depend on the one before.
        before = self._tokenizer.decode_written(self._ids[self._start : self._read])
        text = self._tokenizer.decode_written(self._ids[self._start :])
        if not last and (text.endswith(_CUT) or self._in_bytes()):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return text[len(before) :]

    def _in_bytes(self) -> bool:
        """Return whether the last token with a text is a byte that may form a character with the next tokens."""
        hidden = self._tokenizer.special_ids
        seen = (t for t in reversed(self._ids) if t not in hidden and self._tokenizer.token_bytes(t))
        return self._tokenizer.is_byte(next(seen, -1))

    def _certain(self, fresh: str, last: bool) -> str:
        if self._stopped:
            return ""
        text = self._pending + fresh
        whole = cut_at(text, self._stop)
        self._stopped = len(whole) < len(text)
        sure = len(whole) if self._stopped or last else len(whole) - self._open_end(whole)
        if self._strip:
            sure = len(whole[:sure].rstrip())
        self._pending = "" if self._stopped or last else whole[sure:]
        piece = whole[:sure].lstrip() if self._strip and not self._begun else whole[:sure]
        self._begun = self._begun or sure > 0
        return piece

    def _open_end(self, text: str) -> int:
        """Return the length of the longest end of the text that may begin a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(string.startswith(text[-size:]) for string in self._stop)), 0)
