"""A started engine with its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tailora.core.errors import SettingsError
from tailora.data.mixtures import Mixture
from tailora.data.tokenizer import Tokenizer
from tailora.engine.decoding import Decoding
from tailora.engine.engine import Engine
from tailora.engine.requests import Request


@dataclass(frozen=True)
class EngineTraits:
    """What a job has to know of an engine, wherever it runs.

    Attributes:
        backend: "openvino" or "torch".
        precision: "int8", "bf16" or "fp32".
        device: "cpu" or "cuda".
        context: largest number of tokens of a prompt and its text together.
        built_in: whether the only adapter is part of the network, so that requests do not name it.
        timed: the measurements that chose the precision, in words; empty if it was not chosen by time.
        together: largest number of adapters that one text can use.
    """

    backend: str
    precision: str
    device: str
    context: int
    built_in: bool = False
    timed: str = ""
    together: int = 1

    @property
    def description(self) -> str:
        """Precision and backend in words, with the times that chose them."""
        return f"{self.precision} on {self.backend}" + (f", {self.timed}" if self.timed else "")


@dataclass(frozen=True, eq=False)
class Running:
    """A started engine with its tokenizer.

    Attributes:
        engine: the engine.
        tokenizer: of its base.
        backend: "openvino" or "torch".
        precision: "int8", "bf16" or "fp32".
        device: "cpu" or "cuda".
        built_in: whether the only adapter is part of the network, so that requests do not name it.
        timed: the measurements that chose the precision, in words; empty if it was not chosen by time.
    """

    engine: Engine
    tokenizer: Tokenizer
    backend: str
    precision: str
    device: str
    built_in: bool = False
    timed: str = ""

    @property
    def traits(self) -> EngineTraits:
        """The engine's traits."""
        backend = self.engine.backend
        together = max(1, backend.adapter_slots.together)
        return EngineTraits(
            self.backend, self.precision, self.device, backend.context, self.built_in, self.timed, together
        )

    @property
    def description(self) -> str:
        """Precision and backend in words, with the times that chose them."""
        return self.traits.description

    def request(
        self,
        prompt: Sequence[int],
        decoding: Decoding,
        adapters: Mixture = (),
        stop: Sequence[str] = (),
        *,
        score_prompt: bool = False,
    ) -> Request:
        """Build an engine request that also ends at stop strings.

        Raises:
            SettingsError: the decoding's biases name a token that the tokenizer does not have.
        """
        unknown = [token for token, _ in decoding.logit_bias if not 0 <= token < self.tokenizer.vocab_size]
        if unknown:
            what = f"token id {unknown[0]} does not exist"
            raise SettingsError(what, where="logit_bias", hint=f"use ids from 0 to {self.tokenizer.vocab_size - 1}")
        ended = None if not stop else _StopStrings(self.tokenizer, stop)
        if self.built_in and any(weight != 1 for _, weight in adapters):
            what = "the adapter is part of the network, so its effect cannot be weighted"
            raise SettingsError(what, where="adapter", hint="name it without a weight")
        chosen = () if self.built_in else adapters
        return Request(tuple(prompt), decoding, chosen, ended=ended, score_prompt=score_prompt)


class _StopStrings:
    """Whether a completion contains one of several strings near its end."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        # A token has at least one byte; a character that is cut at the start takes up to three more.
        self._tail = max(len(string.encode()) for string in stop) + 3

    def __call__(self, written: Sequence[int]) -> bool:
        text = self._tokenizer.decode_written(written[-self._tail :])
        return any(string in text for string in self._stop)
