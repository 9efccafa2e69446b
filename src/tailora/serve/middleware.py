"""What every request passes: on its way in an id, its API key and its body; on its way out metrics and log."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailora.serve.api_error import ApiError
from tailora.serve.keys import Key, KeyRing
from tailora.serve.metrics import ServerMetrics
from tailora.serve.rate_limits import KeyLimits, RateLimits
from tailora.serve.request_body import read_body
from tailora.serve.request_log import RequestStats, log_request
from tailora.serve.schema.body import lenient_fields

if TYPE_CHECKING:
    from tailora.serve.tracing import Tracing  # needs the extra `otel`

log = logging.getLogger("tailora.serve")
_ID = re.compile(r"[\w.:-]{1,64}")
_MOST_NAMES, _LONGEST_NAME = 32, 64  # of ignored fields in a header
CLIENT_GONE = 499  # nginx's status for a client that closed its connection before the answer was complete


class RequestMiddleware:
    """ASGI middleware around all routes.

    Args:
        app: application behind it.
        metrics: counts each request when it ends.
        keys: API keys; an empty ring asks for none.
        needs_key: returns whether a path needs a key.
        max_body: returns the largest number of bytes of a body at a path.
        lenient: ignore unknown fields of bodies, and name them in a header.
        tracing: records each request when it ends; None for no traces.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: ServerMetrics,
        keys: KeyRing,
        needs_key: Callable[[str], bool],
        max_body: Callable[[str], int],
        *,
        lenient: bool = False,
        tracing: Tracing | None = None,
    ) -> None:
        self._app, self._metrics, self._keys = app, metrics, keys
        self._needs_key, self._max_body, self._lenient = needs_key, max_body, lenient
        self._rates, self._tracing = RateLimits(), tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        stats = RequestStats(_request_id(headers), scope["method"])
        state = scope.setdefault("state", {})
        state["stats"] = stats
        response = _Response(send, stats.id)
        if self._lenient:
            lenient_fields.set(response.ignored)
        scope = _as_routed(scope)
        resources = state["resources"] = ExitStack()
        try:
            state["key"] = key = self._key(scope["path"], headers)
            stats.key = None if key is None else key.name
            stats.limits = response.limits = self._rates.of(key)
            if stats.limits is not None and scope["method"] == "POST":
                stats.limits.begin_request()
            body = await read_body(receive, headers, self._max_body(scope["path"]))
            state["body_size"] = len(body)
            await self._app(scope, _replay(body, receive), response.send)
        except ApiError as error:
            await _send_error(response, scope, receive, error)
        except Exception:
            log.exception("failed", extra={"fields": {"id": stats.id}})
            message = f"this is a bug in the server; its log has the details under the request id {stats.id}"
            stats.error = ApiError(500, message)
            await _send_error(response, scope, receive, stats.error)
        finally:
            resources.close()
            stats.route = getattr(scope.get("route"), "path", "other")
            ended = CLIENT_GONE if stats.error is None else stats.error.status
            status = response.status if response.whole and stats.error is None else ended
            self._metrics.count(stats, status)
            log_request(stats, status)
            if self._tracing is not None:
                self._tracing.record(stats, status, headers)

    def _key(self, path: str, headers: dict[bytes, bytes]) -> Key | None:
        if not len(self._keys) or not self._needs_key(path):
            return None
        scheme, _, presented = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        key = self._keys.find(presented.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            what = "Incorrect API key provided" if presented else "You didn't provide an API key"
            message = f"{what}; send it as `Authorization: Bearer KEY`"
            raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return key


class _Response:
    """Sends a response on, and remembers its status and whether it was sent to its end."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._id = send, request_id
        self.status = 0
        self.whole = False
        self.ignored: list[str] = []
        self.limits: KeyLimits | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            ignored = [(b"x-ignored-fields", _listed(self.ignored))] if self.ignored else []
            limits = {} if self.limits is None else self.limits.headers
            rates = [(name.encode(), value.encode()) for name, value in limits.items()]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._id.encode()), *ignored, *rates]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.whole = True


def _listed(names: list[str]) -> bytes:
    """The names of fields as a header: the first ones, without characters that a header cannot hold."""
    shown = [re.sub(r"[^\w.-]", "?", name[:_LONGEST_NAME], flags=re.ASCII) for name in dict.fromkeys(names)]
    return ", ".join(shown[:_MOST_NAMES]).encode()


async def _send_error(response: _Response, scope: Scope, receive: Receive, error: ApiError) -> None:
    if not response.status:  # a response that has begun can only break off
        await JSONResponse(error.body, error.status, error.headers)(scope, receive, response.send)


def _request_id(headers: dict[bytes, bytes]) -> str:
    proposed = headers.get(b"x-request-id", b"").decode("latin-1")
    return proposed if _ID.fullmatch(proposed) else secrets.token_hex(12)


def _as_routed(scope: Scope) -> Scope:
    """The request as routes know it.

    /v1/models/ asks for /v1/models: a redirection would lose the body of a POST in some clients. HEAD asks for what GET
    does; the server leaves out the body.
    """
    method = scope["method"]
    path = scope["path"].rstrip("/") or "/"
    return {**scope, "path": path, "method": "GET" if method == "HEAD" else method}


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body first, and then what the server reports: that the client has gone."""
    replayed = False

    async def receive_again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
