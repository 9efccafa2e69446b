"""`tailora serve`: from settings to a process that serves, and to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from rich.console import Console

from tailora.core.errors import SettingsError
from tailora.core.hardware.memory import peak_rss
from tailora.data.chat_template import ChatTemplate
from tailora.engine.worker import Worker
from tailora.inference.model_settings import named_adapters
from tailora.inference.running import Running
from tailora.inference.setup import Setup, resolve_models
from tailora.inference.start import AdapterCapacity, start_engine
from tailora.serve.app import build_app
from tailora.serve.keys import KeyRing, read_keys
from tailora.serve.metrics import JsonLines, Monitor
from tailora.serve.registry import Registry, require_safetensors
from tailora.serve.service import Limits, Service
from tailora.serve.settings import ServeSettings

LAST_WORDS = 0.5  # seconds after the deadline in which answers may still reach their clients, or the engine end a step
_LOCAL = ("127.0.0.1", "::1", "localhost")


def run(settings: ServeSettings) -> dict[str, Any]:
    """Serve until SIGTERM or Ctrl-C.

    Returns:
        What was served, and how much.

    Raises:
        SettingsError: the address cannot be had, or a combination of settings.
        ModelError, AdapterError: see `inference.resolve_models` and `inference.start`.
        DataError: the file of API keys cannot be read.
    """
    began = time.monotonic()
    _log_to_stderr()
    with opened(settings, read_keys(settings.api_keys, os.environ)) as server:
        server.told = _greeting(server, settings, time.monotonic() - began)
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
def opened(settings: ServeSettings, keys: KeyRing) -> Iterator[Server]:
    """A server whose engine is started; it has its address and answers once it is run.

    Raises:
        SettingsError, ModelError, AdapterError: see `run`.
    """
    listener = _bind(settings.host, settings.port)
    try:
        setup, running = _start(settings)
        worker = Worker(running.engine)
        try:
            registry = Registry(setup, worker, folder=settings.adapter_folder, built_in=running.built_in)
            limits = Limits(settings.queue, settings.timeout, settings.max_prompt)
            service = Service(running, worker, registry, limits)
            template = ChatTemplate.from_folder(setup.base.folder, setup.tokenizer)
            app = build_app(service, settings, keys, template, Monitor(worker))
            yield Server(app, service, listener, drain=settings.drain, asks_keys=len(keys) > 0)
        finally:
            worker.close(patience=LAST_WORDS)
    finally:
        listener.close()


def _start(settings: ServeSettings) -> tuple[Setup, Running]:
    adapters: dict[str, Path] = {}
    for name, path in named_adapters(settings.adapter).items():
        require_safetensors(path)
        name = path.name if name == str(path) else name
        if name in adapters:
            raise SettingsError(f"two adapters are called {name}", where="adapter", hint="name them, as NAME=PATH")
        adapters[name] = path
    setup = resolve_models(settings.base, adapters, force=settings.force)
    capacity = None if settings.adapter_folder is None else AdapterCapacity(settings.slots, settings.max_rank)
    running = start_engine(
        setup,
        backend=settings.backend,
        precision=settings.precision,
        device=settings.device,
        sequences=settings.sequences,
        cache_tokens=settings.cache_tokens,
        capacity=capacity,
    )
    return setup, running


class Server(uvicorn.Server):
    """A server that, told to end, first lets requests under way end, and tells new ones that it is about to.

    Args:
        app: the application.
        service: what it asks.
        listener: bound, not listening yet.
        drain: seconds that requests under way have to end.
        asks_keys: whether requests need a key.

    Attributes:
        address: where it answers, as a URL.
        told: said on stderr once it does.
    """

    def __init__(
        self, app: FastAPI, service: Service, listener: socket.socket, *, drain: float, asks_keys: bool
    ) -> None:
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", server_header=False)
        config.timeout_graceful_shutdown = 1  # connections are aborted before; see `shutdown`
        super().__init__(config)
        self.service, self.asks_keys = service, asks_keys
        self._listener, self._drain, self._deadline = listener, drain, 0.0
        self.address = _address(listener)
        self.told = ""

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer until the end."""
        super().run(sockets or [self._listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        Console(stderr=True).print(self.told, soft_wrap=True, highlight=False, markup=False)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """See `uvicorn.Server`. A second signal ends at once."""
        if self.service.draining:
            self.should_exit = self.force_exit = True
        self.service.draining = True
        self._deadline = time.monotonic() + self._drain

    async def on_tick(self, counter: int) -> bool:
        """See `uvicorn.Server`; it is called ten times a second."""
        if self.service.draining and (not self.service.asked or time.monotonic() > self._deadline):
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`. Open requests get an error; clients that do not take it are cut off."""
        self.service.draining = True
        self.service.end_all()
        asyncio.get_running_loop().call_later(LAST_WORDS, self._abort_connections)
        await super().shutdown(sockets)

    def _abort_connections(self) -> None:
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()


def _bind(host: str, port: int) -> socket.socket:
    """Take the address before the model is loaded, so that a port in use is told at once."""
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
        raise SettingsError(f"cannot listen on {host}:{port} ({reason})", where="port", hint="name another") from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _greeting(server: Server, settings: ServeSettings, seconds: float) -> str:
    service = server.service
    base, running = service.registry.base.name, service.running
    names = ", ".join(model.name for model in service.registry if model.name != base) or "no adapter"
    text = f"serving {base} with {names} at {server.address} ({running.description}, "
    text += f"ready after {seconds:.1f} s); Ctrl-C ends it"
    if not server.asks_keys and settings.host not in _LOCAL:
        text += "\nanybody who reaches this address may use it: make a key with `tailora key`"
    return text


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("tailora.serve", logging.INFO), ("uvicorn", logging.WARNING), ("tailora", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False
        logger.handlers[:] = [handler]
