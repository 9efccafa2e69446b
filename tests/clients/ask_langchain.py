"""LangChain's OpenAI classes against a server: chat, stream, batch, a conversation, completions.

python ask_langchain.py ADDRESS
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, SecretStr


class Place(BaseModel):
    """An answer in a structure, which the server does not offer."""

    name: str


def main(address: str) -> dict[str, Any]:
    """TextRequest in every way, and return what was answered."""
    common = {"base_url": f"{address}/v1", "api_key": SecretStr("none"), "model": "base", "max_retries": 0}
    chat = ChatOpenAI(**common, temperature=0, max_tokens=8)
    first = chat.invoke("Hi")
    history = [SystemMessage("be brief"), HumanMessage("Hi"), first, HumanMessage([{"type": "text", "text": "Again?"}])]
    streamed = list(chat.stream("Hi"))
    told = ChatOpenAI(**common, temperature=0, max_tokens=8, stream_usage=True, logprobs=True, top_logprobs=2, seed=1)
    with_logprobs = told.invoke("Hi")
    usage = [chunk.usage_metadata for chunk in told.stream("Hi") if chunk.usage_metadata]
    errors = {}
    for method in ("function_calling", "json_mode", "json_schema"):
        try:
            chat.with_structured_output(Place, method=method).invoke("Hi, answer in JSON")
        except openai.BadRequestError as error:
            errors[method] = error.body
    completion = OpenAI(**common, temperature=0, max_tokens=8)
    return {
        "chat": first.content,
        "metadata": first.response_metadata,
        "conversation": chat.invoke(history).content,
        "empty_turn": chat.invoke([HumanMessage("Hi"), AIMessage(""), HumanMessage("Hi")]).content,
        "streamed": "".join(str(chunk.content) for chunk in streamed),
        "batch": [answer.content for answer in chat.batch(["Hi", "Hi"])],
        "async": asyncio.run(chat.ainvoke("Hi")).content,
        "logprobs": len(with_logprobs.response_metadata["logprobs"]["content"]),
        "usage": usage,
        "errors": errors,
        "completion": completion.invoke("name : Blue"),
        "completion_streamed": "".join(completion.stream("name : Blue")),
        "completions": [each[0].text for each in completion.generate(["name : Blue", "name : Red"]).generations],
        "best_of": completion.bind(n=2, best_of=2).invoke("name : Blue"),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
