"""LiteLLM against a server: chat, stream, async, a conversation, text completions.

python ask_litellm.py ADDRESS
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no look at the network
import litellm


def main(address: str) -> dict[str, Any]:
    """TextRequest in every way, and return what was answered."""
    common = {"api_base": f"{address}/v1", "api_key": "none", "max_tokens": 8, "temperature": 0}
    chat = {"model": "openai/base", **common}
    messages = [{"role": "user", "content": "Hi"}]
    first = litellm.completion(messages=messages, **chat)
    history = [*messages, first.choices[0].message, {"role": "user", "content": "Again?"}]
    history_as_json = [*messages, first.choices[0].message.model_dump(), {"role": "user", "content": "Again?"}]
    streamed = litellm.completion(messages=messages, stream=True, stream_options={"include_usage": True}, **chat)
    chunks = list(streamed)
    try:
        litellm.completion(messages=messages, response_format={"type": "json_object"}, **chat)
        error = None
    except litellm.BadRequestError as raised:
        error = str(raised)
    text = litellm.text_completion(prompt="name : Blue", model="text-completion-openai/base", **common)
    pieces = litellm.text_completion(prompt="name : Blue", model="text-completion-openai/base", stream=True, **common)
    return {
        "chat": first.choices[0].message.content,
        "usage": first.usage.total_tokens,
        "conversation": litellm.completion(messages=history, **chat).choices[0].message.content,
        "conversation_as_json": litellm.completion(messages=history_as_json, **chat).choices[0].message.content,
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "streamed_usage": [chunk.usage.total_tokens for chunk in chunks if getattr(chunk, "usage", None)],
        "async": asyncio.run(litellm.acompletion(messages=messages, **chat)).choices[0].message.content,
        "error": error,
        "completion": text.choices[0].text,
        "completion_streamed": "".join(chunk.choices[0].text or "" for chunk in pieces if chunk.choices),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
