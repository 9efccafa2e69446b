"""POST /v1/reload: the configuration is read again."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from tailora.core.errors import UserError
from tailora.serve.api_error import from_user_error
from tailora.serve.dependencies import require_admin
from tailora.serve.reloading import Reloader


def configuration_routes(reloader: Reloader) -> APIRouter:
    """Return the route.

    Args:
        reloader: reads the configuration again.
    """
    router = APIRouter(tags=["operations"])

    @router.post("/v1/reload", summary="Read the configuration again")
    async def reload(request: Request) -> dict[str, Any]:
        """Read API keys, compositions and limits again; requests in progress are not affected.

        A configuration that is not valid is an error, and the old one stays in force.
        """
        require_admin(request)
        try:
            return await reloader.reload()
        except UserError as error:
            raise from_user_error(error) from error

    return router
