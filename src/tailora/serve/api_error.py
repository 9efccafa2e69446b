"""Errors in the form of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailora.core.errors import HTTP_STATUS, AdapterError, UserError
from tailora.serve.wording import field_of, hint_in_api_words, in_api_words

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
    """A response that reports an error.

    Args:
        status: HTTP status.
        message: what is wrong and what to do, in one line.
        param: field of the request that is wrong.
        code: short name of the error, for programs.
        headers: headers of the response.
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
        """The JSON body of the response."""
        type_ = _TYPES.get(self.status, "server_error")
        return {"error": {"message": str(self), "type": type_, "param": self.param, "code": self.code}}


def from_user_error(
    error: UserError, renamed: Mapping[str, str] | None = None, *, param: str | None = None
) -> ApiError:
    """Return the response to an error of the user.

    Args:
        error: the error.
        renamed: what the API calls fields that have other names elsewhere in Tailora.
        param: field of the request that the error is about, if its place is not a field.
    """
    status = next(HTTP_STATUS[kind] for kind in type(error).__mro__ if kind in HTTP_STATUS)
    where = (renamed or {}).get(error.where or "", error.where)
    field = None if isinstance(error, AdapterError) else field_of(where)  # whose place is a file or a layer
    return ApiError(status, message_of(error, renamed), param=field or param)


def message_of(error: UserError, renamed: Mapping[str, str] | None = None) -> str:
    """Return the message of an error in the API's words; see `from_user_error`."""
    where, what = (in_api_words(part or "", renamed) for part in (error.where, error.what))
    hint = hint_in_api_words(error.hint or "", renamed)
    message = " ".join(f"{where}: {what}".removeprefix(": ").split())
    return f"{message}; {hint}" if hint else message


def no_model(name: str, param: str = "model") -> ApiError:
    """Return the response to a model name that does not exist, or that the API key may not use.

    Args:
        name: the name.
        param: field of the request that has it.
    """
    message = f"The model {name!r} does not exist or you do not have access to it; GET /v1/models lists your models"
    return ApiError(404, message, param=param, code="model_not_found")
