"""The server as a Ray Serve application: replicas of the engine on any number of machines.

    serve run tailora.serve.ray:app base=smollm2-135m adapters='{"e2e": "/models/e2e"}' replicas=2

A request that names an adapter goes to a replica that has it in memory, if there is one (Ray's model multiplexing). A
replica loads an adapter for the first request that names it, and unloads the least recently used one. The base and the
adapters' folders must have the same paths on every machine.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tailora.core.errors import AdapterError, SettingsError
from tailora.serve.api_error import ApiError, from_user_error
from tailora.serve.keys import VARIABLE, KeyRing
from tailora.serve.request_body import read_body
from tailora.serve.server import Server, open_server
from tailora.serve.settings import ServeSettings
from tailora.serve.shared_adapters import SharedAdapters

Headers = list[tuple[bytes, bytes]]
REPLICA = "x-tailora-replica"
_ROUTES = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/records")
_HOP_HEADERS = {b"host", b"content-length", b"transfer-encoding", b"connection", b"content-encoding"}  # not forwarded


class Writer:
    """A replica: the engine and the application of `tailora serve`, called directly rather than over a socket.

    Args:
        settings: settings of `tailora serve`, without adapters.
        adapters: folders of the adapters, by name.
    """

    def __init__(self, settings: Mapping[str, Any], adapters: Mapping[str, str]) -> None:
        self._names = set(adapters)
        self._stack = ExitStack()
        self._server: Server = self._stack.enter_context(
            open_server(ServeSettings(**{**settings, "port": 0}), KeyRing())
        )
        self._adapters = SharedAdapters(self._server.service.registry, adapters)
        self._id: str = ray.get_runtime_context().get_actor_id() or ""

    async def check_health(self) -> None:
        """Raise if the replica has to be replaced. Called by Ray."""
        service = self._server.service
        if service.stalled or not service.worker.alive:
            raise RuntimeError("the engine has stopped or stalled")

    async def lease(self, name: str) -> AdapterLease:
        """Load an adapter for Ray; see `writer_class`, which lets Ray count the leases."""
        await self._adapters.acquire(name)
        return AdapterLease(self._adapters, name)

    async def answer(
        self, path: str, headers: Headers, body: bytes
    ) -> AsyncGenerator[tuple[int, Headers] | bytes, None]:
        """Answer a POST request: yield status and headers first, then the body in pieces."""
        name = serve.get_multiplexed_model_id()
        if name not in self._names:
            async for part in self._parts(path, headers, body):
                yield part
            return
        try:
            await self.lease(name)  # which reports it to Ray; other requests may make Ray end the lease at any time
            await self._adapters.acquire(name)
        except (AdapterError, SettingsError) as error:
            response = from_user_error(error)
            yield response.status, [(b"content-type", b"application/json")]
            yield json.dumps(response.body).encode()
            return
        try:
            async for part in self._parts(path, headers, body):
                yield part
        finally:
            await self._adapters.release(name)

    async def _parts(
        self, path: str, headers: Headers, body: bytes
    ) -> AsyncGenerator[tuple[int, Headers] | bytes, None]:
        async for message in _messages(self._server.config.app, path, headers, body):
            if message["type"] == "http.response.start":
                yield message["status"], [*message["headers"], (REPLICA.encode(), self._id.encode())]
            elif message.get("body"):
                yield message["body"]


class AdapterLease:
    """Ray's use of an adapter; Ray calls `__del__` when other adapters need the room, and Python may do so again."""

    def __init__(self, adapters: SharedAdapters, name: str) -> None:
        self._adapters, self._name = adapters, name
        self._loop = asyncio.get_running_loop()
        self._ended = False

    def __del__(self) -> None:
        if not self._ended and not self._loop.is_closed():
            self._ended = True
            asyncio.run_coroutine_threadsafe(self._adapters.release(self._name), self._loop)


def writer_class(loaded: int) -> type[Writer]:
    """Return a class of replicas that hold a limited number of adapters, the least recently used leaving first.

    Args:
        loaded: largest number of adapters in a replica.
    """

    class LimitedWriter(Writer):
        @serve.multiplexed(max_num_models_per_replica=loaded)  # type: ignore[untyped-decorator]
        async def lease(self, name: str) -> AdapterLease:
            return await Writer.lease(self, name)

    return LimitedWriter


class Ingress:
    """Accepts HTTP requests and forwards each to a replica that has its adapter.

    Args:
        writer: Ray's handle of the replicas.
        base: name that clients use for the base.
        adapters: names of the adapters.
        max_body: largest number of bytes of a body.
    """

    def __init__(self, writer: Any, base: str, adapters: list[str], max_body: int) -> None:
        self._writer, self._base, self._adapters, self._max_body = writer, base, adapters, max_body

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        path = request.url.path
        if request.method == "GET" and path == "/v1/models":
            models = [self._model(name) for name in (self._base, *self._adapters)]
            return JSONResponse({"object": "list", "data": models})
        if request.method == "GET" and path in ("/health", "/ready"):
            return JSONResponse({"status": "ok"})
        if request.method != "POST" or path not in _ROUTES:
            return _error(
                ApiError(404, f"{request.method} {path} does not exist; use {', '.join(_ROUTES)} or /v1/models")
            )
        try:
            body = await read_body(request.receive, dict(request.headers.raw), self._max_body)
        except ApiError as error:
            return _error(error)
        headers = [(name, value) for name, value in request.headers.raw if name not in _HOP_HEADERS]
        name = _model_of(body)
        handle = self._writer.options(stream=True, multiplexed_model_id=name if name in self._adapters else "")
        parts = handle.answer.remote(path, headers, body)
        status, response_headers = await anext(parts)
        response = StreamingResponse(parts, status)
        response.raw_headers = [(name, value) for name, value in response_headers if name.lower() not in _HOP_HEADERS]
        return response

    def _model(self, name: str) -> dict[str, Any]:
        parent = None if name == self._base else self._base
        return {"id": name, "object": "model", "created": 0, "owned_by": "tailora", "root": name, "parent": parent}


def app(arguments: Mapping[str, Any]) -> Any:
    """Return the application, for `serve.run` and `serve run`.

    Args:
        arguments: `base`; `adapters`, folders by name, or the same as JSON; `replicas`; `loaded`, the largest number of
            adapters in a replica; `cpus`, what Ray counts for a replica; and any other setting of `tailora serve`
            except keys, which the gateway in front of Ray asks for.

    Raises:
        SettingsError: a setting is not valid.
    """
    options = dict(arguments)
    adapters = options.pop("adapters", {})
    adapters = json.loads(adapters) if isinstance(adapters, str) else dict(adapters)
    replicas, loaded = int(options.pop("replicas", 1)), int(options.pop("loaded", 8))
    cpus = float(options.pop("cpus", 1))
    folder = Path(options.pop("adapter_folder", "/"))
    settings = ServeSettings(**options, adapter_folder=folder)
    if settings.compositions:
        hint = "name the adapters and their weights in each request"
        raise SettingsError(
            "are not available on Ray, which loads adapters one by one", where="compositions", hint=hint
        )
    if settings.api_keys is not None or VARIABLE in os.environ:
        hint = f"leave out api_keys, unset {VARIABLE}, and require keys at the gateway in front of Ray"
        raise SettingsError("would not be required: on Ray every request is accepted", where="api_keys", hint=hint)
    writer = serve.deployment(writer_class(loaded)).options(
        name="Writer",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=settings.queue,
    )
    base = Path(settings.base).name if settings.base and Path(settings.base).exists() else settings.base
    ingress = serve.deployment(Ingress).options(max_ongoing_requests=settings.queue * replicas)
    replica_settings = settings.model_dump(exclude_defaults=True, mode="json")
    return ingress.bind(writer.bind(replica_settings, adapters), base, list(adapters), settings.max_body)


async def _messages(application: Any, path: str, headers: Headers, body: bytes) -> AsyncGenerator[dict[str, Any], None]:
    """Call an ASGI application and yield its messages; it is cancelled when the reader stops."""
    messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    received, gone = False, asyncio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal received
        if not received:
            received = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def call() -> None:
        try:
            await application(scope, receive, messages.put)
        finally:
            await messages.put(None)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "client": None,
        "server": None,
    }
    task = asyncio.create_task(call())
    try:
        while (message := await messages.get()) is not None:
            yield message
    finally:
        gone.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _model_of(body: bytes) -> str:
    """The model that a request names; "" if it names none, which the replica then reports."""
    try:
        name = json.loads(body)["model"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""


def _error(error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, error.headers)
