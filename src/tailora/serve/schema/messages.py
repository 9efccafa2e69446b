"""Messages of a chat request, in the forms that OpenAI's clients send, the server's own answers included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator

from tailora.serve.schema.body import Body, default_only

_NO_CALLS = default_only([], hint="tool calls are not supported; remove them from the conversation")
_NO_ANNOTATIONS = default_only([], hint="annotations are not supported; remove them from the conversation")
_PARTS = ("text", "input_text", "output_text", "refusal")


class TextPart(Body):
    """A text part of a message."""

    empty = ([], {}, "")

    type: Literal["text", "input_text", "output_text"]
    """Kind of the part."""
    text: str
    """The text."""
    annotations: Annotated[list[Any], _NO_ANNOTATIONS] | None = None
    """Must be empty."""
    cache_control: dict[str, Any] | None = None
    """Accepted for compatibility and ignored."""
    prompt_cache_breakpoint: dict[str, Any] | None = None
    """Accepted for compatibility and ignored."""


class RefusalPart(Body):
    """A refusal of an assistant as a part of a message."""

    type: Literal["refusal"]
    """Kind of the part."""
    refusal: str
    """The text."""


def _check_parts(content: Any) -> Any:
    """Refuse a part that is not text with one short error that names its kind."""
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind not in _PARTS:
            raise ValueError(f"a part of type {kind!r} is not supported; send text")
    return content


def _kind(part: Any) -> str:
    """Return which kind of part has to fit, so that an error is about that kind alone."""
    kind = part.get("type") if isinstance(part, Mapping) else getattr(part, "type", None)
    return "[string]" if isinstance(part, str) else "[refusal]" if kind == "refusal" else "[text]"


Part = Annotated[
    Annotated[str, Tag("[string]")] | Annotated[TextPart, Tag("[text]")] | Annotated[RefusalPart, Tag("[refusal]")],
    Discriminator(_kind),
]


class Message(Body):
    """A message of a conversation."""

    empty = ([], {}, "")

    role: Literal["system", "developer", "user", "assistant"]
    """Author of the message. A developer message is treated as a system message."""
    content: Annotated[str | list[Part] | None, BeforeValidator(_check_parts)] = Field(None, validate_default=True)
    """The text, as one string or as a list of text parts; required except from an assistant."""
    refusal: str | None = None
    """Text of an assistant's message that has no content."""
    name: str | None = None
    """Accepted for compatibility and ignored."""
    type: Literal["text", "message"] | None = None
    """Accepted for compatibility and ignored."""
    id: str | None = None
    """Accepted for compatibility and ignored."""
    status: str | None = None
    """Accepted for compatibility and ignored."""
    phase: str | None = None
    """Accepted for compatibility and ignored: whether other servers' models wrote it before or as the final answer."""
    annotations: Annotated[list[Any], _NO_ANNOTATIONS] | None = None
    """Must be empty."""
    tool_calls: Annotated[list[Any], _NO_CALLS] | None = None
    """Must be empty."""
    cache_control: dict[str, Any] | None = None
    """Accepted for compatibility and ignored."""
    reasoning_content: str | None = None
    """Accepted for compatibility and ignored: what other servers report of how they came to an answer."""
    reasoning: str | None = None
    """Accepted for compatibility and ignored."""

    @field_validator("content")
    @classmethod
    def _require_content(cls, content: Any, info: ValidationInfo) -> Any:
        if content is None and info.data.get("role", "assistant") != "assistant":
            raise ValueError("is missing")
        return content

    @property
    def speaker(self) -> str:
        """The role as chat templates name it, which have no developer."""
        return "system" if self.role == "developer" else self.role

    @property
    def text(self) -> str:
        """The whole text of the message."""
        content = self.content
        if content is None:
            return self.refusal or ""
        return content if isinstance(content, str) else "".join(map(_text_of, content))


def _text_of(part: str | TextPart | RefusalPart) -> str:
    if isinstance(part, str):
        return part
    return part.text if isinstance(part, TextPart) else part.refusal
