"""POST /v1/responses, as OpenAI has it: the answer to a text or a conversation, without tools and without state."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tailora.data.chat_template import ChatTemplate
from tailora.data.text_stream import TextStream
from tailora.engine.decoding import Completion
from tailora.engine.engine import Event
from tailora.serve.dependencies import find_model, prepare, stats_of
from tailora.serve.endpoints.answer import Answer, respond
from tailora.serve.logprobs import text_of
from tailora.serve.prompts import chat_prompt
from tailora.serve.request_log import RequestStats
from tailora.serve.schema.responses import ResponsesBody
from tailora.serve.served_model import ServedModel
from tailora.serve.service import PendingTexts, Service, TextRequest


def response_routes(service: Service, template: ChatTemplate | None, *, log_texts: bool = False) -> APIRouter:
    """Return the route.

    Args:
        service: engine.
        template: chat template of the base, if it has one.
        log_texts: write messages and answers to the log.
    """
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/responses", summary="Answer a text or a conversation")
    async def responses(body: ResponsesBody, request: Request) -> Response:
        """Answer a text or a conversation, as OpenAI's Responses API does; nothing is stored.

        An adapter that was trained on records takes the last user message as a record, as in /v1/chat/completions.
        """
        model = await find_model(request, service.registry, body.model, body)
        answer = await prepare(request, _answer, service, template, body, model, stats_of(request))
        return await respond(request, service, answer, log_texts=log_texts)

    return router


def _answer(
    service: Service, template: ChatTemplate | None, body: ResponsesBody, model: ServedModel, stats: RequestStats
) -> ResponsesAnswer:
    prompt = chat_prompt(model, template, body.messages)
    stats.prompt_tokens = len(prompt)
    limit = service.token_limit(prompt, body.max_output_tokens, fields=("input", "max_output_tokens"))
    (decoding,) = body.as_chat.decodings(limit, 1)
    return ResponsesAnswer(service, body, model, stats, TextRequest(prompt, decoding, body.as_chat.stops))


class ResponsesAnswer(Answer):
    """A request for one answer."""

    named_events = True

    def __init__(
        self, service: Service, body: ResponsesBody, model: ServedModel, stats: RequestStats, request: TextRequest
    ) -> None:
        super().__init__(model, stats, [request], streamed=bool(body.stream))
        self._body, self._tokenizer = body, service.tokenizer
        self._strip = model.prompts.trained and model.prompts.template is None  # training puts a space before texts
        self._stream = TextStream(service.tokenizer, request.stop, strip=self._strip)
        self._created = int(time.time())  # whole seconds, which typed clients require
        self._item = f"msg_{stats.id}"
        self._reason = "stop"

    @property
    def prompt_texts(self) -> list[str]:
        """See `Answer`."""
        return [message.text for message in self._body.messages]

    async def whole(self, results: list[tuple[Completion, ...]], pending: PendingTexts) -> dict[str, Any]:
        """See `Answer`."""
        completion = results[0][0]
        text = text_of(self._tokenizer, completion, self.requests[0].stop)
        self.written[0], self._reason = text.strip() if self._strip else text, completion.finish_reason
        return self._ended

    def opening(self) -> Iterable[dict[str, Any]]:
        """See `Answer`."""
        begun = self._response("in_progress", [])
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        item = {**self._message("in_progress"), "content": []}
        yield {"type": "response.output_item.added", "output_index": 0, "item": item}
        yield {"type": "response.content_part.added", **self._place, "part": self._part}

    async def chunks(self, number: int, event: Event, pending: PendingTexts) -> list[dict[str, Any]]:
        """See `Answer`."""
        piece = self._stream.add(event.tokens)
        if event.result is not None:
            piece += self._stream.end()
            self._reason = event.result[0].finish_reason
        self.written[0] += piece
        return [{"type": "response.output_text.delta", **self._place, "delta": piece, "logprobs": []}] if piece else []

    def closing(self) -> Iterable[dict[str, Any]]:
        """See `Answer`."""
        ended = self._ended
        yield {"type": "response.output_text.done", **self._place, "text": self.written[0], "logprobs": []}
        yield {"type": "response.content_part.done", **self._place, "part": self._part}
        yield {"type": "response.output_item.done", "output_index": 0, "item": ended["output"][0]}
        yield {"type": f"response.{ended['status']}", "response": ended}

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    @property
    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self.written[0], "annotations": [], "logprobs": []}

    def _message(self, status: str) -> dict[str, Any]:
        return {"id": self._item, "type": "message", "role": "assistant", "status": status, "content": [self._part]}

    @property
    def _ended(self) -> dict[str, Any]:
        status = "incomplete" if self._reason == "length" else "completed"
        return self._response(status, [self._message(status)])

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        body, stats = self._body, self.stats
        usage = {
            "input_tokens": stats.prompt_tokens,
            "input_tokens_details": {"cached_tokens": stats.cached_tokens.get(0, 0), "cache_write_tokens": 0},
            "output_tokens": stats.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": stats.prompt_tokens + stats.completion_tokens,
        }
        return {
            "id": f"resp_{stats.id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {"effort": None, "summary": None},
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": False,
            "system_fingerprint": self.model.system_fingerprint,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_logprobs": 0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None if status == "in_progress" else usage,
            "user": body.user,
        }
