"""Two ways to send an answer: whole, unless the client has gone, or as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from tailora.serve.api_error import ApiError
from tailora.serve.middleware import CLIENT_GONE
from tailora.serve.request_log import RequestStats

T = TypeVar("T")
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine for a client, and cancel it when the client closes its connection.

    Raises:
        ApiError: the client has closed it; nobody will read the answer.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(CLIENT_GONE, "the client has closed its connection")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events, whose source is closed with the connection. Make it with `event_stream`."""

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_HEADERS)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `starlette.responses.Response`."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def event_stream(
    chunks: AsyncGenerator[Mapping[str, Any] | None, None], stats: RequestStats, *, named: bool = False
) -> EventStream:
    """Start a stream.

    Args:
        chunks: None as soon as the work has begun, then the events. An error before the None becomes a response with
            its own status; a later one becomes the last event.
        stats: of the request; get the error that ends the stream.
        named: events have names and numbers, as in OpenAI's Responses API, and the last one ends the stream.
    """
    await anext(chunks)
    return EventStream((_named_events if named else _events)(chunks, stats))


async def _events(
    chunks: AsyncGenerator[Mapping[str, Any] | None, None], stats: RequestStats
) -> AsyncGenerator[str, None]:
    try:
        async for chunk in chunks:
            yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
    except ApiError as error:
        stats.error = error
        yield f"data: {json.dumps(error.body, ensure_ascii=False)}\n\n"
    else:
        yield "data: [DONE]\n\n"
    finally:
        await chunks.aclose()


async def _named_events(
    chunks: AsyncGenerator[Mapping[str, Any] | None, None], stats: RequestStats
) -> AsyncGenerator[str, None]:
    number = 0
    try:
        async for chunk in chunks:
            assert chunk is not None
            yield _named_event(chunk, number)
            number += 1
    except ApiError as error:
        stats.error = error
        yield _named_event({"type": "error", "code": error.code, "message": str(error), "param": error.param}, number)
    finally:
        await chunks.aclose()


def _named_event(chunk: Mapping[str, Any], number: int) -> str:
    data = json.dumps({**chunk, "sequence_number": number}, ensure_ascii=False)
    return f"event: {chunk['type']}\ndata: {data}\n\n"
