"""Texts as the choices of OpenAI's two routes."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from tailora.data.text_stream import TextStream
from tailora.data.tokenizer import Tokenizer
from tailora.engine.decoding import Completion
from tailora.engine.engine import Event
from tailora.serve.endpoints.answer import Answer
from tailora.serve.logprobs import ends_unseen, text_of
from tailora.serve.request_log import RequestStats
from tailora.serve.schema.decoding import Sampling, StreamOptions
from tailora.serve.served_model import ServedModel
from tailora.serve.service import PendingTexts, TextRequest
from tailora.serve.usage import usage


class ChoicesAnswer(Answer):
    """A request for `n` choices of each of its prompts.

    Args:
        body: of the request.
        model: base or adapter to write with.
        stats: counters of the request.
        tokenizer: of the base.
        requests: texts to write, the same number for each prompt, one prompt's after the other's.
        prompts: number of prompts.
        strip: remove white space at the ends of texts.
    """

    id_prefix = ""
    object_name = ""
    chunk_name = ""

    def __init__(
        self,
        body: Sampling,
        model: ServedModel,
        stats: RequestStats,
        tokenizer: Tokenizer,
        requests: Sequence[TextRequest],
        *,
        prompts: int = 1,
        strip: bool = False,
    ) -> None:
        super().__init__(model, stats, requests, streamed=bool(body.stream))
        self.body, self.tokenizer, self.prompts, self.strip = body, tokenizer, prompts, strip
        self.n = body.n or 1
        self._per_prompt = len(requests) // prompts
        self._head = {
            "id": f"{self.id_prefix}-{stats.id}",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": model.system_fingerprint,
        }
        self._streams = [TextStream(tokenizer, body.stops, strip=strip) for _ in requests]
        options = body.stream_options or StreamOptions()
        self._streams_usage = options.include_usage
        self._counts_always = options.include_usage and options.continuous_usage_stats

    @abstractmethod
    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        """Return a choice of the whole answer; `written` gets its text.

        Args:
            index: its number in the answer.
            completion: what the engine wrote.
        """

    @abstractmethod
    def piece(self, index: int, text: str, reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        """Return a choice of a stream's event.

        Args:
            index: its number in the answer.
            text: new part of the text.
            reason: finish reason with the last part, None before.
            logprobs: of the new part.
        """

    @abstractmethod
    def piece_logprobs(self, number: int, event: Event) -> dict[str, Any] | None:
        """Return the log-probabilities of an event's tokens; None if the request asks for none."""

    def text(self, completion: Completion) -> str:
        """Return what was written, up to a stop string."""
        text = text_of(self.tokenizer, completion, self.body.stops)
        return text.strip() if self.strip else text

    @property
    def usage(self) -> dict[str, Any]:
        """Token counts; the texts of one prompt share it, so that it counts once."""
        stats = self.stats
        cached = sum(stats.cached_tokens.get(prompt * self._per_prompt, 0) for prompt in range(self.prompts))
        counts = usage(stats.prompt_tokens, stats.completion_tokens, cached)
        return {**counts, "completion_tokens_details": {"reasoning_tokens": 0}}

    async def whole(self, results: list[tuple[Completion, ...]], pending: PendingTexts) -> dict[str, Any]:
        """See `Answer`."""
        choices, per_prompt = [], len(results) // self.prompts
        for prompt in range(self.prompts):
            of_prompt = results[prompt * per_prompt : (prompt + 1) * per_prompt]
            completions = [completion for result in of_prompt for completion in result]
            for place, completion in enumerate(_best(completions, self.n)):
                choices.append(self.choice(prompt * self.n + place, completion))
        return {**self._head, "object": self.object_name, "choices": choices, "usage": self.usage}

    async def chunks(self, number: int, event: Event, pending: PendingTexts) -> list[dict[str, Any]]:
        """See `Answer`."""
        return [self._chunk(choice) for choice in self._pieces(number, event)]

    def closing(self) -> Iterable[dict[str, Any]]:
        """See `Answer`."""
        if self._streams_usage:
            yield {**self._head, "object": self.chunk_name, "choices": [], "usage": self.usage}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = {**self._head, "object": self.chunk_name, "choices": [choice]}
        return {**chunk, "usage": self.usage if self._counts_always else None} if self._streams_usage else chunk

    def _pieces(self, number: int, event: Event) -> list[dict[str, Any]]:
        """A piece of one choice; of beams, and of a greedy text that is returned as several choices, all of them."""
        prompt, place = divmod(number, self._per_prompt)
        index = prompt * self.n + place
        if not event.tokens:  # beams, at their end
            completions = event.result or ()
            return [self._new(index + k, self.text(c), c.finish_reason) for k, c in enumerate(completions)]
        stream = self._streams[number]
        text = stream.add(event.tokens)
        reason = None
        if event.result is not None:
            text += stream.end()
            reason = event.result[0].finish_reason
        count = len(event.tokens) - ends_unseen(self.tokenizer, event.tokens, reason)
        seen = replace(event, tokens=event.tokens[:count], logprobs=event.logprobs[:count], top=event.top[:count])
        logprobs = self.piece_logprobs(number, seen) if count else None
        if not text and reason is None and logprobs is None:
            return []
        copies = self.n if self._per_prompt < self.n else 1
        return [self._new(index + copy, text, reason, logprobs) for copy in range(copies)]

    def _new(self, index: int, text: str, reason: str | None, logprobs: Any = None) -> dict[str, Any]:
        self.written[index] += text
        return self.piece(index, text, reason, logprobs)


def _best(completions: Sequence[Completion], count: int) -> list[Completion]:
    """The best by mean log-probability of a token if there are more than needed; repeated if there are fewer."""
    if len(completions) > count:
        completions = sorted(completions, key=lambda one: -one.logprob / max(1, len(one.token_ids)))
    return [completions[place % len(completions)] for place in range(count)]
