"""Errors as OpenAI's API tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailora.core.errors import HTTP_STATUS, AdapterError, UserError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: what is wrong and what to do, in one line.
        param: the field of the request that it is about.
        code: OpenAI's word for it, for programs.
        headers: to send with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The error object."""
        type_ = _TYPES.get(self.status, "server_error")
        return {"error": {"message": str(self), "type": type_, "param": self.param, "code": self.code}}


def from_user_error(error: UserError, renamed: Mapping[str, str] | None = None) -> ApiError:
    """The answer to a mistake that Tailora found.

    Args:
        error: the mistake; its place is taken for a field, unless it is about an adapter.
        renamed: what the API calls fields that Tailora names otherwise.
    """
    status = next(HTTP_STATUS[kind] for kind in type(error).__mro__ if kind in HTTP_STATUS)
    where = (renamed or {}).get(error.where or "", error.where)
    told = " ".join(f"{where or ''}: {error.what}".removeprefix(": ").split())
    field = None if isinstance(error, AdapterError) else where  # whose place is a file or a layer
    return ApiError(status, f"{told}; {error.hint}" if error.hint else told, param=field)


def no_model(name: str) -> ApiError:
    """The answer where a model is unknown, or not for this key."""
    told = f"The model {name!r} does not exist or you do not have access to it; GET /v1/models lists what there is"
    return ApiError(404, told, param="model", code="model_not_found")
