"""POST /v1/records: texts for records, with what each says of its facts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from tailora.core.errors import UserError
from tailora.data.readers.jsonl import parse_facts
from tailora.data.text_stream import TextStream
from tailora.data.tokenizer import Tokenizer
from tailora.data.values import Fact, Record
from tailora.engine.decoding import Completion
from tailora.inference.rerank import candidate_reports, fewest_errors_first
from tailora.inference.texts import Candidate, generation_of
from tailora.metrics.slots import Rules, SlotReport, Vocabulary, vocabulary_of
from tailora.serve.api_error import ApiError, from_user_error
from tailora.serve.dependencies import account_of, find_model
from tailora.serve.metrics import Account
from tailora.serve.registry import Model
from tailora.serve.responses import stream_of, unless_gone
from tailora.serve.schema.records import RecordsBody
from tailora.serve.service import Service, TextRequest
from tailora.serve.usage import usage


@dataclass(frozen=True)
class _Work:
    body: RecordsBody
    model: Model
    records: list[Record]
    asks: list[TextRequest]
    vocabulary: Vocabulary
    rules: Rules
    account: Account
    head: dict[str, Any]


def routes(service: Service, rules: Rules, *, log_texts: bool = False) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["records"])

    @router.post("/v1/records", summary="Write texts for records")
    async def records(body: RecordsBody, request: Request) -> Response:
        work = _take_apart(service, body, request, rules)
        if log_texts:
            work.account.texts += [repr(facts) for facts in body.given]
        if body.stream:
            return await stream_of(_stream(service, work))
        data = await unless_gone(request, _whole(service, work))
        if log_texts:
            work.account.texts += [each["text"] for each in data]
        counts = usage(work.account.prompt_tokens, work.account.completion_tokens)
        return JSONResponse({**work.head, "object": "records", "data": data, "usage": counts})

    return router


def _take_apart(service: Service, body: RecordsBody, request: Request, rules: Rules) -> _Work:
    model, account = find_model(request, service.registry, body.model), account_of(request)
    records = []
    try:
        for number, facts in enumerate(body.given):
            where = "facts" if body.facts is not None else f"records[{number}]"
            records.append(Record(str(number), parse_facts(facts, where), ()))
        decoding = body.decoding()
    except UserError as error:
        raise from_user_error(error, {"num_beams": "beams", "num_candidates": "n"}) from error
    if len(records) > service.limits.queue:
        raise ApiError(400, f"{len(records)} records; at most {service.limits.queue} at once", param="records")
    prompts = _encoded(model, records)
    account.prompt_tokens = sum(map(len, prompts))
    asks = [TextRequest(prompt, decoding, tuple(body.stop)) for prompt in prompts]
    head = {"id": f"rec-{account.id}", "object": "record.chunk", "created": int(time.time()), "model": body.model}
    return _Work(body, model, records, asks, vocabulary_of(records, rules), rules, account, head)


def _encoded(model: Model, records: list[Record]) -> list[tuple[int, ...]]:
    try:
        return model.prompts.encode(records)
    except UserError as error:
        raise from_user_error(error) from error


async def _whole(service: Service, work: _Work) -> list[dict[str, Any]]:
    async with service.write(work.model, work.asks, work.account) as flight:
        results = await flight.results()
        told = [await flight.unless_ended(_told(service, work, *numbered)) for numbered in enumerate(results)]
    return [{"index": number, **each} for number, each in enumerate(told)]


async def _stream(service: Service, work: _Work) -> AsyncGenerator[dict[str, Any] | None, None]:
    async with service.write(work.model, work.asks, work.account) as flight:
        yield None
        streams = [TextStream(service.tokenizer, work.body.stop) for _ in work.asks]
        async for number, event in flight:
            piece = streams[number].add(event.tokens)
            if event.result is None:
                if piece:
                    yield {**work.head, "index": number, "delta": piece}
                continue
            piece += streams[number].end()
            last = await flight.unless_ended(_told(service, work, number, event.result))
            yield {**work.head, "index": number, "delta": piece, **last}


async def _told(service: Service, work: _Work, number: int, result: tuple[Completion, ...]) -> dict[str, Any]:
    """What is told of a record's texts; computed in another thread, since facts are looked for in every text."""
    async with service.aside:
        return await asyncio.to_thread(_judged, service.tokenizer, work, number, result)


def _judged(tokenizer: Tokenizer, work: _Work, number: int, result: tuple[Completion, ...]) -> dict[str, Any]:
    prompt_tokens = len(work.asks[number].prompt)
    made = generation_of(tokenizer, prompt_tokens, result, work.body.stop)
    reports = candidate_reports(work.records[number], made, work.vocabulary, work.rules)
    if work.body.rerank:
        made = fewest_errors_first(made, reports)
    told = _text(made, reports[made.text])
    if work.body.n > 1:
        told["candidates"] = [_text(each, reports[each.text]) for each in made.candidates[: work.body.n]]
    written = sum(len(completion.token_ids) for completion in result)
    return {**told, "usage": usage(prompt_tokens, written)}


def _text(candidate: Candidate, report: SlotReport) -> dict[str, Any]:
    return {
        "text": candidate.text,
        "finish_reason": candidate.finish_reason,
        "logprob": candidate.logprob,
        "fidelity": {
            "slots": report.slots,
            "errors": report.errors,
            "missing": [_fact(fact) for fact in report.missing],
            "added": [_fact(fact) for fact in report.added],
            "repeated": [_fact(fact) for fact in report.repeated],
            "mentions": [
                {"start": each.start, "end": each.end, **_fact(each.fact), "added": each.added}
                for each in report.mentions
            ],
        },
    }


def _fact(fact: Fact) -> dict[str, str | None]:
    return {"subject": fact.subject, "attribute": fact.attribute, "value": fact.value}
