"""POST /v1/records: texts about records, with the facts that each text states, misses and adds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tailora.core.errors import UserError
from tailora.data.prompts import PromptFormat
from tailora.data.readers.jsonl import parse_facts
from tailora.data.text_stream import TextStream
from tailora.data.trained_reading import TrainedReading
from tailora.data.values import Fact, Record
from tailora.engine.decoding import Completion
from tailora.engine.engine import Event
from tailora.inference.rerank import ROUND, Search, further_decoding
from tailora.inference.texts import Candidate, generation_of
from tailora.metrics.slot_rules import Rules, Vocabulary, vocabulary_of
from tailora.metrics.slots import SlotReport
from tailora.serve.api_error import ApiError, from_user_error
from tailora.serve.dependencies import find_model, prepare, stats_of
from tailora.serve.endpoints.answer import Answer, respond
from tailora.serve.request_log import RequestStats
from tailora.serve.schema.records import RecordsBody
from tailora.serve.served_model import ServedModel
from tailora.serve.service import PendingTexts, Service, TextRequest
from tailora.serve.usage import usage

_MOST_RULES = 64  # models whose values from training are kept as they are searched
DEFAULT_MAX_TOKENS = 100  # of `tailora generate` too


def record_routes(service: Service, rules: Rules, *, log_texts: bool = False) -> APIRouter:
    """Return the route.

    Args:
        service: engine.
        rules: how facts are found in texts.
        log_texts: write records and texts to the log.
    """
    router = APIRouter(tags=["records"])

    @lru_cache(maxsize=_MOST_RULES)
    def rules_of(prompts: PromptFormat) -> Rules:
        return rules.with_known(prompts.known_values)

    @router.post("/v1/records", summary="Write texts about records")
    async def records(body: RecordsBody, request: Request) -> Response:
        """Write a text about each record.

        The answer lists for each text which facts it states, misses, adds and repeats, and where.
        """
        model = await find_model(request, service.registry, body.model, body)
        source = await request.body()
        answer = await prepare(
            request, _answer, service, rules_of(model.prompts), body, source, model, stats_of(request)
        )
        return await respond(request, service, answer, log_texts=log_texts)

    return router


def _answer(
    service: Service, rules: Rules, body: RecordsBody, source: bytes, model: ServedModel, stats: RequestStats
) -> RecordsAnswer:
    if len(body.all_facts) > service.limits.queue:
        message = f"the request has {len(body.all_facts)} records, and the limit is {service.limits.queue}; split it"
        raise ApiError(400, message, param="records")
    try:
        records = []
        trained = TrainedReading.of_meta(model.meta)
        as_written = trained is None or trained.plain_values
        for number, facts in enumerate(body.facts_as_written(source) if as_written else body.all_facts):
            where = "facts" if body.facts is not None else f"records[{number}]"
            records.append(Record(str(number), parse_facts(facts, where), ()))
        source_field = "records" if body.facts is None else "facts"
        prompts = model.prompts.encode(records)
        stats.prompt_tokens = sum(map(len, prompts))
        requests = []
        own = body.decoding(1)
        width = max(own.num_beams, own.num_candidates)
        for prompt in prompts:
            limit = service.token_limit(
                prompt,
                body.max_tokens,
                default=DEFAULT_MAX_TOKENS,
                beams=width,
                fields=(source_field, "max_tokens"),
            )
            requests.append(TextRequest(prompt, body.decoding(limit), body.stops))
    except UserError as error:
        raise from_user_error(error, {"num_beams": "beams", "num_candidates": "n"}) from error
    return RecordsAnswer(service, body, model, stats, requests, records, rules)


class RecordsAnswer(Answer):
    """A request for texts about records, one text each."""

    def __init__(
        self,
        service: Service,
        body: RecordsBody,
        model: ServedModel,
        stats: RequestStats,
        requests: Sequence[TextRequest],
        records: Sequence[Record],
        rules: Rules,
    ) -> None:
        super().__init__(model, stats, requests, streamed=body.stream)
        self._service, self._body, self._records = service, body, records
        vocabulary: Vocabulary = vocabulary_of(records, rules)
        penalty = body.length_penalty
        self._searches = [Search(record, vocabulary, rules, length_penalty=penalty) for record in records]
        self._tokens = [0] * len(records)
        self._streams = [TextStream(service.tokenizer, body.stops) for _ in requests]
        self._head = {
            "id": f"rec-{stats.id}",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": model.system_fingerprint,
        }

    @property
    def prompt_texts(self) -> list[str]:
        """See `Answer`."""
        return [repr(facts) for facts in self._body.all_facts]

    async def whole(self, results: list[tuple[Completion, ...]], pending: PendingTexts) -> dict[str, Any]:
        """See `Answer`."""
        data: dict[int, dict[str, Any]] = {}
        numbers = list(range(len(results)))
        while numbers:
            further = []
            for number, result in zip(numbers, results, strict=True):
                place, entry = await self._entry(number, result, pending)
                if entry is None:
                    further.append(number + len(self.requests))
                else:
                    self.written[place] = entry["text"]
                    data[place] = {"index": place, **entry}
            numbers = further
            results = await pending.results()
        stats = self.stats
        counts = usage(stats.prompt_tokens, stats.completion_tokens, sum(stats.cached_tokens.values()))
        return {**self._head, "object": "records", "data": [data[place] for place in sorted(data)], "usage": counts}

    async def chunks(self, number: int, event: Event, pending: PendingTexts) -> list[dict[str, Any]]:
        """See `Answer`."""
        place = number % len(self.requests)
        head = {**self._head, "object": "record.chunk", "index": place}
        piece = "" if self._body.faithful else self._streams[place].add(event.tokens)
        if event.result is None:
            self.written[place] += piece
            return [{**head, "delta": piece}] if piece else []
        place, entry = await self._entry(number, event.result, pending)
        if entry is None:
            return []
        piece = entry["text"] if self._body.faithful else piece + self._streams[place].end()
        self.written[place] = entry["text"]
        return [{**head, "delta": piece, **entry}]

    async def _entry(
        self, number: int, result: tuple[Completion, ...], pending: PendingTexts
    ) -> tuple[int, dict[str, Any] | None]:
        """Return the place of a text's record, and its entry; None if further texts of the record are written first.

        Those have numbers that are larger by multiples of the number of records.
        """
        rounds, place = divmod(number, len(self.requests))
        await pending.unless_ended(self._judge_aside(place, result, pending))
        search, request = self._searches[place], self.requests[place]
        if self._body.faithful and not search.is_faithful:
            most = min(ROUND, self._service.texts_at_once(request.prompt, request.decoding.max_new_tokens))
            following = further_decoding(request.decoding, search.further, self._body.faithful_candidates, most)
            if following is not None:
                further = replace(request, decoding=following)
                await pending.start((rounds + 1) * len(self.requests) + place, self.model, further)
                return place, None
        return place, self._finished(place)

    async def _judge_aside(self, place: int, result: tuple[Completion, ...], pending: PendingTexts) -> None:
        async with self._service.search_lock:
            await asyncio.to_thread(self._judge, place, result, pending)

    def _judge(self, place: int, result: tuple[Completion, ...], pending: PendingTexts) -> None:
        """Judge texts of a record; slow where many facts are searched for in many texts, so called in a thread.

        A thread cannot be stopped from outside, so it ends by itself after the text at which the request ends. A single
        text takes a bounded time: its length and the number of facts are limited by the model's context, and patterns
        come from the package alone, never from a request.
        """
        self._tokens[place] += sum(len(completion.token_ids) for completion in result)
        prompt_tokens = len(self.requests[place].prompt)
        generation = generation_of(self._service.tokenizer, prompt_tokens, result, self._body.stops)
        self._searches[place].add(generation, lambda: pending.over)

    def _finished(self, number: int) -> dict[str, Any]:
        """Return the entry of a record."""
        body, search, prompt_tokens = self._body, self._searches[number], len(self.requests[number].prompt)
        reports = search.reports
        generation = search.ordered() if body.chooses else search.first
        entry = _text(generation, reports[generation.text])
        warnings = self.model.warnings([self._records[number]])
        if warnings:
            entry["warnings"] = warnings
        if body.n > 1:
            candidates = generation.candidates[: body.n]
            entry["candidates"] = [_text(candidate, reports[candidate.text]) for candidate in candidates]
        return {**entry, "usage": usage(prompt_tokens, self._tokens[number], self.stats.cached_tokens.get(number, 0))}


def _text(candidate: Candidate, report: SlotReport) -> dict[str, Any]:
    mentions = [
        {"start": mention.start, "end": mention.end, **_fact(mention.fact), "added": mention.added}
        for mention in report.mentions
    ]
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
            "leaked": [_fact(fact) for fact in report.leaked],
            "mentions": mentions,
        },
    }


def _fact(fact: Fact) -> dict[str, str | None]:
    return {"subject": fact.subject, "attribute": fact.attribute, "value": fact.value}
