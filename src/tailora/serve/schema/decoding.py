"""Fields that say how to write: those that OpenAI's two routes share, and vLLM's beside them."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from tailora.engine.decoding import Decoding
from tailora.serve.schema.body import Body
from tailora.serve.schema.client_defaults import ClientDefaults

COLD = 1e-3  # temperatures below it take the likeliest token
MOST = 1_000_000  # above every context; keeps numbers within what the engine's arrays hold


def _token_ids(value: dict[str, float]) -> dict[str, float]:
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10 and str(int(token)) == token):
            raise ValueError(f"{token!r} is not a token id")
        if not -100 <= bias <= 100:
            raise ValueError(f"the bias of token {token} must be from -100 to 100")
    return value


Bias = Annotated[dict[str, float], Field(max_length=300), AfterValidator(_token_ids)]
"""What is added to the logits of up to 300 tokens, by their ids."""


def bias_pairs(bias: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    """Return the biases as the engine takes them: sorted pairs of a token id and what is added to its logit."""
    return tuple(sorted((int(token), value) for token, value in (bias or {}).items()))


class StreamOptions(Body):
    """How to stream."""

    include_usage: bool = False
    """Send the usage in a chunk of its own at the end."""
    include_obfuscation: bool = False
    """Taken without effect."""


class Sampling(ClientDefaults):
    """How to write: what OpenAI's two ways of asking have in common, and vLLM's fields beside it."""

    model: str
    """Name of the base or of an adapter, as GET /v1/models lists them."""
    temperature: float | None = Field(None, ge=0, le=2)
    """Logits are divided by it before a token is drawn; 0 takes the likeliest. By default 1."""
    top_p: float | None = Field(None, ge=0, le=1)
    """Draw only from the fewest tokens whose probabilities reach this sum; 0 takes the likeliest."""
    top_k: int | None = Field(None, ge=-1, le=MOST)
    """Draw only from so many likeliest tokens; 0 or -1 from all."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Draw only tokens at least this part as likely as the likeliest."""
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    """Above 1, make tokens less likely that stand in the prompt or the text already."""
    no_repeat_ngram_size: int | None = Field(None, ge=0, le=MOST)
    """No run of so many tokens comes twice in a text."""
    use_beam_search: bool = False
    """Search with n beams, and give all of them."""
    length_penalty: float | None = Field(None, ge=-10, le=10)
    """Beams are ranked by log-probability / tokens ** this."""
    n: int | None = Field(None, ge=1, le=128)
    """Texts for each prompt."""
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    """Of the draws; with it the same request gives the same text."""
    stop: str | list[str] | None = None
    """Up to 16 strings at the first of which a text ends; it is cut before them."""
    stop_token_ids: list[int] | None = Field(None, max_length=64)
    """Tokens that end a text."""
    ignore_eos: bool = False
    """Write on past the end-of-text token."""
    stream: bool | None = False
    """Send the text piece by piece, as server-sent events."""
    stream_options: StreamOptions | None = None
    """How to stream."""
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    """Number from -2 to 2, subtracted from the logit of every token that the text holds. By default 0."""
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    """Number from -2 to 2, subtracted from a token's logit for each time that the text holds it. By default 0."""
    logit_bias: Bias | None = None
    """Numbers from -100 to 100 that are added to the logits of up to 300 tokens, by token id."""

    @model_validator(mode="after")
    def _checked(self) -> Self:
        stops = self.stops
        if len(stops) > 16 or not all(stops):
            raise ValueError("stop takes up to 16 strings, none of them empty")
        if self.stop_token_ids and not all(0 <= token < 2**31 for token in self.stop_token_ids):
            raise ValueError("stop_token_ids holds what is no token id")
        if self.use_beam_search and self.temperature:
            raise ValueError("beams are not sampled: leave temperature out, or set it to 0")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end a text."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken in each place, so that all texts of a prompt are the same."""
        cold = self.temperature is not None and self.temperature < COLD
        return (cold or self.top_p == 0) and not self.use_beam_search

    def decodings(self, max_new_tokens: int, count: int, top_logprobs: int = 0) -> list[Decoding]:
        """How the engine is to write the texts of one prompt: each for itself, or all as the beams of one search.

        Args:
            max_new_tokens: of each text.
            count: how many texts.
            top_logprobs: how many alternatives to tell of each token.
        """
        top_k = self.top_k or 0
        common: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "no_repeat_ngram_size": self.no_repeat_ngram_size or 0,
            "repetition_penalty": self.repetition_penalty or 1.0,
            "presence_penalty": self.presence_penalty or 0.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "logit_bias": bias_pairs(self.logit_bias),
            "stop_tokens": tuple(self.stop_token_ids or ()),
            "ignore_end": self.ignore_eos,
        }
        if self.use_beam_search:
            penalty = 1.0 if self.length_penalty is None else self.length_penalty
            beams: dict[str, Any] = {"num_beams": count, "num_candidates": count, "length_penalty": penalty}
            return [Decoding(**common, **(beams if count > 1 else {}))]
        drawn: dict[str, Any] = {
            "temperature": 0.0 if self.greedy else (self.temperature or 1.0),
            "top_k": max(0, top_k),
            "top_p": self.top_p or 1.0,
            "min_p": self.min_p or 0.0,
            "top_logprobs": top_logprobs,
        }
        first = secrets.randbits(62) if self.seed is None else self.seed
        return [Decoding(**common, **drawn, seed=first + number) for number in range(count)]
