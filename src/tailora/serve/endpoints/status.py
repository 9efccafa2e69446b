"""Health, readiness, Prometheus metrics and the status that the page shows."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from tailora.serve.api_error import ApiError
from tailora.serve.dependencies import key_of
from tailora.serve.metrics import Monitor
from tailora.serve.service import Service

_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def operation_routes(service: Service, monitor: Monitor) -> APIRouter:
    """Health, readiness, numbers for Prometheus and for the page."""
    router = APIRouter(tags=["operations"])
    speed = _Speed(service)
    began = time.monotonic()

    @router.get("/health", summary="Whether the server lives")
    async def health() -> dict[str, str]:
        if not service.worker.alive or service.stalled:
            raise ApiError(503, "the engine does not go on; start the server again")
        return {"status": "ok"}

    @router.get("/ready", summary="Whether it takes requests")
    async def ready() -> dict[str, str]:
        if service.draining or not service.worker.alive or service.stalled:
            raise ApiError(503, "the server takes no requests")
        return {"status": "ready"}

    @router.get("/metrics", summary="Numbers for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(monitor.exposition(), media_type=_EXPOSITION)

    @router.get("/v1/status", summary="How busy the server is, and the last requests")
    async def status(request: Request) -> dict[str, Any]:
        load, key = service.worker.stats.load, key_of(request)
        recent = [each for each in monitor.recent() if key is None or key.may_use(each["model"])]
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
    """Tokens a second over the last seconds."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._marks = [(time.monotonic(), service.worker.stats.tokens)]

    def read(self) -> float:
        now, tokens = time.monotonic(), self._service.worker.stats.tokens
        self._marks.append((now, tokens))
        while len(self._marks) > 2 and now - self._marks[1][0] > 5:
            del self._marks[0]
        then, before = self._marks[0]
        return (tokens - before) / max(now - then, 1e-3)
