"""POST /v1/chat/completions, as OpenAI has it: conversations in the base's chat template, and records for adapters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tailora.data.chat_template import ChatTemplate
from tailora.engine.decoding import Completion
from tailora.engine.engine import Event
from tailora.serve.dependencies import find_model, prepare, stats_of
from tailora.serve.endpoints.answer import respond
from tailora.serve.endpoints.choices import ChoicesAnswer
from tailora.serve.logprobs import chat_logprobs, without_end
from tailora.serve.prompts import chat_prompt
from tailora.serve.request_log import RequestStats
from tailora.serve.schema.chat import ChatBody
from tailora.serve.served_model import ServedModel
from tailora.serve.service import Service, TextRequest


def chat_routes(service: Service, template: ChatTemplate | None, *, log_texts: bool = False) -> APIRouter:
    """Return the route.

    Args:
        service: engine.
        template: chat template of the base, if it has one.
        log_texts: write messages and answers to the log.
    """
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/chat/completions", summary="Answer a conversation")
    async def chat(body: ChatBody, request: Request) -> Response:
        """Answer a conversation, as OpenAI's API does.

        An adapter that was trained on records takes the last user message as a record: JSON facts, or one line such as
        `name : Blue Spice | Type : pub`.
        """
        model = await find_model(request, service.registry, body.model, body)
        answer = await prepare(request, _answer, service, template, body, model, stats_of(request))
        return await respond(request, service, answer, log_texts=log_texts)

    return router


def _answer(
    service: Service, template: ChatTemplate | None, body: ChatBody, model: ServedModel, stats: RequestStats
) -> ChatAnswer:
    prompt = chat_prompt(model, template, body.messages, body.chat_template_kwargs)
    stats.prompt_tokens = len(prompt)
    beams = (body.n or 1) if body.use_beam_search else 1
    field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    limit = service.token_limit(prompt, getattr(body, field), beams=beams, fields=("messages", field))
    decodings = body.decodings(limit, 1 if body.greedy else body.n or 1, body.top_logprobs or 0)
    requests = [TextRequest(prompt, decoding, body.stops) for decoding in decodings]
    of_records = model.prompts.trained and model.prompts.template is None  # training puts a space before their texts
    return ChatAnswer(body, model, stats, service.tokenizer, requests, strip=of_records)


class ChatAnswer(ChoicesAnswer):
    """A request for answers to one conversation; `body` is what it sent."""

    body: ChatBody
    id_prefix = "chatcmpl"
    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    @property
    def prompt_texts(self) -> list[str]:
        """See `Answer`."""
        return [message.text for message in self.body.messages]

    def opening(self) -> Iterable[dict[str, Any]]:
        """See `Answer`."""
        for index in range(self.n):
            yield self._chunk({**self.piece(index, ""), "delta": {"role": "assistant", "content": ""}})

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        """See `ChoicesAnswer`."""
        text = self.written[index] = self.text(completion)
        logprobs = None
        if self.body.logprobs:
            count = without_end(self.tokenizer, completion)
            ids, values = completion.token_ids[:count], completion.logprobs[:count]
            logprobs = chat_logprobs(self.tokenizer, ids, values, completion.top[:count])
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": completion.finish_reason}

    def piece(self, index: int, text: str, reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        """See `ChoicesAnswer`."""
        delta = {"content": text} if text else {}
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def piece_logprobs(self, number: int, event: Event) -> dict[str, Any] | None:
        """See `ChoicesAnswer`."""
        if not self.body.logprobs:
            return None
        alternatives = event.top if self.body.top_logprobs else ()
        return chat_logprobs(self.tokenizer, event.tokens, event.logprobs, alternatives)
