"""The bodies of vLLM's routes that turn text into tokens and back."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tailora.serve.schema.body import Body
from tailora.serve.schema.messages import Message


class TokenizeBody(Body):
    """Body of POST /tokenize, as vLLM has it."""

    model: str | None = None
    """Name of the base or of an adapter, as GET /v1/models lists them. Default: the first of them."""
    prompt: str | None = None
    """A text; its tokens are those of the prompt that /v1/completions computes for it."""
    messages: list[Message] | None = Field(None, min_length=1, max_length=1000)
    """A conversation instead of a text; its tokens are those of the prompt of /v1/chat/completions."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Further variables of the base's chat template, as in /v1/chat/completions."""
    add_special_tokens: bool = True
    """Build the model's prompt. Set it to false for the tokens of the text itself."""
    return_token_strs: bool | None = False
    """Return the text of each token, too."""
    add_generation_prompt: Literal[True] | None = None
    """Must be true, as in vLLM's defaults."""
    continue_final_message: Literal[False] | None = None
    """Must be false, as in vLLM's defaults."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("send either prompt or messages")
        if self.chat_template_kwargs and self.messages is None:
            raise ValueError("chat_template_kwargs needs messages")
        return self


class DetokenizeBody(Body):
    """Body of POST /detokenize, as vLLM has it."""

    model: str | None = None
    """Name of the base or of an adapter, as GET /v1/models lists them. All of them share one tokenizer."""
    tokens: list[int] = Field(max_length=1_000_000)
    """Token ids."""
