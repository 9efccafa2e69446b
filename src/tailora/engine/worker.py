"""An engine for many threads: one thread owns it, the others hand it requests and read what comes of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from tailora.engine.decoding import Completion
from tailora.engine.engine import Engine, Event
from tailora.engine.groups import Request

T = TypeVar("T")
_Work = Callable[[], None]


class Stream:
    """What comes of one request, for one reading thread.

    Iterating gives the engine's events up to the one with the result, waiting for each.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        self._over = False
        self._error: BaseException | None = None
        self.number = -1

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
        """Wait for the end; the completions, the best first, or none if the request was cancelled."""
        result: tuple[Completion, ...] = ()
        for event in self:
            result = event.result or result
        return result

    def cancel(self) -> None:
        """Ask the engine to forget the request; without effect on one that is done. The stream then ends."""
        self._worker._do(lambda: self._worker._cancel(self))


class Worker:
    """Runs an engine in a thread of its own. Every method may be called from any thread.

    Args:
        engine: used by this worker alone from now on.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._streams: dict[int, Stream] = {}
        self._lock = threading.Lock()  # so that nothing is queued behind the end
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="tailora engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def submit(self, request: Request) -> Stream:
        """Queue a request.

        Raises:
            SettingsError, AdapterError: see `Engine.submit`.
            RuntimeError: the worker is closed.
        """

        def begin(engine: Engine) -> Stream:
            stream = Stream(self)
            stream.number = engine.submit(request)
            self._streams[stream.number] = stream
            return stream

        return self.call(begin)

    def call(self, function: Callable[[Engine], T]) -> T:
        """Run a function on the engine between two steps, as registering an adapter needs; what it returns or raises.

        Raises:
            RuntimeError: the worker is closed.
        """
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(function(self._engine))
            except BaseException as error:  # the caller's to see
                future.set_exception(error)

        self._do(work)
        return future.result()

    def close(self) -> None:
        """Stop after the step that is running; open streams end with `RuntimeError`."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._work.put(None)
        self._thread.join()

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
        try:
            events = self._engine.step()
        except Exception as error:  # of the backend: nothing that was running can go on, what comes may
            for number in list(self._streams):
                self._engine.cancel(number)
            self._fail(error)
            return
        for event in events:
            stream = self._streams[event.number]
            stream._events.put(event)
            if event.result is not None:
                self._end(stream)

    def _cancel(self, stream: Stream) -> None:
        self._engine.cancel(stream.number)
        self._end(stream)

    def _end(self, stream: Stream) -> None:
        if self._streams.pop(stream.number, None) is not None:
            stream._events.put(None)

    def _fail(self, error: BaseException) -> None:
        for stream in self._streams.values():
            stream._events.put(error)
        self._streams.clear()
