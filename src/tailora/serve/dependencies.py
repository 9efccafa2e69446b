"""Which model a request means, and whether its key may use it."""

from __future__ import annotations

from contextlib import ExitStack

from fastapi import Request

from tailora.serve.api_error import ApiError, no_model
from tailora.serve.keys import Key
from tailora.serve.metrics import Account
from tailora.serve.registry import Model, Registry


def account_of(request: Request) -> Account:
    """What the request is counted in."""
    account: Account = request.state.account
    return account


def key_of(request: Request) -> Key | None:
    """The key it came with; None where none is asked for."""
    key: Key | None = request.state.key
    return key


def find_model(request: Request, registry: Registry, name: str) -> Model:
    """The model that a request names, in the version that is there now, which is kept to the request's end.

    Raises:
        ApiError: there is none of this name, or not for this key; the two are not told apart.
    """
    model, key = registry.find(name), key_of(request)
    if model is None or (key is not None and not key.may_use(name)):
        raise no_model(name)
    account_of(request).model = name
    held: ExitStack = request.state.held
    held.enter_context(registry.use(model))
    return model


def require_admin(request: Request) -> None:
    """Raise unless the key may change what is served."""
    key = key_of(request)
    if key is not None and not key.admin:
        raise ApiError(403, "this key may not load or unload adapters", code="insufficient_permissions")
