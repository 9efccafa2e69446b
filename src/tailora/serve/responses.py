"""How answers go out: whole, unless the client has gone, or as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from tailora.serve.api_error import ApiError
from tailora.serve.middleware import GIVEN_UP

T = TypeVar("T")
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do some work for a client, and stop when the client has closed its connection.

    Raises:
        ApiError: it has; nobody will read the answer.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(GIVEN_UP, "the client has closed its connection")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events, closed with the connection. Make it with `stream_of`."""

    def __init__(self, parts: AsyncGenerator[str, None]) -> None:
        super().__init__(parts, media_type="text/event-stream", headers=_HEADERS)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `starlette.responses.Response`."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._parts.aclose()


async def stream_of(chunks: AsyncGenerator[Mapping[str, Any] | None, None]) -> EventStream:
    """Begin to stream.

    Args:
        chunks: None once the work has begun, then what to send. What is raised before the None becomes an answer with
            a status of its own; what is raised later is told in the stream.
    """
    await anext(chunks)
    return EventStream(_events(chunks))


async def _events(chunks: AsyncGenerator[Mapping[str, Any] | None, None]) -> AsyncGenerator[str, None]:
    try:
        async for chunk in chunks:
            yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
    except ApiError as error:
        yield f"data: {json.dumps(error.body, ensure_ascii=False)}\n\n"
    else:
        yield "data: [DONE]\n\n"
    finally:
        await chunks.aclose()
