"""The body of POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tailora.serve.schema.decoding import MOST, Sampling


def _none_for_false(value: Any) -> Any:
    """Accept false, which means the same in chats."""
    return None if value is False else value


class CompletionBody(Sampling):
    """Body of POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    """A text or token ids, or a list of them. An empty text means the end-of-text token."""
    max_tokens: int | None = Field(None, ge=0, le=MOST)
    """Largest number of tokens of a text; prompt and text together must fit into the model's context. 0 is possible
    with echo. Default: 16, or what the context leaves."""
    best_of: int | None = Field(None, ge=1, le=128)
    """Number of texts to write for each prompt, of which the n with the highest mean log-probability of a token are
    returned. Default: n."""
    logprobs: Annotated[int | None, BeforeValidator(_none_for_false)] = Field(None, ge=0, le=20)
    """Number of most likely tokens, from 0 to 20, to report with their log-probabilities for each token of the text.
    Default: no log-probabilities."""
    echo: bool | None = False
    """Return the prompt in front of the text."""
    add_special_tokens: Literal[True] | None = None
    """Must be true, as in vLLM's defaults: to leave out special tokens, send token ids."""
    suffix: str | None = Field(None, max_length=0)
    """Must be empty: inserting text before a suffix is not supported."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise ValueError("best_of must be at least n")
        if self.best_of is not None and self.best_of > (self.n or 1) and self.stream:
            raise ValueError("best_of cannot be streamed, because the best text is known only at the end; remove one")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens may be 0 only with echo; raise it, or set echo")
        if self.use_beam_search and self.logprobs is not None:
            raise ValueError("beam search does not report logprobs; remove one of the two")
        return self
