"""Token counts of an answer."""

from __future__ import annotations

from collections.abc import Mapping


def usage(prompt_tokens: int, completion_tokens: int) -> Mapping[str, int]:
    """Token counts as OpenAI's API tells them."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
