"""vLLM's routes that load and unload adapters while the server runs."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from tailora.core.errors import UserError
from tailora.serve.api_error import ApiError, from_user_error, no_model
from tailora.serve.dependencies import require_admin
from tailora.serve.registry import Registry
from tailora.serve.schema.adapters import LoadBody, UnloadBody


def adapter_routes(registry: Registry, timeout: float) -> APIRouter:
    """Return the routes.

    Args:
        registry: models.
        timeout: seconds that a request may take.
    """
    message = f"the engine was busy for {timeout:g} s and did not answer; check GET /health, and try again"
    too_late = ApiError(504, message, code="timeout")
    router = APIRouter(tags=["adapters"])

    @router.post("/v1/load_lora_adapter", summary="Load an adapter")
    async def load(body: LoadBody, request: Request) -> Response:
        """Load an adapter from the server's folder of adapters (its setting `adapter_folder`)."""
        require_admin(request)
        try:
            async with asyncio.timeout(timeout):
                await registry.load(body.lora_name, body.lora_path, replace=body.load_inplace)
        except TimeoutError as error:
            raise too_late from error
        except UserError as error:
            raise from_user_error(error, param="lora_path") from error
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @router.post("/v1/unload_lora_adapter", summary="Unload an adapter")
    async def unload(body: UnloadBody, request: Request) -> Response:
        """Unload an adapter; requests in progress keep it until they end."""
        require_admin(request)
        try:
            async with asyncio.timeout(timeout):
                unloaded = await registry.unload(body.lora_name)
        except TimeoutError as error:
            raise too_late from error
        if not unloaded:
            raise no_model(body.lora_name, "lora_name")
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return router
