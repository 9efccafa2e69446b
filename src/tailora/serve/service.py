"""The engine for an event loop: requests admitted, written, cancelled, and counted."""

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
from tailora.serve.api_error import ApiError, from_user_error
from tailora.serve.metrics import Account
from tailora.serve.registry import Model, Registry

T = TypeVar("T")
STALL = 60.0  # seconds without a step, with requests waiting, after which the engine counts as hung
_FIELDS = {"max_new_tokens": "max_tokens", "num_candidates": "n", "top_logprobs": "logprobs"}


@dataclass(frozen=True)
class TextRequest:
    """A text to write: the prompt's token ids, how, strings that end it, and whether the prompt is to be scored."""

    prompt: tuple[int, ...]
    decoding: Decoding
    stop: tuple[str, ...] = ()
    score_prompt: bool = False


@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes:
        queue: most texts under way or waiting.
        timeout: seconds for a request.
        max_prompt: tokens of a prompt; None for what the model takes.
    """

    queue: int
    timeout: float
    max_prompt: int | None = None


class Service:
    """Used by the event loop's thread.

    Args:
        running: the engine, handed to `worker`.
        worker: its owner.
        registry: the models.
        limits: what is taken on.

    Attributes:
        draining: whether new requests are refused because the server is to end.
        asked: texts under way or waiting.
        aside: held by whoever computes in another thread beside the engine's, so that one does at a time.
    """

    def __init__(self, running: Running, worker: Worker, registry: Registry, limits: Limits) -> None:
        self.running, self.worker, self.registry, self.limits = running, worker, registry, limits
        self.tokenizer = running.tokenizer
        self.context: int = running.engine.backend.context
        self.draining = False
        self.asked = 0
        self.aside = asyncio.Lock()
        self._outbox = _Outbox()
        self._flights: set[PendingTexts] = set()
        self._busy_since = 0.0  # when there began to be something to compute

    @property
    def stalled(self) -> bool:
        """Whether the engine has computed nothing for long although there is something to compute."""
        since = max(self._busy_since, self.worker.stats.progressed)
        return bool(self.asked) and time.monotonic() - since > STALL

    def room_for(self, prompt: Sequence[int], beams: int = 1) -> int:
        """How many tokens of a text fit after a prompt, in the context and in the cache; at least 1.

        Args:
            prompt: its token ids.
            beams: written side by side, each of which takes its own room in the cache.
        """
        blocks = self.worker.stats.load.blocks // beams
        room = min(self.context, blocks * self.running.engine.backend.block_size)
        return max(1, room - len(prompt))

    def end_all(self) -> None:
        """End every request under way with an error, since the server stops."""
        for flight in tuple(self._flights):
            flight.end(
                ApiError(503, "the server stops before the text is complete; ask another", code="server_stopped")
            )

    @asynccontextmanager
    async def write(self, model: Model, asks: Sequence[TextRequest], account: Account) -> AsyncIterator[PendingTexts]:
        """Begin with some texts of one request; what is not done at the end of the context is cancelled.

        Raises:
            ApiError: there are too many requests, the server is to end, or the engine refuses a text.
        """
        self._admit(len(asks))
        if not self.asked:
            self._busy_since = time.monotonic()
        flight = PendingTexts(self, account)
        self._flights.add(flight)
        self.asked += len(asks)
        try:
            try:
                for place, ask in enumerate(asks):
                    await flight.begin(place, model, ask)
                yield flight
            finally:
                flight.close()
        except UserError as error:
            raise from_user_error(error, _FIELDS) from error
        finally:
            self._flights.discard(flight)
            self.asked -= len(asks)

    def _admit(self, count: int) -> None:
        if self.draining:
            raise ApiError(503, "the server is about to stop; ask another", headers={"Retry-After": "5"})
        if not self.worker.alive:
            raise ApiError(503, "the engine has stopped; the server has to be started again")
        if self.asked + count > self.limits.queue:
            what = f"{self.asked} texts are under way or waiting, and at most {self.limits.queue} may be"
            if count > self.limits.queue:
                raise ApiError(400, f"{count} texts in one request, and at most {self.limits.queue} may be under way")
            retry = {"Retry-After": str(self._retry_after())}
            raise ApiError(429, f"{what}; try again later", code="rate_limit_exceeded", headers=retry)

    def _retry_after(self) -> int:
        """Seconds until about a text in eight of those asked for is done, by the speed so far."""
        stats = self.worker.stats
        speed = stats.tokens / stats.busy_seconds if stats.busy_seconds > 1 else 100.0
        return max(1, min(30, round(self.asked / 8 * 50 / max(speed, 1.0))))


class PendingTexts:
    """The texts of one request on their way."""

    def __init__(self, service: Service, account: Account) -> None:
        self._service, self._account = service, account
        self._arrived: asyncio.Queue[tuple[int, Event | BaseException | None]] = asyncio.Queue()
        self._open: dict[int, Future[int]] = {}
        loop, limit = asyncio.get_running_loop(), service.limits.timeout
        self._ended: asyncio.Future[ApiError] = loop.create_future()
        # No `asyncio.timeout`: it belongs to one task, and a stream is begun in one and read in another.
        late = ApiError(504, f"the request took longer than {limit:g} s; ask for fewer tokens", code="timeout")
        self._alarm = loop.call_later(limit, self.end, late)

    def end(self, error: ApiError) -> None:
        """End the request with an error, wherever it waits."""
        if not self._ended.done():
            self._ended.set_result(error)
            self._arrived.put_nowait((-1, error))

    async def begin(self, place: int, model: Model, ask: TextRequest) -> None:
        """Queue a text.

        Raises:
            ApiError: the prompt is too long, or the request has been ended meanwhile; see `end`.
        """
        service = self._service
        limit = service.limits.max_prompt
        if limit is not None and len(ask.prompt) > limit:
            what = f"the prompt has {len(ask.prompt)} tokens; this server takes {limit}"
            raise ApiError(400, what, param="prompt", code="context_length_exceeded")
        if len(ask.prompt) >= service.context:
            what = f"the prompt has {len(ask.prompt)} tokens; the model takes {service.context} with the text"
            raise ApiError(400, what, param="prompt", code="context_length_exceeded")
        request = service.running.request(
            ask.prompt, ask.decoding, model.engine_name, ask.stop, score_prompt=ask.score_prompt
        )
        box, arrived, worker = service._outbox, self._arrived, service.worker

        def sink(item: Event | BaseException | None) -> None:
            box.put(arrived, place, item)

        box.loop = asyncio.get_running_loop()
        self._open[place] = worker.begin(request, sink)
        await self.unless_ended(asyncio.wrap_future(self._open[place]))

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
        """The texts' numbers with what came of them, as it comes, up to the end of the last."""
        while self._open:
            place, item = await self._arrived.get()
            if isinstance(item, ModelError):  # of its numbers, not of its name, for which 404 would stand
                raise ApiError(500, str(item)) from item
            if isinstance(item, (UserError, ApiError)):
                raise item
            if isinstance(item, BaseException):
                raise ApiError(500, "the engine failed; the server's log says more") from item
            if item is None:
                self._open.pop(place, None)
                continue
            self._account.note(item)
            yield place, item

    async def results(self) -> list[tuple[Completion, ...]]:
        """Wait for all ends; the completions of each text, the best first."""
        found: dict[int, tuple[Completion, ...]] = {}
        async for place, event in self:
            if event.result is not None:
                found[place] = event.result
        return [found[place] for place in sorted(found)]

    def close(self) -> None:
        """Cancel what is not done."""
        self._alarm.cancel()
        for queued in self._open.values():
            if self._service.worker.alive:
                self._service.worker.abandon(queued)
        self._open.clear()


class _Outbox:
    """Carries events from the engine's thread to the loop's, many at each crossing."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._items: deque[tuple[asyncio.Queue[tuple[int, Event | BaseException | None]], int, object]] = deque()
        self._woken = False

    def put(self, target: asyncio.Queue[tuple[int, Event | BaseException | None]], place: int, item: object) -> None:
        """Called by the engine's thread."""
        assert self.loop is not None
        self._items.append((target, place, item))
        if not self._woken:
            self._woken = True
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # first: what comes from now on wakes the loop again
        while self._items:
            target, place, item = self._items.popleft()
            target.put_nowait((place, item))  # type: ignore[arg-type]
