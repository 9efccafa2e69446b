"""Text of token ids as they come: whole characters, nothing of a stop string, white space at the ends as asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tailora.data.tokenizer import Tokenizer

_CUT = "\ufffd"  # what a tokenizer makes of the bytes of a character that is not all there


def cut_at(text: str, stop: Sequence[str]) -> str:
    """A text up to the first of any of some strings."""
    return text[: min((place for each in stop if (place := text.find(each)) >= 0), default=len(text))]


class TextStream:
    """Turns tokens into text piece by piece; together `cut_at(decode_written(all), stop)`, stripped if asked for.

    Args:
        tokenizer: of the tokens.
        stop: strings at the first of which the text ends.
        strip: leave out white space at the text's ends.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, strip: bool = True) -> None:
        self._tokenizer, self._stop, self._strip = tokenizer, tuple(stop), strip
        self._ids: list[int] = []
        self._start = self._read = 0  # tokens whose text the next is decoded after, and tokens told
        self._held = ""  # text that may yet turn out to be the beginning of a stop string, or white space at the end
        self._begun = self._stopped = False

    def add(self, tokens: Iterable[int]) -> str:
        """Take tokens; the text that is certain now."""
        self._ids += tokens
        return self._tell(self._fresh(last=False), last=False)

    def end(self) -> str:
        """The rest of the text; no tokens come after."""
        return self._tell(self._fresh(last=True), last=True)

    def _fresh(self, last: bool) -> str:
        """Text of the tokens not told yet, once they end a character."""
        # Decoded after some text: what a token stands for may depend on the one before.
        before = self._tokenizer.decode_written(self._ids[self._start : self._read])
        text = self._tokenizer.decode_written(self._ids[self._start :])
        if not last and (text.endswith(_CUT) or self._in_bytes()):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return text[len(before) :]

    def _in_bytes(self) -> bool:
        """Whether the tokens so far end in one that is decoded together with bytes yet to come."""
        seen = (token for token in reversed(self._ids) if token not in self._tokenizer.special_ids)
        return self._tokenizer.is_byte(next(seen, -1))

    def _tell(self, fresh: str, last: bool) -> str:
        if self._stopped:
            return ""
        text = self._held + fresh
        whole = cut_at(text, self._stop)
        self._stopped = len(whole) < len(text)
        sure = len(whole) if self._stopped or last else len(whole) - self._open_end(whole)
        if self._strip:
            sure = len(whole[:sure].rstrip())
        self._held = "" if self._stopped or last else whole[sure:]
        told = whole[:sure].lstrip() if self._strip and not self._begun else whole[:sure]
        self._begun = self._begun or sure > 0
        return told

    def _open_end(self, text: str) -> int:
        """How long an end of the text is that may be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(each.startswith(text[-size:]) for each in self._stop)), 0)
