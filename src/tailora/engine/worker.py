"""An engine that several threads use: one thread owns it, and others send requests and read events."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

from tailora.engine.decoding import Completion
from tailora.engine.engine import Engine, Event, Load
from tailora.engine.requests import Request

T = TypeVar("T")
Sink = Callable[[Event | BaseException | None], None]
"""Receives a request's events from the engine's thread, then None at its end, or the error that ended it."""
_Work = Callable[[], None]


@dataclass(frozen=True)
class WorkerStats:
    """Counters of a worker, and the load of its engine.

    Attributes:
        load: the engine's load after the last step.
        steps: number of steps so far.
        tokens: number of written tokens; those of beams and candidates count when the request is done.
        busy_seconds: seconds spent in steps.
        progressed: time of the last finished step or other work, in seconds of the monotonic clock.
    """

    load: Load
    steps: int = 0
    tokens: int = 0
    busy_seconds: float = 0.0
    progressed: float = field(default_factory=time.monotonic)


class Stream:
    """The events of one request, for one reading thread.

    Iterating waits for each event, up to the one with the result.
    """

    def __init__(self, worker: Worker, request: Request) -> None:
        self._worker = worker
        self._events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        self._over = False
        self._error: BaseException | None = None
        self.number = worker.begin(request, self._events.put).result()

    def __iter__(self) -> Iterator[Event]:
        while not self._over:
            event = self._events.get()
            if isinstance(event, Event):
                yield event
            else:
                self._over, self._error = True, event
        if self._error is not None:
            raise self._error

    def result(self) -> tuple[Completion, ...]:
        """Wait for the end, and return the completions, the best first; none if the request was cancelled."""
        result: tuple[Completion, ...] = ()
        for event in self:
            result = event.result or result
        return result

    def cancel(self) -> None:
        """Cancel the request, which ends the stream. Has no effect on a request that is done."""
        self._worker.cancel(self.number)


class Worker:
    """Runs an engine in its own thread. Every method may be called from any thread.

    Args:
        engine: the engine, which nothing else may use.

    Attributes:
        stats: the counters; replaced after each step.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._sinks: dict[int, Sink] = {}
        self._lock = threading.Lock()  # so that nothing is queued after the end
        self._closed = False
        self.stats = WorkerStats(engine.load)
        self._thread = threading.Thread(target=self._run, name="tailora engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether it accepts requests."""
        return self._thread.is_alive() and not self._closed

    def submit(self, request: Request) -> Stream:
        """Queue a request.

        Raises:
            SettingsError, AdapterError: see `Engine.submit`.
            RuntimeError: the worker is closed.
        """
        return Stream(self, request)

    def begin(self, request: Request, sink: Sink) -> Future[int]:
        """Queue a request without waiting for the running step.

        Args:
            request: the prompt and how to complete it.
            sink: receives the events; must return at once.

        Returns:
            The request's number once it is queued, or the error of `Engine.submit`; the sink is not called then.

        Raises:
            RuntimeError: the worker is closed.
        """

        def begin(engine: Engine) -> int:
            number = engine.submit(request)
            self._sinks[number] = sink
            return number

        return self.post(begin)

    def cancel(self, number: int) -> None:
        """Cancel a request. Has no effect on a request that is done."""
        self._do(lambda: self._forget(number))

    def abandon(self, queued: Future[int]) -> None:
        """Cancel a request of `begin`, whether it is queued yet or not."""

        def cancel() -> None:  # runs after the queueing, because work is done in order
            if not queued.cancelled() and queued.exception() is None:
                self._forget(queued.result())

        self._do(cancel)

    def call(self, function: Callable[[Engine], T]) -> T:
        """Run a function on the engine between two steps, and return its result or raise its error.

        Raises:
            RuntimeError: the worker is closed.
        """
        return self.post(function).result()

    def post(self, function: Callable[[Engine], T]) -> Future[T]:
        """Like `call`, without waiting.

        Raises:
            RuntimeError: the worker is closed.
        """
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(self._engine))
            except BaseException as error:  # reported to the caller
                future.set_exception(error)

        self._do(work)
        return future

    def close(self, patience: float | None = None) -> None:
        """Stop after the running step; open streams end with `RuntimeError`.

        Args:
            patience: seconds to wait for that step; None waits for its end. A longer step stays in its daemon thread,
                which ends with the process.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                self._work.put(None)
        self._thread.join(patience)

    def _do(self, work: _Work) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine's worker is closed")
            self._work.put(work)

    def _run(self) -> None:
        while True:
            try:
                work: Any = self._work.get(block=self._engine.idle)
            except queue.Empty:
                self._step()
                continue
            if work is None:
                break
            work()
        self._fail(RuntimeError("the engine's worker is closed"))

    def _step(self) -> None:
        began = time.perf_counter()
        try:
            events = self._engine.step()
        except Exception as error:  # from the backend: running requests fail, later ones may succeed
            for number in list(self._sinks):
                self._engine.cancel(number)
            self._fail(error)
            self._count()
            return
        self._count(events, time.perf_counter() - began)
        for event in events:
            if event.error is not None:
                self._sinks.pop(event.number)(event.error)
                continue
            self._sinks[event.number](event)
            if event.result is not None:
                self._end(event.number)

    def _count(self, events: list[Event] | None = None, seconds: float = 0.0) -> None:
        stats, tokens = self.stats, 0
        for event in events or ():
            late = () if event.tokens or event.result is None else event.result
            tokens += len(event.tokens) + sum(len(completion.token_ids) for completion in late)
        steps = stats.steps + (events is not None)
        self.stats = WorkerStats(self._engine.load, steps, stats.tokens + tokens, stats.busy_seconds + seconds)

    def _forget(self, number: int) -> None:
        self._engine.cancel(number)
        self._end(number)
        self._count()

    def _end(self, number: int) -> None:
        sink = self._sinks.pop(number, None)
        if sink is not None:
            sink(None)

    def _fail(self, error: BaseException) -> None:
        for sink in self._sinks.values():
            sink(error)
        self._sinks.clear()
