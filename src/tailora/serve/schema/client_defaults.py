"""Fields of OpenAI's API and of vLLM that clients send with every request, and that have no effect here.

Each is accepted with the values that leave a text unchanged. A value that asks for a feature that the server does not
have is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from tailora.serve.schema.body import Body, default_only

_NO_TOOLS = default_only([], hint="tools are not supported; remove the field")
_NO_CALL = default_only("none", "auto", hint="tools are not supported; remove the field or send 'none'")
_TEXT_FORMAT = default_only({"type": "text"}, hint="only {'type': 'text'} is supported; remove the field")
_TEXT_ONLY = default_only(["text"], [], hint="only ['text'] is supported; remove the field")


class ClientDefaults(Body):
    """Fields of both routes that are accepted and have no effect."""

    tools: Annotated[list[Any], _NO_TOOLS] | None = None
    """Must be empty: tools are not supported."""
    tool_choice: Annotated[str | dict[str, Any], _NO_CALL] | None = None
    """"none" or "auto", which mean the same without tools."""
    functions: Annotated[list[Any], _NO_TOOLS] | None = None
    """Must be empty: the older spelling of tools."""
    function_call: Annotated[str | dict[str, Any], _NO_CALL] | None = None
    """The older spelling of tool_choice."""
    parallel_tool_calls: bool | None = None
    """Has no effect: there are no tools."""
    response_format: Annotated[dict[str, Any], _TEXT_FORMAT] | None = None
    """Must be {"type": "text"}: JSON output is not supported."""
    modalities: Annotated[list[str], _TEXT_ONLY] | None = None
    """Must be ["text"]."""
    reasoning_effort: str | None = None
    """Has no effect: these models do not reason before they answer."""
    verbosity: str | None = None
    """Has no effect: limit a text with max_tokens."""
    prediction: dict[str, Any] | None = None
    """Has no effect: a prediction could only make the text faster."""
    store: bool | None = None
    """Has no effect: the server stores no request."""
    metadata: dict[str, str] | None = None
    """Accepted for compatibility and ignored."""
    user: str | None = None
    """Accepted for compatibility and ignored."""
    safety_identifier: str | None = None
    """Accepted for compatibility and ignored."""
    service_tier: str | None = None
    """Accepted for compatibility and ignored."""
    prompt_cache_key: str | None = None
    """Has no effect: prompts with the same beginning share the cache automatically."""
    prompt_cache_retention: str | None = None
    """Accepted for compatibility and ignored."""
    prompt_cache_options: dict[str, Any] | None = None
    """Accepted for compatibility and ignored."""
    priority: Literal[0] | None = None
    """Must be 0, as in vLLM's defaults: requests are answered in the order in which they arrive."""
    min_tokens: Literal[0] | None = None
    """Must be 0, as in vLLM's defaults."""
    skip_special_tokens: Literal[True] | None = None
    """Must be true, as in vLLM's defaults."""
    spaces_between_special_tokens: bool | None = None
    """Has no effect: special tokens are not part of a text."""
    include_stop_str_in_output: Literal[False] | None = None
    """Must be false, as in vLLM's defaults."""
    return_token_ids: Literal[False] | None = None
    """Must be false, as in vLLM's defaults."""
    return_tokens_as_token_ids: Literal[False] | None = None
    """Must be false, as in vLLM's defaults."""


class ChatDefaults(ClientDefaults):
    """Fields of chats that are accepted and have no effect."""

    echo: Literal[False] | None = None
    """Must be false, as in vLLM's defaults."""
    best_of: Literal[1] | None = None
    """Must be 1: /v1/completions can return the most likely of several texts."""
    add_special_tokens: Literal[False] | None = None
    """Must be false, as in vLLM's defaults: the chat template writes special tokens."""
    include_reasoning: bool | None = None
    """Has no effect: these models do not reason before they answer."""
    add_generation_prompt: Literal[True] | None = None
    """Must be true, as in vLLM's defaults."""
    continue_final_message: Literal[False] | None = None
    """Must be false, as in vLLM's defaults."""
