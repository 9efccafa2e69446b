"""The body of POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from tailora.serve.schema.decoding import MOST, Sampling


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
