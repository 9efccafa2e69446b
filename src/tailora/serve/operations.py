"""Models, health, numbers, and adapters that come and go."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from tailora.core.errors import UserError
from tailora.serve.api_error import ApiError, from_user_error, no_model
from tailora.serve.dependencies import account_of, find_model, key_of, require_admin
from tailora.serve.monitor import Monitor
from tailora.serve.registry import Model, Registry
from tailora.serve.schema import LoadBody, UnloadBody
from tailora.serve.service import Service

_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def model_routes(registry: Registry) -> APIRouter:
    """GET /v1/models, and one of them."""
    router = APIRouter(tags=["OpenAI"])

    @router.get("/v1/models", summary="The base and its adapters")
    async def models(request: Request) -> dict[str, Any]:
        key = key_of(request)
        shown = [model for model in registry if key is None or key.may_use(model.name)]
        return {"object": "list", "data": [_described(model, registry) for model in shown]}

    @router.get("/v1/models/{name:path}", summary="One of them")
    async def model(name: str, request: Request) -> dict[str, Any]:
        found = find_model(request, registry, name)
        account_of(request).model = None  # nothing is written with it
        return _described(found, registry)

    return router


def adapter_routes(registry: Registry, timeout: float) -> APIRouter:
    """vLLM's routes for adapters at run time.

    Args:
        registry: where adapters are loaded and unloaded.
        timeout: seconds for a request.
    """
    late = ApiError(504, f"the engine did not take it within {timeout:g} s; see GET /health", code="timeout")
    router = APIRouter(tags=["adapters"])

    @router.post("/v1/load_lora_adapter", summary="Load an adapter")
    async def load(body: LoadBody, request: Request) -> Response:
        require_admin(request)
        try:
            async with asyncio.timeout(timeout):
                await registry.load(body.lora_name, body.lora_path, replace=body.load_inplace)
        except TimeoutError as error:
            raise late from error
        except UserError as error:
            raise from_user_error(error) from error
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @router.post("/v1/unload_lora_adapter", summary="Unload an adapter")
    async def unload(body: UnloadBody, request: Request) -> Response:
        require_admin(request)
        try:
            async with asyncio.timeout(timeout):
                found = await registry.unload(body.lora_name)
        except TimeoutError as error:
            raise late from error
        if not found:
            raise no_model(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return router


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
        load, key = service.worker.doing.load, key_of(request)
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
        self._marks = [(time.monotonic(), service.worker.doing.tokens)]

    def read(self) -> float:
        now, tokens = time.monotonic(), self._service.worker.doing.tokens
        self._marks.append((now, tokens))
        while len(self._marks) > 2 and now - self._marks[1][0] > 5:
            del self._marks[0]
        then, before = self._marks[0]
        return (tokens - before) / max(now - then, 1e-3)


def _described(model: Model, registry: Registry) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "tailora",
        "root": model.name,
        "parent": None if model is registry.base else registry.base.name,
    }
    if model is not registry.base:
        told |= {"rank": model.rank}
    for name in ("prompt_form", "linearization"):
        told |= {name: model.account[name]} if model.account.get(name) else {}
    return told
