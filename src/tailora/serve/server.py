"""The server as a process: from settings to a listening socket, and graceful shutdown."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI

from tailora.adapters import formats
from tailora.core.console import message_console
from tailora.core.errors import MissingExtraError, SettingsError, UserError
from tailora.core.flags import read_again
from tailora.core.hardware.memory import peak_rss
from tailora.data.chat_template import ChatTemplate
from tailora.engine.worker import Worker
from tailora.inference.model_settings import named_adapters
from tailora.inference.running import Running
from tailora.inference.setup import Setup, located, resolve_models
from tailora.inference.start import AdapterCapacity, start_engine
from tailora.serve.app import build_app
from tailora.serve.hub import HubAdapters, require_safetensors
from tailora.serve.keys import KeyRing, read_keys
from tailora.serve.metrics import ServerMetrics
from tailora.serve.registry import Registry
from tailora.serve.reloading import Reloader
from tailora.serve.request_log import JsonLogFormatter
from tailora.serve.service import Limits, Service
from tailora.serve.settings import ServeSettings

if TYPE_CHECKING:
    from tailora.serve.tracing import Tracing

LAST_SECONDS = 0.5  # after the deadline, for error responses to reach their clients and for the engine to end a step
_LOCAL = ("127.0.0.1", "::1", "localhost")


def run(settings: ServeSettings) -> dict[str, Any]:
    """Serve until SIGTERM or Ctrl-C.

    Returns:
        What was served, and how much.

    Raises:
        SettingsError: the address is not available, or settings contradict each other.
        ModelError, AdapterError: see `inference.setup.resolve_models` and `inference.start.start_engine`.
        DataError: the file of API keys cannot be read.
    """
    began = time.monotonic()
    _log_to_stderr()
    with open_server(settings, read_keys(settings.api_keys, os.environ)) as server:
        server.greeting = _greeting(server, settings, time.monotonic() - began)
        server.run()
        stats = server.service.worker.stats
        return {
            "base": server.service.registry.base.name,
            "models": [model.name for model in server.service.registry],
            "address": server.address,
            "seconds": round(time.monotonic() - began, 1),
            "tokens": stats.tokens,
            "busy_seconds": round(stats.busy_seconds, 2),
            "peak_memory_bytes": peak_rss(),
        }


@contextmanager
def open_server(settings: ServeSettings, keys: KeyRing) -> Iterator[Server]:
    """Start an engine and yield a server on it, which has its address, and answers once its `run` is called.

    Raises:
        SettingsError, ModelError, AdapterError: see `run`.
    """
    listener = _bind(settings.host, settings.port)
    try:
        setup, running = _start_engine(settings)
        worker = Worker(running.engine)
        try:
            hub = HubAdapters(settings.allow_hub, settings.hub_max_bytes, settings.hub_loaded)
            registry = Registry(
                setup,
                running,
                worker,
                folder=settings.adapter_folder,
                hub=hub if settings.allow_hub else None,
                fetch_seconds=settings.timeout,
                compositions=settings.compositions,
            )
            limits = Limits(settings.queue, settings.timeout, settings.max_prompt)
            service = Service(running, worker, registry, limits)
            template = ChatTemplate.from_folder(setup.base.folder, setup.tokenizer)
            reloader = Reloader(settings, service, keys, read_again.get())
            with _tracing(settings.otlp) as tracing:
                app = build_app(service, settings, keys, template, ServerMetrics(worker), reloader, tracing)
                yield Server(app, service, listener, keys, reloader)
        finally:
            worker.close(patience=LAST_SECONDS)
    finally:
        listener.close()


@contextmanager
def _tracing(endpoint: str | None) -> Iterator[Tracing | None]:
    """Yield what records requests as spans; None without an endpoint."""
    if endpoint is None:
        yield None
        return
    try:
        from tailora.serve.tracing import tracing_to  # needs the extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        what = f"traces need packages that are not installed ({error.name})"
        raise MissingExtraError(what, hint="install them with `pip install 'tailora[otel]'`") from error
    tracing = tracing_to(endpoint)
    try:
        yield tracing
    finally:
        tracing.close()


def _start_engine(settings: ServeSettings) -> tuple[Setup, Running]:
    adapters: dict[str, Path] = {}
    named = named_adapters(settings.adapter)
    paths = located(named)
    for name, path in named.items():
        if paths[name] != path:  # of the hub, which has the path of a cache
            require_safetensors(paths[name], shown=str(path))
        elif formats.insert_kind(formats.adapter_place(path)) in (None, "prefix"):
            require_safetensors(path)  # Lin's and Houlsby's adapters are in no other form
        name = path.name if name == str(path) and paths[name] == path else name
        if name in adapters:
            hint = "give each its own name, as NAME=PATH"
            raise SettingsError(f"two adapters are named {name}", where="adapter", hint=hint)
        adapters[name] = path
    setup = resolve_models(settings.base, adapters, force=settings.force)
    changes = settings.adapter_folder is not None or settings.allow_hub
    capacity = AdapterCapacity(settings.slots, settings.max_rank) if changes else None
    running = start_engine(
        setup,
        backend=settings.backend,
        precision=settings.precision,
        device=settings.device,
        sequences=settings.sequences,
        cache_tokens=settings.cache_tokens,
        capacity=capacity,
        drafts=settings.drafts,
    )
    return setup, running


class Server(uvicorn.Server):
    """A server that shuts down gracefully: open requests may end, and new ones are refused.

    Args:
        app: application.
        service: engine of the application.
        listener: socket that is bound and does not listen yet.
        keys: API keys that are accepted; an empty ring asks for none.
        reloader: settings, which SIGHUP reads again.

    Attributes:
        address: URL of the server.
        greeting: message for stderr once the server answers.
    """

    def __init__(
        self, app: FastAPI, service: Service, listener: socket.socket, keys: KeyRing, reloader: Reloader
    ) -> None:
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", server_header=False)
        config.timeout_graceful_shutdown = 1  # connections are aborted before; see `shutdown`
        super().__init__(config)
        self.service, self.keys = service, keys
        self._listener, self._reloader, self._deadline = listener, reloader, 0.0
        self._reloads: set[asyncio.Task[None]] = set()
        self.address = _address(listener)
        self.greeting = ""

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests until the end."""
        super().run(sockets or [self._listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        if sys.platform != "win32" and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        message_console().print(self.greeting, soft_wrap=True, highlight=False, markup=False)

    def _hang_up(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        with suppress(UserError):  # which has been logged
            await self._reloader.reload()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """See `uvicorn.Server`. A second signal ends the process at once."""
        if self.service.draining:
            self.should_exit = self.force_exit = True
        self.service.draining = True
        self._deadline = time.monotonic() + self._reloader.settings.drain

    async def on_tick(self, counter: int) -> bool:
        """See `uvicorn.Server`; it is called ten times a second."""
        if self.service.draining and (not self.service.open_texts or time.monotonic() > self._deadline):
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`. Open requests end with an error; clients that do not read it are disconnected."""
        self.service.draining = True
        self.service.end_all()
        asyncio.get_running_loop().call_later(LAST_SECONDS, self._abort_connections)
        await super().shutdown(sockets)

    def _abort_connections(self) -> None:
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()


def _bind(host: str, port: int) -> socket.socket:
    """Bind a socket before the model is loaded, so that a port in use is reported at once."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":  # there it would let two servers share a port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "choose another port, or stop the program that uses it"
        raise SettingsError(f"cannot listen on {host}:{port} ({reason})", where="port", hint=hint) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _greeting(server: Server, settings: ServeSettings, seconds: float) -> str:
    service = server.service
    base, running = service.registry.base.name, service.running
    names = ", ".join(model.name for model in service.registry if model.name != base) or "no adapter"
    text = f"serving {base} with {names} at {server.address} ({running.description}, "
    text += f"ready after {seconds:.1f} s); press Ctrl-C to stop"
    if not len(server.keys) and settings.host not in _LOCAL:
        text += "\nWARNING: no API key is required at this address; create one with `tailora key`"
    return "\n".join([text, *(f"WARNING: {line}" for line in _idle_keys(server, settings))])


def _idle_keys(server: Server, settings: ServeSettings) -> list[str]:
    """Name the models of API keys that the server does not have, unless an administrator can still load them."""
    if settings.adapter_folder is not None or settings.allow_hub:
        return []
    names = {model.name for model in server.service.registry}
    return [
        f"API key {key.name!r} is for {model!r}, which is not a model of this server"
        for key in server.keys
        for model in key.models or ()
        if model not in names
    ]


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLogFormatter())
    for name, level in (("tailora.serve", logging.INFO), ("uvicorn", logging.WARNING), ("tailora", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False
        logger.handlers[:] = [handler]
