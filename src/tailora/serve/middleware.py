"""What every request passes on its way in: an id, the key, the size of its body; and on its way out: the account, and
the end of what it held.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Callable, MutableMapping
from contextlib import ExitStack
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailora.serve.api_error import ApiError
from tailora.serve.keys import Key, KeyRing
from tailora.serve.metrics import Account, Monitor

log = logging.getLogger("tailora.serve")
_ID = re.compile(r"[\w.:-]{1,64}")
GIVEN_UP = 499  # nginx's status for a client that closed its connection before the answer was whole


class Gate:
    """ASGI middleware.

    Args:
        app: what it guards.
        monitor: is told each request's end.
        keys: that are asked for; an empty ring asks for none.
        guarded: whether a path needs a key.
        max_body: most bytes of a body.
    """

    def __init__(
        self, app: ASGIApp, monitor: Monitor, keys: KeyRing, guarded: Callable[[str], bool], max_body: int
    ) -> None:
        self._app, self._monitor, self._keys = app, monitor, keys
        self._guarded, self._max_body = guarded, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        account = Account(_request_id(headers), scope["method"])
        scope.setdefault("state", {})["account"] = account
        scope["state"]["held"] = held = ExitStack()
        answer = _Answer(send, account.id)
        scope = _as_routed(scope)
        try:
            scope["state"]["key"] = key = self._key(scope["path"], headers)
            account.key = None if key is None else key.name
            _refuse_encoded(headers)
            body = await _read(receive, headers, self._max_body)
            _refuse_half_characters(body)
            await self._app(scope, _replay(body, receive), answer.send)
        except ApiError as error:
            await _tell(answer, scope, receive, error)
        except Exception:
            log.exception("failed", extra={"told": {"id": account.id}})
            await _tell(
                answer,
                scope,
                receive,
                ApiError(500, f"this is a bug of the server's; its log says more under {account.id}"),
            )
        finally:
            held.close()
            account.route = getattr(scope.get("route"), "path", "other")
            self._monitor.ended(account, answer.status if answer.whole else GIVEN_UP)

    def _key(self, path: str, headers: dict[bytes, bytes]) -> Key | None:
        if not len(self._keys) or not self._guarded(path):
            return None
        kind, _, presented = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        key = self._keys.find(presented.strip()) if kind.lower() == "bearer" else None
        if key is None:
            what = "Incorrect API key provided" if presented else "You didn't provide an API key"
            ask = {"WWW-Authenticate": "Bearer"}
            told = f"{what}; send it as `Authorization: Bearer KEY`"
            raise ApiError(401, told, code="invalid_api_key", headers=ask)
        return key


class _Answer:
    """Sends an answer on, and keeps what became of it."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._id = send, request_id
        self.status = 0
        self.whole = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._id.encode())]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.whole = True


async def _tell(answer: _Answer, scope: Scope, receive: Receive, error: ApiError) -> None:
    if not answer.status:  # once an answer has begun it can only break off
        await JSONResponse(error.body, error.status, error.headers)(scope, receive, answer.send)


def _request_id(headers: MutableMapping[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _ID.fullmatch(given) else secrets.token_hex(12)


async def _read(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """The whole body, which is small: longer ones are refused before they are read."""
    told = headers.get(b"content-length", b"0")
    too_large = ApiError(413, f"the body is larger than {limit:,} bytes; send less at once", code="body_too_large")
    if told.isdigit() and int(told) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    while True:
        message: dict[str, Any] = dict(await receive())
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large
        if not message.get("more_body", False):
            return b"".join(parts)


def _as_routed(scope: Scope) -> Scope:
    """The request as routes know it.

    /v1/models/ asks for /v1/models: a redirection would lose the body of a POST in some clients. HEAD asks for what GET
    does; the server leaves out the body.
    """
    path, method = scope["path"], scope["method"]
    if path.startswith("/v1/"):
        path = path.rstrip("/")
    return {**scope, "path": path, "method": "GET" if method == "HEAD" else method}


def _refuse_encoded(headers: dict[bytes, bytes]) -> None:
    coding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
    if coding not in ("", "identity"):
        told = f"the body is sent with Content-Encoding: {coding}; send it as it is, without Content-Encoding"
        raise ApiError(415, told, headers={"Accept-Encoding": "identity"})


def _refuse_half_characters(body: bytes) -> None:
    r"""Refuse JSON that spells one half of a surrogate pair (\ud800 alone), which no text and no answer can hold."""
    if b"\\ud" not in body.lower():
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ApiError(400, "the body holds half of a surrogate pair; send whole characters") from error
    except (ValueError, RecursionError):  # not JSON: for the route to say
        return


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body first, and then what the server has to say: that the client has gone."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
