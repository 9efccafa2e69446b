"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from tailora.serve.schema.client_defaults import ChatDefaults
from tailora.serve.schema.decoding import MOST, Sampling
from tailora.serve.schema.messages import Message


class ChatBody(Sampling, ChatDefaults):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=1000)
    """The conversation so far, from 1 to 1000 messages."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Further variables of the base's chat template, as in vLLM, such as {"enable_thinking": false} for Qwen3. A model
    that was trained with Tailora takes none."""
    max_tokens: int | None = Field(None, ge=1, le=MOST)
    """Largest number of tokens of the answer; conversation and answer together must fit into the model's context.
    Default: what the context and the cache leave."""
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST)
    """The newer name of max_tokens, which it overrides."""
    logprobs: bool | None = False
    """Report the log-probability of each token."""
    top_logprobs: int | None = Field(None, ge=0, le=20)
    """Number of most likely tokens, from 0 to 20, to report for each token; needs logprobs. Default: 0."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs; set logprobs to true")
        if self.use_beam_search and self.logprobs:
            raise ValueError("beam search does not report logprobs; remove one of the two")
        return self
