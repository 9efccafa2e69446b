"""The engine as an event loop uses it: requests are admitted, started, read, cancelled and counted."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from tailora.core.errors import ModelError, UserError
from tailora.engine.decoding import Completion, Decoding
from tailora.engine.engine import Event
from tailora.engine.worker import Worker
from tailora.inference.running import Running
from tailora.serve.api_error import ApiError, from_user_error, message_of
from tailora.serve.registry import Registry
from tailora.serve.request_log import RequestStats
from tailora.serve.served_model import ServedModel
from tailora.serve.settings import ServeSettings

T = TypeVar("T")
STALL = 60.0  # seconds without a step, with texts waiting, after which the engine counts as stalled
_FIELDS = {"max_new_tokens": "max_tokens", "num_candidates": "n", "top_logprobs": "logprobs"}


@dataclass(frozen=True)
class TextRequest:
    """One text to write.

    Attributes:
        prompt: token ids.
        decoding: how to write.
        stop: strings that end the text.
        score_prompt: whether to report the log-probabilities of the prompt's tokens.
    """

    prompt: tuple[int, ...]
    decoding: Decoding
    stop: tuple[str, ...] = ()
    score_prompt: bool = False


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        queue: largest number of texts in progress or waiting.
        timeout: seconds that a request may take.
        max_prompt: largest number of tokens of a prompt; None for what the model takes.
    """

    queue: int
    timeout: float
    max_prompt: int | None = None


class Service:
    """Runs the requests of an event loop on the engine. Used by the event loop's thread.

    Args:
        running: engine, owned by `worker`.
        worker: thread of the engine.
        registry: models.
        limits: what is accepted.

    Attributes:
        draining: whether new requests are refused because the server is about to stop.
        open_texts: number of texts in progress or waiting.
        search_lock: held while facts are searched for in another thread, which one request does at a time.
    """

    def __init__(self, running: Running, worker: Worker, registry: Registry, limits: Limits) -> None:
        self.running, self.worker, self.registry, self.limits = running, worker, registry, limits
        self.tokenizer = running.tokenizer
        self.context: int = running.engine.backend.context
        self.draining = False
        self.open_texts = 0
        self.search_lock = asyncio.Lock()
        self._outbox = _Outbox()
        self._pending: set[PendingTexts] = set()
        self._busy_since = 0.0  # when there began to be something to compute

    def set_limits(self, settings: ServeSettings) -> None:
        """Use the limits of new settings for requests that begin from here on."""
        self.limits = Limits(settings.queue, settings.timeout, settings.max_prompt)
        self.registry.fetch_seconds = settings.timeout

    @property
    def stalled(self) -> bool:
        """Whether the engine has computed nothing for `STALL` seconds although texts wait for it."""
        since = max(self._busy_since, self.worker.stats.progressed)
        return bool(self.open_texts) and time.monotonic() - since > STALL

    def token_limit(
        self,
        prompt: Sequence[int],
        requested: int | None,
        *,
        default: int | None = None,
        beams: int = 1,
        fields: tuple[str, str] = ("prompt", "max_tokens"),
    ) -> int:
        """Return how many tokens a text may have after a prompt.

        Args:
            prompt: token ids.
            requested: limit of the request, which has to fit into the model's context; None for the default.
            default: used as far as it fits into the context and the cache; None for all that fits.
            beams: number of texts searched side by side, each of which needs room in the cache.
            fields: names of the prompt and of the limit in the request.

        Raises:
            ApiError: the prompt is longer than the server's limit, or does not fit into the context with the text.
        """
        length, limit, (source, field) = len(prompt), self.limits.max_prompt, fields
        if limit is not None and length > limit:
            raise _too_long(source, f"the prompt has {length} tokens, and this server accepts {limit}; shorten it")
        context = f"This model's maximum context length is {self.context} tokens"
        if length >= self.context:
            raise _too_long(source, f"{context}, and the prompt has {length}; shorten it to leave room for the text")
        if requested is None:
            room = self._room(length, beams)
            return room if default is None else min(default, room)
        if length + requested > self.context:
            message = (
                f"{context}, and the request needs {length + requested}: {length} for the prompt and {requested} for "
                f"the text; lower {field} to {self.context - length} or less, or shorten the prompt"
            )
            raise _too_long(field, message)
        return requested

    def _room(self, length: int, beams: int) -> int:
        """How many tokens fit after a prompt of some length, in the context and in the cache; at least 1."""
        blocks = self.worker.stats.load.blocks // beams
        return max(1, min(self.context, blocks * self.running.engine.backend.block_size) - length)

    def texts_at_once(self, prompt: Sequence[int], tokens: int) -> int:
        """Return how many texts of a number of tokens one request can have after a prompt; at least 1."""
        backend, load = self.running.engine.backend, self.worker.stats.load
        needed = -(-min(self.context, len(prompt) + tokens) // backend.block_size)
        return max(1, min(load.sequences, load.blocks // needed))

    def end_all(self) -> None:
        """End every open request with an error because the server stops."""
        for pending in tuple(self._pending):
            message = "the server stops before the text is complete; send the request to another server"
            pending.end(ApiError(503, message, code="server_stopped"))

    @asynccontextmanager
    async def write(
        self, model: ServedModel, requests: Sequence[TextRequest], stats: RequestStats
    ) -> AsyncIterator[PendingTexts]:
        """Start the texts of one HTTP request; what is not done at the end of the context is cancelled.

        Raises:
            ApiError: too many texts are open, the API key has used its tokens, the server is about to stop, or the
                engine refuses a text.
        """
        self._admit(len(requests))
        if stats.limits is not None:
            stats.limits.begin_texts(stats.prompt_tokens)
        if not self.open_texts:
            self._busy_since = time.monotonic()
        pending = PendingTexts(self, stats)
        self._pending.add(pending)
        self.open_texts += len(requests)
        try:
            try:
                for number, request in enumerate(requests):
                    await pending.start(number, model, request)
                yield pending
            finally:
                pending.close()
        except UserError as error:
            raise from_user_error(error, _FIELDS) from error
        finally:
            self._pending.discard(pending)
            self.open_texts -= len(requests)

    def _admit(self, count: int) -> None:
        if self.draining:
            message = "the server is about to stop; send the request to another server"
            raise ApiError(503, message, headers={"Retry-After": "5"})
        if not self.worker.alive:
            raise ApiError(503, "the engine has stopped; restart the server")
        limit = self.limits.queue
        if count > limit:
            raise ApiError(400, f"the request asks for {count} texts, and the limit is {limit}; split the request")
        if self.open_texts + count > limit:
            message = f"{self.open_texts} texts are in progress or waiting, and the limit is {limit}; try again later"
            headers = {"Retry-After": str(self._retry_after())}
            raise ApiError(429, message, code="rate_limit_exceeded", headers=headers)

    def _retry_after(self) -> int:
        """Seconds until about one open text in eight is done, at the speed so far and 50 tokens a text."""
        stats = self.worker.stats
        speed = stats.tokens / stats.busy_seconds if stats.busy_seconds > 1 else 100.0
        return max(1, min(30, round(self.open_texts / 8 * 50 / max(speed, 1.0))))


def _too_long(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="context_length_exceeded")


class PendingTexts:
    """The texts of one HTTP request in progress: iterating gives their events up to the end of the last."""

    def __init__(self, service: Service, stats: RequestStats) -> None:
        self._service, self._stats = service, stats
        self._arrived: asyncio.Queue[tuple[int, Event | BaseException | None]] = asyncio.Queue()
        self._open: dict[int, Future[int]] = {}
        loop, limit = asyncio.get_running_loop(), service.limits.timeout
        self._ended: asyncio.Future[ApiError] = loop.create_future()
        self._closed = False
        # Not `asyncio.timeout`: it belongs to one task, and a stream starts in one task and is read in another.
        message = f"the request took longer than {limit:g} s; lower max_tokens, or ask for fewer texts"
        self._timer = loop.call_later(limit, self.end, ApiError(504, message, code="timeout"))

    def end(self, error: ApiError) -> None:
        """End the request with an error, whatever it waits for."""
        if not self._ended.done():
            self._stats.error = error
            self._ended.set_result(error)
            self._arrived.put_nowait((-1, error))

    @property
    def over(self) -> bool:
        """Whether nobody waits for the texts any longer: the request was ended, or its client has left."""
        return self._ended.done() or self._closed

    async def start(self, number: int, model: ServedModel, request: TextRequest) -> None:
        """Queue a text.

        Raises:
            ApiError: the request has been ended meanwhile; see `end`.
        """
        service = self._service
        engine_request = service.running.request(
            request.prompt, request.decoding, model.adapters, request.stop, score_prompt=request.score_prompt
        )
        outbox, arrived = service._outbox, self._arrived

        def sink(item: Event | BaseException | None) -> None:
            outbox.put(arrived, number, item)

        outbox.loop = asyncio.get_running_loop()
        self._open[number] = service.worker.begin(engine_request, sink)
        await self.unless_ended(asyncio.wrap_future(self._open[number]))

    async def unless_ended(self, work: Awaitable[T]) -> T:
        """Wait for some work of the request.

        Raises:
            ApiError: the request has been ended meanwhile; see `end`.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise self._ended.result()
            return task.result()
        finally:
            task.cancel()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        """Yield each event with its text's number, as it arrives.

        Raises:
            ApiError: the request has been ended, or the engine failed.
            UserError: the engine refuses to go on with a text.
        """
        while self._open:
            number, item = await self._arrived.get()
            if isinstance(item, ModelError):  # about the model's numbers; its name exists, so the status is not 404
                raise ApiError(500, message_of(item)) from item
            if isinstance(item, (UserError, ApiError)):
                raise item
            if isinstance(item, BaseException):
                raise ApiError(500, "the engine failed; the server's log has the details") from item
            if item is None:
                self._open.pop(number, None)
                continue
            self._stats.count(number, item)
            yield number, item

    async def results(self) -> list[tuple[Completion, ...]]:
        """Wait until all texts are done; return each one's completions, the best first."""
        results: dict[int, tuple[Completion, ...]] = {}
        async for number, event in self:
            if event.result is not None:
                results[number] = event.result
        return [results[number] for number in sorted(results)]

    def close(self) -> None:
        """Cancel the texts that are not done."""
        self._closed = True
        self._timer.cancel()
        for queued in self._open.values():
            if self._service.worker.alive:
                self._service.worker.abandon(queued)
        self._open.clear()


class _Outbox:
    """Carries events from the engine's thread to the event loop's, as many as there are at each crossing."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._items: deque[tuple[asyncio.Queue[tuple[int, Event | BaseException | None]], int, object]] = deque()
        self._woken = False

    def put(self, target: asyncio.Queue[tuple[int, Event | BaseException | None]], number: int, item: object) -> None:
        """Hand over an item. Called by the engine's thread."""
        assert self.loop is not None
        self._items.append((target, number, item))
        if not self._woken:
            self._woken = True
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # first: an item that arrives from here on wakes the loop again
        while self._items:
            target, number, item = self._items.popleft()
            target.put_nowait((number, item))  # type: ignore[arg-type]
