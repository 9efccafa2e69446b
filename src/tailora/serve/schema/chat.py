"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tailora.serve.schema.client_defaults import ChatDefaults
from tailora.serve.schema.decoding import MOST, Sampling
from tailora.serve.schema.messages import Message


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
