"""Health, readiness, Prometheus metrics, and the status that the page shows."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from tailora.serve.api_error import ApiError
from tailora.serve.dependencies import key_of
from tailora.serve.metrics import ServerMetrics
from tailora.serve.service import Service

_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
_WINDOW = 5.0  # seconds over which the speed is averaged


def status_routes(service: Service, metrics: ServerMetrics) -> APIRouter:
    """Return the routes.

    Args:
        service: engine.
        metrics: counters of requests.
    """
    router = APIRouter(tags=["operations"])
    speed = _Speed(service)
    began = time.monotonic()

    @router.get("/health", summary="Check that the engine works")
    async def health() -> dict[str, str]:
        """Liveness probe: 503 if the engine has stopped or stalled, and the server has to be restarted."""
        if not service.worker.alive or service.stalled:
            raise ApiError(503, "the engine has stopped or stalled; restart the server")
        return {"status": "ok"}

    @router.get("/ready", summary="Check that requests are accepted")
    async def ready() -> dict[str, str]:
        """Readiness probe: 503 while the server shuts down, and if its engine has stopped or stalled."""
        if service.draining or not service.worker.alive or service.stalled:
            raise ApiError(503, "the server accepts no requests; send them to another server")
        return {"status": "ready"}

    @router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
    async def exposition() -> Response:
        """Counters of requests and tokens, latencies by model, and the load of the engine."""
        return Response(metrics.exposition(), media_type=_EXPOSITION)

    @router.get("/v1/status", summary="Load of the server and latest requests")
    async def status(request: Request) -> dict[str, Any]:
        """Load of the engine, tokens per second over the last seconds, and the latest requests without their texts."""
        load, key = service.worker.stats.load, key_of(request)
        recent = [entry for entry in metrics.recent() if key is None or key.may_use(entry["model"])]
        return {
            "uptime_seconds": round(time.monotonic() - began, 1),
            "draining": service.draining,
            "running": load.running,
            "waiting": load.waiting,
            "sequences": load.sequences,
            "kv_blocks_used": load.blocks_used,
            "kv_blocks": load.blocks,
            "slots_used": load.slots_used,
            "slots": load.slots,
            "tokens_per_second": round(speed.read(), 1),
            "adapters": sum(model.engine_name is not None for model in service.registry),
            "recent": recent,
        }

    return router


class _Speed:
    """Tokens per second since the reading before the last `_WINDOW` seconds."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._readings = [(time.monotonic(), service.worker.stats.tokens)]

    def read(self) -> float:
        now, tokens = time.monotonic(), self._service.worker.stats.tokens
        self._readings.append((now, tokens))
        while len(self._readings) > 2 and now - self._readings[1][0] > _WINDOW:
            del self._readings[0]
        then, before = self._readings[0]
        return (tokens - before) / max(now - then, 1e-3)
