"""What requests say: OpenAI's fields, those of vLLM that are the field's own, and records."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tailora.engine.decoding import Decoding
from tailora.serve.body import Body
from tailora.serve.client_defaults import ChatDefaults, ClientDefaults
from tailora.serve.messages import Message

Scalar = str | int | float | bool
Facts = dict[str, Scalar | list[Scalar | None] | None] | list[list[Scalar | None]]
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


def _pairs(bias: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
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
            "logit_bias": _pairs(self.logit_bias),
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


def _unless_false(value: Any) -> Any:
    """None for false, which chats take for the same."""
    return None if value is False else value


class CompletionBody(Sampling):
    """Of POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    """A text or several, or their token ids. The empty text stands for the end-of-text token."""
    max_tokens: int | None = Field(None, ge=0, le=MOST)
    """Most tokens of a text; by default 16."""
    best_of: int | None = Field(None, ge=1, le=128)
    """Write so many texts and give the n likeliest by log-probability a token."""
    logprobs: Annotated[int | None, BeforeValidator(_unless_false)] = Field(None, ge=0, le=20)
    """Tell log-probabilities, and so many of the likeliest tokens in each place."""
    echo: bool | None = False
    """Give the prompt back before the text."""
    suffix: str | None = Field(None, max_length=0)
    """Only empty: these models write forward."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise ValueError("best_of must be at least n")
        if self.best_of is not None and self.best_of > (self.n or 1) and self.stream:
            raise ValueError("best_of cannot be streamed: the best is known at the end")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens may be 0 only with echo")
        if self.use_beam_search and self.logprobs is not None:
            raise ValueError("logprobs are not told of beams")
        return self


class ChatBody(Sampling, ChatDefaults):
    """Of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=1000)
    """The conversation so far."""
    max_tokens: int | None = Field(None, ge=1, le=MOST)
    """Most tokens of the answer; by default what the context leaves."""
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST)
    """The same, in newer words."""
    logprobs: bool | None = False
    """Tell log-probabilities."""
    top_logprobs: int | None = Field(None, ge=0, le=20)
    """Tell so many of the likeliest tokens in each place."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        if self.use_beam_search and self.logprobs:
            raise ValueError("logprobs are not told of beams")
        return self


class RecordsBody(Body):
    """Of POST /v1/records."""

    model: str
    """Name of the base or of an adapter, as GET /v1/models lists them."""
    facts: Facts | None = None
    """One record: {attribute: value}, [[attribute, value], …] or [[subject, attribute, value], …]."""
    records: list[Facts] | None = Field(None, min_length=1, max_length=1000)
    """Several records."""
    max_tokens: int = Field(100, ge=1, le=MOST)
    """Most tokens of a text."""
    beams: int = Field(1, ge=1, le=64)
    """Beams kept side by side; 1 is greedy search, or sampling if the temperature is above 0."""
    n: int = Field(1, ge=1, le=64)
    """Texts to give of each record: the best beams, or so many draws."""
    rerank: Literal["fidelity"] | None = None
    """Put the texts with the fewest slot errors first."""
    length_penalty: float = Field(1.0, ge=-10, le=10)
    """Beams are ranked by log-probability / tokens ** this."""
    no_repeat_ngram_size: int = Field(0, ge=0, le=MOST)
    """No run of so many tokens comes twice in a text."""
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    """Above 1, make tokens less likely that stand in the prompt or the text already."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """Number from -2 to 2, subtracted from the logit of every token that the text holds."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """Number from -2 to 2, subtracted from a token's logit for each time that the text holds it."""
    logit_bias: Bias = Field(default_factory=dict)
    """Numbers from -100 to 100 that are added to the logits of up to 300 tokens, by token id."""
    temperature: float = Field(0.0, ge=0, le=2)
    """Above 0, draw tokens."""
    top_k: int = Field(0, ge=0, le=MOST)
    """Draw only from so many likeliest tokens; 0 from all."""
    top_p: float = Field(1.0, ge=0, le=1)
    """Draw only from the fewest tokens whose probabilities reach this sum; 0 takes the likeliest."""
    seed: int = Field(0, ge=-(2**63), lt=2**63)
    """Of the draws."""
    stop: list[str] = Field([], max_length=16)
    """Strings at the first of which a text ends; it is cut before them."""
    stream: bool = False
    """Send the texts piece by piece, as server-sent events."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.facts is None) == (self.records is None):
            raise ValueError("give one of facts and records")
        if not all(self.stop):
            raise ValueError("stop holds an empty string")
        if self.rerank and max(self.beams, self.n) == 1:
            raise ValueError("there is one text to choose from: raise beams for rerank")
        return self

    @property
    def given(self) -> list[Facts]:
        """The records."""
        return [self.facts] if self.facts is not None else list(self.records or ())

    def decoding(self) -> Decoding:
        """How the engine is to write.

        Raises:
            SettingsError: a combination that has no meaning.
        """
        candidates = max(self.n, self.beams if self.rerank else 1)
        greedy = self.temperature < COLD or self.top_p == 0
        if self.beams == 1 and greedy:
            candidates = 1  # greedy search has one text; the others would be its copies
        return Decoding(
            max_new_tokens=self.max_tokens,
            num_beams=self.beams,
            num_candidates=candidates,
            length_penalty=self.length_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=_pairs(self.logit_bias),
            temperature=0.0 if greedy else self.temperature,
            top_k=self.top_k,
            top_p=self.top_p or 1.0,
            seed=self.seed,
        )


class LoadBody(Body):
    """Of POST /v1/load_lora_adapter, as vLLM has it."""

    lora_name: str = Field(min_length=1, max_length=200)
    """What clients will call the adapter."""
    lora_path: str = Field(min_length=1, max_length=4096)
    """Its folder, in the folder that the server reads adapters from."""
    load_inplace: bool = False
    """Let it take the place of an adapter of this name; requests under way keep the one they began with."""


class UnloadBody(Body):
    """Of POST /v1/unload_lora_adapter, as vLLM has it."""

    lora_name: str = Field(min_length=1, max_length=200)
    """The adapter."""
    lora_int_id: int | None = None
    """Taken without effect."""


def usage(prompt_tokens: int, completion_tokens: int) -> Mapping[str, int]:
    """Token counts as OpenAI's API tells them."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
