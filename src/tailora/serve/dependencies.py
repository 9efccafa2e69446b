"""What routes ask of a request: its counters, its API key, the model that it names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from fastapi import Request

from tailora.core.errors import AdapterError, ModelError, OfflineError, SettingsError, UserError
from tailora.serve.api_error import ApiError, from_user_error, message_of, no_model
from tailora.serve.keys import Key
from tailora.serve.registry import Registry
from tailora.serve.request_body import off_loop
from tailora.serve.request_log import RequestStats
from tailora.serve.schema.mixture import Mixing
from tailora.serve.served_model import ServedModel, mixed, scaled

T = TypeVar("T")


def stats_of(request: Request) -> RequestStats:
    """Return the counters of a request."""
    stats: RequestStats = request.state.stats
    return stats


def key_of(request: Request) -> Key | None:
    """Return the API key of a request; None if the server asks for none."""
    key: Key | None = request.state.key
    return key


async def find_model(request: Request, registry: Registry, name: str, mixing: Mixing | None = None) -> ServedModel:
    """Return the model that a request names; the request keeps this version to its end.

    An adapter of the hub is loaded if requests may name it.

    Args:
        request: the HTTP request.
        registry: the models.
        name: the name in the request.
        mixing: the request's weights: a scale, or adapters; the name is then that of the base or of one of them.

    Raises:
        ApiError: no model has one of the names, or the request's key may not use it, with the same answer for both; or
            the adapters cannot be mixed.
    """
    adapters = [] if mixing is None or mixing.adapters is None else mixing.adapters
    served: dict[str, ServedModel] = {}
    parts_named = [(adapter.name, f"adapters[{place}].name") for place, adapter in enumerate(adapters)]
    for wanted, param in ((name, "model"), *parts_named):
        await _fetch(request, registry, wanted, param)
        served[wanted] = find_loaded(request, registry, wanted, param)  # at once: loading the next one may unload it
    model = served[name]
    stats_of(request).model = name
    try:
        if not adapters:
            return model if mixing is None or mixing.scale is None else scaled(model, mixing.scale)
        parts = [(served[adapter.name], adapter.weight) for adapter in adapters]
        if model is not registry.base and all(model is not part for part, _ in parts):
            message = "model must be the base, or one of the adapters of the request"
            raise ApiError(400, message, param="model")
        return mixed(name, parts)
    except SettingsError as error:
        raise from_user_error(error) from error


async def _fetch(request: Request, registry: Registry, name: str, param: str) -> None:
    """Load an adapter of the hub if the request may use it and it is not loaded."""
    if not _may_use(request, name):
        raise no_model(name, param)
    limit = registry.fetch_seconds
    try:
        async with asyncio.timeout(limit):
            await registry.fetch(name)
    except TimeoutError as error:
        message = f"the adapter {name!r} was not loaded within {limit:g} s; try again later"
        raise ApiError(504, message, param=param, code="timeout") from error
    except ModelError as error:
        status = 503 if isinstance(error, OfflineError) else 404
        code = "model_not_found" if status == 404 else None
        raise ApiError(status, message_of(error), param=param, code=code) from error
    except UserError as error:
        raise from_user_error(error, param=param) from error


def _may_use(request: Request, name: str) -> bool:
    key = key_of(request)
    return key is None or key.may_use(name)


def find_loaded(request: Request, registry: Registry, name: str, param: str = "model") -> ServedModel:
    """Return a loaded model by name, which the request has in the field `param`; it keeps this version to its end.

    Raises:
        ApiError: see `find_model`.
    """
    if not _may_use(request, name):
        raise no_model(name, param)
    try:
        model = registry.find(name)
    except AdapterError as error:
        raise ApiError(404, message_of(error), param=param, code="model_not_found") from error
    except SettingsError as error:
        raise from_user_error(error, param=param) from error
    if model is None:
        raise no_model(name, param)
    resources: ExitStack = request.state.resources
    resources.enter_context(registry.use(model))
    return model


async def prepare(request: Request, function: Callable[..., T], *arguments: object) -> T:
    """Call a function on a request's body; that of a large body runs in another thread, so that others go on."""
    return await off_loop(request.state.body_size, function, *arguments)


def require_admin(request: Request) -> None:
    """Check that the request's key may load and unload adapters, and reload the configuration.

    Raises:
        ApiError: it may not.
    """
    key = key_of(request)
    if key is not None and not key.admin:
        message = "this API key may not change the server; use one with `admin: true` in the server's file of keys"
        raise ApiError(403, message, code="insufficient_permissions")
