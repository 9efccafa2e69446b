"""What routes ask of a request: its counters, its API key, the model that it names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from fastapi import Request

from tailora.serve.api_error import ApiError, no_model
from tailora.serve.keys import Key
from tailora.serve.registry import Registry, ServedModel
from tailora.serve.request_body import off_loop
from tailora.serve.request_log import RequestStats

T = TypeVar("T")


def stats_of(request: Request) -> RequestStats:
    """Return the counters of a request."""
    stats: RequestStats = request.state.stats
    return stats


def key_of(request: Request) -> Key | None:
    """Return the API key of a request; None if the server asks for none."""
    key: Key | None = request.state.key
    return key


def find_model(request: Request, registry: Registry, name: str) -> ServedModel:
    """Return the model that a request names; the request keeps this version to its end.

    Raises:
        ApiError: no model has this name, or the request's key may not use it; the answer is the same for both.
    """
    model, key = registry.find(name), key_of(request)
    if model is None or (key is not None and not key.may_use(name)):
        raise no_model(name)
    stats_of(request).model = name
    resources: ExitStack = request.state.resources
    resources.enter_context(registry.use(model))
    return model


async def prepare(request: Request, function: Callable[..., T], *arguments: object) -> T:
    """Call a function on a request's body; that of a large body runs in another thread, so that others go on."""
    return await off_loop(request.state.body_size, function, *arguments)


def require_admin(request: Request) -> None:
    """Check that the request's key may load and unload adapters.

    Raises:
        ApiError: it may not.
    """
    key = key_of(request)
    if key is not None and not key.admin:
        message = "this API key may not load or unload adapters; use one made with `tailora key --admin`"
        raise ApiError(403, message, code="insufficient_permissions")
