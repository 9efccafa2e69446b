"""Token counts of an answer."""

from __future__ import annotations

from typing import Any


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """Return token counts in the form of OpenAI's API.

    Args:
        prompt_tokens: tokens of the prompts.
        completion_tokens: tokens written.
        cached_tokens: tokens of the prompts that the prefix cache held.
    """
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
