"""The server as a Ray Serve application: replicas of the engine on any number of machines, each adapter kept to few.

    serve run tailora.serve.ray:app base=smollm2-135m adapters='{"e2e": "/models/e2e"}' replicas=2

Requests that name an adapter go to a replica that has it in memory, where there is one (Ray's model multiplexing);
a replica reads an adapter when it is first asked for it, and lets go of the one it used longest ago. The base and the
adapters' folders have to be at the same place on every machine.
"""

from __future__ import annotations

import asyncio
import json
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
from tailora.serve.keys import KeyRing
from tailora.serve.server import Server, opened
from tailora.serve.settings import ServeSettings
from tailora.serve.shared_adapters import HeldAdapters

_NOT_PASSED_ON = {b"host", b"content-length", b"transfer-encoding", b"connection"}
_ROUTES = ("/v1/completions", "/v1/chat/completions", "/v1/records")
REPLICA = "x-tailora-replica"


class Writer:
    """One replica: the engine and the application of `tailora serve`, asked in messages instead of over a socket.

    Args:
        settings: of `tailora serve`, without adapters.
        adapters: folders by name.
    """

    def __init__(self, settings: Mapping[str, Any], adapters: Mapping[str, str]) -> None:
        self._adapters = dict(adapters)
        self._stack = ExitStack()
        self._server: Server = self._stack.enter_context(opened(ServeSettings(**{**settings, "port": 0}), KeyRing()))
        self._held = HeldAdapters(self._server.service.registry, self._adapters)
        self._id: str = ray.get_runtime_context().get_actor_id() or ""

    async def check_health(self) -> None:
        """Asked by Ray; raises when the replica has to be replaced."""
        service = self._server.service
        if service.stalled or not service.worker.alive:
            raise RuntimeError("the engine does not go on")

    async def hold(self, name: str) -> Held:
        """Load an adapter; see `limited`, which lets Ray know of it."""
        await self._held.hold(name)
        return Held(self._held, name)

    async def answer(
        self, path: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> AsyncGenerator[tuple[int, list[tuple[bytes, bytes]]] | bytes, None]:
        """Answer a POST: status and headers first, then the body in pieces."""
        name = serve.get_multiplexed_model_id()
        if name not in self._adapters:
            async for part in self._parts(path, headers, body):
                yield part
            return
        try:
            await self.hold(name)  # which tells Ray; others may let it unload the adapter at any time after
            await self._held.hold(name)
        except (AdapterError, SettingsError) as error:
            told = from_user_error(error)
            yield told.status, [(b"content-type", b"application/json")]
            yield json.dumps(told.body).encode()
            return
        try:
            async for part in self._parts(path, headers, body):
                yield part
        finally:
            await self._held.let_go(name)

    async def _parts(
        self, path: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> AsyncGenerator[tuple[int, list[tuple[bytes, bytes]]] | bytes, None]:
        async for message in _asked(self._server.config.app, path, headers, body):
            if message["type"] == "http.response.start":
                own = (REPLICA.encode(), self._id.encode())
                yield message["status"], [*message["headers"], own]
            elif message.get("body"):
                yield message["body"]


class Held:
    """An adapter in a replica's memory; Ray calls `__del__` when others need the room, and Python may do so again."""

    def __init__(self, adapters: HeldAdapters, name: str) -> None:
        self._adapters, self._name = adapters, name
        self._loop = asyncio.get_running_loop()
        self._over = False

    def __del__(self) -> None:
        if not self._over and not self._loop.is_closed():
            self._over = True
            asyncio.run_coroutine_threadsafe(self._adapters.let_go(self._name), self._loop)


def limited(loaded: int) -> type[Writer]:
    """Writers that hold so many adapters at most; those used longest ago go first."""

    class LimitedWriter(Writer):
        @serve.multiplexed(max_num_models_per_replica=loaded)  # type: ignore[untyped-decorator]
        async def hold(self, name: str) -> Held:
            return await Writer.hold(self, name)

    return LimitedWriter


class Ingress:
    """Takes HTTP requests and hands each to a replica that has its adapter.

    Args:
        writer: handle of the replicas.
        base: what clients call the base.
        adapters: their names.
    """

    def __init__(self, writer: Any, base: str, adapters: list[str]) -> None:
        self._writer, self._base, self._adapters = writer, base, adapters

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        path = request.url.path
        if request.method == "GET" and path == "/v1/models":
            models = [self._model(name) for name in (self._base, *self._adapters)]
            return JSONResponse({"object": "list", "data": models})
        if request.method == "GET" and path in ("/health", "/ready"):
            return JSONResponse({"status": "ok"})
        if request.method != "POST" or path not in _ROUTES:
            return _told(ApiError(404, "there is no such route"))
        body = await request.body()
        headers = [(name, value) for name, value in request.headers.raw if name not in _NOT_PASSED_ON]
        name = _model_of(body)
        handle = self._writer.options(stream=True, multiplexed_model_id=name if name in self._adapters else "")
        parts = handle.answer.remote(path, headers, body)
        status, given = await anext(parts)
        answer = StreamingResponse(parts, status)
        answer.raw_headers = [(name, value) for name, value in given if name.lower() not in _NOT_PASSED_ON]
        return answer

    def _model(self, name: str) -> dict[str, Any]:
        parent = None if name == self._base else self._base
        return {"id": name, "object": "model", "created": 0, "owned_by": "tailora", "root": name, "parent": parent}


def app(arguments: Mapping[str, Any]) -> Any:
    """The application, for `serve.run` and `serve run`.

    Args:
        arguments: `base`; `adapters`, folders by name, or the same as JSON; `replicas`; `loaded`, how many adapters a
            replica holds; and any other setting of `tailora serve` but keys, which the gateway before Ray asks for.

    Raises:
        SettingsError: a setting that cannot be.
    """
    given = dict(arguments)
    adapters = given.pop("adapters", {})
    adapters = json.loads(adapters) if isinstance(adapters, str) else dict(adapters)
    replicas, loaded = int(given.pop("replicas", 1)), int(given.pop("loaded", 8))
    cpus = float(given.pop("cpus", 1))
    folder = Path(given.pop("adapter_folder", "/"))
    settings = ServeSettings(**given, adapter_folder=folder)
    settings_given = settings.model_dump(exclude_defaults=True, mode="json")
    writer = serve.deployment(limited(loaded)).options(
        name="Writer",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=settings.queue,
    )
    base = Path(settings.base).name if settings.base and Path(settings.base).exists() else settings.base
    ingress = serve.deployment(Ingress).options(max_ongoing_requests=settings.queue * replicas)
    return ingress.bind(writer.bind(settings_given, adapters), base, list(adapters))


async def _asked(
    application: Any, path: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> AsyncGenerator[dict[str, Any], None]:
    """TextRequest an ASGI application, and give its messages as they come; its work ends when nobody reads any more."""
    messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    given, gone = [{"type": "http.request", "body": body, "more_body": False}], asyncio.Event()

    async def receive() -> dict[str, Any]:
        if given:
            return given.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        await messages.put(message)

    async def run() -> None:
        try:
            await application(scope, receive, send)
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
    task = asyncio.create_task(run())
    try:
        while (message := await messages.get()) is not None:
            yield message
    finally:
        gone.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _model_of(body: bytes) -> str:
    """The model that a request names; "" where it names none, which the replica then tells."""
    try:
        name = json.loads(body)["model"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""


def _told(error: ApiError) -> Response:
    return JSONResponse(error.body, error.status)
