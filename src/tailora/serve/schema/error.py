"""The body of every response that reports an error."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class ErrorDetails(BaseModel):
    """What is wrong."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    message: str
    """What is wrong and what to do, in one line."""
    type: str
    """Kind of the error, in OpenAI's names."""
    param: str | None
    """Field of the request that is wrong."""
    code: str | None
    """Short name of the error, for programs."""


class ErrorBody(BaseModel):
    """An error in the form of OpenAI's API."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    error: ErrorDetails
    """The error."""


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be answered as it is."},
    "5XX": {"model": ErrorBody, "description": "The server or its engine failed, shuts down, or was too slow."},
}
"""What /openapi.json says of errors."""
