"""POST /v1/completions, as OpenAI has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import Response

from tailora.data.tokenizer import Tokenizer
from tailora.engine.decoding import Completion
from tailora.engine.engine import Event
from tailora.serve.api_error import ApiError
from tailora.serve.dependencies import find_model, prepare, stats_of
from tailora.serve.endpoints.answer import respond
from tailora.serve.endpoints.choices import ChoicesAnswer
from tailora.serve.logprobs import CompletionLogprobs, without_end
from tailora.serve.prompts import text_prompt
from tailora.serve.request_log import RequestStats
from tailora.serve.schema.completions import CompletionBody
from tailora.serve.served_model import ServedModel
from tailora.serve.service import PendingTexts, Service, TextRequest

DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionPrompt(NamedTuple):
    """A prompt as token ids, and as the text that `echo` returns."""

    ids: tuple[int, ...]
    text: str


def completion_routes(service: Service, *, log_texts: bool = False) -> APIRouter:
    """Return the route.

    Args:
        service: engine.
        log_texts: write prompts and texts to the log.
    """
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/completions", summary="Continue a text")
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Write completions of prompts, as OpenAI's API does.

        An adapter that was trained on records takes a record as its prompt: JSON facts, or one line such as
        `name : Blue Spice | Type : pub`.
        """
        model = await find_model(request, service.registry, body.model, body)
        answer = await prepare(request, _answer, service, body, model, stats_of(request))
        return await respond(request, service, answer, log_texts=log_texts)

    return router


def _answer(service: Service, body: CompletionBody, model: ServedModel, stats: RequestStats) -> CompletionAnswer:
    scored = bool(body.echo) and body.logprobs is not None
    if scored and body.stream:
        message = "log-probabilities of a prompt are not streamed; remove echo, logprobs or stream"
        raise ApiError(400, message, param="echo")
    prompts = _prompts(service, model, body)
    stats.prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
    requests = []
    for prompt in prompts:
        limit = service.token_limit(prompt.ids, body.max_tokens, default=DEFAULT_MAX_TOKENS)
        if not limit and not scored:
            continue
        # The greedy texts of one prompt are all the same, and written once.
        count = 1 if body.greedy or not limit else body.best_of or body.n or 1
        decodings = body.decodings(max(limit, 1), count, body.logprobs or 0)
        requests += [TextRequest(prompt.ids, decoding, body.stops, scored) for decoding in decodings]
    return CompletionAnswer(body, model, stats, service.tokenizer, requests, prompts)


def _prompts(service: Service, model: ServedModel, body: CompletionBody) -> list[CompletionPrompt]:
    tokenizer, prompt = service.tokenizer, body.prompt
    if isinstance(prompt, str):
        inputs: list[Any] = [prompt]
    else:
        inputs = [prompt] if prompt and isinstance(prompt[0], int) else list(prompt)
    if not inputs or any(isinstance(item, list) and not item for item in inputs):
        raise ApiError(400, "the prompt is empty; send a text or token ids", param="prompt")
    if len(inputs) > service.limits.queue:
        message = f"the request has {len(inputs)} prompts, and the limit is {service.limits.queue}; split the request"
        raise ApiError(400, message, param="prompt")
    prompts = []
    for item in inputs:
        if isinstance(item, str):
            ids = _document(model, tokenizer, item) or text_prompt(model, item)
            prompts.append(CompletionPrompt(ids, tokenizer.decode(ids) if model.prompts.trained else item))
        elif all(0 <= token < tokenizer.vocab_size for token in item):
            prompts.append(CompletionPrompt(tuple(item), tokenizer.decode(item) if body.echo else ""))
        else:
            raise ApiError(400, f"token ids must be from 0 to {tokenizer.vocab_size - 1}", param="prompt")
    return prompts


def _document(model: ServedModel, tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """The tokens of a text for a base that begins with a special token's name; none for any other prompt.

    Such a name is text everywhere else. At the very start harnesses put the token before a document (lm-eval-harness in
    `loglikelihood_rolling`, with `tokenized_requests=False`).
    """
    head = next((name for name in tokenizer.special_tokens if text.startswith(name)), "")
    if model.prompts.trained or not head:
        return ()
    return (*tokenizer.encode(head, special=True), *tokenizer.encode(text[len(head) :]))


class CompletionAnswer(ChoicesAnswer):
    """A request for continuations of one or several prompts; `body` is what it sent."""

    body: CompletionBody
    id_prefix = "cmpl"
    object_name = chunk_name = "text_completion"

    def __init__(
        self,
        body: CompletionBody,
        model: ServedModel,
        stats: RequestStats,
        tokenizer: Tokenizer,
        requests: Sequence[TextRequest],
        prompts: Sequence[CompletionPrompt],
    ) -> None:
        super().__init__(body, model, stats, tokenizer, requests, prompts=len(prompts))
        self._prompts = prompts
        self._piece_logprobs = [CompletionLogprobs(tokenizer) for _ in requests]

    @property
    def prompt_texts(self) -> list[str]:
        """See `Answer`."""
        return [prompt.text for prompt in self._prompts]

    async def whole(self, results: list[tuple[Completion, ...]], pending: PendingTexts) -> dict[str, Any]:
        """See `Answer`. Without results the prompts alone are echoed."""
        nothing = Completion((), (), "length")
        return await super().whole(results or [(nothing,)] * self.prompts, pending)

    def opening(self) -> Iterable[dict[str, Any]]:
        """See `Answer`."""
        if self.body.echo:
            reason = None if self.requests else "length"
            for index in range(self.prompts * self.n):
                yield self._chunk(self.piece(index, self._prompt(index).text, reason))

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        """See `ChoicesAnswer`."""
        options, prompt = self.body, self._prompt(index)
        text = self.written[index] = "" if options.max_tokens == 0 else self.text(completion)
        logprobs = None if options.logprobs is None else self._logprobs(prompt, completion, text)
        reason = "length" if options.max_tokens == 0 else completion.finish_reason
        return self.piece(index, prompt.text + text if options.echo else text, reason, logprobs)

    def piece(self, index: int, text: str, reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        """See `ChoicesAnswer`."""
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def piece_logprobs(self, number: int, event: Event) -> dict[str, Any] | None:
        """See `ChoicesAnswer`."""
        if self.body.logprobs is None:
            return None
        alternatives = event.top if self.body.logprobs else ()
        return self._piece_logprobs[number].add(event.tokens, event.logprobs, alternatives)

    def _prompt(self, index: int) -> CompletionPrompt:
        return self._prompts[index // self.n]

    def _logprobs(self, prompt: CompletionPrompt, completion: Completion, text: str) -> dict[str, Any]:
        """Of the text's tokens up to a stop string, and of the prompt's if it is echoed.

        A token that ends the text is listed only after an echoed prompt: evaluation harnesses ask for one token after a
        prompt, and drop the last entry.
        """
        options, logprobs = self.body, CompletionLogprobs(self.tokenizer)
        length, ids = len(text), completion.token_ids
        head: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        if options.echo:
            none: tuple[Any, ...] = (None,)  # the first token has no log-probability
            tops = (*none, *completion.prompt_top) if options.logprobs else ()
            head = logprobs.add(prompt.ids, (*none, *completion.prompt_logprobs), tops, prompt=True)
            length += len(prompt.text)
            ids = () if options.max_tokens == 0 else ids
        else:
            ids = ids[: without_end(self.tokenizer, completion)]
        tail = logprobs.add(ids, completion.logprobs[: len(ids)], completion.top[: len(ids)])
        kept = sum(offset < length for offset in tail["text_offset"]) if options.stops else len(ids)
        return {
            name: [*(head[name] or ()), *(values or ())[:kept]] or (None if name == "top_logprobs" else [])
            for name, values in tail.items()
        }
