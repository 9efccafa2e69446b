"""GET /v1/models: the base and its adapters."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from tailora.serve.dependencies import account_of, find_model, key_of
from tailora.serve.registry import Model, Registry


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
