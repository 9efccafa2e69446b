"""One thread owns the engine: many threads get what each would get alone, and none waits for ever."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bases import save_base
from tailora.core.errors import AdapterError, SettingsError
from tailora.engine.backends.openvino import OpenVinoBackend
from tailora.engine.decoding import Decoding
from tailora.engine.engine import Engine, Event
from tailora.engine.requests import Request, mixture_of
from tailora.engine.worker import Worker

LONG = Decoding(max_new_tokens=80, ignore_end=True)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> OpenVinoBackend:
    folder = tmp_path_factory.mktemp("base")
    save_base(folder)
    return OpenVinoBackend(folder, precision="fp32", cache_tokens=1024, slots=0, threads=1)


@pytest.fixture
def worker(backend: OpenVinoBackend) -> Iterator[Worker]:
    with Worker(Engine(backend, end=0, sequences=8)) as made:
        yield made


def test_threads_get_what_each_would_get_alone(worker: Worker, backend: OpenVinoBackend) -> None:
    requests = [Request((n + 1, n + 2), Decoding(max_new_tokens=5 + n, num_beams=1 + n % 3)) for n in range(12)]
    found: dict[int, object] = {}

    def ask(number: int) -> None:
        found[number] = [c.token_ids for c in worker.submit(requests[number]).result()]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worker.call(lambda engine: engine.idle)
    alone = Engine(backend, end=0).complete(requests)
    assert found == {number: [c.token_ids for c in each] for number, each in enumerate(alone)}


def test_tokens_come_one_by_one(worker: Worker) -> None:
    events = list(worker.submit(Request((5, 6), Decoding(max_new_tokens=6, ignore_end=True))))
    assert [len(event.tokens) for event in events] == [1] * 6
    assert [event.result is not None for event in events] == [False] * 5 + [True]


def test_errors_reach_the_thread_that_asked(worker: Worker) -> None:
    with pytest.raises(SettingsError, match="the prompt has 0 tokens"):
        worker.submit(Request(()))
    with pytest.raises(AdapterError, match="no adapter with this name"):
        worker.submit(Request((1,), adapters=mixture_of("none")))
    assert worker.submit(Request((1, 2))).result()


def test_a_cancelled_stream_ends_and_frees_its_blocks(worker: Worker) -> None:
    free = worker.call(lambda engine: engine._pool.free)
    stream = worker.submit(Request((1, 2), LONG))
    next(iter(stream))
    stream.cancel()
    assert stream.result() == ()
    stream.cancel()
    assert worker.call(lambda engine: (engine.idle, engine._pool.free)) == (True, free)


def test_a_sink_is_told_all_and_then_the_end(worker: Worker) -> None:
    told: queue.SimpleQueue[object] = queue.SimpleQueue()
    number = worker.begin(Request((5, 6), Decoding(max_new_tokens=3, ignore_end=True)), told.put).result()
    found = [told.get(timeout=30) for _ in range(4)]
    assert [event.number for event in found[:3] if isinstance(event, Event)] == [number] * 3
    assert found[3] is None
    with pytest.raises(SettingsError):
        worker.begin(Request(()), told.put).result()
    assert told.empty()


def test_what_is_abandoned_before_it_was_queued_leaves_nothing(worker: Worker) -> None:
    told: list[Any] = []
    gate = threading.Event()
    worker.post(lambda engine: gate.wait(30))
    queued = [worker.begin(Request((1, 2), LONG), told.append) for _ in range(3)]
    queued[0].cancel()
    for each in queued:
        worker.abandon(each)
    gate.set()
    assert worker.call(lambda engine: engine.idle)
    assert told == [None, None]


def test_what_it_does_is_counted(worker: Worker) -> None:
    assert worker.alive
    before = worker.stats
    worker.submit(Request((5, 6), Decoding(max_new_tokens=4, ignore_end=True))).result()
    worker.submit(Request((5, 6), Decoding(max_new_tokens=4, num_beams=2, num_candidates=2, ignore_end=True))).result()
    worker.call(lambda engine: None)  # the count comes after the events
    after = worker.stats
    assert after.tokens - before.tokens == 4 + 8
    assert after.steps - before.steps == 8
    assert after.busy_seconds > before.busy_seconds
    assert (after.load.running, after.load.waiting, after.load.blocks_used) == (0, 0, 0)
    assert (after.load.sequences, after.load.blocks, after.load.slots) == (8, 32, 0)


def test_a_failing_step_ends_what_was_running(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(step: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(OpenVinoBackend, "run", lambda self, step: broken(step))
        with pytest.raises(MemoryError, match="no room"):
            worker.submit(Request((1, 2))).result()
    assert worker.submit(Request((1, 2))).result()


def test_a_request_that_fails_ends_alone(worker: Worker) -> None:
    def broken(written: object) -> bool:
        raise ValueError("a stop string that cannot be looked for")

    going = worker.submit(Request((1, 2), LONG))
    with pytest.raises(ValueError, match="cannot be looked for"):
        worker.submit(Request((1, 2), LONG, ended=broken)).result()
    assert len(going.result()[0].token_ids) == 80
    assert worker.call(lambda engine: engine.idle)


def test_closing_lets_nobody_wait(worker: Worker) -> None:
    stream = worker.submit(Request((1, 2), LONG))
    worker.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            stream.result()
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit(Request((1,)))
    worker.close()
