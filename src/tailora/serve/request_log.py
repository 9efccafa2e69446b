"""What the server records of one request, and the JSON lines of its log."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from tailora.engine.engine import Event
from tailora.serve.api_error import ApiError
from tailora.serve.rate_limits import KeyLimits

log = logging.getLogger("tailora.serve")


@dataclass
class RequestStats:
    """Counters of one request.

    Attributes:
        id: sent back as `x-request-id`, and written to the log.
        method: HTTP method.
        route: path as the server declares it.
        key: name of the API key.
        model: name of the requested model, once it is known to exist.
        prompt_tokens: tokens of all its prompts.
        completion_tokens: tokens written so far.
        cached_tokens: for each of its texts, by number, how many tokens of the prompt the prefix cache held.
        texts: prompts and texts, if the log is to have them.
        error: what ended the request early; for a stream the client sees it as the last event, behind status 200.
        limits: of the API key, which count its tokens.
        began: time of arrival; this and the next two are seconds of the monotonic clock.
        first: time of the first token.
        last: time of the last token.
    """

    id: str
    method: str = ""
    route: str = ""
    key: str | None = None
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: dict[int, int] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    error: ApiError | None = None
    limits: KeyLimits | None = None
    began: float = field(default_factory=time.monotonic)
    first: float | None = None
    last: float | None = None

    def count(self, number: int, event: Event) -> None:
        """Count the tokens of an event of one of the request's texts."""
        completions = () if event.tokens or event.result is None else event.result
        tokens = len(event.tokens) + sum(len(completion.token_ids) for completion in completions)
        self.completion_tokens += tokens
        if self.limits is not None:
            self.limits.count_tokens(tokens)
        self.cached_tokens[number] = event.cached_tokens
        self.last = time.monotonic()
        self.first = self.last if self.first is None else self.first

    def summary(self, status: int) -> dict[str, Any]:
        """Return the counters as the log and GET /v1/status show them, without texts.

        Args:
            status: HTTP status, or the one that stands for how the request ended.
        """
        code = None if self.error is None else self.error.code
        return {
            "id": self.id,
            "route": self.route,
            "model": self.model,
            "status": status,
            **({} if code is None else {"error": code}),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "seconds": round(time.monotonic() - self.began, 4),
            "first_token_seconds": None if self.first is None else round(self.first - self.began, 4),
        }


def log_request(stats: RequestStats, status: int) -> None:
    """Write the log line of a finished request."""
    texts = {"texts": stats.texts} if stats.texts else {}
    fields = {"method": stats.method, **stats.summary(status), "key": stats.key, **texts}
    log.info("request", extra={"fields": fields})


class JsonLogFormatter(logging.Formatter):
    """Formats a log record as one line with a JSON object; `extra={"fields": …}` adds keys to it."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
