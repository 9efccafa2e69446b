"""GET /v1/models: the base and its adapters."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from tailora.serve.dependencies import find_loaded, key_of
from tailora.serve.registry import Registry
from tailora.serve.served_model import ServedModel


def model_routes(registry: Registry) -> APIRouter:
    """Return the routes.

    Args:
        registry: models.
    """
    router = APIRouter(tags=["OpenAI"])

    @router.get("/v1/models", summary="List the base and its adapters")
    async def models(request: Request) -> dict[str, Any]:
        """List the models that the request's API key may use.

        For an adapter, `parent` is the base, `rank` the rank that it was trained with, and `slot_rank` the rank that it
        needs in an adapter slot (see the server's setting `max_rank`): several branches on one layer need the sum of
        their ranks. A composition also has `adapters`: its adapters and their weights.
        """
        key = key_of(request)
        visible = [model for model in registry if key is None or key.may_use(model.name)]
        return {"object": "list", "data": [_description(model, registry) for model in visible]}

    @router.get("/v1/models/{name:path}", summary="Describe one model")
    async def model(name: str, request: Request) -> dict[str, Any]:
        """Describe the base or an adapter, as in the list."""
        return _description(find_loaded(request, registry, name), registry)

    return router


def _description(model: ServedModel, registry: Registry) -> dict[str, Any]:
    is_base = model is registry.base
    description: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "tailora",
        "root": model.name,
        "parent": None if is_base else registry.base.name,
    }
    if not is_base:
        description |= {"rank": model.rank, "slot_rank": model.slot_rank}
    if model.parts:
        description["adapters"] = [{"name": part.name, "weight": weight} for part, weight in model.parts]
    for name in ("prompt_form", "linearization"):
        if model.meta.get(name):
            description[name] = model.meta[name]
    return description
