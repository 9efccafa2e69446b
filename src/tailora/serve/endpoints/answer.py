"""The mechanism of the routes that write: the answer to one request for texts is sent whole or streamed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from tailora.engine.decoding import Completion
from tailora.engine.engine import Event
from tailora.serve.request_log import RequestStats
from tailora.serve.responses import event_stream, unless_gone
from tailora.serve.served_model import ServedModel
from tailora.serve.service import PendingTexts, Service, TextRequest


class Answer(ABC):
    """The answer to one request for texts.

    Args:
        model: base or adapter to write with.
        stats: counters of the request.
        requests: texts to write; their places number them.
        streamed: whether it is sent as a stream of events.

    Attributes:
        written: texts so far, by their index in the answer.
        named_events: whether the events of a stream have names, which are their types.
    """

    named_events = False

    def __init__(
        self, model: ServedModel, stats: RequestStats, requests: Sequence[TextRequest], *, streamed: bool = False
    ) -> None:
        self.model, self.stats, self.requests, self.streamed = model, stats, requests, streamed
        self.written: dict[int, str] = defaultdict(str)

    @property
    @abstractmethod
    def prompt_texts(self) -> list[str]:
        """What the request asks about, for the log."""

    @abstractmethod
    async def whole(self, results: list[tuple[Completion, ...]], pending: PendingTexts) -> dict[str, Any]:
        """Return the whole answer.

        Args:
            results: completions of each text, the best first.
            pending: texts in progress, for work that the request's time limit covers.
        """

    def opening(self) -> Iterable[dict[str, Any]]:
        """Return the events that a stream begins with."""
        return ()

    @abstractmethod
    async def chunks(self, number: int, event: Event, pending: PendingTexts) -> list[dict[str, Any]]:
        """Return the events of a stream for an event of one of the texts.

        Args:
            number: of the text.
            event: new tokens, or the completions at its end.
            pending: texts in progress, as for `whole`.
        """

    def closing(self) -> Iterable[dict[str, Any]]:
        """Return the events that a stream ends with."""
        return ()


async def respond(request: Request, service: Service, answer: Answer, *, log_texts: bool) -> Response:
    """Write the texts of an answer and send it, whole or streamed.

    Args:
        request: HTTP request, watched for a client that leaves.
        service: engine.
        answer: what to write and how to present it.
        log_texts: write prompts and texts to the log.

    Raises:
        ApiError: the texts cannot start, or a whole answer cannot be completed.
    """
    if log_texts:
        answer.stats.texts += answer.prompt_texts
    if answer.streamed:
        return await event_stream(_chunks(service, answer, log_texts), answer.stats, named=answer.named_events)
    body = await unless_gone(request, _whole(service, answer))
    if log_texts:
        _log_written(answer)
    return JSONResponse(body)


async def _whole(service: Service, answer: Answer) -> dict[str, Any]:
    async with service.write(answer.model, answer.requests, answer.stats) as pending:
        return await answer.whole(await pending.results(), pending)


async def _chunks(service: Service, answer: Answer, log_texts: bool) -> AsyncGenerator[dict[str, Any] | None, None]:
    try:
        async with service.write(answer.model, answer.requests, answer.stats) as pending:
            yield None  # the texts have started: errors from here on are events of the stream
            for chunk in answer.opening():
                yield chunk
            async for number, event in pending:
                for chunk in await answer.chunks(number, event, pending):
                    yield chunk
        for chunk in answer.closing():
            yield chunk
    finally:
        if log_texts:
            _log_written(answer)


def _log_written(answer: Answer) -> None:
    answer.stats.texts += [text for _, text in sorted(answer.written.items())]
