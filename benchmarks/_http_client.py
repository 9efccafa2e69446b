"""A closed loop of clients against a server with OpenAI's completions route.

Each client sends its next request as soon as the previous one is answered. The client uses plain sockets and parses
only what is counted, because client and server share the machine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Seen:
    """What the clients saw from the beginning of the measured time to its end.

    Attributes:
        begin: of the measured time, by the performance counter.
        end: of it.
        tokens: that arrived in it.
        first: seconds to the first token, of requests begun in it.
        gaps: seconds between tokens.
        done: requests answered in it.
        failed: requests answered otherwise than in full.
    """

    begin: float = 0.0
    end: float = 0.0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    done: int = 0
    failed: int = 0


def drive(
    address: str,
    bodies: Sequence[dict[str, Any]],
    *,
    clients: int,
    seconds: float,
    warm: float,
    look: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """Run clients for some seconds.

    Args:
        address: host and port.
        bodies: requests, asked in turn by whichever client is free.
        clients: how many ask at once.
        seconds: to measure.
        warm: seconds before that.
        look: asked at the beginning and at the end of the measured time; its two answers stand under "looked".
    """
    seen = Seen()
    before = resource.getrusage(resource.RUSAGE_SELF)
    looked = asyncio.run(_drive(address, bodies, clients, seconds, warm, seen, look))
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "clients": clients,
        "looked": looked,
        "tokens_per_second": seen.tokens / seconds,
        "requests_per_second": seen.done / seconds,
        "failed": seen.failed,
        "first_token_seconds": _percentiles(seen.first),
        "token_seconds": _percentiles(seen.gaps),
        "client_cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


async def _drive(
    address: str,
    bodies: Sequence[dict[str, Any]],
    clients: int,
    seconds: float,
    warm: float,
    seen: Seen,
    look: Callable[[], Any] | None,
) -> list[Any]:
    seen.begin = time.perf_counter() + warm
    seen.end = seen.begin + seconds
    given = itertools.cycle([json.dumps(body).encode() for body in bodies])
    tasks = [asyncio.create_task(_client(address, given, seen)) for _ in range(clients)]
    looked = []
    for moment in (seen.begin, seen.end):
        await asyncio.sleep(moment - time.perf_counter())
        looked += [] if look is None else [await asyncio.to_thread(look)]
    for task in tasks:
        task.cancel()
    for problem in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(problem, Exception):
            raise problem
    return looked


async def _client(address: str, given: Iterator[bytes], seen: Seen) -> None:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: "
    try:
        while True:
            body = next(given)
            began = time.perf_counter()
            writer.write(head.encode() + str(len(body)).encode() + b"\r\n\r\n" + body)
            await _read(reader, began, seen)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, began: float, seen: Seen) -> None:
    status = await reader.readline()
    if b" 200 " not in status:
        seen.failed += 1
        raise ConnectionError(f"the server answered {status!r}")
    last, done = 0.0, False
    while True:
        line = await reader.readline()
        if not line:
            raise ConnectionError("the server closed the connection")
        now = time.perf_counter()
        if line.startswith(b"data: [DONE]"):
            done = True
        elif done and line == b"0\r\n":  # the last chunk of the answer
            await reader.readline()
            break
        elif line.startswith(b"data: ") and b'"text"' in line:
            measured = seen.begin <= now < seen.end
            if measured:
                seen.tokens += 1
            if not last and seen.begin <= began and measured:
                seen.first.append(now - began)
            elif last and measured:
                seen.gaps.append(now - last)
            last = now
    if seen.begin <= time.perf_counter() < seen.end:
        seen.done += 1


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    if len(values) < 2:
        return None
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}
