"""The messages of a chat request, as OpenAI's clients write them and as they return the server's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from tailora.serve.schema.body import Body, default_only

_NO_CALLS = default_only([], hint="tool calls are not supported; remove them from the conversation")
_NO_ANNOTATIONS = default_only([], hint="annotations are not supported; remove them from the conversation")
_PARTS = ("text", "input_text", "output_text", "refusal")


class TextPart(Body):
    """A text of a message that is written in parts."""

    type: Literal["text", "input_text", "output_text"]
    """Kind of the part: text."""
    text: str
    """The text."""
    annotations: Annotated[list[Any], _NO_ANNOTATIONS] | None = None
    """Must be empty."""
    cache_control: dict[str, Any] | None = None
    """Has no effect."""
    prompt_cache_breakpoint: dict[str, Any] | None = None
    """Has no effect."""


class RefusalPart(Body):
    """A part in which an assistant says why it does not answer."""

    type: Literal["refusal"]
    """Kind of the part: a refusal."""
    refusal: str
    """The text."""


def _check_parts(content: Any) -> Any:
    """Name the kind of a part that is not text in one short error."""
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind not in _PARTS:
            raise ValueError(f"a part of type {kind!r} is not supported; send text")
    return content


class Message(Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    """Speaker of the turn. A developer's turn is read as a system turn."""
    content: Annotated[str | list[str | TextPart | RefusalPart] | None, BeforeValidator(_check_parts)] = Field(
        None, validate_default=True
    )
    """The text, whole or in parts; only an assistant's turn may be without one."""
    refusal: str | None = None
    """The text of an assistant's turn that has no content."""
    name: str | None = None
    """Has no effect."""
    type: Literal["text", "message"] | None = None
    """Has no effect."""
    id: str | None = None
    """Has no effect."""
    status: str | None = None
    """Has no effect."""
    annotations: Annotated[list[Any], _NO_ANNOTATIONS] | None = None
    """Must be empty."""
    tool_calls: Annotated[list[Any], _NO_CALLS] | None = None
    """Must be empty."""
    cache_control: dict[str, Any] | None = None
    """Has no effect."""

    @field_validator("content")
    @classmethod
    def _require_content(cls, content: Any, info: ValidationInfo) -> Any:
        if content is None and info.data.get("role", "assistant") != "assistant":
            raise ValueError("is missing")
        return content

    @property
    def speaker(self) -> str:
        """The role in the words of chat templates, which know no developer."""
        return "system" if self.role == "developer" else self.role

    @property
    def text(self) -> str:
        """The whole text of the turn."""
        content = self.content
        if content is None:
            return self.refusal or ""
        return content if isinstance(content, str) else "".join(map(_text_of, content))


def _text_of(part: str | TextPart | RefusalPart) -> str:
    if isinstance(part, str):
        return part
    return part.text if isinstance(part, TextPart) else part.refusal
