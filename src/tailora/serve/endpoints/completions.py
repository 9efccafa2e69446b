"""POST /v1/completions, as OpenAI has it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from tailora.data.text_stream import TextStream
from tailora.data.tokenizer import Tokenizer
from tailora.engine.decoding import Completion
from tailora.engine.engine import Event
from tailora.serve.api_error import ApiError
from tailora.serve.dependencies import account_of, find_model
from tailora.serve.logprobs import CompletionLogprobs, ends_unseen, text_of, without_end
from tailora.serve.metrics import Account
from tailora.serve.prompts import text_prompt
from tailora.serve.registry import Model
from tailora.serve.responses import stream_of, unless_gone
from tailora.serve.schema.completions import CompletionBody
from tailora.serve.service import Service, TextRequest
from tailora.serve.usage import usage

USUAL_MAX_TOKENS = 16  # OpenAI's


@dataclass(frozen=True)
class _Prompt:
    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class _Work:
    """One request, taken apart: its prompts, and the texts to write for each, one prompt's after the other's."""

    body: CompletionBody
    model: Model
    prompts: list[_Prompt]
    asks: list[TextRequest]
    account: Account
    head: dict[str, Any]

    @property
    def n(self) -> int:
        return self.body.n or 1

    @property
    def asks_each(self) -> int:
        return len(self.asks) // len(self.prompts)

    @property
    def usage(self) -> Any:
        return usage(self.account.prompt_tokens, self.account.completion_tokens)


def routes(service: Service, *, log_texts: bool = False) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/completions", summary="Continue a text")
    async def completions(body: CompletionBody, request: Request) -> Response:
        work = _take_apart(service, body, request)
        if log_texts:
            work.account.texts += [prompt.text for prompt in work.prompts]
        if not work.asks:
            choices = [_choice(n, work.prompts[n // work.n].text, "length") for n in range(len(work.prompts) * work.n)]
            return JSONResponse({**work.head, "choices": choices, "usage": work.usage})
        if body.stream:
            return await stream_of(_stream(service, work))
        choices = await unless_gone(request, _whole(service, work))
        if log_texts:
            work.account.texts += [choice["text"] for choice in choices]
        return JSONResponse({**work.head, "choices": choices, "usage": work.usage})

    return router


def _take_apart(service: Service, body: CompletionBody, request: Request) -> _Work:
    model, account = find_model(request, service.registry, body.model), account_of(request)
    scored = bool(body.echo) and body.logprobs is not None
    if scored and body.stream:
        raise ApiError(400, "a prompt's log-probabilities are not streamed; leave out one of the three", param="echo")
    prompts = _prompts(service, model, body)
    account.prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
    count = body.best_of or body.n or 1
    most = USUAL_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    top = body.logprobs or 0
    asks = []
    for prompt in prompts if most or scored else ():
        # Greedy texts of one prompt are all the same, and written once.
        ways = body.decodings(max(most, 1), 1 if body.greedy or not most else count, top)
        asks += [TextRequest(prompt.ids, decoding, body.stops, scored) for decoding in ways]
    head = {"id": f"cmpl-{account.id}", "object": "text_completion", "created": int(time.time()), "model": body.model}
    return _Work(body, model, prompts, asks, account, head)


def _prompts(service: Service, model: Model, body: CompletionBody) -> list[_Prompt]:
    tokenizer, given = service.tokenizer, body.prompt
    if isinstance(given, str):
        texts: list[Any] = [given]
    else:
        texts = [given] if given and isinstance(given[0], int) else list(given)
    if not texts or any(isinstance(each, list) and not each for each in texts):
        raise ApiError(400, "there is no prompt; give a text or token ids", param="prompt")
    if len(texts) > service.limits.queue:
        raise ApiError(400, f"{len(texts)} prompts; at most {service.limits.queue} at once", param="prompt")
    prompts = []
    for each in texts:
        if isinstance(each, str):
            ids = _document(model, tokenizer, each) or text_prompt(model, each)
            prompts.append(_Prompt(ids, tokenizer.decode(ids) if model.prompts.trained else each))
        elif all(0 <= token < tokenizer.vocab_size for token in each):
            prompts.append(_Prompt(tuple(each), tokenizer.decode(each) if body.echo else ""))
        else:
            what = f"token ids go from 0 to {tokenizer.vocab_size - 1}"
            raise ApiError(400, what, param="prompt")
    return prompts


def _document(model: Model, tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """The tokens of a text for a base that begins with a special token's name; none for any other prompt.

    Such a name is text everywhere else. At the very start harnesses put the token before a document (lm-eval-harness in
    `loglikelihood_rolling`, with `tokenized_requests=False`).
    """
    head = next((name for name in tokenizer.special_tokens if text.startswith(name)), "")
    if model.prompts.trained or not head:
        return ()
    return (*tokenizer.encode(head, special=True), *tokenizer.encode(text[len(head) :]))


async def _whole(service: Service, work: _Work) -> list[dict[str, Any]]:
    async with service.write(work.model, work.asks, work.account) as flight:
        results = await flight.results()
    choices = []
    for number, prompt in enumerate(work.prompts):
        of_prompt = results[number * work.asks_each : (number + 1) * work.asks_each]
        found = [completion for result in of_prompt for completion in result]
        for place, completion in enumerate(_best(found, work.n)):
            text = text_of(service.tokenizer, completion, work.body.stops) if work.body.max_tokens != 0 else ""
            logprobs = None if work.body.logprobs is None else _logprobs(service, work, prompt, completion, text)
            echoed = prompt.text if work.body.echo else ""
            reason = "length" if work.body.max_tokens == 0 else completion.finish_reason
            choices.append(_choice(number * work.n + place, echoed + text, reason, logprobs))
    return choices


def _best(found: Sequence[Completion], count: int) -> list[Completion]:
    """The likeliest by log-probability a token, where there are more than asked for; copies of one where less."""
    if len(found) > count:
        found = sorted(found, key=lambda each: -each.logprob / max(1, len(each.token_ids)))
    return [found[place % len(found)] for place in range(count)]


def _logprobs(service: Service, work: _Work, prompt: _Prompt, completion: Completion, text: str) -> dict[str, Any]:
    """Of the text's tokens up to a stop string, and of the prompt's where it is echoed.

    A token that ends the text is listed only beside an echoed prompt: evaluation harnesses ask for one token after a
    prompt, and leave out the last entry.
    """
    parts, length, ids = CompletionLogprobs(service.tokenizer), len(text), completion.token_ids
    told: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    if work.body.echo:
        none: tuple[Any, ...] = (None,)  # nothing says how likely the first token was
        tops = (*none, *completion.prompt_top) if work.body.logprobs else ()
        told = parts.add(prompt.ids, (*none, *completion.prompt_logprobs), tops, prompt=True)
        length += len(prompt.text)
        ids = () if work.body.max_tokens == 0 else ids
    else:
        ids = ids[: without_end(service.tokenizer, completion)]
    more = parts.add(ids, completion.logprobs[: len(ids)], completion.top[: len(ids)])
    kept = sum(offset < length for offset in more["text_offset"]) if work.body.stops else len(ids)
    return {
        name: [*(told[name] or ()), *(values or ())[:kept]] or (None if name == "top_logprobs" else [])
        for name, values in more.items()
    }


async def _stream(service: Service, work: _Work) -> AsyncGenerator[dict[str, Any] | None, None]:
    options = work.body.stream_options
    told_usage = options is not None and options.include_usage
    more: dict[str, Any] = {"usage": None} if told_usage else {}
    async with service.write(work.model, work.asks, work.account) as flight:
        yield None
        if work.body.echo:
            for number in range(len(work.prompts) * work.n):
                yield {**work.head, "choices": [_choice(number, work.prompts[number // work.n].text, None)], **more}
        streams = [TextStream(service.tokenizer, work.body.stops, strip=False) for _ in work.asks]
        logprobs = [CompletionLogprobs(service.tokenizer) for _ in work.asks]
        async for place, event in flight:
            for choice in _pieces(service, work, place, event, streams[place], logprobs[place]):
                yield {**work.head, "choices": [choice], **more}
    if told_usage:
        yield {**work.head, "choices": [], "usage": work.usage}


def _pieces(
    service: Service, work: _Work, place: int, event: Event, stream: TextStream, told: CompletionLogprobs
) -> list[dict[str, Any]]:
    """What is to be told of an event: a piece of one choice, or whole choices where they are beams or copies."""
    first, within = divmod(place, work.asks_each)
    index = first * work.n + within
    if not event.tokens:
        texts = [text_of(service.tokenizer, c, work.body.stops) for c in event.result or ()]
        reasons = [c.finish_reason for c in event.result or ()]
        return [_choice(index + n, text, reason) for n, (text, reason) in enumerate(zip(texts, reasons, strict=True))]
    piece = stream.add(event.tokens)
    reason = None
    if event.result is not None:
        piece += stream.end()
        reason = event.result[0].finish_reason
    logprobs = None
    if work.body.logprobs is not None and not ends_unseen(service.tokenizer, event.tokens, reason):
        logprobs = told.add(event.tokens, event.logprobs, event.top if work.body.logprobs else ())
    if not piece and reason is None and logprobs is None:
        return []
    copies = work.n if work.asks_each < work.n else 1
    return [_choice(index + copy, piece, reason, logprobs) for copy in range(copies)]


def _choice(index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
