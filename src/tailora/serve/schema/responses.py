"""The body of POST /v1/responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tailora.serve.schema.body import default_only
from tailora.serve.schema.chat import ChatBody
from tailora.serve.schema.client_defaults import ClientDefaults
from tailora.serve.schema.decoding import MOST, StreamOptions, check_stops, stop_strings
from tailora.serve.schema.messages import Message
from tailora.serve.schema.mixture import Mixing

_STATELESS = default_only(hint="the server stores no responses; send the whole conversation as input")


def _check_items(value: Any) -> Any:
    """Refuse an item that is not a message with one short error that names its kind."""
    for item in value if isinstance(value, list) else ():
        kind = item.get("type") if isinstance(item, Mapping) else None
        if isinstance(kind, str) and kind not in ("message", "text"):
            raise ValueError(f"an item of type {kind!r} is not supported; send messages")
    return value


def _check_text(value: Any) -> Any:
    """Accept the options of a text that ask for plain text."""
    if isinstance(value, Mapping) and value.get("format") not in (None, {"type": "text"}):
        raise ValueError("only the format {'type': 'text'} is supported; remove the field")
    return value


class ResponsesBody(Mixing, ClientDefaults):
    """Body of POST /v1/responses."""

    model: str
    """Name of the base or of an adapter, as GET /v1/models lists them."""
    input: Annotated[str | list[Message], BeforeValidator(_check_items)] = Field(min_length=1, max_length=1_000_000)
    """The question as a text, or the conversation as a list of messages."""
    instructions: str | None = None
    """Text of a system message before the conversation."""
    max_output_tokens: int | None = Field(None, ge=1, le=MOST)
    """Largest number of tokens of the answer; conversation and answer together must fit into the model's context.
    Default: what the context and the cache leave."""
    temperature: float | None = Field(None, ge=0, le=2)
    """Sampling temperature from 0 to 2; 0 always takes the most likely token. Default: 1."""
    top_p: float | None = Field(None, ge=0, le=1)
    """Sample from the smallest set of tokens whose probabilities sum to this value, from 0 to 1; 0 always takes the
    most likely token. Default: 1."""
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    """Sampling seed; with a seed the same request gets the same text."""
    stop: str | list[str] | None = None
    """Up to 16 strings that end a text; the text is cut before the first of them."""
    stream: bool | None = False
    """Send the answer in pieces while it is written, as server-sent events."""
    stream_options: StreamOptions | None = None
    """Accepted for compatibility and ignored."""
    previous_response_id: Annotated[Any, _STATELESS] = None
    """Must be absent: the server stores no responses."""
    conversation: Annotated[Any, _STATELESS] = None
    """Must be absent: the server stores no conversations."""
    background: Annotated[bool, default_only(False, hint="is not supported; remove the field")] | None = None
    """Must be false: every request is answered at once."""
    include: Annotated[list[Any], default_only([], hint="is not supported; remove the field")] | None = None
    """Must be empty."""
    text: Annotated[dict[str, Any], BeforeValidator(_check_text)] | None = None
    """Options of the text; its format must be {"type": "text"}."""
    truncation: Literal["disabled"] | None = None
    """Must be "disabled": a conversation that does not fit is an error."""
    top_logprobs: Literal[0] | None = None
    """Must be 0: /v1/chat/completions reports log-probabilities."""
    reasoning: dict[str, Any] | None = None
    """Has no effect: these models do not reason before they answer."""
    max_tool_calls: int | None = None
    """Has no effect: there are no tools."""

    @model_validator(mode="after")
    def _check_stops(self) -> Self:
        check_stops(stop_strings(self.stop))
        return self

    @property
    def messages(self) -> list[Message]:
        """The conversation, the instructions included."""
        first = [] if self.instructions is None else [Message(role="system", content=self.instructions)]
        return [*first, *([Message(role="user", content=self.input)] if isinstance(self.input, str) else self.input)]

    @property
    def as_chat(self) -> ChatBody:
        """The same request of /v1/chat/completions."""
        return ChatBody(
            model=self.model,
            messages=self.messages,
            max_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=self.stop,
        )
