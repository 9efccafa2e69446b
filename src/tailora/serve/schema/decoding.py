"""Fields that say how to write: those that OpenAI's two routes share, and vLLM's additions."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from tailora.engine.decoding import Decoding
from tailora.serve.schema.body import Body
from tailora.serve.schema.client_defaults import ClientDefaults
from tailora.serve.schema.mixture import Mixing

COLD = 1e-3  # temperatures below it choose the most likely token
MOST = 1_000_000  # above every context; keeps numbers within what the engine's arrays hold


def _check_token_ids(value: dict[str, float]) -> dict[str, float]:
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10 and str(int(token)) == token):
            raise ValueError(f'{token!r} is not a token id; send ids as text, such as "50256"')
        if not -100 <= bias <= 100:
            raise ValueError(f"the bias of token {token} must be from -100 to 100")
    return value


Bias = Annotated[dict[str, float], Field(max_length=300), AfterValidator(_check_token_ids)]
"""Numbers to add to the logits of up to 300 tokens, by token id."""


def bias_pairs(bias: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    """Return the biases as the engine takes them: sorted pairs of a token id and what is added to its logit."""
    return tuple(sorted((int(token), value) for token, value in (bias or {}).items()))


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """Return the strings of a field `stop`."""
    return () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)


def check_stops(stops: tuple[str, ...]) -> None:
    """Raise `ValueError` unless these strings can end a text."""
    if len(stops) > 16:
        raise ValueError(f"stop has {len(stops)} strings, and the limit is 16; remove some")
    if not all(stops):
        raise ValueError("stop contains an empty string, which would end every text; remove it")


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool = False
    """Send the token counts in an extra event at the end."""
    continuous_usage_stats: bool = False
    """Send the token counts so far in every event, too, as vLLM does; has no effect without include_usage."""
    include_obfuscation: bool = False
    """Accepted for compatibility and ignored."""


class Sampling(Mixing, ClientDefaults):
    """Fields that OpenAI's two routes share."""

    model: str
    """Name of the base or of an adapter, as GET /v1/models lists them."""
    temperature: float | None = Field(None, ge=0, le=2)
    """Sampling temperature from 0 to 2; 0 always takes the most likely token. Default: 1."""
    top_p: float | None = Field(None, ge=0, le=1)
    """Sample from the smallest set of tokens whose probabilities sum to this value, from 0 to 1; 0 always takes the
    most likely token. Default: 1."""
    top_k: int | None = Field(None, ge=-1, le=MOST)
    """Sample from the k most likely tokens; 0 or -1 samples from all. Default: 0."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Sample from tokens whose probability is at least this fraction, from 0 to 1, of the most likely one's.
    Default: 0."""
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    """Penalty for tokens that the prompt or the text contains; values above 1 make them less likely. Default: 1."""
    no_repeat_ngram_size: int | None = Field(None, ge=0, le=MOST)
    """Length of token sequences that may occur only once in a text; 0 allows repetition. Default: 0."""
    use_beam_search: bool = False
    """Use beam search with n beams, and return all of them."""
    length_penalty: float | None = Field(None, ge=-10, le=10)
    """Exponent of the length in the score of a beam, which is log-probability / tokens ** length_penalty; values above
    1 favour long texts. Default: 1."""
    n: int | None = Field(None, ge=1, le=128)
    """Number of texts for each prompt, from 1 to 128. Default: 1."""
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    """Sampling seed; with a seed the same request gets the same text."""
    stop: str | list[str] | None = None
    """Up to 16 strings that end a text; the text is cut before the first of them."""
    stop_token_ids: list[int] | None = Field(None, max_length=64)
    """Up to 64 token ids that end a text."""
    ignore_eos: bool = False
    """Continue after the end-of-text token, up to max_tokens."""
    stream: bool | None = False
    """Send the text in pieces while it is written, as server-sent events."""
    stream_options: StreamOptions | None = None
    """Options of the stream."""
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    """Number from -2 to 2, subtracted from the logit of every token that the text contains. Default: 0."""
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    """Number from -2 to 2, subtracted from the logit of a token once for each time that the text contains it.
    Default: 0."""
    logit_bias: Bias | None = None
    """Numbers from -100 to 100 to add to the logits of up to 300 tokens, by token id."""

    @model_validator(mode="after")
    def _check_decoding(self) -> Self:
        check_stops(self.stops)
        if self.stop_token_ids and not all(0 <= token < 2**31 for token in self.stop_token_ids):
            raise ValueError("stop_token_ids must be token ids from 0 to 2147483647")
        if self.use_beam_search and self.temperature:
            raise ValueError("beam search does not sample; remove temperature, or set it to 0")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end a text."""
        return stop_strings(self.stop)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken, so that all texts of a prompt are the same."""
        cold = self.temperature is not None and self.temperature < COLD
        return (cold or self.top_p == 0) and not self.use_beam_search

    def decodings(self, max_new_tokens: int, count: int, top_logprobs: int = 0) -> list[Decoding]:
        """Return how the engine writes the texts of one prompt: one decoding each, or one beam search for all.

        Args:
            max_new_tokens: limit of each text.
            count: number of texts.
            top_logprobs: number of alternatives to report for each token.
        """
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
        sampling: dict[str, Any] = {
            "temperature": 0.0 if self.greedy else (self.temperature or 1.0),
            "top_k": max(0, self.top_k or 0),
            "top_p": self.top_p or 1.0,
            "min_p": self.min_p or 0.0,
            "top_logprobs": top_logprobs,
        }
        first = secrets.randbits(62) if self.seed is None else self.seed
        return [Decoding(**common, **sampling, seed=first + number) for number in range(count)]
