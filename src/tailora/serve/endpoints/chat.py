"""POST /v1/chat/completions, as OpenAI has it: conversations by the base's chat template, records by adapters."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from tailora.data.chat_template import ChatTemplate
from tailora.data.text_stream import TextStream
from tailora.data.tokenizer import Tokenizer
from tailora.engine.decoding import Completion
from tailora.engine.engine import Event
from tailora.serve.dependencies import account_of, find_model
from tailora.serve.logprobs import chat_logprobs, ends_unseen, text_of, without_end
from tailora.serve.metrics import Account
from tailora.serve.prompts import chat_prompt
from tailora.serve.registry import Model
from tailora.serve.responses import stream_of, unless_gone
from tailora.serve.schema.chat import ChatBody
from tailora.serve.service import Service, TextRequest
from tailora.serve.usage import usage


@dataclass(frozen=True)
class _Work:
    body: ChatBody
    model: Model
    asks: list[TextRequest]
    account: Account
    head: dict[str, Any]

    @property
    def strip(self) -> bool:
        """Whether the text of a record is written, which training puts a space before."""
        return self.model.prompts.trained and self.model.prompts.template is None

    def text(self, tokenizer: Tokenizer, completion: Completion) -> str:
        """What was written, up to a stop string."""
        text = text_of(tokenizer, completion, self.body.stops)
        return text.strip() if self.strip else text

    @property
    def n(self) -> int:
        return self.body.n or 1

    @property
    def usage(self) -> Any:
        return usage(self.account.prompt_tokens, self.account.completion_tokens)


def routes(service: Service, template: ChatTemplate | None, *, log_texts: bool = False) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/chat/completions", summary="Answer in a conversation")
    async def chat(body: ChatBody, request: Request) -> Response:
        work = _take_apart(service, template, body, request)
        if log_texts:
            work.account.texts += [message.text for message in body.messages]
        if body.stream:
            return await stream_of(_stream(service, work))
        choices = await unless_gone(request, _whole(service, work))
        if log_texts:
            work.account.texts += [choice["message"]["content"] for choice in choices]
        return JSONResponse({**work.head, "object": "chat.completion", "choices": choices, "usage": work.usage})

    return router


def _take_apart(service: Service, template: ChatTemplate | None, body: ChatBody, request: Request) -> _Work:
    model, account = find_model(request, service.registry, body.model), account_of(request)
    prompt = chat_prompt(model, template, body.messages)
    account.prompt_tokens = len(prompt)
    beams = (body.n or 1) if body.use_beam_search else 1
    most = body.max_completion_tokens or body.max_tokens or service.room_for(prompt, beams)
    ways = body.decodings(most, 1 if body.greedy else body.n or 1, body.top_logprobs or 0)
    head = {"id": f"chatcmpl-{account.id}", "created": int(time.time()), "model": body.model}
    return _Work(body, model, [TextRequest(prompt, decoding, body.stops) for decoding in ways], account, head)


async def _whole(service: Service, work: _Work) -> list[dict[str, Any]]:
    async with service.write(work.model, work.asks, work.account) as flight:
        found = [completion for result in await flight.results() for completion in result]
    choices = []
    for index in range(work.n):
        completion = found[index % len(found)]
        logprobs = None
        if work.body.logprobs:
            count = without_end(service.tokenizer, completion)
            ids, told = completion.token_ids[:count], completion.logprobs[:count]
            logprobs = chat_logprobs(service.tokenizer, ids, told, completion.top[:count])
        text = work.text(service.tokenizer, completion)
        choices.append(
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": logprobs,
                "finish_reason": completion.finish_reason,
            }
        )
    return choices


async def _stream(service: Service, work: _Work) -> AsyncGenerator[dict[str, Any] | None, None]:
    head = {**work.head, "object": "chat.completion.chunk"}
    options = work.body.stream_options
    told_usage = options is not None and options.include_usage
    more: dict[str, Any] = {"usage": None} if told_usage else {}
    async with service.write(work.model, work.asks, work.account) as flight:
        yield None
        for index in range(work.n):
            yield {**head, "choices": [_choice(index, {"role": "assistant", "content": ""})], **more}
        streams = [TextStream(service.tokenizer, work.body.stops, strip=work.strip) for _ in work.asks]
        async for place, event in flight:
            for choice in _pieces(service, work, place, event, streams[place]):
                yield {**head, "choices": [choice], **more}
    if told_usage:
        yield {**head, "choices": [], "usage": work.usage}


def _pieces(service: Service, work: _Work, place: int, event: Event, stream: TextStream) -> list[dict[str, Any]]:
    if not event.tokens:
        return [
            _choice(place + n, {"content": work.text(service.tokenizer, c)}, c.finish_reason)
            for n, c in enumerate(event.result or ())
        ]
    piece = stream.add(event.tokens)
    reason = None
    if event.result is not None:
        piece += stream.end()
        reason = event.result[0].finish_reason
    logprobs = None
    if work.body.logprobs and not ends_unseen(service.tokenizer, event.tokens, reason):
        told = event.top if work.body.top_logprobs else ()
        logprobs = chat_logprobs(service.tokenizer, event.tokens, event.logprobs, told)
    if not piece and reason is None and logprobs is None:
        return []
    copies = work.n if len(work.asks) < work.n else 1
    delta = {"content": piece} if piece else {}
    return [_choice(place + copy, delta, reason, logprobs) for copy in range(copies)]


def _choice(
    index: int, delta: dict[str, Any], reason: str | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
