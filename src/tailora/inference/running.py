"""A running engine with what speaks text to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tailora.core.errors import SettingsError
from tailora.data.tokenizer import Tokenizer
from tailora.engine.decoding import Decoding
from tailora.engine.engine import Engine
from tailora.engine.requests import Request


@dataclass(frozen=True, eq=False)
class Running:
    """An engine with what speaks text to it.

    Attributes:
        engine: the engine.
        tokenizer: of its base.
        backend: "openvino" or "torch".
        precision: of its products.
        device: "cpu" or "cuda".
        built_in: whether the network itself carries the only adapter, so that requests name none.
        timed: how the precision was chosen, in words; empty where it was asked for or none was timed.
    """

    engine: Engine
    tokenizer: Tokenizer
    backend: str
    precision: str
    device: str
    built_in: bool = False
    timed: str = ""

    @property
    def description(self) -> str:
        """Precision and backend in words, with the times that decided."""
        return f"{self.precision} on {self.backend}" + (f", {self.timed}" if self.timed else "")

    def request(
        self,
        prompt: Sequence[int],
        decoding: Decoding,
        adapter: str | None = None,
        stop: Sequence[str] = (),
        *,
        score_prompt: bool = False,
    ) -> Request:
        """A request of the engine's for a prompt of text, ended by any of some strings too.

        Raises:
            SettingsError: the decoding's biases name a token that the tokenizer does not have.
        """
        unknown = [token for token, _ in decoding.logit_bias if not 0 <= token < self.tokenizer.vocab_size]
        if unknown:
            what = f"there is no token {unknown[0]}"
            raise SettingsError(what, where="logit_bias", hint=f"name ids from 0 to {self.tokenizer.vocab_size - 1}")
        ended = None if not stop else _StopStrings(self.tokenizer, stop)
        name = None if self.built_in else adapter
        return Request(tuple(prompt), decoding, name, ended=ended, score_prompt=score_prompt)


class _StopStrings:
    """Says whether one of some strings stands at the end of what is written."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        # A token has a byte at least; a character cut at the front takes up to three more.
        self._tail = max(len(each.encode()) for each in stop) + 3

    def __call__(self, written: Sequence[int]) -> bool:
        text = self._tokenizer.decode_written(written[-self._tail :])
        return any(each in text for each in self._stop)
